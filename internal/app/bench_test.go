package app_test

import (
	"context"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// benchJobs is how many jobs a benchmark works through.
func benchJobs(b *testing.B, usual int) int {
	b.Helper()
	text := os.Getenv("MINIASYNQ_BENCH_JOBS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	require.NoError(b, err)
	return min(n, usual)
}

// asServer makes the figures those of a server, which collects garbage less often than a test does (internal/cli).
func asServer(b *testing.B) {
	b.Helper()
	before := debug.SetGCPercent(400)
	b.Cleanup(func() { debug.SetGCPercent(before) })
}

// benchEngine is a node on a PostgreSQL of its own with default durability.
func benchEngine(b *testing.B, slots int, handler workers.HandlerFunc) (*workers.Engine, *pgx.Conn) {
	b.Helper()
	asServer(b)
	cluster := pgtest.NewCluster(b, nil)
	registry := workers.NewRegistry()
	registry.Fallback(handler)
	engine, err := workers.New(context.Background(), workers.Config{DatabaseURL: cluster.DSN(), Registry: registry, Slots: slots})
	require.NoError(b, err)
	b.Cleanup(engine.Close)
	conn, err := pgx.Connect(context.Background(), cluster.DSN())
	require.NoError(b, err)
	b.Cleanup(func() { _ = conn.Close(context.Background()) })
	return engine, conn
}

// run runs an engine until the benchmark ends.
func run(b *testing.B, engine *workers.Engine) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = engine.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func fill(b *testing.B, conn *pgx.Conn, n int) {
	b.Helper()
	for done := 0; done < n; done += 1000 {
		params := make([]jobs.Params, min(1000, n-done))
		for i := range params {
			params[i] = jobs.Params{Queue: "bench", Payload: map[string]int{"n": done + i}}
		}
		_, err := jobs.Enqueue(context.Background(), conn, params...)
		require.NoError(b, err)
	}
}

// BenchmarkDrain100k works through a backlog of jobs that do nothing, on one node, with full history and events.
func BenchmarkDrain100k(b *testing.B) {
	n := benchJobs(b, 100_000)
	for range b.N {
		b.StopTimer()
		var ran atomic.Int64
		all := make(chan struct{})
		engine, conn := benchEngine(b, 2000, func(context.Context, *jobs.Claimed) error {
			if ran.Add(1) == int64(n) {
				close(all)
			}
			return nil
		})
		fill(b, conn, n)
		b.StartTimer()
		started := time.Now()
		run(b, engine)
		<-all
		require.NoError(b, engine.Dispatcher.Flush(context.Background()))
		b.ReportMetric(float64(n)/time.Since(started).Seconds(), "jobs/s")
		b.StopTimer()
		var finished, attempts int
		require.NoError(b, conn.QueryRow(context.Background(), `SELECT (SELECT count(*) FROM mini_asynq.jobs_finished),
			(SELECT count(*) FROM mini_asynq.job_attempts)`).Scan(&finished, &attempts))
		require.Equal(b, n, finished)
		require.Equal(b, n, attempts)
		pgtest.Eventually(b, 60*time.Second, "every event is published", func() bool {
			head, err := engine.Stream.Head()
			return err == nil && head.Seq >= int64(3*n)
		})
		b.StartTimer()
	}
}

// BenchmarkEnqueueBatch stores batches of 1000, one after the other.
func BenchmarkEnqueueBatch(b *testing.B) {
	n := benchJobs(b, 100_000)
	for range b.N {
		b.StopTimer()
		_, conn := benchEngine(b, 1, func(context.Context, *jobs.Claimed) error { return nil })
		b.StartTimer()
		started := time.Now()
		fill(b, conn, n)
		b.ReportMetric(float64(n)/time.Since(started).Seconds(), "jobs/s")
	}
}

// BenchmarkEnqueueSingle stores single jobs from 64 callers that share commits.
func BenchmarkEnqueueSingle(b *testing.B) {
	n := benchJobs(b, 50_000)
	for range b.N {
		b.StopTimer()
		asServer(b)
		cluster := pgtest.NewCluster(b, nil)
		engine, err := workers.New(context.Background(), workers.Config{DatabaseURL: cluster.DSN()})
		require.NoError(b, err)
		run(b, engine)
		<-engine.Stream.Ready()
		b.StartTimer()
		started := time.Now()
		var next atomic.Int64
		var callers sync.WaitGroup
		for range 64 {
			callers.Go(func() {
				for next.Add(1) <= int64(n) {
					if _, err := engine.Inserter.Enqueue(context.Background(), jobs.Params{Queue: "bench"}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		callers.Wait()
		b.ReportMetric(float64(n)/time.Since(started).Seconds(), "jobs/s")
	}
}

// BenchmarkIdleLatency measures from before the enqueue to the start of the handler, on a node that sleeps in between:
// over the inserter of the node itself, and over SQL in another session.
func BenchmarkIdleLatency(b *testing.B) {
	n := benchJobs(b, 200)
	for range b.N {
		b.StopTimer()
		starts := make(chan time.Time, 1)
		engine, conn := benchEngine(b, 5, func(context.Context, *jobs.Claimed) error {
			starts <- time.Now()
			return nil
		})
		run(b, engine)
		<-engine.Stream.Ready()
		b.StartTimer()
		for name, enqueue := range map[string]func() error{
			"local": func() error {
				_, err := engine.Inserter.Enqueue(context.Background(), jobs.Params{Queue: "bench"})
				return err
			},
			"sql": func() error {
				_, err := conn.Exec(context.Background(), `SELECT mini_asynq.enqueue('bench', '{}')`)
				return err
			},
		} {
			spans := make([]time.Duration, n)
			for i := range spans {
				asleep := time.NewTimer(60 * time.Millisecond) // long enough for the pacer to park
				<-asleep.C
				started := time.Now()
				require.NoError(b, enqueue())
				spans[i] = (<-starts).Sub(started)
			}
			slices.Sort(spans)
			b.ReportMetric(float64(spans[n/2].Microseconds())/1000, name+"_p50_ms")
			b.ReportMetric(float64(spans[n*99/100].Microseconds())/1000, name+"_p99_ms")
		}
	}
}
