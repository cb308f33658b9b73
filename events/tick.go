package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Tick is a batch of events that got their positions together.
type Tick struct {
	Epoch    int64
	FirstSeq int64
	N        int64
}

// Last is the position of the tick's last event.
func (t Tick) Last() Position { return Position{t.Epoch, t.FirstSeq + t.N - 1} }

// tickSQL publishes what became visible since the tick before, if anything did, and tells every node by one NOTIFY.
//
// The rows are those whose transaction had no end in the snapshot before and is visible now: ids from the xmax of the
// snapshot before (index outbox_xid, one range), and ids that were in progress then (one probe each). That they are
// visible now is plain MVCC: the statement runs under the very snapshot that it stores. The range is never cut by time:
// a transaction can hold an id for hours before it writes.
//
// Twins are harmless: both compute the same first_seq, the primary key lets one in, and the other finds nothing to say.
// A tick that is in a twin's snapshot committed before that snapshot was taken, so stored snapshots only grow.
// Plan trap: nothing tells the planner how far back a snapshot reaches, so it guesses a third of the outbox and reads it
// all. The connections of pacer and stream are opened with jobs.PlanSettings, which leave it the index.
//
// With nothing to publish the statement writes nothing and notifies nobody.
const tickSQL = `
WITH epoch AS (
    SELECT epoch, base_snap, base_seq FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1
), last AS MATERIALIZED (
    SELECT e.epoch, coalesce(t.first_seq + t.n, e.base_seq + 1) AS next_seq, coalesce(t.snap, e.base_snap) AS prev_snap,
           pg_current_snapshot() AS snap
      FROM epoch e
      LEFT JOIN LATERAL (SELECT first_seq, n, snap FROM mini_asynq.ticks
                          WHERE epoch = e.epoch ORDER BY first_seq DESC LIMIT 1) t ON true
), fresh AS MATERIALIZED (
    SELECT (SELECT coalesce(sum(o.n), 0) FROM mini_asynq.outbox o
             WHERE o.xid >= pg_snapshot_xmax((SELECT prev_snap FROM last)))
         + (SELECT coalesce(sum(o.n), 0) FROM last, pg_snapshot_xip(last.prev_snap) AS late
             JOIN mini_asynq.outbox o ON o.xid = late) AS n
), tick AS (
    INSERT INTO mini_asynq.ticks (epoch, first_seq, n, prev_snap, snap)
    SELECT epoch, next_seq, n, prev_snap, snap FROM last, fresh WHERE n > 0
    ON CONFLICT (epoch, first_seq) DO NOTHING
    RETURNING epoch, first_seq, n
)
SELECT (SELECT n FROM fresh), coalesce(tick.epoch, 0), coalesce(tick.first_seq, 0), coalesce(tick.n, 0),
       CASE WHEN tick.n > 0 THEN pg_notify('mini_asynq', 'tick:' || tick.epoch || '-' || tick.first_seq + tick.n - 1) END::text
  FROM (SELECT) AS one LEFT JOIN tick ON true`

// tickOnce makes a tick. ok is false when there was nothing to publish, or when another node did it at this moment;
// contended tells these apart. A promise that is not zero is given in the same round trip and commit, before it: whoever
// was late for this tick and reads the promise is in time for the next.
func tickOnce(ctx context.Context, db jobs.DB, promised time.Duration) (tick Tick, ok, contended bool, err error) {
	if err := failpoint.Hit("events.tick.before_commit"); err != nil {
		return Tick{}, false, false, err
	}
	batch := &pgx.Batch{}
	if promised > 0 {
		batch.Queue(promiseSQL, promised.Milliseconds())
	}
	var found int64
	batch.Queue(tickSQL).QueryRow(func(row pgx.Row) error {
		return row.Scan(&found, &tick.Epoch, &tick.FirstSeq, &tick.N, nil)
	})
	// Close reads all answers and waits for the commit.
	if err := db.SendBatch(ctx, batch).Close(); err != nil {
		return Tick{}, false, false, fmt.Errorf("tick: %w", err)
	}
	if err := failpoint.Hit("events.tick.after_commit"); err != nil {
		return Tick{}, false, false, err
	}
	return tick, tick.N > 0, found > 0 && tick.N == 0, nil
}

// Epoch is the present history.
type Epoch struct {
	Number int64
	Floor  Position // events up to here are gone by retention
	Head   Position // of the last tick
}

// check tells whether a position can be read after: ErrCursorInvalid, *EpochError, *ExpiredError.
func (e Epoch) check(p Position) error {
	switch {
	case p.Epoch != e.Number:
		return &EpochError{Head: e.Head}
	case p.Seq > e.Head.Seq:
		return ErrCursorInvalid
	case p.Seq < e.Floor.Seq:
		return &ExpiredError{Floor: e.Floor}
	}
	return nil
}

// epochSQL is the present epoch with its floor and head: the last entries of two primary keys. No row before the first one.
const epochSQL = `
SELECT e.epoch, e.floor_seq, coalesce(t.first_seq + t.n - 1, e.base_seq) AS seq
  FROM (SELECT * FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1) e
  LEFT JOIN LATERAL (SELECT first_seq, n FROM mini_asynq.ticks
                      WHERE epoch = e.epoch ORDER BY first_seq DESC LIMIT 1) t ON true`

// readEpoch returns the present epoch; ok is false before the first one.
func readEpoch(ctx context.Context, db jobs.DB) (e Epoch, ok bool, err error) {
	err = db.QueryRow(ctx, epochSQL).
		Scan(&e.Number, &e.Floor.Seq, &e.Head.Seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return Epoch{}, false, nil
	}
	if err != nil {
		return Epoch{}, false, fmt.Errorf("read the epoch: %w", err)
	}
	e.Floor.Epoch, e.Head.Epoch = e.Number, e.Number
	return e, true, nil
}

// beginEpoch makes sure that the present epoch is of this database's history, and says whether it had to begin one.
// When the database is another one than before (failover, restore, new cluster: mini_asynq.identity), positions already
// given out may mean other events, so a new epoch begins: what is visible now belongs to no tick of it, and the old
// outbox rows are set aside, or they would fall into new ticks once the transaction ids of the new history have grown
// past theirs. The number is a date, in seconds, so that two histories that part from one dump never share one.
//
// One statement and one snapshot; the table lock makes a twin wait and then find the epoch begun.
func beginEpoch(ctx context.Context, db jobs.DB) (begun bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var current bool
		err := tx.QueryRow(ctx, `
			SELECT coalesce((SELECT identity = mini_asynq.identity()
			                   FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1), false)`).Scan(&current)
		if err != nil || current {
			return err
		}
		if _, err := tx.Exec(ctx, `LOCK TABLE mini_asynq.epochs IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			WITH last AS (
			    SELECT e.epoch, e.identity, coalesce(t.first_seq + t.n - 1, e.base_seq) AS seq
			      FROM (SELECT * FROM mini_asynq.epochs ORDER BY epoch DESC LIMIT 1) e
			      LEFT JOIN LATERAL (SELECT first_seq, n FROM mini_asynq.ticks
			                          WHERE epoch = e.epoch ORDER BY first_seq DESC LIMIT 1) t ON true
			), aside AS (
			    DELETE FROM mini_asynq.outbox
			     WHERE EXISTS (SELECT FROM last WHERE identity <> mini_asynq.identity()) RETURNING *
			), kept AS (
			    INSERT INTO mini_asynq.outbox_past SELECT * FROM aside
			)
			INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
			SELECT greatest(coalesce((SELECT epoch FROM last), 0) + 1,
			                extract(epoch FROM clock_timestamp() - '2025-01-01 00:00:00+00')::bigint),
			       -- The first epoch begins before everything: jobs may have been enqueued before any server ran.
			       CASE WHEN EXISTS (SELECT FROM last) THEN pg_current_snapshot() ELSE '1:1:'::pg_snapshot END,
			       coalesce((SELECT seq FROM last), 0), coalesce((SELECT seq FROM last), 0), mini_asynq.identity()
			 WHERE NOT EXISTS (SELECT FROM last WHERE identity = mini_asynq.identity())
			-- Every node is told, as by a tick, so that readers hear of it before anything happens.
			RETURNING pg_notify('mini_asynq', 'tick:' || epoch || '-' || base_seq)`)
		begun = err == nil && tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("begin an epoch: %w", err)
	}
	return begun, nil
}

// eventsSQL reads events from the position after (epoch $1, seq $2) on, at most $3 of them, of at most $4 ticks. Each
// tick resolves as tickSQL counted it, but by its stored snapshots, so it may be read at any later time.
//
// A tick may hold a million events of one transaction. So what its rows hold is looked at only for those that belong to
// the page: first the rows are put in order by what is short in them, with the position of each one's last event.
const eventsSQL = `
WITH first AS MATERIALIZED (
    SELECT first_seq AS seq FROM mini_asynq.ticks WHERE epoch = $1 AND first_seq <= $2 + 1
     ORDER BY first_seq DESC LIMIT 1
), t AS MATERIALIZED (
    SELECT first_seq, prev_snap, snap FROM mini_asynq.ticks
     WHERE epoch = $1 AND first_seq >= coalesce((SELECT seq FROM first), 0) AND first_seq <= $2 + $3
     ORDER BY first_seq LIMIT $4
), part AS MATERIALIZED (
    SELECT t.first_seq, o.xid, o.id, o.n,
           t.first_seq - 1 + sum(o.n) OVER (PARTITION BY t.first_seq ORDER BY o.id) AS last_seq
      FROM t CROSS JOIN LATERAL (
           SELECT o.xid, o.id, o.n FROM mini_asynq.outbox o
            WHERE o.xid >= pg_snapshot_xmax(t.prev_snap) AND o.xid < pg_snapshot_xmax(t.snap)
              AND pg_visible_in_snapshot(o.xid, t.snap)
           UNION ALL
           SELECT o.xid, o.id, o.n FROM pg_snapshot_xip(t.prev_snap) AS late
             JOIN mini_asynq.outbox o ON o.xid = late
            WHERE pg_visible_in_snapshot(late, t.snap)
           ) o
)
SELECT part.first_seq, ` + eventColumns + `
  FROM part
 CROSS JOIN LATERAL (
       SELECT o.xid, o.at, e.*
         FROM mini_asynq.outbox o CROSS JOIN LATERAL ` + unnestEvents + `
        WHERE o.xid = part.xid AND o.id = part.id) e
 WHERE part.last_seq > $2 AND part.last_seq - part.n < $2 + $3
   AND part.last_seq - part.n + e.place > $2
 ORDER BY part.first_seq, part.id, e.place LIMIT $3`

// unnestEvents gives the events of a row o of the outbox, a row each, as e. Columns by name, of which a later version may
// add some.
const unnestEvents = `(SELECT u.unnest AS job_id, u.ordinality AS place, u.*
                         FROM unnest(o.job_ids, o.events) WITH ORDINALITY AS u) e`

// eventColumns are decoded by hand, in this order (decodeEvent).
const eventColumns = `e.xid, e.at, e.attempt, e.code, e.priority, e.job_id, e.job_version, e.queue, e.kind, e.worker, e.tags,
       e.actor, e.fence, e.run_at, e.wait_ms, e.run_ms, e.total_ms, e.cause, e.reason, e.comment, e.source, e.has_result,
       e.error, e.data`

// readPage reads up to limit events after a position, resolving at most maxTicks ticks, and hands them to visit in
// order. It checks that positions are dense: a tick that resolves to fewer rows than it counted would shift all after
// it, so the rows carry their tick. n is the number of events, ticks of how many ticks they are.
func readPage(ctx context.Context, db jobs.DB, codes codebook, after Position, limit, maxTicks int,
	visit func(*Event),
) (n, ticks int, err error) {
	rows, err := db.Query(ctx, eventsSQL, pgx.QueryResultFormats{pgx.BinaryFormatCode}, after.Epoch, after.Seq, limit, maxTicks)
	if err != nil {
		return 0, 0, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	seq, lastTick := after.Seq, int64(-1)
	dec := decoder{codes: codes}
	for rows.Next() {
		seq++
		e, tick, err := dec.event(rows.RawValues())
		if err != nil {
			return n, ticks, fmt.Errorf("read events: %w", err)
		}
		if tick != lastTick {
			if tick > seq || lastTick >= 0 && tick != seq {
				return n, ticks, fmt.Errorf("read events: %w: the tick at %d follows position %d", errHole, tick, seq-1)
			}
			lastTick = tick
			ticks++
		}
		e.Position = Position{after.Epoch, seq}
		visit(e)
		n++
	}
	if err := rows.Err(); err != nil {
		return n, ticks, fmt.Errorf("read events: %w", err)
	}
	return n, ticks, nil
}

// errHole means that a tick resolved to another number of events than it counted: history was taken away under it.
var errHole = errors.New("positions are not dense")
