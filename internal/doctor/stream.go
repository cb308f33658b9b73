package doctor

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

func streamChecks() []check {
	return []check{
		{"stream.epoch", "the stream belongs to this database", needsSchema,
			"Start a server: it begins a new epoch, and readers are told that history may be lost.", epoch},
		{"stream.lag", "events get their positions at once", needsSchema,
			"Run a server. If one runs, look at its log for the component pacer, and at the checks of notifications and locks.", streamLag},
		{"stream.promise", "the pacer promises what it can keep", needsSchema,
			"Withdraw the promise with the SQL below; the pacer gives a new one.", promise},
		{"stream.pacer", "one node is the pacer", needsSchema,
			"End the session that holds the lock: SELECT pg_terminate_backend(pid). Another node takes over.", pacer},
		{"stream.invariants", "what must never be is not", needsSchema,
			"Keep a copy of the database (pg_dump) and report it with this line: something wrote into our tables, or we have a bug.", invariantsHold},
	}
}

func epoch(ctx context.Context, e *exam) (verdict, error) {
	var number int64
	var same bool
	err := e.one(ctx, `SELECT epoch, identity = mini_asynq.identity() FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1`, nil, &number, &same)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return well("none yet: no server has run here"), nil
	case err != nil:
		return verdict{}, err
	case same:
		return well("epoch %d", number), nil
	}
	return warn("epoch %d is of another database: this one was restored, cloned, or promoted", number), nil
}

// lagSQL: the oldest event that is committed and in no tick. By outbox_xid from the oldest transaction on that the last
// tick did not see; without a tick, from the beginning of the epoch on.
const lagSQL = `
	SELECT coalesce(extract(epoch FROM clock_timestamp() - min(o.at)), 0)::float8, coalesce(sum(o.n), 0)
	  FROM (SELECT coalesce(t.snap, e.base_snap, '1:1:'::pg_snapshot) AS snap
	          FROM (SELECT) AS one
	          LEFT JOIN LATERAL (SELECT epoch, base_snap FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1) e ON true
	          LEFT JOIN LATERAL (SELECT snap FROM mini_asynq.ticks WHERE epoch = e.epoch ORDER BY first_seq DESC LIMIT 1) t ON true) last
	 CROSS JOIN LATERAL (SELECT at, n FROM mini_asynq.outbox
	                      WHERE xid >= pg_snapshot_xmin(last.snap) AND NOT pg_visible_in_snapshot(xid, last.snap)
	                      LIMIT 10000) o`

const (
	lagNoticed = 5 * time.Second
	lagWrong   = 30 * time.Second
)

func streamLag(ctx context.Context, e *exam) (verdict, error) {
	nodes, err := e.nodes(ctx)
	if err != nil {
		return verdict{}, err
	}
	return e.lasting(ctx, func() (verdict, error) {
		var late float64
		var waiting int64
		if err := e.one(ctx, lagSQL, nil, &late, &waiting); err != nil {
			return verdict{}, err
		}
		switch lag := seconds(late); {
		case lag < lagNoticed:
			return well("%d events wait", waiting), nil
		case nodes == 0:
			return warn("%d events wait, the oldest for %s: no server is connected that would publish them", waiting, span(lag)).do(
				"Start a server: `mini-asynq serve`."), nil
		case lag < lagWrong:
			return warn("%d events wait, the oldest for %s: nobody ticks", waiting, span(lag)), nil
		default:
			return fail("%d events wait, the oldest for %s: the stream stands still", waiting, span(lag)), nil
		}
	})
}

// promiseAhead is far beyond what a pacer promises, which is 150 ms.
const promiseAhead = 10 * time.Second

func promise(ctx context.Context, e *exam) (verdict, error) {
	var ms float64
	err := e.one(ctx, `SELECT last_value - extract(epoch FROM clock_timestamp())::float8 * 1000 FROM mini_asynq.promise`, nil, &ms)
	if err != nil {
		return verdict{}, err
	}
	if ahead := seconds(ms / 1000); ms > promiseAhead.Seconds()*1000 {
		return fail("it is promised for %s to come: until then no writer notifies, and events wait for the sweep", span(ahead)).by(
			"SELECT setval('mini_asynq.promise', 0);"), nil
	}
	return well("it does"), nil
}

// pacerSQL: the advisory lock of the pacer, as pg_locks splits its key: 0x70616365725f6d71.
const pacerSQL = `
	SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.state, ''),
	       coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8
	  FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
	 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = x'70616365'::bit(32)::bigint::oid
	   AND l.objid = x'725f6d71'::bit(32)::bigint::oid
	   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

func pacer(ctx context.Context, e *exam) (verdict, error) {
	return e.lasting(ctx, func() (verdict, error) {
		var pid int
		var program, state string
		var since float64
		err := e.one(ctx, pacerSQL, nil, &pid, &program, &state, &since)
		nodes, nodesErr := e.nodes(ctx)
		switch {
		case nodesErr != nil:
			return verdict{}, nodesErr
		case errors.Is(err, pgx.ErrNoRows) && nodes == 0:
			return skip("no node is connected to this database"), nil
		case errors.Is(err, pgx.ErrNoRows):
			return warn("%d nodes are connected and none is the pacer: housekeeping rests, and each of them ticks by itself", nodes).do(
				"Look at their logs for the component pacer; behind a pooler its lock is lost (see listen.pooler)."), nil
		case err != nil:
			return verdict{}, err
		case program != "" && program != "mini-asynq/direct":
			return warn("the pacer's lock is held by pid %d (%s), which is no node: housekeeping rests", pid, program).by(
				"SELECT pg_terminate_backend(" + itoa(pid) + ");"), nil
		case seconds(since) > silentPacer:
			return warn("the pacer (pid %d) has done nothing for %s: its node is stopped or cut off", pid, span(seconds(since))).by(
				"SELECT pg_terminate_backend(" + itoa(pid) + ");"), nil
		}
		return well("pid %d", pid), nil
	})
}

// silentPacer is beyond the safety sweep of 30 s.
const silentPacer = 90 * time.Second
