package workers

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	attempts "github.com/mini-asynq/mini-asynq/internal/attempt"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// lateLook is how often attempts are looked for that have not returned by then.
const lateLook = time.Second

// attempt is one run of a handler: its context, and what that context carries.
type attempt struct {
	work     *dispatcher.Work
	ctx      attemptContext
	timeout  time.Duration
	giveUpAt time.Time
	handling jobs.Handling
	progress progress

	phase atomic.Int32 // running, ended or abandoned: whoever changes it first settles the attempt
}

const (
	attemptRuns int32 = iota
	attemptEnded
	attemptAbandoned
)

func (p *Pool) newAttempt(work *dispatcher.Work) *attempt {
	job := work.Job
	a := &attempt{work: work, timeout: job.Timeout}
	if a.timeout == 0 {
		a.timeout = p.config.Timeout
	}
	// Counted from the claim, by the monotonic clock.
	deadline := job.ClaimedAt.Add(a.timeout)
	a.giveUpAt = deadline.Add(jobs.Overtime)
	a.handling.Job = job
	if p.config.DB != nil {
		a.progress.db, a.progress.lease = p.config.DB, jobs.Lease{JobID: job.ID, Fence: job.Fence}
		a.handling.Progress, a.handling.Flush = a.progress.report, a.progress.store
	}
	a.ctx.values, a.ctx.deadline = jobs.WithHandling(context.Background(), &a.handling), deadline
	return a
}

// execute runs one attempt in its slot, and returns when the handler has.
func (p *Pool) execute(s *slot, work *dispatcher.Work) {
	a := p.newAttempt(work)
	s.current.Store(a)
	if p.halted.Load() {
		a.ctx.end(jobs.ErrShutdown)
	}
	work.OnStop(a.ctx.end)
	err := attempts.Call(&a.ctx, p.registry, work.Job)
	a.progress.flush(&a.ctx)
	stored := p.stored
	if a.handling.CompletedInTx() {
		if stored = p.storedAfterTx; err == nil {
			stored = nil // that the row is gone is how it should be
		}
	}
	p.settle(a, attempts.Classify(&a.ctx, &a.handling, err, p.config.Retry), stored)
}

// settle reports how an attempt ended, unless its job was given up: then only the slot comes back.
func (p *Pool) settle(a *attempt, outcome jobs.Outcome, stored func(*dispatcher.Work, jobs.Verdict)) {
	a.ctx.end(nil)
	if a.phase.CompareAndSwap(attemptRuns, attemptEnded) {
		a.work.Finish(outcome, stored)
	} else {
		p.abandoned.Add(-1)
	}
}

// abandonLate gives up the jobs of handlers that do not return, until done is closed: for the job, not for the slot,
// which is theirs until they do. One look at all slots a second instead of one timer for each attempt.
func (p *Pool) abandonLate(done <-chan struct{}) {
	ticker := time.NewTicker(lateLook)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			p.each(func(a *attempt) {
				if now.Before(a.giveUpAt) || a.phase.Load() != attemptRuns {
					return
				}
				p.abandoned.Add(1) // before its slot can take it off again
				if !a.phase.CompareAndSwap(attemptRuns, attemptAbandoned) {
					p.abandoned.Add(-1)
					return
				}
				p.finish(a.work, p.timedOut(a.work.Job, a.timeout))
			})
		}
	}
}

func (p *Pool) timedOut(job *jobs.Claimed, timeout time.Duration) jobs.Outcome {
	failure := jobs.NewFailure(job.Kind, "Timeout",
		fmt.Sprintf("still running %s after its timeout of %s", jobs.Overtime, timeout), "")
	return jobs.TimeOut(&job.Job, failure, p.config.Retry.Next(job.BudgetAttempts()))
}
