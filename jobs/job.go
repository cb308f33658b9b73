package jobs

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Job is a job as stored. Times are the database's; a zero time, an empty string or a nil value means that the column
// is null. Payload and Result are only there when the query that made the value asks for them.
type Job struct {
	ID                uuid.UUID
	Queue             string
	Kind              string
	Payload           json.RawMessage
	Status            Status
	Priority          Priority
	MaxRetries        int
	RunAt             time.Time
	CreatedAt         time.Time
	UpdatedAt         time.Time
	IdempotencyKey    string
	Timeout           time.Duration // of one attempt; 0: the node's default
	Tags              []string
	Metadata          json.RawMessage
	Source            string    // api, go, sql, clone
	ClonedFrom        uuid.UUID // zero: it is no copy
	Traceparent       string
	Attempt           int // charged starts
	AttemptBase       int // charged starts before the present budget
	AttemptLimit      int // the attempt after which it is dead
	LeaseLosses       int // in a row
	Snoozes           int
	Redrives          int
	Version           int64 // +1 with every change
	Fence             int64 // of the latest claim; 0: never claimed
	LockedBy          string
	LockedAt          time.Time
	LeaseExpiresAt    time.Time
	StartedAt         time.Time // of the first attempt
	CancelRequestedAt time.Time
	Reason            string // of a dead or cancelled job
	LastWorker        string // who ran the attempt that ended last
	Progress          *Progress
	Error             *Failure // of the latest attempt that failed
	FinishedAt        time.Time
	Result            json.RawMessage
}

// AttemptsLeft is how many more attempts the present budget has.
func (j *Job) AttemptsLeft() int { return max(0, j.AttemptLimit-j.Attempt) }

// BudgetAttempts is how many attempts of the present budget are charged: what a retry delay is computed from.
func (j *Job) BudgetAttempts() int { return j.Attempt - j.AttemptBase }

// Progress is what a running handler last said about itself.
type Progress struct {
	Percent float64   `json:"percent"` // 0..100
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Failure describes why an attempt failed. NewFailure makes one that the database can store.
type Failure struct {
	Type        string    `json:"type"`
	Message     string    `json:"message"`
	Stack       string    `json:"stack,omitempty"`
	Fingerprint string    `json:"fingerprint"`
	At          time.Time `json:"at"`
}

// Claimed is a job handed to a worker: it holds the lease until LeaseFor after ClaimedAt, both of the worker's own
// monotonic clock, counted from before the claim was sent.
type Claimed struct {
	Job
	Holder    Holder // the remote worker that it is for; the zero Holder: this node
	ClaimedAt time.Time
	LeaseFor  time.Duration
}

// Attempt is one execution that ended, or the one that is running (CompletedAt is zero then).
type Attempt struct {
	Number       int
	Status       string // completed, failed, timed_out, lease_expired, cancelled; running
	StartedAt    time.Time
	CompletedAt  time.Time
	Fence        int64
	Worker       string
	Wait         time.Duration // from due to started
	ErrorType    string
	ErrorMessage string
	ErrorStack   string
}

// columns are those of Job without payload and result, for jobs, jobs_finished and all_jobs alike; `%s` is how the
// source spells finished_at.
const columns = `id, queue, kind, status::text, priority::text, max_retries, run_at, created_at, updated_at,
	coalesce(idempotency_key, ''), timeout, tags, metadata, source, coalesce(traceparent, ''), attempt, attempt_base,
	attempt_limit, lease_losses, snoozes, redrives, version, fence, coalesce(locked_by, ''), locked_at,
	lease_expires_at, started_at, cancel_requested_at, coalesce(reason, ''), coalesce(last_worker, ''), progress, error`

// jobScan collects the destinations for columns.
type jobScan struct {
	timeout                                                 *time.Duration
	lockedAt, leaseExpiresAt, startedAt, cancelAt, finished *time.Time
}

func (s *jobScan) dest(j *Job) []any {
	return []any{&j.ID, &j.Queue, &j.Kind, &j.Status, &j.Priority, &j.MaxRetries, &j.RunAt, &j.CreatedAt, &j.UpdatedAt,
		&j.IdempotencyKey, &s.timeout, &j.Tags, &j.Metadata, &j.Source, &j.Traceparent, &j.Attempt, &j.AttemptBase,
		&j.AttemptLimit, &j.LeaseLosses, &j.Snoozes, &j.Redrives, &j.Version, &j.Fence, &j.LockedBy, &s.lockedAt,
		&s.leaseExpiresAt, &s.startedAt, &s.cancelAt, &j.Reason, &j.LastWorker, &j.Progress, &j.Error}
}

func (s *jobScan) into(j *Job) {
	if s.timeout != nil {
		j.Timeout = *s.timeout
	}
	j.LockedAt, j.LeaseExpiresAt = orZero(s.lockedAt), orZero(s.leaseExpiresAt)
	j.StartedAt, j.CancelRequestedAt, j.FinishedAt = orZero(s.startedAt), orZero(s.cancelAt), orZero(s.finished)
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// scanJob reads a row of columns, finished_at, payload, result, cloned_from.
func scanJob(row pgx.Row) (*Job, error) {
	var j Job
	var s jobScan
	var clonedFrom uuid.NullUUID
	if err := row.Scan(append(s.dest(&j), &s.finished, &j.Payload, &j.Result, &clonedFrom)...); err != nil {
		return nil, err
	}
	s.into(&j)
	j.ClonedFrom = clonedFrom.UUID
	return &j, nil
}
