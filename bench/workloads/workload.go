package workloads

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// Bench is what all cells of one session share.
type Bench struct {
	Cluster *machine.Cluster
	Redis   string // the program; empty: there is none
	Module  string // folder of bench
	Server  string // our server's binary
	Scratch string // folder for logs, and for what lives as long as a cell
	Scale   figures.Scale
	Results *figures.Results // what was measured before: one workload's rate is a share of another's result

	loaded *machine.Database // the template of drain-loaded, made when first needed
}

// Workload is one line of the table.
type Workload struct {
	Name  string
	Title string
	Peers []string // in the order of an even round

	// cold workloads bring their own contender: they open no session.
	cold    bool
	measure func(ctx context.Context, c *cell) error
}

// cellLimit bounds a cell with everything around it.
const cellLimit = 15 * time.Minute

// cell is one execution.
type cell struct {
	*Bench

	peer    string
	db      *machine.Database
	session peers.Session // nil if cold
	metrics map[string]float64
	account string
}

// Run measures a workload at a contender. Errors that peers.Skippable knows mean that this machine or this contender
// cannot; any other is a failure.
func (b *Bench) Run(ctx context.Context, w Workload, peer string) (run figures.Run, err error) {
	ctx, cancel := context.WithTimeout(ctx, cellLimit)
	defer cancel()
	started := time.Now() // monotonic; the wall clock dates the figure
	c := &cell{Bench: b, peer: peer, metrics: map[string]float64{}}
	// No contender inherits the heap of the one before.
	debug.FreeOSMemory()
	if err := c.run(ctx, w); err != nil {
		return figures.Run{}, fmt.Errorf("%s/%s: %w", w.Name, peer, err)
	}
	return figures.Run{
		At: started.UTC().Truncate(time.Second), Seconds: time.Since(started).Round(time.Millisecond).Seconds(),
		Metrics: c.metrics, Account: c.account,
	}, nil
}

func (c *cell) run(ctx context.Context, w Workload) (err error) {
	template := ""
	if w.Name == loadedName {
		if template, err = c.loadedTemplate(ctx); err != nil {
			return err
		}
	}
	if c.db, err = c.Cluster.NewDatabase(ctx, template); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.db.Drop(ctx)) }()
	if w.cold {
		return w.measure(ctx, c)
	}
	setting := peers.Setting{DSN: c.db.DSN, Module: c.Module, Scratch: c.Scratch}
	if c.peer == figures.Asynq && c.Redis != "" {
		redis, err := machine.StartRedis(ctx, c.Redis, c.Scratch)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, redis.Close()) }()
		setting.RedisAddr = redis.Addr
	}
	if c.session, err = peers.Open(ctx, c.peer, setting); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.session.Close()) }()
	return w.measure(ctx, c)
}

// preload enqueues n jobs, numbered from 0, before anybody works, and gives every contender the same start: fresh
// statistics, and a log without a checkpoint to come.
func (c *cell) preload(ctx context.Context, n int) error {
	const rows = 1000
	for done := 0; done < n; done += rows {
		if err := c.session.Batch(ctx, int64(done), min(rows, n-done)); err != nil {
			return fmt.Errorf("load %d jobs: %w", n, err)
		}
	}
	return c.exec(ctx, `VACUUM (ANALYZE)`, `CHECKPOINT`)
}

// exec sends statements over a connection of their own.
func (c *cell) exec(ctx context.Context, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.db.DSN)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// StallError means that a contender stood still before it had done everything.
type StallError struct {
	Handled, Want int64
	For           time.Duration
}

// Error says how far it came.
func (e *StallError) Error() string {
	return fmt.Sprintf("stood still for %s at %d of %d attempts", e.For, e.Handled, e.Want)
}

// stallLimit is how long a contender may handle nothing although it should.
const stallLimit = time.Minute

// finish waits until so many attempts were handled and the store holds no unfinished job.
func (c *cell) finish(ctx context.Context, work *peers.Work, attempts int64) error {
	last, changed := work.Handled(), time.Now() // monotonic
	err := machine.WaitFor(ctx, cellLimit, "every attempt is handled", func(ctx context.Context) (bool, error) {
		now := work.Handled()
		switch still := time.Since(changed); {
		case now >= attempts:
			return true, nil
		case now != last:
			last, changed = now, time.Now() // monotonic
		case still > stallLimit:
			// Most likely it has died, and can say of what.
			_, err := c.session.Unfinished(ctx)
			return false, errors.Join(&StallError{Handled: now, Want: attempts, For: stallLimit}, err)
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	return machine.WaitFor(ctx, stallLimit, "every outcome is stored", func(ctx context.Context) (bool, error) {
		left, err := c.session.Unfinished(ctx)
		return !left, err
	})
}

// check stops the contender and holds its account against what it should be.
func (c *cell) check(ctx context.Context, want peers.Account) error {
	if err := c.session.Stop(); err != nil {
		return err
	}
	got, err := c.session.Account(ctx)
	if err != nil {
		return err
	}
	c.account = got.String()
	return got.Check(c.peer, want)
}

// finished is the account of n jobs that all succeeded at once: each was enqueued, started and completed.
func finished(n int64) peers.Account {
	return peers.Account{Finished: n, Attempts: n, Events: 3 * n}
}

// waiting is the account of n jobs that nobody worked on.
func waiting(n int64) peers.Account { return peers.Account{Waiting: n, Events: n} }

// timed is how long a timed workload lasts; the share is of the longest, the sustained one.
func (c *cell) timed(share float64) time.Duration {
	return time.Duration(c.Scale.Seconds * share * float64(time.Second))
}
