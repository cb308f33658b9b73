package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// exam is one examination. One goroutine makes all of it.
type exam struct {
	config  Config
	db      Database
	openErr error     // why there is no db
	conn    *pgx.Conn // nil: none at the moment

	// What earlier checks found out, for later ones.
	reached bool // the database answered
	standby bool
	schema  bool       // our tables are there
	waits   *[]waiting // who waits for a worker; nil: not looked at yet
}

// applicationName tells our own sessions from those of the server.
const applicationName = "mini-asynq/doctor"

// connect opens a session. It names no settings beside its name, so that it gets what the role and the database give to
// everybody, and prepares no statement by name, so that it works through any pooler.
func (e *exam) connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnectTimeout = e.config.CheckLimit
	config.RuntimeParams["application_name"] = applicationName
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	return pgx.ConnectConfig(ctx, config)
}

func (e *exam) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if e.conn != nil {
		_ = e.conn.Close(ctx) // it is given up either way
	}
	if e.db.Close != nil {
		_ = e.db.Close(ctx) // a private server that others use stays; one that hangs is no business of ours
	}
}

// look runs fn in a read-only transaction, whatever the role's settings are. A connection that broke in an earlier check is
// replaced.
func (e *exam) look(ctx context.Context, fn func(pgx.Tx) error) error {
	return e.lookPlainly(ctx, func(tx pgx.Tx) error {
		// A statement ends before its check does, so that the connection lives on.
		limit := strconv.FormatInt((e.config.CheckLimit * 2 / 3).Milliseconds(), 10)
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', '500', true),
			set_config('search_path', 'pg_catalog', true), set_config('timezone', 'UTC', true), set_config('jit', 'off', true)`, limit); err != nil {
			return err
		}
		return fn(tx)
	})
}

// lookPlainly is look under the very settings of the role.
func (e *exam) lookPlainly(ctx context.Context, fn func(pgx.Tx) error) error {
	if e.conn == nil || e.conn.IsClosed() {
		conn, err := e.connect(ctx, e.db.URL)
		if err != nil {
			return fmt.Errorf("connect again: %w", err)
		}
		e.conn = conn
	}
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, e.conn, options, fn)
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return nil // a statement that fn forgave
	}
	return err
}

// one reads the single row of a query.
func (e *exam) one(ctx context.Context, sql string, args []any, dest ...any) error {
	return e.look(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, sql, args...).Scan(dest...) })
}

// rows reads all rows of a query into structs, column by column.
func rows[T any](ctx context.Context, e *exam, sql string, args ...any) (list []T, err error) {
	err = e.look(ctx, func(tx pgx.Tx) error {
		list, err = collect[T](ctx, tx, sql, args...)
		return err
	})
	return list, err
}

func collect[T any](ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]T, error) {
	found, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowToStructByPos[T])
}

// names reads a query of one text column.
func names(ctx context.Context, e *exam, sql string, args ...any) (list []string, err error) {
	err = e.look(ctx, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(found, pgx.RowTo[string])
		return err
	})
	return list, err
}

// pause waits before a second look at what may only be passing.
func (e *exam) pause(ctx context.Context) error {
	timer := time.NewTimer(e.config.Patience)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// lasting looks again after a pause when a first look was not well: nodes restart, and what is late at this moment may be
// done at the next.
func (e *exam) lasting(ctx context.Context, look func() (verdict, error)) (verdict, error) {
	v, err := look()
	if err != nil || v.status == OK || v.status == Skipped {
		return v, err
	}
	if err := e.pause(ctx); err != nil {
		return v, nil //nolint:nilerr // there is no time for a second look: the first one counts
	}
	return look()
}

// nodesSQL counts the nodes that are connected: each holds two direct connections, one that listens and one of the pacer.
// Sessions of other roles may be hidden.
const nodesSQL = `
	SELECT (count(*) + 1) / 2 FROM pg_stat_activity
	 WHERE application_name = 'mini-asynq/direct' AND datname = current_database()`

func (e *exam) nodes(ctx context.Context) (n int, err error) {
	return n, e.one(ctx, nodesSQL, nil, &n)
}

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d h", int(d/time.Hour))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d min", int(d/time.Minute))
	case d >= 2*time.Second:
		return fmt.Sprintf("%d s", int(d/time.Second))
	}
	return d.Round(time.Millisecond).String()
}

// seconds makes a span of what PostgreSQL counted.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// some is a list for a sentence: at most five, and how many more.
func some(list []string) string {
	const shown = 5
	text := ""
	for i, item := range list {
		if i == shown {
			return text + fmt.Sprintf(" and %d more", len(list)-shown)
		}
		if i > 0 {
			text += ", "
		}
		text += item
	}
	return text
}
