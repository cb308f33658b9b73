package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Queue is a queue's row, with what a look at the live jobs says about it.
type Queue struct {
	Name        string
	Paused      bool
	PausedAt    time.Time
	PausedUntil time.Time // zero: until somebody resumes it
	PauseReason string
	Actor       string // who paused or resumed it last
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Version     int64
}

// Pause is how long a queue is paused.
type Pause struct {
	For   time.Duration // 0 and no Until: until somebody resumes it
	Until time.Time
}

const queueColumns = `name, paused, paused_at, paused_until, coalesce(pause_reason, ''), coalesce(actor, ''), created_at,
	updated_at, version`

func scanQueue(row pgx.CollectableRow) (Queue, error) {
	var q Queue
	var pausedAt, until *time.Time
	err := row.Scan(&q.Name, &q.Paused, &pausedAt, &until, &q.PauseReason, &q.Actor, &q.CreatedAt, &q.UpdatedAt, &q.Version)
	q.PausedAt, q.PausedUntil = orZero(pausedAt), orZero(until)
	return q, err
}

// ListQueues returns all queues by name.
func ListQueues(ctx context.Context, db DB) ([]Queue, error) {
	rows, err := db.Query(ctx, `SELECT `+queueColumns+` FROM mini_asynq.queues ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	queues, err := pgx.CollectRows(rows, scanQueue)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	return queues, nil
}

// QueuesNamed returns those of some queues that have a row, in no order. Primary key.
func QueuesNamed(ctx context.Context, db DB, names []string) ([]Queue, error) {
	rows, err := db.Query(ctx, `SELECT `+queueColumns+` FROM mini_asynq.queues WHERE name = ANY ($1::text[])`, names)
	if err != nil {
		return nil, fmt.Errorf("read queues: %w", err)
	}
	queues, err := pgx.CollectRows(rows, scanQueue)
	if err != nil {
		return nil, fmt.Errorf("read queues: %w", err)
	}
	return queues, nil
}

// GetQueue returns one queue, or ErrNotFound.
func GetQueue(ctx context.Context, db DB, name string) (Queue, error) {
	return oneQueue(ctx, db, `SELECT `+queueColumns+` FROM mini_asynq.queues WHERE name = $1`, name)
}

func oneQueue(ctx context.Context, db DB, sql string, args ...any) (Queue, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Queue{}, err
	}
	q, err := pgx.CollectExactlyOneRow(rows, scanQueue)
	if errors.Is(err, pgx.ErrNoRows) {
		return Queue{}, ErrNotFound
	}
	return q, err
}

// AddQueues makes the rows of queues that are seen for the first time; those that exist stay as they are. Names that
// are no valid queue names are passed over: jobs inserted by hand may have them.
func AddQueues(ctx context.Context, db DB, names []string) error {
	_, err := db.Exec(ctx, `
		INSERT INTO mini_asynq.queues (name)
		SELECT DISTINCT seen.name FROM unnest($1::text[]) AS seen(name)
		 WHERE seen.name ~ '^[A-Za-z0-9_.:-]{1,255}$' AND seen.name NOT IN ('.', '..')
		   AND NOT EXISTS (SELECT FROM mini_asynq.queues q WHERE q.name = seen.name)
		 ORDER BY seen.name
		ON CONFLICT (name) DO NOTHING`, names)
	if err != nil {
		return fmt.Errorf("add queues: %w", err)
	}
	return nil
}

// PauseQueue stops claims of a queue, on all nodes, until it is resumed. The row is made if it is new; a second pause
// replaces reason and end, and one that would replace them with the same changes nothing. It returns when the pause is stored; ConfirmPause says when it holds.
// An end that has passed already is a *ValidationError.
func PauseQueue(ctx context.Context, db DB, name string, p Pause, act Act) (q Queue, err error) {
	var until *time.Time
	var span *time.Duration
	if !p.Until.IsZero() {
		until = &p.Until
	}
	if p.For > 0 {
		span = &p.For
	}
	err = inTx(ctx, db, "pause queue", func(tx pgx.Tx) error {
		q, err = oneQueue(ctx, tx, `
			INSERT INTO mini_asynq.queues AS q (name, paused, paused_at, paused_until, pause_reason, actor)
			SELECT $1, true, clock_timestamp(), coalesce($3::timestamptz, clock_timestamp() + $4::interval), nullif($2, ''),
			       nullif($5, '')
			 WHERE $3::timestamptz IS NULL OR $3 > clock_timestamp()
			ON CONFLICT (name) DO UPDATE
			   SET paused = true, paused_at = CASE WHEN q.paused THEN q.paused_at ELSE EXCLUDED.paused_at END,
			       paused_until = EXCLUDED.paused_until, pause_reason = EXCLUDED.pause_reason,
			       -- The trigger writes an event under the same conditions.
			       (actor, updated_at, version) = (
			       SELECT CASE WHEN same THEN q.actor ELSE EXCLUDED.actor END,
			              CASE WHEN same THEN q.updated_at ELSE clock_timestamp() END,
			              q.version + CASE WHEN same THEN 0 ELSE 1 END
			         FROM (SELECT q.paused AND q.pause_reason IS NOT DISTINCT FROM EXCLUDED.pause_reason
			                  AND q.paused_until IS NOT DISTINCT FROM EXCLUDED.paused_until AS same) AS pause)
			RETURNING `+queueColumns, name, act.Reason, until, span, act.Actor)
		if errors.Is(err, ErrNotFound) {
			return &ValidationError{Faults: []Fault{{"/until", "out_of_range", "has passed already"}}}
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "queue.pause", Target: name, After: struct {
			Until time.Time `json:"until,omitzero"`
		}{q.PausedUntil}})
	})
	return q, err
}

// ClaimApplicationName is the application_name of connections that claim: ConfirmPause waits for them alone.
const ClaimApplicationName = "mini-asynq/engine"

// ConfirmPause waits until no claim can be under way that does not see a pause committed before the call: until every
// claiming connection that has a snapshot now and began its transaction before has ended that transaction. (To wait for
// older transaction ids is not enough: a claim takes its snapshot before it has an id.) ErrPauseUnconfirmed when ctx
// ends first.
func ConfirmPause(ctx context.Context, db DB) error {
	var now time.Time
	if err := db.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return fmt.Errorf("confirm the pause: %w", err)
	}
	wait := time.Millisecond
	for {
		var busy bool
		err := db.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM pg_stat_activity
			                WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()
			                  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND xact_start <= $2)`, ClaimApplicationName, now).Scan(&busy)
		if err == nil && !busy {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("confirm the pause: %w", err)
		}
		select {
		case <-ctx.Done():
			return ErrPauseUnconfirmed
		case <-time.After(wait):
			wait = min(2*wait, 20*time.Millisecond)
		}
	}
}

// ResumeQueue lets a queue be claimed again. A queue that is not paused stays as it is; one that does not exist is
// ErrNotFound.
func ResumeQueue(ctx context.Context, db DB, name string, act Act) (q Queue, err error) {
	err = inTx(ctx, db, "resume queue", func(tx pgx.Tx) error {
		q, err = oneQueue(ctx, tx, `
			WITH resumed AS (
			    UPDATE mini_asynq.queues
			       SET paused = false, paused_at = NULL, paused_until = NULL, pause_reason = NULL, actor = nullif($2, ''),
			           updated_at = clock_timestamp(), version = version + 1
			     WHERE name = $1 AND paused AND set_config('mini_asynq.reason', $3, true) IS NOT NULL
			    RETURNING `+queueColumns+`)
			SELECT * FROM resumed
			UNION ALL
			SELECT `+queueColumns+` FROM mini_asynq.queues WHERE name = $1 AND NOT EXISTS (SELECT FROM resumed)`,
			name, act.Actor, act.Reason)
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "queue.resume", Target: name})
	})
	return q, err
}

// ResumeDue resumes the queues whose pause has ended by the database's clock, and names them.
func ResumeDue(ctx context.Context, db DB) ([]string, error) {
	rows, err := db.Query(ctx, `
		UPDATE mini_asynq.queues
		   SET paused = false, paused_at = NULL, paused_until = NULL, pause_reason = NULL, actor = NULL,
		       updated_at = clock_timestamp(), version = version + 1
		 WHERE paused AND paused_until <= clock_timestamp()
		   AND set_config('mini_asynq.reason', 'until', true) IS NOT NULL
		RETURNING name`)
	if err != nil {
		return nil, fmt.Errorf("resume queues whose pause has ended: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("resume queues whose pause has ended: %w", err)
	}
	return names, nil
}

// Backlog is what a look at the live jobs of a queue says.
type Backlog struct {
	Queue         string
	Counts        map[Status]int64
	OldestPending time.Time // run_at of the head of the line; zero: nothing is pending
}

// Backlogs counts live and dead jobs per queue. It reads all live jobs: for the start of a node and for recounts.
func Backlogs(ctx context.Context, db DB) (map[string]*Backlog, error) {
	rows, err := db.Query(ctx, `
		SELECT queue, status::text, count(*), min(run_at) FROM mini_asynq.jobs GROUP BY queue, status
		 UNION ALL
		SELECT queue, 'dead', count(*), NULL FROM mini_asynq.jobs_finished WHERE status = 'dead' GROUP BY queue`)
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	out := make(map[string]*Backlog)
	var queue string
	var status Status
	var n int64
	var oldest *time.Time
	_, err = pgx.ForEachRow(rows, []any{&queue, &status, &n, &oldest}, func() error {
		b := out[queue]
		if b == nil {
			b = &Backlog{Queue: queue, Counts: make(map[Status]int64)}
			out[queue] = b
		}
		b.Counts[status] = n
		if status == Pending {
			b.OldestPending = orZero(oldest)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	return out, nil
}
