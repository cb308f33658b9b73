package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Due is when the next deadline of each kind comes, as a duration from now by the database's clock; negative when it
// has passed, nil when there is none.
type Due struct {
	Job    *time.Duration // a scheduled or retrying job
	Lease  *time.Duration // a lease
	Resume *time.Duration // the end of a pause
}

// NextDue looks for the next deadlines: the first entry of jobs_due and of jobs_lease, and the paused queues.
func NextDue(ctx context.Context, db DB) (Due, error) {
	var due Due
	err := db.QueryRow(ctx, `
		SELECT (SELECT run_at FROM mini_asynq.jobs WHERE status IN ('scheduled', 'retrying') ORDER BY run_at LIMIT 1)
		           - clock_timestamp(),
		       (SELECT lease_expires_at FROM mini_asynq.jobs WHERE status = 'running' ORDER BY lease_expires_at LIMIT 1)
		           - clock_timestamp(),
		       (SELECT min(paused_until) FROM mini_asynq.queues WHERE paused) - clock_timestamp()`).
		Scan(&due.Job, &due.Lease, &due.Resume)
	if err != nil {
		return Due{}, fmt.Errorf("look for the next deadline: %w", err)
	}
	return due, nil
}

// Ready is a queue and priority that got pending jobs.
type Ready struct {
	Queue    string
	Priority Priority
	First    Key // the smallest place in line among them
	Jobs     int
}

// Promote makes up to limit jobs pending that are due, the oldest first, and says where they went. Index jobs_due, the
// prefix up to now. Locks the rows it takes and passes over those that others hold, so that nodes share the work; the
// due time is compared with one reading of the clock, which an index condition needs.
func Promote(ctx context.Context, db DB, limit int) ([]Ready, error) {
	rows, err := db.Query(ctx, `
		WITH ready AS (
		    UPDATE mini_asynq.jobs
		       SET status = 'pending', version = version + 1, updated_at = clock_timestamp(),
		           from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(),
		           cause = NULL, actor = NULL, comment = NULL
		     WHERE ctid = ANY (ARRAY(
		           SELECT ctid FROM mini_asynq.jobs
		            WHERE status IN ('scheduled', 'retrying') AND run_at <= (SELECT clock_timestamp())
		            ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED))
		    RETURNING queue, priority, run_at, id)
		SELECT DISTINCT ON (queue, priority) queue, priority::text, run_at, id,
		       count(*) OVER (PARTITION BY queue, priority)
		  FROM ready ORDER BY queue, priority, run_at, id`, limit)
	if err != nil {
		return nil, fmt.Errorf("promote due jobs: %w", err)
	}
	ready, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Ready, error) {
		var r Ready
		return r, row.Scan(&r.Queue, &r.Priority, &r.First.RunAt, &r.First.ID, &r.Jobs)
	})
	if err != nil {
		return nil, fmt.Errorf("promote due jobs: %w", err)
	}
	return ready, nil
}
