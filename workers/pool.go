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
	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// PoolConfig says how a pool runs handlers. Zero values mean the defaults.
type PoolConfig struct {
	Slots   int              // handlers at once; 0 is 5
	Timeout time.Duration    // of an attempt whose job names none; 0 is 30 min
	Retry   jobs.RetryPolicy // delay of a failed job
	Queues  map[string]int   // queues and weights; empty: all
	DB      jobs.DB          // for progress; nil: none is kept
	Log     zerolog.Logger
}

func (c PoolConfig) withDefaults() PoolConfig {
	if c.Slots == 0 {
		c.Slots = 5
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Minute
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
	working   context.Context       //nolint:containedctx // the parent of every handler's context, ended by Stop
	endWork   context.CancelCauseFunc
	slots     sync.WaitGroup
	busy      atomic.Int64
	abandoned atomic.Int64

	mu      sync.Mutex                    // guards current and stopping; nothing blocks under it
	current map[*dispatcher.Work]struct{} // what the slots are working on
	stopped bool                          // what is delivered from now on is given back
}

// NewPool makes a pool; it works while Run does.
func NewPool(registry *Registry, d *dispatcher.Dispatcher, config PoolConfig) (*Pool, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	p := &Pool{
		config: config, registry: registry, dispatch: d,
		work:    make(chan *dispatcher.Work, config.Slots),
		current: make(map[*dispatcher.Work]struct{}),
	}
	p.working, p.endWork = context.WithCancelCause(context.Background())
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
	for range p.config.Slots {
		// Ends when quit is closed and its handler has returned.
		p.slots.Go(func() { p.slot(quit) })
	}
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
		p.slots.Wait()
		close(ended)
	}()
	if !waitFor(ended, grace) {
		p.config.Log.Info().Int("jobs", p.Busy()).Msg("the grace is over, the handlers are told to stop")
		p.endWork(jobs.ErrShutdown)
		if !waitFor(ended, lastCall) {
			p.giveBack()
		}
	}
	p.endWork(jobs.ErrShutdown)
	return nil
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
			p.current[w] = struct{}{}
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

// slot runs one attempt after the other.
func (p *Pool) slot(quit <-chan struct{}) {
	var current *dispatcher.Work
	defer func() {
		if current == nil {
			return
		}
		// The handler has ended its goroutine (runtime.Goexit), which is this one. Another takes the slot over, and
		// ends as this one would have.
		p.finish(current, p.classify(context.Background(), &jobs.Handling{Job: current.Job}, &PanicError{}))
		p.busy.Add(-1)
		p.demand.Add(1)
		p.slots.Go(func() { p.slot(quit) })
	}()
	for {
		select {
		case w := <-p.work:
			current = w
			p.busy.Add(1)
			p.execute(w)
			p.busy.Add(-1)
			current = nil
			// After the outcome: one turn stores it and claims for the slot.
			p.demand.Add(1)
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

// finish reports an outcome; only the first one of an attempt counts.
func (p *Pool) finish(w *dispatcher.Work, outcome jobs.Outcome) {
	p.mu.Lock()
	_, current := p.current[w]
	delete(p.current, w)
	p.mu.Unlock()
	if current {
		w.Finish(outcome, p.stored(w))
	}
}

func (p *Pool) giveBack() {
	p.mu.Lock()
	left := make([]*dispatcher.Work, 0, len(p.current))
	for w := range p.current {
		left = append(left, w)
	}
	p.mu.Unlock()
	for _, w := range left {
		p.finish(w, jobs.Release(&w.Job.Job, "shutdown"))
	}
}

func (p *Pool) stored(w *dispatcher.Work) func(jobs.Verdict) {
	return func(v jobs.Verdict) {
		if !v.Landed {
			p.config.Log.Warn().Stringer("job_id", w.Job.ID).Int64("fence", w.Job.Fence).
				Msg("an outcome came too late: the lease was lost")
		}
	}
}
