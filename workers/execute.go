package workers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// lateGrace is how long after the timeout a handler's own outcome still counts: finished work is not thrown away for
// having been a little late.
const lateGrace = 5 * time.Second

// execute runs one attempt in its slot, and returns when the handler has.
func (p *Pool) execute(work *dispatcher.Work) {
	job := work.Job
	timeout := job.Timeout
	if timeout == 0 {
		timeout = p.config.Timeout
	}
	// Counted from the claim, by the monotonic clock.
	ctx, cancel := context.WithCancelCause(p.working)
	defer cancel(nil)
	ctx, cancelDeadline := context.WithDeadlineCause(ctx, job.ClaimedAt.Add(timeout), jobs.ErrTimeout)
	defer cancelDeadline()
	work.OnStop(cancel)

	// A handler that does not return is given up for the job, not for the slot.
	abandon := time.AfterFunc(time.Until(job.ClaimedAt.Add(timeout+lateGrace)), func() {
		p.abandoned.Add(1)
		p.finish(work, p.timedOut(job, timeout))
	})
	defer abandon.Stop() // also when the handler ends its goroutine
	handling := &jobs.Handling{Job: job}
	progress := p.progress(work, handling)
	err := call(jobs.WithHandling(ctx, handling), p.registry.handler(job.Kind), job)
	progress.flush(ctx)
	if !abandon.Stop() {
		// The function has run or runs: the slot comes back now, the job was given up.
		p.abandoned.Add(-1)
	}
	p.finish(work, p.classify(ctx, handling, err))
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

// classify makes an outcome of what a handler returned.
func (p *Pool) classify(ctx context.Context, h *jobs.Handling, err error) jobs.Outcome {
	job := &h.Job.Job
	var steer *jobs.SteerError
	cause := context.Cause(ctx)
	switch {
	case err == nil:
		return jobs.Complete(job, h.Result())
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
		fmt.Sprintf("still running %s after its timeout of %s", lateGrace, timeout), "")
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
