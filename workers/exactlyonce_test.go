package workers_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// counting makes a counter that each job adds one to.
func (f *fixture) counting(n int) {
	f.t.Helper()
	f.effects()
	f.db.Exec(f.t, `CREATE TABLE counter (n integer NOT NULL); INSERT INTO counter VALUES (0)`)
	params := make([]jobs.Params, n)
	for i := range params {
		params[i] = jobs.Params{Queue: "q", MaxRetries: jobs.Retries(jobs.MaxRetriesLimit)}
	}
	f.enqueue(params...)
}

// count adds one and completes the job, to be committed.
func count(ctx context.Context, tx pgx.Tx, job *jobs.Claimed) error {
	if err := work(ctx, tx, job); err != nil {
		return err
	}
	// Last, so that the line of those who wait for this row is short.
	_, err := tx.Exec(ctx, `UPDATE counter SET n = n + 1`)
	return err
}

// requireCounted: every job is completed, and was counted once.
func (f *fixture) requireCounted(n int) {
	f.t.Helper()
	require.Equal(f.t, n, pgtest.One[int](f.t, f.db, `SELECT count(*) FROM mini_asynq.jobs_finished WHERE status = 'completed'`))
	require.Equal(f.t, n, pgtest.One[int](f.t, f.db, `SELECT n FROM counter`))
	require.Equal(f.t, n, pgtest.One[int](f.t, f.db, `SELECT count(DISTINCT job) FROM effects`))
	f.requireInvariants(invariants.Always, invariants.Rest)
}

func (f *fixture) finished() int {
	return pgtest.One[int](f.t, f.db, `SELECT count(*) FROM mini_asynq.jobs_finished`)
}

// TestEachJobCountsOnceWhateverStrikes: two nodes, whose handlers fail, panic, roll back and say nothing, go on as zombies
// after somebody else has ended their attempt, lose their connection before, in and after the commit.
func TestEachJobCountsOnceWhateverStrikes(t *testing.T) {
	f := setup(t)
	const n = 150
	f.counting(n)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex // guards random
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	proxy := pgtest.NewProxy(t, f.db.DSN())
	proxy.OnClientMessage(func(kind byte, payload []byte) pgtest.Action {
		if !pgtest.IsCommit(kind, payload) {
			return pgtest.Forward
		}
		return []pgtest.Action{
			pgtest.CutBefore, pgtest.CutAfter, pgtest.LoseAnswer, pgtest.Forward, pgtest.Forward, pgtest.Forward,
		}[pick(6)]
	})
	pool, err := pgxpool.New(t.Context(), proxy.DSN(f.db.DSN()))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	boom := errors.New("boom")
	var zombies, strikes atomic.Int64
	registry := handler(func(ctx context.Context, job *jobs.Claimed) error {
		fault := pick(12)
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if fault == 0 {
				// Somebody thinks that this node is dead. The job runs elsewhere while this handler goes on.
				f.expire(job)
				zombies.Add(1)
			}
			if err := count(ctx, tx, job); err != nil {
				return err
			}
			switch fault {
			case 1:
				return boom
			case 2:
				panic("a handler's mistake")
			case 3:
				_, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
				return err
			}
			return nil
		})
		strikes.Add(1)
		switch fault {
		case 4:
			return boom // perhaps after the commit
		case 5:
			panic("a handler's mistake")
		case 6:
			return nil // overlooks what the commit said
		}
		return err
	})
	for range 2 {
		f.start(workers.Config{Registry: registry, Slots: 4})
	}
	pgtest.Eventually(t, 2*time.Minute, "all jobs end", func() bool { return f.finished() == n })
	f.requireCounted(n)
	t.Logf("%d attempts, %d zombies", strikes.Load(), zombies.Load())
	require.Positive(t, zombies.Load())
	require.Greater(t, int(strikes.Load()), n, "no fault struck")
}

// expire ends an attempt as the reaper does.
func (f *fixture) expire(job *jobs.Claimed) {
	f.db.Exec(f.t, `UPDATE mini_asynq.jobs SET lease_expires_at = clock_timestamp() WHERE id = $1 AND fence = $2`, job.ID, job.Fence)
	failure := jobs.NewFailure(job.Kind, "LeaseExpired", "its node was not heard of", "")
	_, err := jobs.Finish(context.Background(), f.pool, []jobs.Outcome{jobs.ExpireLease(&job.Job, failure, 0)})
	if err != nil {
		f.t.Error(err) // in a handler's goroutine
	}
}

// crashDSN is where the process of TestKilledProcessesCountOnce works.
const crashDSN = "MINIASYNQ_TEST_CRASH_DSN"

// TestKilledProcessesCountOnce: processes are killed (SIGKILL) before the completion, between it and the commit, and right
// after the commit, until all jobs are done.
func TestKilledProcessesCountOnce(t *testing.T) {
	if dsn := os.Getenv(crashDSN); dsn != "" {
		crash(t, dsn)
		return
	}
	f := setup(t)
	const n, limit = 8, 60
	f.counting(n)
	killed := 0
	for processes := 0; f.finished() < n; processes++ {
		require.Less(t, processes, limit, "it does not end")
		// The place and the job at which it dies.
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProcessesCountOnce$", "-test.count=1")
		child.Env = append(os.Environ(), crashDSN+"="+f.db.DSN(),
			fmt.Sprintf("MINIASYNQ_TEST_CRASH_PLACE=%d", processes%3), fmt.Sprintf("MINIASYNQ_TEST_CRASH_AT=%d", 1+processes%4))
		out, err := child.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case err == nil:
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
			killed++
		default:
			require.NoError(t, err, string(out))
		}
	}
	require.GreaterOrEqual(t, killed, 3, "each place once at least")
	f.requireCounted(n)
}

// crash works until it dies, or until there is nothing left to do.
func crash(t *testing.T, dsn string) {
	var place, at int
	_, err := fmt.Sscan(os.Getenv("MINIASYNQ_TEST_CRASH_PLACE")+" "+os.Getenv("MINIASYNQ_TEST_CRASH_AT"), &place, &at)
	require.NoError(t, err)
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	defer pool.Close()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var started atomic.Int64
	require.NoError(t, workers.Run(ctx, workers.Config{
		Pool: pool, Slots: 2, Lease: 500 * time.Millisecond, Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
			mine := started.Add(1) == int64(at)
			die := func(here int) {
				if mine && here == place {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
					<-make(chan struct{}) // the signal is on its way
				}
			}
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				die(0)
				if err := count(ctx, tx, job); err != nil {
					return err
				}
				die(1)
				return nil
			})
			die(2)
			var left int
			if pool.QueryRow(ctx, `SELECT count(*) FROM mini_asynq.jobs`).Scan(&left) == nil && left == 0 {
				stop()
			}
			return err
		}),
	}))
}
