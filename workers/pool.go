package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	attempts "github.com/mini-asynq/mini-asynq/internal/attempt"
	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// PoolConfig says how a pool runs handlers. Zero values mean the defaults.
type PoolConfig struct {
	Slots   int              // handlers at once; 0 is 5
	Timeout time.Duration    // of an attempt whose job names none; 0 is 30 min
	Retry   jobs.RetryPolicy // delay of a failed job
	Queues  map[string]int   // queues and weights, "*" for every other; empty: all
	DB      jobs.DB          // for progress; nil: none is kept
	Log     zerolog.Logger
}

func (c PoolConfig) withDefaults() PoolConfig {
	if c.Slots == 0 {
		c.Slots = 5
	}
	if c.Timeout == 0 {
		c.Timeout = jobs.DefaultTimeout
	}
	return c
}

func (c PoolConfig) validate() error {
	var faults []error
	if c.Slots < 1 {
		faults = append(faults, fmt.Errorf("slots %d: at least 1", c.Slots))
	}
	if c.Timeout < jobs.MinTimeout || c.Timeout > jobs.MaxTimeout {
		faults = append(faults, fmt.Errorf("timeout %s: 1s to 24h", c.Timeout))
	}
	for name, weight := range c.Queues {
		if weight < 1 || weight > 1000 {
			faults = append(faults, fmt.Errorf("weight %d of queue %s: 1 to 1000", weight, name))
		}
	}
	return errors.Join(faults...)
}

// Pool is a fixed number of slots on this node.
type Pool struct {
	config   PoolConfig
	registry *Registry
	dispatch *dispatcher.Dispatcher
	demand   *dispatcher.Demand

	work      chan *dispatcher.Work // capacity: the slots, so Deliver never blocks. Never closed.
	slots     []slot
	ended     sync.WaitGroup // of the slots
	busy      atomic.Int64
	abandoned atomic.Int64
	halted    atomic.Bool // the grace is over: an attempt that begins now is told to stop at once

	mu      sync.Mutex // guards stopped; nothing blocks under it
	stopped bool       // what is delivered from now on is given back
}

// slot runs one attempt at a time.
type slot struct{ current atomic.Pointer[attempt] }

// NewPool makes a pool; it works while Run does.
func NewPool(registry *Registry, d *dispatcher.Dispatcher, config PoolConfig) (*Pool, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	p := &Pool{
		config: config, registry: registry, dispatch: d,
		work:  make(chan *dispatcher.Work, config.Slots),
		slots: make([]slot, config.Slots),
	}
	return p, nil
}

// Slots is how many handlers run at once at most.
func (p *Pool) Slots() int { return p.config.Slots }

// Busy is how many handlers run.
func (p *Pool) Busy() int { return int(p.busy.Load()) }

// Abandoned is how many handlers still run although their job was given up.
func (p *Pool) Abandoned() int { return int(p.abandoned.Load()) }

// Run offers the slots until ctx ends, and then stops: no new work, wait for the handlers up to grace, end their
// contexts with jobs.ErrShutdown, and give back what does not return within half a second after that. It returns when
// everything is reported; handlers that still run are left behind with their goroutines.
func (p *Pool) Run(ctx context.Context, grace time.Duration) error {
	quit := make(chan struct{}) // closed: slots without work end
	p.demand = p.dispatch.Join(dispatcher.Want{
		Queues: p.config.Queues, Kinds: p.registry.Kinds(), Deliver: p.deliver,
	})
	for i := range p.slots {
		// Ends when quit is closed and its handler has returned.
		p.ended.Go(func() { p.run(&p.slots[i], quit) })
	}
	var abandoning sync.WaitGroup
	runs := make(chan struct{})
	// Ends with Run, which waits for it.
	abandoning.Go(func() { p.abandonLate(runs) })
	defer abandoning.Wait()
	defer close(runs)
	p.demand.Add(p.config.Slots)
	<-ctx.Done()

	p.demand.Close()
	if n := p.Busy(); n > 0 {
		p.config.Log.Info().Int("jobs", n).Stringer("grace", grace).Msg("waiting for handlers to end")
	}
	_ = failpoint.Hit("workers.pool.last_claim")
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	close(quit)
	ended := make(chan struct{})
	// Ends with the last handler; Run leaves it behind if one never returns.
	go func() {
		p.ended.Wait()
		close(ended)
	}()
	if waitFor(ended, grace) {
		return nil
	}
	p.config.Log.Info().Int("jobs", p.Busy()).Msg("the grace is over, the handlers are told to stop")
	p.halted.Store(true)
	p.each(func(a *attempt) { a.ctx.end(jobs.ErrShutdown) })
	if !waitFor(ended, lastCall) {
		p.each(func(a *attempt) { p.finish(a.work, jobs.Release(&a.work.Job.Job, "shutdown")) })
	}
	return nil
}

// each calls fn with every attempt that is running.
func (p *Pool) each(fn func(*attempt)) {
	for i := range p.slots {
		if a := p.slots[i].current.Load(); a != nil {
			fn(a)
		}
	}
}

// lastCall is how long a handler has after its context has ended.
const lastCall = 500 * time.Millisecond

func waitFor(done <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// deliver takes what the dispatcher claimed, at most as much as slots are idle.
func (p *Pool) deliver(works []*dispatcher.Work) {
	p.mu.Lock()
	stopped := p.stopped
	if !stopped {
		for _, w := range works {
			p.work <- w // never blocks: the capacity is the slots
		}
	}
	p.mu.Unlock()
	if stopped {
		for _, w := range works {
			w.Finish(jobs.Release(&w.Job.Job, "shutdown"), nil)
		}
	}
}

// run works in a slot, one attempt after the other.
func (p *Pool) run(s *slot, quit <-chan struct{}) {
	defer func() {
		a := s.current.Load()
		if a == nil {
			return
		}
		// The handler has ended its goroutine (runtime.Goexit), which is this one. Another takes the slot over, and
		// ends as this one would have.
		outcome := attempts.Classify(context.Background(), &a.handling, &attempts.PanicError{}, p.config.Retry)
		p.settle(a, outcome, p.stored)
		p.free(s)
		p.ended.Go(func() { p.run(s, quit) })
	}()
	for {
		select {
		case w := <-p.work:
			p.busy.Add(1)
			p.execute(s, w)
			p.free(s)
		case <-quit:
			// What was delivered before the stop may still be in the channel.
			select {
			case w := <-p.work:
				p.finish(w, jobs.Release(&w.Job.Job, "shutdown"))
			default:
				return
			}
		}
	}
}

// free makes a slot idle. It comes after the outcome: one turn stores that and claims for the slot.
func (p *Pool) free(s *slot) {
	s.current.Store(nil)
	p.busy.Add(-1)
	p.demand.Add(1)
}

// finish reports an outcome; only the first one of an attempt counts.
func (p *Pool) finish(w *dispatcher.Work, outcome jobs.Outcome) {
	w.Finish(outcome, p.stored)
}

// stored is told what became of an outcome.
func (p *Pool) stored(w *dispatcher.Work, v jobs.Verdict) {
	if !v.Landed {
		p.config.Log.Warn().Stringer("job_id", w.Job.ID).Int64("fence", w.Job.Fence).
			Msg("an outcome came too late: the lease was lost")
	}
}

// storedAfterTx is told what became of the outcome of a handler that failed after it had called jobs.CompleteTx.
func (p *Pool) storedAfterTx(w *dispatcher.Work, v jobs.Verdict) {
	if !v.Landed {
		p.config.Log.Warn().Stringer("job_id", w.Job.ID).Int64("fence", w.Job.Fence).
			Msg("a handler failed after its transaction had completed the job, or its lease was lost")
	}
}
