package workloads

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

const (
	sustainedCallers = 4
	sustainedRows    = 200
	// sustainedBacklog is where producers pause: the figure is what a contender takes in and works off at once.
	sustainedBacklog = 10_000
)

// sustained enqueues and works at the same time, and tells what that costs per job.
func sustained(ctx context.Context, c *cell) error {
	work := &peers.Work{}
	if err := c.session.Start(ctx, work); err != nil {
		return err
	}
	if err := c.exec(ctx, `CHECKPOINT`); err != nil {
		return err
	}
	before, err := c.db.Cost(ctx)
	if err != nil {
		return err
	}
	var next atomic.Int64
	span := c.timed(1)
	loading, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	started := time.Now() // monotonic
	err = inParallel(sustainedCallers, func(int) error {
		for loading.Err() == nil {
			if next.Load()-work.Handled() > sustainedBacklog {
				machine.Rest(loading, time.Millisecond)
				continue
			}
			// Once begun, a call is finished: a job that may or may not be stored could not be accounted for.
			if err := c.session.Batch(ctx, next.Add(sustainedRows)-sustainedRows, sustainedRows); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.metrics["jobs_per_s"] = float64(work.Handled()) / time.Since(started).Seconds()
	n := next.Load()
	if err := c.finish(ctx, work, n); err != nil {
		return err
	}
	if err := c.session.Stop(); err != nil {
		return err
	}
	logged, err := c.db.Cost(ctx)
	if err != nil {
		return err
	}
	if err := c.check(ctx, finished(n)); err != nil {
		return err
	}
	// Sessions hand in their commits when they end.
	if err := c.session.Close(); err != nil {
		return err
	}
	ended, err := c.db.Cost(ctx)
	if err != nil {
		return err
	}
	c.metrics["wal_bytes_per_job"] = float64(logged.Since(before).WALBytes) / float64(n)
	c.metrics["commits_per_job"] = float64(ended.Since(before).Commits) / float64(n)
	return nil
}

// inParallel runs fn with numbers from 0 and joins the errors.
func inParallel(n int, fn func(i int) error) error {
	var all sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		all.Go(func() { errs[i] = fn(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}
