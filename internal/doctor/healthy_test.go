package doctor_test

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/doctor"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// node runs an engine until the test ends.
func node(t *testing.T, dsn string, change func(*workers.Config)) *workers.Engine {
	t.Helper()
	registry := workers.NewRegistry()
	registry.Add("work", workers.HandlerFunc(func(context.Context, *jobs.Claimed) error { return nil }))
	c := workers.Config{
		DatabaseURL: dsn, Registry: registry, Grace: time.Second, Log: zerolog.Nop(),
		Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: time.Second},
	}
	if change != nil {
		change(&c)
	}
	engine, err := workers.New(t.Context(), c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		engine.Close()
	})
	pgtest.Eventually(t, 20*time.Second, "the node listens and paces", func() bool { return engine.Listener.Hears() && engine.Pacer.Leads() })
	return engine
}

// TestHealthyServersRaiseNoAlarm: a new database, one with an idle node, one under load, and one after it was stopped. On a
// server of its own, with the durability that servers of users have.
func TestHealthyServersRaiseNoAlarm(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, nil)
	c := config(cluster.DSN())
	requireOnly(t, examine(t, c))

	t.Run("with a node", func(t *testing.T) {
		node(t, cluster.DSN(), nil)
		found := examine(t, c)
		requireOnly(t, found)
		requireFinding(t, found, "listen.nodes", doctor.OK, "1 listen")
		requireFinding(t, found, "stream.pacer", doctor.OK, "pid")
		requireFinding(t, found, "jobs.nodes", doctor.OK, "1")

		pool := cluster.DB().Pool(t)
		// As much as the node can do, and always a little more than that.
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				_, _ = pool.Exec(context.Background(), `
					INSERT INTO mini_asynq.jobs (queue, kind, attempt_limit)
					SELECT 'q' || i % 5, 'work', 4 FROM generate_series(1, 50) i
					 WHERE (SELECT count(*) FROM mini_asynq.jobs) < 500`)
			}
		}()
		finished := func() int64 {
			return pgtest.One[int64](t, cluster.DB(), `SELECT count(*) FROM (SELECT FROM mini_asynq.jobs_finished LIMIT 200) x`)
		}
		pgtest.Eventually(t, 60*time.Second, "jobs are done", func() bool { return finished() == 200 })
		found = examine(t, c)
		close(stop)
		<-stopped
		requireOnly(t, found)
		pgtest.Eventually(t, 60*time.Second, "all jobs are done", func() bool {
			return pgtest.One[int64](t, cluster.DB(), `SELECT count(*) FROM mini_asynq.jobs`) == 0
		})
	})
	found := examine(t, c)
	requireOnly(t, found)
	requireFinding(t, found, "jobs.nodes", doctor.Skipped, "none is")
	for id, f := range found {
		if f.Status == doctor.Skipped {
			require.Contains(t, []string{"server.health", "listen.nodes", "stream.pacer", "jobs.nodes", "stream.invariants"}, id, f.Detail)
		}
	}
}

// TestDoctorWritesNothing: of all that it does only the note to itself takes a transaction id, as every NOTIFY does.
func TestDoctorWritesNothing(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, map[string]string{"autovacuum": "off"})
	const nextID = `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`
	before := pgtest.One[int64](t, cluster.DB(), nextID)
	examine(t, config(cluster.DSN()))
	require.Equal(t, before+1, pgtest.One[int64](t, cluster.DB(), nextID))
}
