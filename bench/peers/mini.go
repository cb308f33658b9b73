package peers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/migrations"
	"github.com/mini-asynq/mini-asynq/workers"
)

// mini is our engine inside this process, as a program embeds it: events, history and leases are all on.
type mini struct {
	setting Setting
	pool    *pgxpool.Pool // for what strangers do: loading, transactions, accounts
	engine  *workers.Engine
	cancel  context.CancelFunc
	ended   chan error // capacity 1: what Run returned
	stopped bool
}

func openMini(ctx context.Context, s Setting) (Session, error) {
	conn, err := pgx.Connect(ctx, s.DSN)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := migrations.Up(ctx, conn); err != nil {
		return nil, err
	}
	pool, err := openPool(ctx, s.DSN)
	if err != nil {
		return nil, err
	}
	return &mini{setting: s, pool: pool}, nil
}

// openPool is every contender's, unless it makes its own.
func openPool(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = Connections
	return pgxpool.NewWithConfig(ctx, config)
}

func (m *mini) Start(ctx context.Context, work *Work) error {
	config := workers.Config{DatabaseURL: m.setting.DSN, Slots: Slots}
	if work != nil {
		config.Registry = workers.NewRegistry()
		config.Queues = map[string]int{Queue: 1}
		config.Retry = jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: work.RetryAfter}
		workers.Handle(config.Registry, jobs.Kind[payload]{Name: Queue}, func(_ context.Context, job *jobs.Claimed, p payload) error {
			return work.handle(p.N, job.Attempt)
		})
	}
	engine, err := workers.New(ctx, config)
	if err != nil {
		return err
	}
	if n := engine.Connections(); n > Connections {
		engine.Close()
		return fmt.Errorf("our engine takes %d connections, the others have %d", n, Connections)
	}
	running, cancel := context.WithCancel(context.Background())
	m.engine, m.cancel, m.ended, m.stopped = engine, cancel, make(chan error, 1), false
	// Ends with Stop, which waits for it.
	go func() { m.ended <- engine.Run(running) }()
	if work != nil {
		return nil // it works from now on, as the others do when their Start returns
	}
	return machine.WaitFor(ctx, callLimit, "our engine is ready", func(context.Context) (bool, error) {
		select {
		case <-engine.Stream.Ready():
			return true, nil
		default:
			return false, m.alive()
		}
	})
}

// alive tells why the engine has ended, if it has and nobody stopped it.
func (m *mini) alive() error {
	if m.engine == nil || m.stopped {
		return nil
	}
	select {
	case err := <-m.ended:
		m.ended <- err // for Stop
		return errors.Join(errors.New("our engine ended by itself"), err)
	default:
		return nil
	}
}

func (m *mini) Batch(ctx context.Context, first int64, n int) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := jobs.Enqueue(ctx, m.door(), params(first, n)...)
	return err
}

func params(first int64, n int) []jobs.Params {
	all := make([]jobs.Params, n)
	for i := range all {
		all[i] = jobs.Params{Queue: Queue, Payload: payload{first + int64(i)}}
	}
	return all
}

// door is the engine's own pool while there is one.
func (m *mini) door() *pgxpool.Pool {
	if m.engine != nil {
		return m.engine.Door
	}
	return m.pool
}

func (m *mini) Single(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := m.engine.Inserter.Enqueue(ctx, jobs.Params{Queue: Queue, Payload: payload{n}})
	return err
}

func (m *mini) Commit(ctx context.Context, first int64, n int) (sent time.Time, err error) {
	return commit(ctx, m.pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := jobs.Enqueue(ctx, tx, params(first, n)...)
		return err
	})
}

// commit runs a transaction and tells when its COMMIT was sent.
func commit(ctx context.Context, pool *pgxpool.Pool, fn func(context.Context, pgx.Tx) error) (sent time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	tx, err := pool.Begin(ctx)
	if err != nil {
		return sent, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := fn(ctx, tx); err != nil {
		return sent, err
	}
	sent = time.Now() // monotonic: a span on this machine
	return sent, tx.Commit(ctx)
}

func (m *mini) Unfinished(ctx context.Context) (bool, error) {
	if err := m.alive(); err != nil {
		return false, err
	}
	return miniUnfinished(ctx, m.pool)
}

func miniUnfinished(ctx context.Context, pool *pgxpool.Pool) (left bool, err error) {
	err = pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM mini_asynq.jobs WHERE queue = $1 AND status = 'pending')
		OR EXISTS (SELECT FROM mini_asynq.jobs WHERE status IN ('running', 'retrying', 'scheduled') AND queue = $1)`,
		Queue).Scan(&left)
	return left, err
}

// accountSQL counts the jobs of the workload and the events about them. The stream is counted by its ticks: an event
// that no tick holds was never published.
const accountSQL = `
SELECT (SELECT count(*) FROM mini_asynq.jobs WHERE queue = $1),
       (SELECT count(*) FROM mini_asynq.jobs_finished WHERE queue = $1 AND status = 'completed'),
       (SELECT count(*) FROM mini_asynq.job_attempts a JOIN mini_asynq.jobs_finished f ON f.id = a.job_id WHERE f.queue = $1),
       (SELECT count(*) FROM mini_asynq.events WHERE queue = $1 AND job_id IS NOT NULL),
       (SELECT coalesce(sum(n), 0)::bigint FROM mini_asynq.ticks),
       (SELECT coalesce(sum(n), 0)::bigint FROM mini_asynq.outbox)`

func (m *mini) Account(ctx context.Context) (a Account, err error) { return miniAccount(ctx, m.pool) }

func miniAccount(ctx context.Context, pool *pgxpool.Pool) (a Account, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*callLimit)
	defer cancel()
	var ticked, written int64
	err = pool.QueryRow(ctx, accountSQL, Queue).Scan(&a.Waiting, &a.Finished, &a.Attempts, &a.Events, &ticked, &written)
	a.Published = a.Events - (written - ticked)
	return a, err
}

func (m *mini) Stop() error {
	if m.engine == nil || m.stopped {
		return nil
	}
	m.stopped = true
	published := m.publish()
	m.cancel()
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case err := <-m.ended:
		return errors.Join(published, err)
	case <-timer.C:
		return errors.Join(published, errors.New("our engine did not stop in time"))
	}
}

// writtenSQL counts the events that were written, published or not.
const writtenSQL = `SELECT coalesce(sum(n), 0)::bigint FROM mini_asynq.outbox`

// publish waits until every event that was written has its place in the stream: the pacer is a few milliseconds behind
// the last commit, and it ends with the engine.
func (m *mini) publish() error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	var written int64
	if err := m.pool.QueryRow(ctx, writtenSQL).Scan(&written); err != nil {
		return err
	}
	return machine.WaitFor(ctx, stopLimit, "every event is published", func(context.Context) (bool, error) {
		head, err := m.engine.Stream.Head()
		return err == nil && head.Seq >= written, nil
	})
}

func (m *mini) Close() error {
	err := m.Stop()
	closePools(m.pool)
	return err
}

// closePools closes them side by side and does not wait for a connection that hangs: its database is dropped next.
func closePools(pools ...*pgxpool.Pool) {
	var all sync.WaitGroup
	for _, pool := range pools {
		if pool != nil {
			all.Go(pool.Close)
		}
	}
	closed := make(chan struct{})
	// Ends with the pools.
	go func() {
		all.Wait()
		close(closed)
	}()
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}
