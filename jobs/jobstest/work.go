package jobstest

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/mini-asynq/mini-asynq/internal/attempt"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Handler works on one attempt: a *workers.Registry, which has its middleware around it, or any other workers.Handler.
type Handler interface {
	Handle(ctx context.Context, job *jobs.Claimed) error
}

// Worked is an attempt that has ended.
type Worked struct {
	Job      *jobs.Claimed // as the handler saw it
	Outcome  jobs.OutcomeKind
	Final    bool            // failed: no retry, whatever is left of the budget
	Delay    time.Duration   // until the retry, if there is one; of a snooze
	Err      error           // what the handler returned; a panic is an error here
	Result   json.RawMessage // what jobs.SetResult kept last
	Progress []jobs.Progress // what jobs.ReportProgress told, all of it; At is zero
	Status   jobs.Status     // of the job afterwards; "" after Work, which stores nothing

	completing bool // the handler called jobs.CompleteTx
}

// Work runs a handler for one job, the first attempt of it, as a node would, but without a database. What the handler
// enqueues itself is its own affair. jobs.CompleteTx is not possible here, since the job is in no database: it says that
// the lease is lost, and Drain is what such handlers are tested with.
//
//	worked := jobstest.Work(t, registry, SendEmail.Params(Email{To: "ann@example.com"}))
func Work(t testing.TB, h Handler, params jobs.Params) Worked {
	t.Helper()
	job, err := claimed(params)
	if err != nil {
		t.Fatalf("jobstest: %v", err)
	}
	worked, _ := work(t.Context(), h, job, nil)
	return worked
}

// claimed is the job that Params would be, once a node has claimed it.
func claimed(params jobs.Params) (*jobs.Claimed, error) {
	now := time.Now() // monotonic: nothing of it is stored
	job, err := params.Preview(now)
	if err != nil {
		return nil, err
	}
	job.Status, job.Attempt, job.LockedBy, job.LockedAt, job.StartedAt = jobs.Running, 1, node, now, now
	return &jobs.Claimed{Job: *job, ClaimedAt: now, LeaseFor: lease}, nil
}

const (
	node  = "jobstest"
	lease = time.Hour // nobody extends it, and nobody lets it run out
)

// work runs one attempt. With a database progress goes there as well.
func work(ctx context.Context, h Handler, job *jobs.Claimed, db jobs.DB) (Worked, jobs.Outcome) {
	var mu sync.Mutex // guards told: a handler may report from goroutines of its own
	var told []jobs.Progress
	handling := &jobs.Handling{Job: job, Progress: func(ctx context.Context, percent float64, message string) error {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, jobs.Progress{Percent: percent, Message: message})
		if db == nil {
			return nil
		}
		return jobs.SetProgress(ctx, db, jobs.Lease{JobID: job.ID, Fence: job.Fence}, percent, message, 0)
	}}
	timeout := job.Timeout
	if timeout == 0 {
		timeout = jobs.DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(jobs.WithHandling(ctx, handling), timeout, jobs.ErrTimeout)
	defer cancel()
	err := attempt.Call(ctx, h, job)
	outcome := attempt.Classify(ctx, handling, err, jobs.RetryPolicy{})
	if err == nil && outcome.Kind != jobs.OutcomeCompleted {
		err = jobs.ErrNotCommitted
	}
	mu.Lock()
	defer mu.Unlock()
	return Worked{
		Job: job, Outcome: outcome.Kind, Final: outcome.Final, Delay: outcome.Delay, Err: err, Result: handling.Result(), Progress: told,
		completing: handling.CompletedInTx(),
	}, outcome
}
