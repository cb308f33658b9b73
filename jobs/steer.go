package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A handler says how its attempt ends by the error that it returns: nil completes the job, any error fails the attempt,
// and the errors of this file say more than that. They may be wrapped.

// SteerError is an error that steers what becomes of the job.
type SteerError struct {
	Kind  OutcomeKind   // snoozed, cancelled, failed
	Final bool          // failed: no retry
	Delay time.Duration // snoozed: until the next attempt; failed: at least until the retry, 0 is by the strategy
	Err   error         // what happened; nil for a snooze
}

func (e *SteerError) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	return fmt.Sprintf("jobs: %s for %s", e.Kind, e.Delay)
}

func (e *SteerError) Unwrap() error { return e.Err }

// MaxRetryAfter bounds RetryAfter.
const MaxRetryAfter = 7 * 24 * time.Hour

// Snooze puts the job back for d, from 100 ms to 365 days, at no cost: the attempt is not counted. A negative d is an
// error of the handler, and fails the attempt.
func Snooze(d time.Duration) error {
	if d < 0 || d > MaxSnooze {
		return fmt.Errorf("jobs: snooze for %s: 0 to 365 days", d)
	}
	return &SteerError{Kind: OutcomeSnoozed, Delay: d}
}

// RetryAfter fails the attempt, and retries it not before d (0 to 7 days) has passed, at most 10 % later. The cap of the
// retry policy does not apply. The attempt is counted.
func RetryAfter(d time.Duration, err error) error {
	return &SteerError{Kind: OutcomeFailed, Delay: min(max(d, 0), MaxRetryAfter), Err: orUnnamed(err)}
}

// NonRetryable fails the attempt for good: the job is dead, whatever is left of its budget.
func NonRetryable(err error) error {
	return &SteerError{Kind: OutcomeFailed, Final: true, Err: orUnnamed(err)}
}

// Cancel ends the job as cancelled: what it was for is not wanted any more.
func Cancel(err error) error {
	return &SteerError{Kind: OutcomeCancelled, Err: orUnnamed(err)}
}

func orUnnamed(err error) error {
	if err == nil {
		return errors.New("no reason given")
	}
	return err
}

// ErrResultTooLarge means that a result has more than MaxResult bytes. The attempt goes on.
var ErrResultTooLarge = errors.New("jobs: result too large")

// Handling is an attempt that a handler is working on; the handler's context carries it. Safe for concurrent use.
type Handling struct {
	Job      *Claimed
	Progress func(ctx context.Context, percent float64, message string) error // nil: nobody keeps it
	Flush    func(ctx context.Context, db DB) error                           // stores the report that Progress holds back; nil: none is

	mu         sync.Mutex // guards the rest
	result     json.RawMessage
	completing bool // CompleteTx was called
}

type handlingKey struct{}

// WithHandling returns a context that carries h.
func WithHandling(ctx context.Context, h *Handling) context.Context {
	return context.WithValue(ctx, handlingKey{}, h)
}

// HandlingOf returns the attempt that ctx belongs to, nil outside a handler.
func HandlingOf(ctx context.Context) *Handling {
	h, _ := ctx.Value(handlingKey{}).(*Handling)
	return h
}

// Result is what SetResult stored last.
func (h *Handling) Result() json.RawMessage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.result
}

var errNoHandling = errors.New("jobs: the context is not that of a handler")

// SetResult keeps v, as JSON of at most 256 KiB, as the job's result; it is stored with the outcome if the attempt
// completes. ErrResultTooLarge, and errors for what cannot be stored, leave the attempt as it is.
func SetResult(ctx context.Context, v any) error {
	h := HandlingOf(ctx)
	if h == nil {
		return errNoHandling
	}
	raw, ok := v.(json.RawMessage)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return fmt.Errorf("marshal the result: %w", err)
		}
	}
	switch code, detail := CheckJSON(raw, MaxResult); code {
	case "":
	case "too_long":
		return fmt.Errorf("%w: %s", ErrResultTooLarge, detail)
	default:
		return fmt.Errorf("jobs: result refused: %s", detail)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.result = raw
	return nil
}

var errProgressRange = errors.New("jobs: progress is from 0 to 100 percent, with a message of at most 256 bytes")

// ReportProgress tells how far a handler has come: percent from 0 to 100, and a message of at most 256 bytes. At most one
// report a second is stored; the last one always is.
func ReportProgress(ctx context.Context, percent float64, message string) error {
	h := HandlingOf(ctx)
	if h == nil {
		return errNoHandling
	}
	if !(percent >= 0 && percent <= 100) || len(message) > MaxProgressText { // written so that NaN is refused
		return errProgressRange
	}
	if h.Progress == nil {
		return nil
	}
	return h.Progress(ctx, percent, message)
}
