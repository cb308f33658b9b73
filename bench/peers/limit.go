package peers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// limit is no job server: it writes a bare table as plainly as can be, to show what the machine gives at best. Two
// sessions take ranges of numbers that nobody else takes, so there is nothing to agree on: a job costs one insert and
// two updates, without history, events, order, leases or retries.
type limit struct {
	pool   *pgxpool.Pool
	cancel context.CancelFunc
	ended  sync.WaitGroup
	failed chan error // capacity: the sessions
}

const (
	limitSessions = 2
	limitRows     = 1000 // of each update
)

func openLimit(ctx context.Context, s Setting) (Session, error) {
	pool, err := openPool(ctx, s.DSN)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `CREATE TABLE bare (n bigint PRIMARY KEY, state smallint NOT NULL DEFAULT 0,
		payload jsonb NOT NULL) WITH (fillfactor = 50)`); err != nil {
		return nil, err
	}
	return &limit{pool: pool, failed: make(chan error, limitSessions)}, nil
}

func (l *limit) Start(_ context.Context, work *Work) error {
	if work == nil {
		return nil
	}
	if work.FailOdd || work.Began != nil {
		return &UnsupportedError{"the bare limit", "do more than insert and update"}
	}
	var last int64
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if err := l.pool.QueryRow(ctx, `SELECT coalesce(max(n), -1) FROM bare`).Scan(&last); err != nil {
		cancel()
		return err
	}
	for session := range int64(limitSessions) {
		// Ends behind its last range or with Stop, which waits for it.
		l.ended.Go(func() {
			for from := session * limitRows; from <= last; from += limitSessions * limitRows {
				for state := 1; state <= 2; state++ {
					tag, err := l.pool.Exec(ctx, `UPDATE bare SET state = $1 WHERE n >= $2 AND n < $3`, state, from, from+limitRows)
					if err != nil {
						l.failed <- err
						return
					}
					if state == 2 {
						work.count(tag.RowsAffected())
					}
				}
			}
		})
	}
	return nil
}

func (l *limit) Batch(ctx context.Context, first int64, n int) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := l.pool.Exec(ctx, `INSERT INTO bare (n, payload) SELECT n, jsonb_build_object('n', n)
		FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) AS n`, first, n)
	return err
}

func (l *limit) Single(ctx context.Context, n int64) error { return l.Batch(ctx, n, 1) }

func (l *limit) Commit(ctx context.Context, first int64, n int) (time.Time, error) {
	return commit(ctx, l.pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO bare (n, payload) SELECT n, jsonb_build_object('n', n)
			FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) AS n`, first, n)
		return err
	})
}

// Unfinished asks nothing: every update is committed before it is counted.
func (l *limit) Unfinished(context.Context) (bool, error) {
	select {
	case err := <-l.failed:
		return false, err
	default:
		return false, nil
	}
}

func (l *limit) Account(ctx context.Context) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	a := Account{Attempts: -1, Events: -1, Published: -1}
	err := l.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE state <> 2), count(*) FILTER (WHERE state = 2) FROM bare`).
		Scan(&a.Waiting, &a.Finished)
	return a, err
}

func (l *limit) Stop() error {
	if l.cancel == nil {
		return nil
	}
	l.cancel()
	l.ended.Wait()
	select {
	case err := <-l.failed:
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	default:
		return nil
	}
}

func (l *limit) Close() error {
	err := l.Stop()
	closePools(l.pool)
	return err
}
