package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func listenChecks() []check {
	return []check{
		{"listen.address", "LISTEN has a direct way to the same database", needsDatabase,
			"Set LISTEN_DATABASE_URL to the address of PostgreSQL itself, with the same database.", listenAddress},
		{"listen.pooler", "no pooler stands before LISTEN", needsDatabase,
			"Set LISTEN_DATABASE_URL to PostgreSQL itself, past the pooler; DATABASE_URL may stay.", pooler},
		{"listen.prepared", "prepared statements outlive a transaction", needsDatabase,
			"PgBouncer: version 1.21 or newer with max_prepared_statements above 0; else connect past it.", prepared},
		{"listen.notify", "a notification arrives", needsDatabase,
			"Let LISTEN go past the pooler (LISTEN_DATABASE_URL); until then wake-ups come by timer, up to a second late.", notify},
		{"listen.queue", "the queue of notifications is nearly empty", needsDatabase,
			"End the session that listens and does not read: SELECT pg_terminate_backend(pid).", notifyQueue},
		{"listen.nodes", "every node that is connected listens", needsDatabase,
			"Look at the log of that node for the component listener; restart it.", nodesListen},
	}
}

// listenURL is where the server listens.
func (e *exam) listenURL() string {
	if e.config.ListenURL != "" {
		return e.config.ListenURL
	}
	return e.db.URL
}

func (e *exam) hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing was begun on it
}

// placeSQL tells one database of one running server from every other.
const placeSQL = `
	SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(),
	                      (SELECT oid FROM pg_database WHERE datname = current_database()))`

func listenAddress(ctx context.Context, e *exam) (verdict, error) {
	if e.config.ListenURL == "" {
		return well("the same address as everything else"), nil
	}
	conn, err := e.connect(ctx, e.config.ListenURL)
	if err != nil {
		v := unreachable(err)
		v.detail = "LISTEN_DATABASE_URL: " + v.detail
		return v, nil
	}
	defer e.hangUp(conn)
	var here, there string
	if err := conn.QueryRow(ctx, placeSQL).Scan(&there); err != nil {
		return verdict{}, err
	}
	if err := e.one(ctx, placeSQL, nil, &here); err != nil {
		return verdict{}, err
	}
	if here != there {
		return fail("LISTEN_DATABASE_URL leads to another database than DATABASE_URL: nothing that is written is heard, and ticks are made elsewhere"), nil
	}
	return well("LISTEN_DATABASE_URL leads to the same database"), nil
}

// pooler finds one by what it does: behind it, two connections share a session of PostgreSQL, or one has several.
func pooler(ctx context.Context, e *exam) (verdict, error) {
	shared, err := e.shares(ctx, e.listenURL())
	if err != nil {
		return verdict{}, err
	}
	if shared != "" {
		return fail("a pooler stands before LISTEN: %s. A LISTEN made there is heard by nobody", shared), nil
	}
	if e.config.ListenURL == "" {
		return well("each connection has its own session"), nil
	}
	if shared, err = e.shares(ctx, e.db.URL); err == nil && shared != "" {
		return well("DATABASE_URL goes through a pooler, and LISTEN goes past it"), nil
	}
	return well("each connection has its own session"), nil
}

// shares says what shows that sessions behind an address are shared; empty if nothing does. A pooler that gives out sessions
// in turn shows it to a connection that is alone. One that gives out the latest used again shows it to two: while the second
// is inside a transaction, the first cannot have the session that it had.
func (e *exam) shares(ctx context.Context, url string) (string, error) {
	first, err := e.connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer e.hangUp(first)
	second, err := e.connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer e.hangUp(second)
	pid := func(db interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (n int, err error) {
		return n, db.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&n)
	}
	before, err := pid(first)
	if err != nil {
		return "", err
	}
	found := ""
	still := func() error {
		for range 3 {
			now, err := pid(first)
			if err != nil {
				return err
			}
			if now != before {
				found = fmt.Sprintf("the session behind one connection changes (%d, then %d)", before, now)
			}
		}
		return nil
	}
	if err := still(); err != nil || found != "" {
		return found, err
	}
	err = pgx.BeginTxFunc(ctx, second, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		theirs, err := pid(tx)
		if err != nil {
			return err
		}
		if theirs == before {
			found = fmt.Sprintf("two connections share the session %d", before)
			return nil
		}
		return still()
	})
	return found, err
}

// prepared uses a named statement again while another connection is busy, as pools of the server do.
func prepared(ctx context.Context, e *exam) (verdict, error) {
	first, err := e.connect(ctx, e.db.URL)
	if err != nil {
		return verdict{}, err
	}
	defer e.hangUp(first)
	second, err := e.connect(ctx, e.db.URL)
	if err != nil {
		return verdict{}, err
	}
	defer e.hangUp(second)
	name := "doctor_" + strings.ToLower(rand.Text()[:8])
	if _, err := first.Prepare(ctx, name, `SELECT 1`); err != nil {
		return verdict{}, err
	}
	for range 3 {
		var one int
		err := pgx.BeginTxFunc(ctx, second, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, `SELECT 1`).Scan(&one); err != nil {
				return err
			}
			return first.QueryRow(ctx, name).Scan(&one)
		})
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code == "26000" || pg.Code == "42P05") { // invalid or duplicate statement name
			return fail("a pooler loses prepared statements: %s", pg.Message), nil
		}
		if err != nil {
			return verdict{}, err
		}
	}
	return well("they do"), nil
}

// arrival is how long a notification may take: it is there within milliseconds, or not at all.
const arrival = 2 * time.Second

// notify listens on a channel of its own and has a note sent to itself over the other connection.
func notify(ctx context.Context, e *exam) (verdict, error) {
	if e.standby {
		return skip("a standby refuses LISTEN (see database.writable)"), nil
	}
	conn, err := e.connect(ctx, e.listenURL())
	if err != nil {
		v := unreachable(err)
		v.detail = "no connection for LISTEN: " + v.detail
		return v, nil
	}
	defer e.hangUp(conn)
	channel := "mini_asynq_doctor_" + strings.ToLower(rand.Text()[:12])
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return fail("LISTEN is refused: %v", err), nil
	}
	sent := time.Now()
	err = e.look(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT pg_notify($1, '')`, channel)
		return err
	})
	if err != nil {
		return fail("NOTIFY is refused: %v", err).do(
			"A full queue refuses every commit that notifies: end the session that listens and stays in a transaction (see listen.queue)."), nil
	}
	waitCtx, cancel := context.WithTimeout(ctx, arrival)
	defer cancel()
	if _, err := conn.WaitForNotification(waitCtx); err != nil {
		if ctx.Err() == nil && waitCtx.Err() == nil {
			return fail("the connection that listens broke: %v", err), nil
		}
		return fail("no notification arrived within %s: LISTEN is made on one session and heard on another, or nothing is passed on", span(arrival)), nil
	}
	return well("after %s", span(time.Since(sent))), nil
}

// queueSQL: the session that holds the queue up is one that listens and is inside a transaction; the oldest is named.
const queueSQL = `
	SELECT pg_notification_queue_usage(),
	       coalesce((SELECT format('pid %s, role %s, %s, in a transaction since %s', pid, usename, coalesce(nullif(application_name, ''), 'without a name'), xact_start::timestamp(0))
	                   FROM pg_stat_activity
	                  WHERE datname = current_database() AND state LIKE 'idle in transaction%' ORDER BY xact_start LIMIT 1), '')`

// Of the queue: what invariant R4 allows, and half of it.
const (
	queueNoticed = 0.01
	queueWrong   = 0.5
)

func notifyQueue(ctx context.Context, e *exam) (verdict, error) {
	if e.standby {
		return skip("a standby has none"), nil
	}
	var used float64
	var who string
	if err := e.one(ctx, queueSQL, nil, &used, &who); err != nil {
		return verdict{}, err
	}
	if used <= queueNoticed {
		return well("%.1f %% in use", 100*used), nil
	}
	v := warn("%.0f %% of it is in use: somebody listens and does not read; when it is full, commits that notify fail", 100*used)
	if used >= queueWrong {
		v.status = Fail
	}
	if who != "" {
		v = v.do("Most likely it is "+who+". End it: SELECT pg_terminate_backend(pid).", "Never keep a transaction open on a session that listens.")
	}
	return v, nil
}

// listenersSQL looks at the last statement of the direct connections: one that listens says nothing after LISTEN.
const listenersSQL = `
	SELECT count(*) FILTER (WHERE query ILIKE 'listen %mini_asynq%'), count(*) FILTER (WHERE query NOT ILIKE 'listen %mini_asynq%'),
	       count(*) FILTER (WHERE query IS NULL OR query = '<insufficient privilege>')
	  FROM pg_stat_activity WHERE application_name = 'mini-asynq/direct' AND datname = current_database()`

func nodesListen(ctx context.Context, e *exam) (verdict, error) {
	return e.lasting(ctx, func() (verdict, error) {
		var listeners, pacers, hidden int
		if err := e.one(ctx, listenersSQL, nil, &listeners, &pacers, &hidden); err != nil {
			return verdict{}, err
		}
		switch {
		case hidden > 0:
			return skip("this role may not see what other sessions do: GRANT pg_read_all_stats TO %s", e.role()), nil
		case listeners+pacers == 0:
			return skip("no node is connected to this database"), nil
		case listeners < pacers:
			return warn("%d nodes are connected and %d listen: the others wake up by timer only", pacers, listeners), nil
		}
		return well("%d listen", listeners), nil
	})
}
