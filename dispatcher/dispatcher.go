package dispatcher

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Dispatcher claims jobs for idle slots and stores their outcomes. Safe for concurrent use.
type Dispatcher struct {
	config Config
	leases *leases
	timers *timers
	kick   chan struct{} // capacity 1: something changed. Never closed.

	mu         sync.Mutex // guards what follows; nothing blocks under it
	groups     map[string]*group
	reports    []report      // outcomes that wait for a turn
	reportedAt time.Time     // when the first of them came
	inFlight   int           // turns under way
	flushing   bool          // one of them carries outcomes alone
	storing    int           // outcomes in turns under way
	draining   bool          // no new claims
	suspect    bool          // a claim may have got lost with its connection
	recovering bool          // it is being looked for: nothing may be claimed meanwhile
	holdOff    time.Time     // no turn before: the database is away
	idleCh     chan struct{} // closed when nothing is left to store; made by Flush

	turns, claimed, emptyClaims atomic.Int64
}

// New checks the configuration; the dispatcher works while Run does.
func New(config Config) (*Dispatcher, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("dispatcher: %w", err)
	}
	d := &Dispatcher{config: config, kick: make(chan struct{}, 1), groups: make(map[string]*group)}
	d.leases = newLeases(config.Store, config.Lease, config.Deadline, func(err error) {
		config.Log.Warn().Err(err).Msg("leases could not be extended")
	})
	d.timers = newTimers(d)
	return d, nil
}

// Join adds a demand without idle slots.
func (d *Dispatcher) Join(want Want) *Demand {
	if want.Worker == "" {
		want.Worker = d.config.Node
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := groupKey(want)
	g := d.groups[key]
	if g == nil {
		d.dropEmpty(time.Now())
		g = &group{want: want, queues: make(map[string]*queueState)}
		d.groups[key] = g
		// A group that is new knows no queue yet.
		d.timers.sweepNow()
	}
	demand := &Demand{dispatcher: d, want: want, group: g}
	g.demands = append(g.demands, demand)
	return demand
}

// WakeQueue says that a queue got work of a kind at a place in line; kind "" is any.
func (d *Dispatcher) WakeQueue(queue, kind string, priority jobs.Priority, key jobs.Key) {
	d.mu.Lock()
	for _, g := range d.groups {
		if !g.takes(kind) {
			continue
		}
		if q, p := g.queue(queue), priority.Index(); q != nil && p >= 0 {
			q.wake(p, key)
		}
	}
	d.mu.Unlock()
	d.poke()
}

// WakeWhole says that a queue may have work anywhere in its line: it was resumed.
func (d *Dispatcher) WakeWhole(queue string) {
	d.mu.Lock()
	for _, g := range d.groups {
		if q := g.queue(queue); q != nil {
			q.wakeWhole()
		}
	}
	d.mu.Unlock()
	d.poke()
}

// maxHinted bounds how many queues a hint makes hot: the stream names the right one a moment later.
const maxHinted = 8

// Hint says that somewhere something was committed. The queues that this node knows are tried at once: the stream will
// name the right one, but only after the pacer's commit.
func (d *Dispatcher) Hint() {
	d.mu.Lock()
	for _, g := range d.groups {
		n := 0
		for _, q := range g.queues {
			if n++; n > maxHinted {
				break
			}
			q.hint()
		}
	}
	d.mu.Unlock()
	d.poke()
}

// Missed says that anything may have happened: after a (re)connect of the listener.
func (d *Dispatcher) Missed() {
	d.leases.extendAll()
	d.timers.sweepNow()
}

// CancelRequested says that a job was asked to stop. Jobs of other nodes are not known here.
func (d *Dispatcher) CancelRequested(id uuid.UUID) {
	if w := d.leases.get(id); w != nil {
		w.halt(jobs.ErrCancelled)
	}
}

// JobDueIn says that a job becomes due after so long.
func (d *Dispatcher) JobDueIn(after time.Duration) { d.timers.lower(dueJob, after) }

// LeaseDueIn says that some lease may run out after so long.
func (d *Dispatcher) LeaseDueIn(after time.Duration) { d.timers.lower(dueLease, after) }

// ResumeDueIn says that the pause of some queue ends after so long.
func (d *Dispatcher) ResumeDueIn(after time.Duration) { d.timers.lower(dueResume, after) }

// Lease is the visibility timeout of this node.
func (d *Dispatcher) Lease() time.Duration { return d.config.Lease }

// StopClaiming ends claims for good. What is being claimed at this moment is still delivered.
func (d *Dispatcher) StopClaiming() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
}

// Flush returns when every outcome that was reported is stored, or with the cause of ctx.
func (d *Dispatcher) Flush(ctx context.Context) error {
	for {
		d.mu.Lock()
		if len(d.reports) == 0 && d.storing == 0 && d.inFlight == 0 {
			d.mu.Unlock()
			return nil
		}
		if d.idleCh == nil {
			d.idleCh = make(chan struct{})
		}
		idle := d.idleCh
		d.mu.Unlock()
		d.poke()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-idle:
		}
	}
}

// Running is how many claimed jobs have no stored outcome yet.
func (d *Dispatcher) Running() int { return d.leases.count() }

// Stats counts since the start.
type Stats struct{ Turns, Claimed, EmptyClaims int64 }

// Stats returns the counters.
func (d *Dispatcher) Stats() Stats {
	return Stats{Turns: d.turns.Load(), Claimed: d.claimed.Load(), EmptyClaims: d.emptyClaims.Load()}
}

// LastSuccess is when the loop of the deadlines last reached the database; zero: never.
func (d *Dispatcher) LastSuccess() time.Time { return d.timers.lastSuccess() }

// report takes an outcome; Work.Finish calls it.
func (d *Dispatcher) report(r report) {
	d.mu.Lock()
	if len(d.reports) == 0 {
		d.reportedAt = time.Now() // monotonic
	}
	d.reports = append(d.reports, r)
	d.mu.Unlock()
	d.poke()
}

func (d *Dispatcher) poke() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// Run dispatches until ctx ends, and returns when its last turn has. Outcomes that were not stored by then (Flush) are
// lost to this node: their leases run out.
func (d *Dispatcher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	// Both end with ctx; Run waits for them.
	wg.Go(func() { d.leases.run(ctx) })
	wg.Go(func() { d.timers.run(ctx) })

	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 20*time.Millisecond, time.Second, 0
	done := make(chan error, 16) // results of turns, for the back-off; the loop always reads it or has ended
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		// Whoever is about to report or to become idle does so first: the turn is larger by them.
		runtime.Gosched()
		turn, wait := d.plan(time.Now())
		if turn != nil {
			// Ends with its call, which has a deadline; Run waits for it.
			wg.Go(func() {
				err := d.run(context.WithoutCancel(ctx), turn)
				select {
				case done <- err:
				case <-ctx.Done():
				}
			})
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-d.kick:
		case <-timer.C:
		case err := <-done:
			if err == nil {
				policy.Reset()
				continue
			}
			pause := policy.NextBackOff()
			d.config.Log.Warn().Err(err).Int64("duration_ms", pause.Milliseconds()).Msg("a turn failed, trying again")
			d.mu.Lock()
			d.holdOff = time.Now().Add(pause)
			d.mu.Unlock()
		}
	}
}

// recoverClaims gives back what was claimed for this node by a turn whose answer got lost.
func (d *Dispatcher) recoverClaims(ctx context.Context) error {
	lost, err := d.config.Store.LostClaims(ctx, d.config.Node, d.leases.ids())
	if err != nil || len(lost) == 0 {
		return err
	}
	outcomes := make([]jobs.Outcome, len(lost))
	for i, j := range lost {
		outcomes[i] = jobs.Release(j, "lost_claim")
	}
	if _, err := d.config.Store.Finish(ctx, outcomes); err != nil {
		return err
	}
	for _, j := range lost {
		d.WakeWhole(j.Queue)
	}
	d.config.Log.Info().Int("jobs", len(lost)).Msg("claims that got lost with a connection were given back")
	return nil
}
