package attempt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Handler works on one attempt.
type Handler interface {
	Handle(ctx context.Context, job *jobs.Claimed) error
}

// ErrNoHandler means that nobody here knows the kind of the job.
var ErrNoHandler = errors.New("workers: no handler for this kind")

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

// Call calls the handler, and makes an error of a panic.
func Call(ctx context.Context, h Handler, job *jobs.Claimed) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: string(debug.Stack())}
		}
	}()
	return h.Handle(ctx, job)
}

// Classify makes an outcome of what a handler returned. The error is the handler's code, too: one that panics when it is
// asked (a nil pointer in an interface) fails the attempt and not the node.
//
// A handler that called jobs.CompleteTx has said all there is to say, if its transaction committed: the row is gone then,
// and whatever is reported here changes nothing. So what is reported is what holds if it did not commit. It never waits
// for the row, which the transaction may still hold.
func Classify(ctx context.Context, h *jobs.Handling, err error, retry jobs.RetryPolicy) (outcome jobs.Outcome) {
	job := &h.Job.Job
	completing := h.CompletedInTx()
	defer func() {
		if value := recover(); value != nil {
			failure := failureOf(job.Kind, &PanicError{Value: value, Stack: string(debug.Stack())})
			outcome = jobs.Fail(job, failure, retry.Next(job.BudgetAttempts()))
		}
		if completing {
			outcome = outcome.Patient()
		}
	}()
	if err == nil && !completing {
		return jobs.Complete(job, h.Result())
	}
	if err == nil {
		err = jobs.ErrNotCommitted
	}
	var steer *jobs.SteerError
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, ErrNoHandler):
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
		return jobs.TimeOut(job, failureOf(job.Kind, err), retry.Next(job.BudgetAttempts()))
	}
	return jobs.Fail(job, failureOf(job.Kind, err), retry.Next(job.BudgetAttempts()))
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
