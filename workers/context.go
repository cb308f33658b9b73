package workers

import (
	"context"
	"sync"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// attemptContext is the context of one attempt. It ends at the deadline with jobs.ErrTimeout as its cause, or when it is
// cancelled. What the standard library needs for that (two contexts, a timer, their links) costs more than all else that
// a short job costs in Go, and is made when somebody first asks whether the context has ended.
type attemptContext struct {
	values   context.Context //nolint:containedctx // what the attempt carries; never ends
	deadline time.Time

	mu     sync.Mutex      // guards the rest
	real   context.Context //nolint:containedctx // nil: nobody has asked yet
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // frees the timer
	cause  error              // set by end before real was made
	ended  bool
}

func (c *attemptContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *attemptContext) Done() <-chan struct{} { return c.standard().Done() }

func (c *attemptContext) Err() error { return c.standard().Err() }

// Value also answers the standard library, which looks for the innermost context that can be cancelled in this way.
func (c *attemptContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.standard().Value(key)
}

func (c *attemptContext) standard() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		ctx, cancel := context.WithCancelCause(context.Background())
		c.real, c.stop = context.WithDeadlineCause(ctx, c.deadline, jobs.ErrTimeout)
		c.cancel = cancel
		if c.ended {
			c.release(c.cause)
		}
	}
	return c.real
}

// end ends the context for a cause; the first one counts. A nil cause is context.Canceled.
func (c *attemptContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	if c.real != nil {
		c.release(cause)
	}
}

// release ends the standard context and frees its timer. Under mu.
func (c *attemptContext) release(cause error) {
	c.cancel(cause)
	c.stop()
}
