package workers

import (
	"context"
	"sync"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// progressEvery is how often the progress of a job is written at most: each write is an event.
const progressEvery = time.Second

// flushDeadline bounds the last write, after which the outcome is stored.
const flushDeadline = 300 * time.Millisecond

// progressDeadline bounds one write.
const progressDeadline = 5 * time.Second

// progress thins out what a handler reports. What comes too early is kept and written with the next report that is not,
// or when the handler returns: the last one is always stored. Safe for concurrent use.
type progress struct {
	db    jobs.DB
	lease jobs.Lease

	mu      sync.Mutex // guards the rest, and is held while one writes: only the goroutines of one handler meet here
	written time.Time
	waiting bool
	percent float64
	message string
}

func (p *progress) report(ctx context.Context, percent float64, message string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.percent, p.message, p.waiting = percent, message, true
	if time.Since(p.written) < progressEvery {
		return nil
	}
	return p.write(ctx, p.db)
}

// store writes what is waiting through db, the transaction in which the handler completes its job.
func (p *progress) store(ctx context.Context, db jobs.DB) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.waiting {
		return nil
	}
	return p.write(ctx, db)
}

// flush writes what is waiting; without a database nothing ever is. The attempt's own context may have ended.
func (p *progress) flush(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting {
		// A report that is not stored changes nothing: the outcome says how the attempt ended, and must not wait for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushDeadline)
		defer cancel()
		_ = p.write(ctx, p.db)
	}
}

// write stores the newest report. Under mu.
func (p *progress) write(ctx context.Context, db jobs.DB) error {
	ctx, cancel := context.WithTimeout(ctx, progressDeadline)
	defer cancel()
	p.waiting, p.written = false, time.Now()
	return jobs.SetProgress(ctx, db, p.lease, p.percent, p.message, 0) // the pool keeps the pace
}
