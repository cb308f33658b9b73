package workloads

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/migrations"
)

// The full database of drain-loaded, at the scale 1.
const (
	loadedPending   = 2_000_000 // in ten other queues
	loadedScheduled = 1_000_000 // due tomorrow
	loadedFinished  = 5_000_000 // with an attempt each
)

// fillSQL writes the rows past the triggers: the events of eight million jobs are not what is measured, and the stream
// has forgotten most of them by the time that a database is this full.
var fillSQL = []struct {
	sql string
	n   int
}{
	{`INSERT INTO mini_asynq.jobs (queue, kind, payload, max_retries, attempt_limit)
	  SELECT 'elsewhere-' || n % 10, 'elsewhere', jsonb_build_object('n', n), 3, 4 FROM generate_series(1, $1::integer) AS n`,
		loadedPending},
	{`INSERT INTO mini_asynq.jobs (queue, kind, payload, status, run_at, max_retries, attempt_limit)
	  SELECT 'later', 'later', jsonb_build_object('n', n), 'scheduled', now() + interval '1 day', 3, 4
	    FROM generate_series(1, $1::integer) AS n`, loadedScheduled},
	{`INSERT INTO mini_asynq.jobs_finished (id, queue, kind, payload, status, max_retries, attempt, attempt_base, attempt_limit,
	         run_at, created_at, updated_at, started_at, finished_at, priority, lease_losses, snoozes, redrives, version, fence,
	         source, from_status, event_xid, last_worker, last_started_at, last_run_ms)
	  SELECT mini_asynq.uuid_v7(), 'elsewhere-' || n % 10, 'elsewhere', jsonb_build_object('n', n), 'completed', 3, 1, 0, 4,
	         now(), now(), now(), now(), now(), 'normal', 0, 0, 0, 3, n, 'sql', 'running', pg_current_xact_id(), 'elsewhere',
	         now(), 0
	    FROM generate_series(1, $1::integer) AS n`, loadedFinished},
}

// loadedTemplate gives the name of the full database, made once in a session.
func (c *cell) loadedTemplate(ctx context.Context) (string, error) {
	if c.loaded != nil {
		return c.loaded.Name, nil
	}
	db, err := c.Cluster.NewDatabase(ctx, "")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.DSN)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := migrations.Up(ctx, conn); err != nil {
		return "", err
	}
	if _, err := conn.Exec(ctx, `SET session_replication_role = replica`); err != nil {
		return "", err
	}
	for _, fill := range fillSQL {
		if _, err := conn.Exec(ctx, fill.sql, int(float64(fill.n)*c.Scale.Loaded)); err != nil {
			return "", fmt.Errorf("fill a database: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, `VACUUM (ANALYZE)`); err != nil {
		return "", fmt.Errorf("fill a database: %w", err)
	}
	c.loaded = db
	return db.Name, nil
}
