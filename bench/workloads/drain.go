package workloads

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// drain works through a backlog of jobs that do nothing.
func drain(ctx context.Context, c *cell) error { return c.drain(ctx, c.Scale.Jobs, &peers.Work{}) }

func (c *cell) drain(ctx context.Context, n int, work *peers.Work) error {
	if err := c.preload(ctx, n); err != nil {
		return err
	}
	if err := c.session.Start(ctx, work); err != nil {
		return err
	}
	if err := c.finish(ctx, work, int64(n)); err != nil {
		return err
	}
	c.metrics["jobs_per_s"] = float64(n) / time.Since(work.First()).Seconds()
	return c.check(ctx, finished(int64(n)))
}

// retryAfter is short, so that the workload measures the work of a retry and not the wait for it.
const retryAfter = 20 * time.Millisecond

// retry drains jobs of which every other one fails its first attempt.
func retry(ctx context.Context, c *cell) error {
	n := c.Scale.Jobs
	if err := c.preload(ctx, n); err != nil {
		return err
	}
	work := &peers.Work{FailOdd: true, RetryAfter: retryAfter}
	if err := c.session.Start(ctx, work); err != nil {
		return err
	}
	failing := n / 2
	if err := c.finish(ctx, work, int64(n+failing)); err != nil {
		return err
	}
	c.metrics["jobs_per_s"] = float64(n) / time.Since(work.First()).Seconds()
	want := finished(int64(n))
	want.Attempts += int64(failing)
	// A retry is three more: it failed, it is due, it started.
	want.Events += 3 * int64(failing)
	return c.check(ctx, want)
}

// heldShare is how much longer the drains beside an idle transaction are: what such a transaction keeps alive has to
// pile up.
const heldShare = 5

// What an idle transaction has done before it rests.
const (
	holdID       = `SELECT pg_current_xact_id()`
	holdSnapshot = `SELECT count(*) FROM pg_class`
)

// drainHeld drains while a stranger's transaction stands open: no dead row can be removed until it ends.
func drainHeld(held string) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		conn, err := pgx.Connect(ctx, c.db.DSN)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := tx.Exec(ctx, held); err != nil {
			return err
		}
		return c.drain(ctx, heldShare*c.Scale.Jobs, &peers.Work{})
	}
}
