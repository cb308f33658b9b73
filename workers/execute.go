package workers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// lateLook is how often attempts are looked for that have not returned by then.
const lateLook = time.Second

// attempt is one run of a handler: its context, and what that context carries.
type attempt struct {
	work     *dispatcher.Work
	ctx      attemptContext
	timeout  time.Duration
	giveUpAt time.Time
	handling jobs.Handling
	progress progress

	phase atomic.Int32 // running, ended or abandoned: whoever changes it first settles the attempt
}

const (
	attemptRuns int32 = iota
	attemptEnded
	attemptAbandoned
)

func (p *Pool) newAttempt(work *dispatcher.Work) *attempt {
	job := work.Job
	a := &attempt{work: work, timeout: job.Timeout}
	if a.timeout == 0 {
		a.timeout = p.config.Timeout
	}
	// Counted from the claim, by the monotonic clock.
	deadline := job.ClaimedAt.Add(a.timeout)
	a.giveUpAt = deadline.Add(jobs.Overtime)
	a.handling.Job = job
	if p.config.DB != nil {
		a.progress.db, a.progress.lease = p.config.DB, jobs.Lease{JobID: job.ID, Fence: job.Fence}
		a.handling.Progress = a.progress.report
	}
	a.ctx.values, a.ctx.deadline = jobs.WithHandling(context.Background(), &a.handling), deadline
	return a
}

// execute runs one attempt in its slot, and returns when the handler has.
func (p *Pool) execute(s *slot, work *dispatcher.Work) {
	a := p.newAttempt(work)
	s.current.Store(a)
	if p.halted.Load() {
		a.ctx.end(jobs.ErrShutdown)
	}
	work.OnStop(a.ctx.end)
	err := call(&a.ctx, p.registry.handler(work.Job.Kind), work.Job)
	a.progress.flush(&a.ctx)
	p.settle(a, p.classify(&a.ctx, &a.handling, err))
}

// settle reports how an attempt ended, unless its job was given up: then only the slot comes back.
func (p *Pool) settle(a *attempt, outcome jobs.Outcome) {
	a.ctx.end(nil)
	if a.phase.CompareAndSwap(attemptRuns, attemptEnded) {
		p.finish(a.work, outcome)
	} else {
		p.abandoned.Add(-1)
	}
}

// abandonLate gives up the jobs of handlers that do not return, until done is closed: for the job, not for the slot,
// which is theirs until they do. One look at all slots a second instead of one timer for each attempt.
func (p *Pool) abandonLate(done <-chan struct{}) {
	ticker := time.NewTicker(lateLook)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			p.each(func(a *attempt) {
				if now.Before(a.giveUpAt) || a.phase.Load() != attemptRuns {
					return
				}
				p.abandoned.Add(1) // before its slot can take it off again
				if !a.phase.CompareAndSwap(attemptRuns, attemptAbandoned) {
					p.abandoned.Add(-1)
					return
				}
				p.finish(a.work, p.timedOut(a.work.Job, a.timeout))
			})
		}
	}
}

// call calls the handler, and makes an error of a panic.
func call(ctx context.Context, h Handler, job *jobs.Claimed) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: string(debug.Stack())}
		}
	}()
	if h == nil {
		return errNoHandler
	}
	return h.Handle(ctx, job)
}

var errNoHandler = errors.New("workers: no handler for this kind")

// PanicError is a panic of a handler as an error.
type PanicError struct {
	Value any // nil: the handler called runtime.Goexit
	Stack string
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return "the handler ended its goroutine"
	}
	return fmt.Sprintf("panic: %v", e.Value)
}

// classify makes an outcome of what a handler returned. The error is the handler's code, too: one that panics when it is
// asked (a nil pointer in an interface) fails the attempt and not the node.
func (p *Pool) classify(ctx context.Context, h *jobs.Handling, err error) (outcome jobs.Outcome) {
	job := &h.Job.Job
	defer func() {
		if value := recover(); value != nil {
			failure := failureOf(job.Kind, &PanicError{Value: value, Stack: string(debug.Stack())})
			outcome = jobs.Fail(job, failure, p.config.Retry.Next(job.BudgetAttempts()))
		}
	}()
	if err == nil {
		return jobs.Complete(job, h.Result())
	}
	var steer *jobs.SteerError
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, errNoHandler):
		// The registry lost a kind that it was claimed for: somebody else may know it.
		return jobs.Release(job, "worker")
	case errors.As(err, &steer):
		switch {
		case steer.Kind == jobs.OutcomeSnoozed:
			return jobs.SnoozeFor(job, steer.Delay)
		case steer.Kind == jobs.OutcomeCancelled:
			return jobs.CancelByWorker(job, failureOf(job.Kind, err))
		case steer.Final:
			return jobs.FailFinally(job, failureOf(job.Kind, err))
		case steer.Delay > 0:
			return jobs.Fail(job, failureOf(job.Kind, err), spread(steer.Delay))
		}
	case errors.Is(cause, jobs.ErrLeaseLost):
		// It was told to stop because this node lost touch. If the fence still holds, nothing has failed; if it does
		// not, the word is refused.
		return jobs.Release(job, "lost_claim")
	case errors.Is(cause, jobs.ErrShutdown):
		// It was told to stop, not to fail.
		return jobs.Release(job, "shutdown")
	case errors.Is(cause, jobs.ErrTimeout):
		return jobs.TimeOut(job, failureOf(job.Kind, err), p.config.Retry.Next(job.BudgetAttempts()))
	}
	return jobs.Fail(job, failureOf(job.Kind, err), p.config.Retry.Next(job.BudgetAttempts()))
}

func (p *Pool) timedOut(job *jobs.Claimed, timeout time.Duration) jobs.Outcome {
	failure := jobs.NewFailure(job.Kind, "Timeout",
		fmt.Sprintf("still running %s after its timeout of %s", jobs.Overtime, timeout), "")
	return jobs.TimeOut(&job.Job, failure, p.config.Retry.Next(job.BudgetAttempts()))
}

// spread lets jobs that were told the same delay not come back in one instant: at most 10 % later, never earlier.
func spread(d time.Duration) time.Duration {
	return d + time.Duration(float64(d)/10*rand.Float64()) //nolint:gosec // jitter needs no secrecy
}

// failureOf describes an error in texts that can be stored.
func failureOf(kind string, err error) *jobs.Failure {
	var panicked *PanicError
	stack := ""
	if errors.As(err, &panicked) {
		stack = panicked.Stack
	}
	return jobs.NewFailure(kind, typeOf(err), err.Error(), stack)
}

// typeOf names the innermost error that has a name of its own.
func typeOf(err error) string {
	name := "error"
	for ; err != nil; err = errors.Unwrap(err) {
		t := reflect.TypeOf(err)
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Name() {
		case "", "errorString", "wrapError", "wrapErrors", "joinError", "SteerError", "fundamental":
		default:
			return t.Name()
		}
	}
	return name
}
