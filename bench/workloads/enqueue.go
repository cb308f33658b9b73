package workloads

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mini-asynq/mini-asynq/bench/figures"
)

const (
	batchCallers = 2
	batchRows    = 1000
	// enqueueShare is how long the enqueuing workloads last.
	enqueueShare = 0.25
)

// batch enqueues large batches, with nobody at work.
func batch(ctx context.Context, c *cell) error {
	return c.enqueue(ctx, batchCallers, batchRows, func(ctx context.Context, first int64) error {
		return c.session.Batch(ctx, first, batchRows)
	})
}

// single enqueues one job a call from so many callers.
func single(callers int) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error { return c.enqueue(ctx, callers, 1, c.session.Single) }
}

// enqueue lets callers call for a while, and measures rate and latency of the calls.
func (c *cell) enqueue(ctx context.Context, callers, rows int, call func(ctx context.Context, first int64) error) error {
	if err := c.session.Start(ctx, nil); err != nil {
		return err
	}
	n, err := c.load(ctx, callers, rows, func(ctx context.Context, _ int, first int64) error { return call(ctx, first) })
	if err != nil {
		return err
	}
	return c.check(ctx, waiting(n))
}

// load is the loop of every enqueuing workload. It returns how many jobs were enqueued.
func (c *cell) load(ctx context.Context, callers, rows int, call func(ctx context.Context, caller int, first int64) error) (int64, error) {
	loading, cancel := context.WithTimeout(ctx, c.timed(enqueueShare))
	defer cancel()
	var next atomic.Int64
	spans := make([][]time.Duration, callers)
	started := time.Now() // monotonic
	err := inParallel(callers, func(i int) error {
		for loading.Err() == nil {
			first := next.Add(int64(rows)) - int64(rows)
			begun := time.Now() // monotonic
			// Once begun, a call is finished: a job that may or may not be stored could not be accounted for.
			if err := call(ctx, i, first); err != nil {
				return err
			}
			spans[i] = append(spans[i], time.Since(begun))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	c.metrics["jobs_per_s"] = float64(next.Load()) / time.Since(started).Seconds()
	all := slices.Concat(spans...)
	c.metrics["p50_ms"], c.metrics["p99_ms"] = figures.Percentile(all, 0.5), figures.Percentile(all, 0.99)
	return next.Load(), nil
}
