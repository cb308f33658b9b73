package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Limits of bulk operations.
const (
	MaxOperationJobs  = 10_000  // named by their ids
	MaxOperationRate  = 100_000 // jobs a second
	DefaultStopSample = 20      // attempts that must have ended before an operation judges them
)

// OperationStatus is where a bulk operation stands.
type OperationStatus string

// The statuses of an operation. All but the first are final.
const (
	OperationRunning   OperationStatus = "running"
	OperationCompleted OperationStatus = "completed"
	OperationCancelled OperationStatus = "cancelled" // by an operator
	OperationStopped   OperationStatus = "stopped"   // because too many of the jobs that it sent failed again
	OperationFailed    OperationStatus = "failed"    // it could not be carried out
)

// Valid tells whether s is one of the statuses.
func (s OperationStatus) Valid() bool {
	switch s {
	case OperationRunning, OperationCompleted, OperationCancelled, OperationStopped, OperationFailed:
		return true
	}
	return false
}

// Bulk tells whether an operation can take the action to many jobs.
func (a Action) Bulk() bool { return len(a.possible()) > 0 }

// possible are the statuses in which a job can be acted upon so.
func (a Action) possible() []Status {
	switch a {
	case ActionRetry:
		return []Status{Dead, Retrying}
	case ActionRunNow:
		return []Status{Scheduled, Retrying}
	case ActionCancel:
		return []Status{Scheduled, Pending, Retrying, Blocked, Running}
	case ActionDelete:
		return []Status{Completed, Cancelled, Dead}
	}
	return nil
}

// Selection says which jobs an operation is for: those named, or those that match the filter, of which the action is
// possible for the status and which did not change after Before.
type Selection struct {
	Action Action
	IDs    []uuid.UUID // nil: the filter says it; the filter's Within counts in both cases
	Filter Filter
	Before time.Time // zero or in the future: now
}

func (s Selection) query() *listQuery {
	f := s.Filter
	if s.IDs != nil {
		f = Filter{Within: f.Within, IDs: s.IDs}
	}
	statuses := s.Action.possible()
	if f.Statuses != nil {
		statuses = slices.DeleteFunc(statuses, func(status Status) bool { return !slices.Contains(f.Statuses, status) })
	}
	f.Statuses = statuses
	q := newListQuery(f)
	if len(statuses) == 0 {
		q.where("false")
	}
	q.where("updated_at <= %s", s.Before)
	return q
}

// Match is what an operation would do.
type Match struct {
	Count  int
	Sample []*Job    // the oldest, without payloads
	Before time.Time // what the count is of: an operation that states it finds these jobs, or fewer
}

// MatchJobs counts the jobs of a selection and returns the oldest of them. ErrTooBroad when that takes more than 3 s.
func MatchJobs(ctx context.Context, db DB, s Selection, sample int) (m Match, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	if err := fixBefore(ctx, db, &s); err != nil {
		return m, err
	}
	m.Before = s.Before
	q := s.query()
	if err := db.QueryRow(ctx, `SELECT count(*) FROM mini_asynq.all_jobs`+q.clause(), q.args...).Scan(&m.Count); err != nil {
		return m, listError("count the jobs of an operation", err)
	}
	if sample == 0 || m.Count == 0 {
		return m, nil
	}
	q.args = append(q.args, sample)
	rows, err := db.Query(ctx, `SELECT `+columns+`, finished_at, NULL::jsonb, NULL::jsonb, cloned_from FROM mini_asynq.all_jobs`+
		q.clause()+fmt.Sprintf(` ORDER BY id LIMIT $%d`, len(q.args)), q.args...)
	if err == nil {
		m.Sample, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) { return scanJob(row) })
	}
	if err != nil {
		return m, listError("look at the jobs of an operation", err)
	}
	return m, nil
}

// fixBefore makes Before a time that has passed.
func fixBefore(ctx context.Context, db DB, s *Selection) error {
	var given *time.Time
	if !s.Before.IsZero() {
		given = &s.Before
	}
	err := db.QueryRow(ctx, `SELECT least($1::timestamptz, clock_timestamp())`, given).Scan(&s.Before)
	return wrap("read the time", err)
}

// StopWhen ends an operation that does harm: once at least Sample of the first attempts of the jobs that it sent have ended,
// and more than Ratio of those failed.
type StopWhen struct {
	Ratio  float64 // 0..1
	Sample int
}

// NewOperation is an operation to be.
type NewOperation struct {
	Selection
	Expected *int      // more matches than these are refused; nil: any number
	Rate     int       // jobs a second; 0: as fast as it goes
	Stop     *StopWhen // retry and run-now only
}

// OperationError is a job that the database refused to change.
type OperationError struct {
	JobID  uuid.UUID `json:"job_id"`
	Code   string    `json:"code"` // SQLSTATE
	Detail string    `json:"detail"`
}

// Operation is one action on many jobs, carried out in the background.
type Operation struct {
	ID         uuid.UUID
	Action     Action
	Status     OperationStatus
	Filter     *Filter // nil: the jobs are named
	Before     time.Time
	Rate       int
	Stop       *StopWhen
	Total      int64 // jobs that matched when it began, or were named
	Done       int64
	Skipped    int64 // changed meanwhile, or not found
	Failed     int64
	Errors     []OperationError // of the first that failed
	Actor      string
	Reason     string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	FinishedAt time.Time

	ids    []uuid.UUID // of named jobs, for who carries it out
	within []string
}

// CountChangedError says that more jobs match than were expected. Nothing was changed.
type CountChangedError struct{ Matched int }

func (e *CountChangedError) Error() string {
	return fmt.Sprintf("jobs: %d jobs match by now", e.Matched)
}

// OperationOverError says that an operation has ended already.
type OperationOverError struct{ Status OperationStatus }

func (e *OperationOverError) Error() string {
	return "jobs: the operation is " + string(e.Status) + " already"
}

// CreateOperation counts and stores an operation; its event wakes the nodes, and one of them carries it out.
// *CountChangedError; ErrTooBroad.
func CreateOperation(ctx context.Context, db DB, n NewOperation, act Act) (op *Operation, err error) {
	matched := len(n.IDs)
	if n.IDs != nil {
		slices.SortFunc(n.IDs, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
		n.IDs = slices.Compact(n.IDs)
		matched = len(n.IDs)
	}
	if n.IDs == nil || n.Expected != nil {
		m, err := MatchJobs(ctx, db, n.Selection, 0)
		if err != nil {
			return nil, err
		}
		if n.Expected != nil && m.Count > *n.Expected {
			return nil, &CountChangedError{m.Count}
		}
		n.Before = m.Before
		if n.IDs == nil {
			matched = m.Count
		}
	} else if err := fixBefore(ctx, db, &n.Selection); err != nil {
		return nil, err
	}
	within, filter := n.Filter.Within, (*Filter)(nil)
	var ids any
	if n.IDs == nil {
		n.Filter.Within = nil
		filter = &n.Filter
	} else {
		ids = idArray(n.IDs)
	}
	var ratio *float64
	var sample *int
	if n.Stop != nil {
		ratio, sample = &n.Stop.Ratio, &n.Stop.Sample
	}
	err = inTx(ctx, db, "create an operation", func(tx pgx.Tx) error {
		op, err = scanOperation(tx.QueryRow(ctx, `
			INSERT INTO mini_asynq.operations (action, job_ids, filter, queues, before_at, rate, stop_ratio, stop_sample, total,
			                                   actor, reason)
			VALUES ($1, $2, $3, $4, $5, nullif($6, 0), $7, $8, $9, $10, nullif($11, ''))
			RETURNING `+operationColumns,
			string(n.Action), ids, filter, within, n.Before, n.Rate, ratio, sample, matched, act.Actor, Storable(act.Reason, 1024)))
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "operation.create", Target: op.ID.String(), After: struct {
			Action Action    `json:"action"`
			Filter *Filter   `json:"filter,omitempty"`
			Before time.Time `json:"before"`
			Total  int64     `json:"total"`
		}{op.Action, withoutPayload(filter), op.Before.UTC(), op.Total}})
	})
	if err != nil {
		return nil, err
	}
	return op, nil
}

// withoutPayload keeps what a filter says of payloads out of the audit log.
func withoutPayload(f *Filter) *Filter {
	if f == nil || len(f.Payload) == 0 {
		return f
	}
	shown := *f
	shown.Payload = json.RawMessage(`"..."`)
	return &shown
}

// operationColumns are those of Operation, without the ids of the jobs.
const operationColumns = `id, action, status, filter, queues, before_at, coalesce(rate, 0), stop_ratio, stop_sample, total,
	done, skipped, failed, errors, actor, coalesce(reason, ''), created_at, updated_at, finished_at`

func scanOperation(row pgx.Row, more ...any) (*Operation, error) {
	var op Operation
	var ratio *float64
	var sample *int
	var finished *time.Time
	err := row.Scan(append([]any{&op.ID, &op.Action, &op.Status, &op.Filter, &op.within, &op.Before, &op.Rate, &ratio, &sample,
		&op.Total, &op.Done, &op.Skipped, &op.Failed, &op.Errors, &op.Actor, &op.Reason, &op.CreatedAt, &op.UpdatedAt,
		&finished}, more...)...)
	if err != nil {
		return nil, err
	}
	if ratio != nil && sample != nil {
		op.Stop = &StopWhen{*ratio, *sample}
	}
	op.FinishedAt = orZero(finished)
	return &op, nil
}

// An operation exists for who may see all its jobs: within are the queues of the caller, nil is all.
const operationVisible = `($1::text[] IS NULL OR queues <@ $1)`

// GetOperation returns an operation, or ErrNotFound.
func GetOperation(ctx context.Context, db DB, id uuid.UUID, within []string) (*Operation, error) {
	op, err := scanOperation(db.QueryRow(ctx, `SELECT `+operationColumns+` FROM mini_asynq.operations
		WHERE id = $2 AND `+operationVisible, within, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	return op, wrap("get operation", err)
}

// ListOperations returns operations older than the one with the id given (zero: from the newest on), newest first, at most
// limit. An empty status means all. Primary key.
func ListOperations(ctx context.Context, db DB, within []string, status OperationStatus, before uuid.UUID, limit int) ([]*Operation, error) {
	rows, err := db.Query(ctx, `SELECT `+operationColumns+` FROM mini_asynq.operations
		WHERE `+operationVisible+` AND ($2 = '' OR status = $2)
		  AND ($3 = '00000000-0000-0000-0000-000000000000'::uuid OR id < $3)
		ORDER BY id DESC LIMIT $4`, within, string(status), before, limit)
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Operation, error) { return scanOperation(row) })
	return list, wrap("list operations", err)
}

// CancelOperation ends an operation: after it returns no more jobs are changed. One that is cancelled stays as it is.
// ErrNotFound; *OperationOverError. It waits for the portion under way, which takes milliseconds.
func CancelOperation(ctx context.Context, db DB, id uuid.UUID, within []string, act Act) (op *Operation, err error) {
	err = inTx(ctx, db, "cancel an operation", func(tx pgx.Tx) error {
		op, err = scanOperation(tx.QueryRow(ctx, `
			UPDATE mini_asynq.operations
			   SET status = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(), holder = NULL,
			       held_until = NULL
			 WHERE id = $2 AND status = 'running' AND `+operationVisible+`
			RETURNING `+operationColumns, within, id))
		if errors.Is(err, pgx.ErrNoRows) {
			op, err = GetOperation(ctx, tx, id, within)
			if err == nil && op.Status != OperationCancelled {
				err = &OperationOverError{op.Status}
			}
			return err
		}
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `DELETE FROM mini_asynq.operation_jobs WHERE operation_id = $1`, id); err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "operation.cancel", Target: id.String(), After: struct {
			Done  int64 `json:"done"`
			Total int64 `json:"total"`
		}{op.Done, op.Total}})
	})
	if err != nil {
		return nil, err
	}
	return op, nil
}

// ForgetOperations deletes up to limit operations that ended longer than keep ago. Index operations_finished.
func ForgetOperations(ctx context.Context, db DB, keep time.Duration, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM mini_asynq.operations WHERE id IN (
		    SELECT id FROM mini_asynq.operations
		     WHERE finished_at < (SELECT clock_timestamp()) - $1::interval ORDER BY finished_at LIMIT $2)`, keep, limit)
	if err != nil {
		return 0, fmt.Errorf("forget old operations: %w", err)
	}
	return tag.RowsAffected(), nil
}
