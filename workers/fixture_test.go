package workers_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// fixture is a database, and nodes on it.
type fixture struct {
	t    *testing.T
	db   *pgtest.DB
	pool *pgxpool.Pool
}

func setup(t *testing.T) *fixture {
	t.Helper()
	t.Parallel()
	db := pgtest.NewDB(t)
	return &fixture{t: t, db: db, pool: db.Pool(t)}
}

// node is an engine that runs.
type node struct {
	*workers.Engine
	stop func() time.Duration // stops it and says how long that took; may be called again
}

// start runs an engine; retries come fast unless the config says otherwise.
func (f *fixture) start(config workers.Config) *node {
	f.t.Helper()
	config.DatabaseURL = f.db.DSN()
	if config.Retry.Interval == 0 {
		config.Retry = jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 10 * time.Millisecond}
	}
	if config.Lease == 0 {
		config.Lease = 2 * time.Second
	}
	if config.Grace == 0 {
		config.Grace = 2 * time.Second
	}
	engine, err := workers.New(f.t.Context(), config)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = engine.Run(ctx)
	}()
	n := &node{Engine: engine}
	n.stop = func() time.Duration {
		started := time.Now()
		cancel()
		<-done
		return time.Since(started)
	}
	f.t.Cleanup(func() { n.stop() })
	pgtest.Receive(f.t, engine.Stream.Ready(), 10*time.Second, "the node follows the stream")
	return n
}

func (f *fixture) enqueue(params ...jobs.Params) []uuid.UUID {
	f.t.Helper()
	stored, err := jobs.Enqueue(f.t.Context(), f.pool, params...)
	require.NoError(f.t, err)
	ids := make([]uuid.UUID, len(stored))
	for i, j := range stored {
		ids[i] = j.ID
	}
	return ids
}

func (f *fixture) get(id uuid.UUID) *jobs.Job {
	f.t.Helper()
	j, err := jobs.Get(context.Background(), f.pool, id)
	require.NoError(f.t, err)
	return j
}

func (f *fixture) await(id uuid.UUID, status jobs.Status) *jobs.Job {
	f.t.Helper()
	var j *jobs.Job
	pgtest.Eventually(f.t, 20*time.Second, "job becomes "+string(status), func() bool {
		j = f.get(id)
		return j.Status == status
	})
	return j
}

func (f *fixture) attempts(id uuid.UUID) []jobs.Attempt {
	f.t.Helper()
	list, err := jobs.Attempts(context.Background(), f.pool, id, 0, 1000)
	require.NoError(f.t, err)
	return list
}

func (f *fixture) requireInvariants(when ...invariants.When) {
	f.t.Helper()
	found, err := invariants.Check(context.Background(), f.db.Conn(f.t), when...)
	require.NoError(f.t, err)
	require.Empty(f.t, found)
}

// handler is a registry with one handler for every kind.
func handler(fn workers.HandlerFunc) *workers.Registry {
	r := workers.NewRegistry()
	r.Fallback(fn)
	return r
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
