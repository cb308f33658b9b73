package dispatcher

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// The kinds of deadline.
const (
	dueJob    = iota // a scheduled or retrying job
	dueLease         // a lease
	dueResume        // the end of a pause
	dueSweep         // the safety sweep
	dueKinds
)

// followerDelay is how much later than the leading node the others come to a deadline: normally they find it done.
const followerDelay = 250 * time.Millisecond

// timers holds one deadline of each kind, by this node's monotonic clock, and does what is due. Durations come from the
// database; nothing is polled.
type timers struct {
	d      *Dispatcher
	wake   chan struct{} // capacity 1: a deadline was lowered. Never closed.
	lastOK atomic.Int64  // unix nanoseconds

	mu sync.Mutex          // guards at; nothing blocks under it
	at [dueKinds]time.Time // zero: none
}

func newTimers(d *Dispatcher) *timers {
	t := &timers{d: d, wake: make(chan struct{}, 1)}
	t.at[dueSweep] = time.Now()
	return t
}

// lower moves a deadline to after from now, if that is earlier.
func (t *timers) lower(kind int, after time.Duration) {
	at := time.Now().Add(max(after, 0))
	if kind != dueSweep && !t.d.config.Leads() {
		at = at.Add(followerDelay)
	}
	t.mu.Lock()
	earlier := t.at[kind].IsZero() || at.Before(t.at[kind])
	if earlier {
		t.at[kind] = at
	}
	t.mu.Unlock()
	if earlier {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *timers) sweepNow() { t.lower(dueSweep, 0) }

func (t *timers) lastSuccess() time.Time {
	if ns := t.lastOK.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// next returns the earliest deadline and takes it out if it has come.
func (t *timers) next(now time.Time) (kind int, wait time.Duration, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait = math.MaxInt64
	for k, at := range t.at {
		if !at.IsZero() && at.Sub(now) < wait {
			kind, wait = k, at.Sub(now)
		}
	}
	if wait <= 0 {
		t.at[kind] = time.Time{}
		return kind, 0, true
	}
	return kind, min(wait, time.Hour), false
}

// run does what is due until ctx ends.
func (t *timers) run(ctx context.Context) {
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 50*time.Millisecond, time.Second, 0
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		kind, wait, due := t.next(time.Now())
		if due {
			callCtx, cancel := context.WithTimeout(ctx, t.d.config.Deadline)
			err := t.act(callCtx, kind)
			cancel()
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				t.d.config.Log.Warn().Err(err).Msg("a deadline could not be served, trying again")
				t.lower(kind, policy.NextBackOff())
			default:
				policy.Reset()
				t.lastOK.Store(time.Now().UnixNano())
			}
			if kind == dueSweep && err == nil && t.d.config.Sweep > 0 {
				t.lower(dueSweep, t.d.config.Sweep)
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
		}
	}
}

// act serves one deadline, and asks the database for the next of each kind.
func (t *timers) act(ctx context.Context, kind int) error {
	var err error
	switch kind {
	case dueJob:
		err = t.promote(ctx)
	case dueLease:
		err = t.reap(ctx)
	case dueResume:
		err = t.resume(ctx)
	case dueSweep:
		err = t.sweep(ctx)
	}
	if err != nil {
		return err
	}
	due, err := t.d.config.Store.NextDue(ctx)
	if err != nil {
		return err
	}
	for kind, after := range map[int]*time.Duration{dueJob: due.Job, dueLease: due.Lease, dueResume: due.Resume} {
		if after != nil {
			// A deadline that has passed and was not served just now is locked by somebody: not in a busy loop.
			t.lower(kind, max(*after, 2*time.Millisecond))
		}
	}
	return nil
}

// promoteBatch bounds what one statement makes pending.
const promoteBatch = 5000

func (t *timers) promote(ctx context.Context) error {
	for {
		ready, err := t.d.config.Store.Promote(ctx, promoteBatch)
		if err != nil {
			return err
		}
		n := 0
		for _, r := range ready {
			n += r.Jobs
			t.d.WakeQueue(r.Queue, "", r.Priority, r.First)
		}
		if n < promoteBatch {
			return nil
		}
	}
}

// reapBatch bounds how many expired leases are ended at once.
const reapBatch = 500

// reap ends expired leases, as attempts that failed. The first loss in a row is retried at once, the next by the
// strategy. It never asks whether this node knows the kind.
func (t *timers) reap(ctx context.Context) error {
	for {
		expired, err := t.d.config.Store.ExpiredLeases(ctx, reapBatch, t.d.config.Timeout)
		if err != nil || len(expired) == 0 {
			return err
		}
		if err := failpoint.Hit("dispatcher.reaper.read"); err != nil {
			return err
		}
		outcomes := make([]jobs.Outcome, len(expired))
		for i, j := range expired {
			delay := time.Duration(0)
			if j.LeaseLosses > 0 {
				delay = t.d.config.Retry.Next(j.BudgetAttempts())
			}
			if j.TimedOut {
				failure := jobs.NewFailure(j.Kind, "Timeout", "the attempt ran into its timeout, and its worker did not end it", "")
				outcomes[i] = jobs.ExpireAttempt(j.Job, failure, t.d.config.Retry.Next(j.BudgetAttempts()))
				continue
			}
			failure := jobs.NewFailure(j.Kind, "LeaseExpired", "the worker was not heard of before its lease ran out", "")
			outcomes[i] = jobs.ExpireLease(j.Job, failure, delay)
		}
		verdicts, err := t.d.config.Store.Finish(ctx, outcomes)
		if err != nil {
			return err
		}
		landed := 0
		for i, v := range verdicts {
			if !v.Landed {
				continue // extended, ended or reaped by another node in between
			}
			landed++
			t.d.config.Log.Warn().Stringer("job_id", expired[i].ID).Str("queue", expired[i].Queue).
				Str("kind", expired[i].Kind).Int("attempt", expired[i].Attempt).Int64("fence", expired[i].Fence).
				Str("node", expired[i].LockedBy).Str("status", string(v.Status)).Msg("a lease has expired")
			if v.Status == jobs.Retrying {
				t.lower(dueJob, v.DueIn)
			}
		}
		if len(expired) < reapBatch || landed == 0 {
			return nil
		}
	}
}

func (t *timers) resume(ctx context.Context) error {
	names, err := t.d.config.Store.ResumeDue(ctx)
	for _, name := range names {
		t.d.WakeWhole(name)
	}
	return err
}

// sweep looks at everything that could have been missed. act asks for the deadlines afterwards. One kind that fails must
// not keep the others from being served.
func (t *timers) sweep(ctx context.Context) error {
	queues, err := t.d.config.Store.PendingQueues(ctx)
	for _, name := range queues {
		t.d.WakeWhole(name)
	}
	return errors.Join(err, t.promote(ctx), t.reap(ctx))
}
