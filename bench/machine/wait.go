package machine

import (
	"context"
	"fmt"
	"time"
)

// WaitError means that something did not come about in time.
type WaitError struct {
	What  string
	Limit time.Duration
}

// Error names it.
func (e *WaitError) Error() string { return fmt.Sprintf("waited %s in vain until %s", e.Limit, e.What) }

// pollEvery is how long WaitFor rests between two looks: an error of 2 ms in spans of seconds, and little load.
const pollEvery = 2 * time.Millisecond

// WaitFor asks done again and again until it says yes, fails, or the limit is reached.
func WaitFor(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &WaitError{what, limit})
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		ok, err := done(ctx)
		switch {
		case ctx.Err() != nil && !ok:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case ok:
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Rest waits, or returns false because ctx has ended.
func Rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
