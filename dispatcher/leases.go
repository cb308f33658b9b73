package dispatcher

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// leases keeps the leases of running jobs alive: all of them in one statement, at a third of the lease, so that a job
// that is shorter than that never sends a heartbeat. It fences this node itself: when a lease could not be confirmed, the
// attempt is stopped while a tenth of the lease is left, by this node's monotonic clock and counted from the sending of
// the last request that was answered.
type leases struct {
	store    Store
	lease    time.Duration
	deadline time.Duration
	failed   func(error)
	wake     chan struct{} // capacity 1: a look is wanted. Never closed.

	mu   sync.Mutex // guards held and all; nothing blocks under it
	held map[uuid.UUID]*Work
	all  bool // extend all at the next look, however young
}

func newLeases(store Store, lease, deadline time.Duration, failed func(error)) *leases {
	return &leases{
		store: store, lease: lease, deadline: deadline, failed: failed,
		wake: make(chan struct{}, 1), held: make(map[uuid.UUID]*Work),
	}
}

func (l *leases) hold(works []*Work) {
	l.mu.Lock()
	first := len(l.held) == 0
	for _, w := range works {
		w.confirmed = w.Job.ClaimedAt
		l.held[w.Job.ID] = w
	}
	l.mu.Unlock()
	if first {
		l.look()
	}
}

// drop ends the keeping of attempts whose outcome is stored, where it is still theirs.
func (l *leases) drop(reports []report, verdicts []jobs.Verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range reports {
		if !verdicts[i].Open() && l.held[r.work.Job.ID] == r.work {
			delete(l.held, r.work.Job.ID)
		}
	}
}

func (l *leases) get(id uuid.UUID) *Work {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id]
}

func (l *leases) ids() []uuid.UUID {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]uuid.UUID, 0, len(l.held))
	for id := range l.held {
		out = append(out, id)
	}
	return out
}

func (l *leases) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// extendAll asks the database about every lease now: after a reconnect a request to cancel may have been missed.
func (l *leases) extendAll() {
	l.mu.Lock()
	l.all = true
	l.mu.Unlock()
	l.look()
}

func (l *leases) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run extends until ctx ends. While nothing runs it sleeps. An extension is under way beside the loop: one that hangs
// must not keep the loop from stopping the attempts whose lease is about to end.
func (l *leases) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var extending sync.WaitGroup
	defer extending.Wait()
	busy := make(chan struct{}, 1) // capacity 1: a token for the one extension under way
	for {
		due, next := l.due(time.Now())
		if len(due) > 0 {
			select {
			case busy <- struct{}{}:
				// Ends with its call, which has a deadline; run waits for it.
				extending.Go(func() {
					l.extend(ctx, due)
					<-busy
				})
			default:
			}
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// due returns the leases to extend now, stops the attempts that have lost touch, and says when to look again.
func (l *leases) due(now time.Time) (due []*Work, next time.Duration) {
	third, fence := l.lease/3, l.lease*9/10
	next = time.Hour
	var lost []*Work
	l.mu.Lock()
	all := l.all
	l.all = false
	for _, w := range l.held {
		age := now.Sub(w.confirmed)
		switch {
		case age >= fence:
			lost = append(lost, w)
			due = append(due, w) // the database may still say that it is ours; the attempt is over either way
			next = min(next, third)
		case all || age >= third:
			due = append(due, w)
			next = min(next, third/2, fence-age)
		default:
			next = min(next, third-age)
		}
	}
	l.mu.Unlock()
	for _, w := range lost {
		w.halt(jobs.ErrLeaseLost)
	}
	return due, max(next, time.Millisecond)
}

func (l *leases) extend(ctx context.Context, works []*Work) {
	if failpoint.Hit("dispatcher.extend") != nil {
		return
	}
	wanted := make([]jobs.Lease, len(works))
	for i, w := range works {
		wanted[i] = jobs.Lease{JobID: w.Job.ID, Fence: w.Job.Fence}
	}
	sentAt := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, min(l.deadline, l.lease/3))
	extensions, err := l.store.Extend(callCtx, wanted, l.lease)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			l.failed(err)
		}
		return
	}
	var lost, cancelled []*Work
	l.mu.Lock()
	for i, w := range works {
		switch {
		case l.held[w.Job.ID] != w:
			// Finished meanwhile: that it is not running any more says nothing.
		case extensions[i].Busy:
			// Asked again soon; if that goes on, the attempt stops before its lease ends.
		case !extensions[i].Held:
			lost = append(lost, w)
			delete(l.held, w.Job.ID)
		default:
			w.confirmed = sentAt
			if extensions[i].CancelRequested {
				cancelled = append(cancelled, w)
			}
		}
	}
	l.mu.Unlock()
	for _, w := range lost {
		w.halt(jobs.ErrLeaseLost)
	}
	for _, w := range cancelled {
		w.halt(jobs.ErrCancelled)
	}
}
