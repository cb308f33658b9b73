package workloads

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

const (
	settleShare  = 0.5 // of the sustained workload's time: how long a server rests before its idle memory is read
	sampleEvery  = 20 * time.Millisecond
	backlogShare = 10 // how many drains a backlog is
	backlogLimit = 5 * time.Minute
)

// memory reads the resident memory of our server: at rest, the most while it drains, and the most while it begins to
// work through a large backlog.
func memory(ctx context.Context, c *cell) error {
	if err := peers.Migrate(ctx, c.db.DSN); err != nil {
		return err
	}
	server, err := peers.StartServer(ctx, c.server(true))
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }() // what it has done is checked below
	if !machine.Rest(ctx, c.timed(settleShare)) {
		return context.Cause(ctx)
	}
	if c.metrics["idle_mib"], err = machine.RSS(server.PID()); err != nil {
		return err
	}
	n := heldShare * c.Scale.Jobs
	if c.metrics["load_mib"], err = c.peak(ctx, server, n); err != nil {
		return err
	}
	if err := server.Close(); err != nil {
		return err
	}
	backlog := backlogShare * c.Scale.Jobs
	if err := peers.Load(ctx, c.db.DSN, backlog); err != nil {
		return err
	}
	if server, err = peers.StartServer(ctx, c.server(true)); err != nil {
		return err
	}
	if c.metrics["backlog_mib"], err = c.peak(ctx, server, 0); err != nil {
		return err
	}
	return c.checkServer(ctx, server, finished(int64(n+backlog)))
}

// peak enqueues n jobs beside the working server and samples its memory until it has finished everything.
func (c *cell) peak(ctx context.Context, server *peers.Server, n int) (most float64, err error) {
	loading, cancel := context.WithCancel(ctx)
	defer cancel()
	loaded := make(chan error, 1)
	// Ends with the last job, or with this function.
	go func() { loaded <- server.Enqueue(loading, n) }()
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	finished := make(chan error, 1)
	for {
		rss, err := machine.RSS(server.PID())
		if err != nil {
			return 0, err
		}
		most = max(most, rss)
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case err := <-loaded:
			if err != nil {
				return 0, err
			}
			// Ends with the last job, or with this function.
			go func() { finished <- server.Finished(loading, backlogLimit) }()
		case err := <-finished:
			return most, err
		case <-ticker.C:
		}
	}
}

// idleShare is how many times the length of the sustained workload an idle server is watched: a minute by default.
const idleShare = 3

// idle counts the statements that an idle server sends, and the time that it and PostgreSQL compute.
func idle(ctx context.Context, c *cell) (err error) {
	if err := peers.Migrate(ctx, c.db.DSN); err != nil {
		return err
	}
	server, err := peers.StartServer(ctx, c.server(true))
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }() // nothing was asked of it
	if !machine.Rest(ctx, c.timed(settleShare)) {
		return context.Cause(ctx)
	}
	if err := c.Cluster.Set(ctx, map[string]string{"log_statement": "all", "log_min_messages": "log"}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Cluster.Set(context.WithoutCancel(ctx), nil)) }()
	log, err := c.Cluster.LogFrom()
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	before, err := machine.CPU(server.PID())
	if err != nil {
		return err
	}
	started := time.Now() // monotonic
	if !machine.Rest(ctx, c.timed(idleShare)) {
		return context.Cause(ctx)
	}
	span := time.Since(started)
	after, err := machine.CPU(server.PID())
	if err != nil {
		return err
	}
	text, err := io.ReadAll(log)
	if err != nil {
		return err
	}
	c.metrics["statements_per_min"] = float64(countStatements(string(text))) / span.Minutes()
	c.metrics["cpu_percent"] = 100 * (after - before).Seconds() / span.Seconds()
	c.account = "nothing was asked of it"
	return nil
}

// countStatements counts what log_statement wrote: simple statements and executions of prepared ones.
func countStatements(log string) (n int) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "LOG:  statement: ") || strings.Contains(line, "LOG:  execute ") {
			n++
		}
	}
	return n
}
