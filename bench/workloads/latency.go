package workloads

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// Between two samples of an idle latency nothing happens for so long, plus up to idleJitter: everybody sleeps by then, and
// no sample meets the same phase of somebody's timer.
const (
	idleGap    = 100 * time.Millisecond
	idleJitter = 50 * time.Millisecond
)

// The first jobs meet connections without prepared statements, at every contender alike: they are not counted.
const (
	warmSamples = 5
	warmShare   = 0.1 // of the time of the loaded workload
)

// latencyIdle measures from COMMIT to the beginning of the handler, one job at a time.
func latencyIdle(ctx context.Context, c *cell) error {
	began := make(chan time.Time, 1) // sent by the handler of the only job there is
	work := &peers.Work{Began: func(_ int64, when time.Time) { began <- when }}
	if err := c.session.Start(ctx, work); err != nil {
		return err
	}
	spans := make([]time.Duration, warmSamples+c.Scale.Samples)
	for i := range spans {
		if !machine.Rest(ctx, idleGap+rand.N(idleJitter)) { //nolint:gosec // jitter needs no secrecy
			return context.Cause(ctx)
		}
		sent, err := c.session.Commit(ctx, int64(i), 1)
		if err != nil {
			return err
		}
		select {
		case when := <-began:
			spans[i] = when.Sub(sent)
		case <-ctx.Done():
			return fmt.Errorf("job %d did not begin: %w", i, context.Cause(ctx))
		}
	}
	if err := c.finish(ctx, work, int64(len(spans))); err != nil {
		return err
	}
	c.latencies(spans[warmSamples:])
	return c.check(ctx, finished(int64(len(spans))))
}

func (c *cell) latencies(spans []time.Duration) {
	c.metrics["p50_ms"], c.metrics["p99_ms"] = figures.Percentile(spans, 0.5), figures.Percentile(spans, 0.99)
}

const (
	halfCallers = 4
	halfEvery   = 10 * time.Millisecond // between two transactions of one caller
	halfShare   = 0.5                   // of the time of the sustained workload
)

// latencyHalf measures the same while jobs come in at half of the rate that River drains at its best.
func latencyHalf(ctx context.Context, c *cell) error {
	rate := c.Results.Spread("drain/"+figures.RiverTuned, "jobs_per_s").Median / 2
	if rate == 0 {
		return &peers.UnavailableError{Peer: c.peer, Reason: "this needs the figure of drain/" + figures.RiverTuned + ": measure that first"}
	}
	c.metrics["rate_jobs_per_s"] = rate
	span := c.timed(halfShare)
	rows := max(int(rate*halfEvery.Seconds()/halfCallers), 1)
	calls := int(span / halfEvery)
	n := int64(halfCallers * calls * rows)
	// Each cell of both is written once, by the caller or the handler of its job, and read when all have ended.
	sent, began := make([]time.Time, halfCallers*calls), make([]time.Time, n)
	var lost atomic.Int64 // handlers of jobs that nobody enqueued
	work := &peers.Work{Began: func(n int64, when time.Time) {
		if n < 0 || n >= int64(len(began)) {
			lost.Add(1)
			return
		}
		began[n] = when
	}}
	if err := c.session.Start(ctx, work); err != nil {
		return err
	}
	if err := inParallel(halfCallers, func(caller int) error {
		ticker := time.NewTicker(halfEvery)
		defer ticker.Stop()
		for i := range calls {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-ticker.C:
			}
			call := caller*calls + i
			var err error
			if sent[call], err = c.session.Commit(ctx, int64(call*rows), rows); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := c.finish(ctx, work, n); err != nil {
		return err
	}
	if err := c.check(ctx, finished(n)); err != nil {
		return err
	}
	if lost.Load() > 0 {
		return fmt.Errorf("%d handlers ran for jobs that nobody enqueued", lost.Load())
	}
	spans := make([]time.Duration, 0, n)
	warm := int(warmShare * float64(calls))
	for i := range began {
		if call := i / rows; call%calls >= warm {
			spans = append(spans, began[i].Sub(sent[call]))
		}
	}
	c.latencies(spans)
	return nil
}
