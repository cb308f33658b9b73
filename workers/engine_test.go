package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

type email struct {
	To string `json:"to"`
}

func TestTypedHandlerGetsItsPayloadAndStoresAResult(t *testing.T) {
	f := setup(t)
	registry := workers.NewRegistry()
	workers.Handle(registry, jobs.Kind[email]{Name: "email.send"}, func(ctx context.Context, job *jobs.Claimed, mail email) error {
		return jobs.SetResult(ctx, map[string]string{"sent": mail.To})
	})
	f.start(workers.Config{Registry: registry})
	ids := f.enqueue(
		jobs.Params{Queue: "mail", Kind: "email.send", Payload: email{To: "a@example.com"}},
		jobs.Params{Queue: "mail", Kind: "email.send", Payload: "no object"},
		jobs.Params{Queue: "mail", Kind: "unknown"},
	)
	require.JSONEq(t, `{"sent":"a@example.com"}`, string(f.await(ids[0], jobs.Completed).Result))
	bad := f.await(ids[1], jobs.Dead)
	require.Equal(t, "not_retryable", bad.Reason) // no retry can mend a payload
	require.Equal(t, jobs.Pending, f.get(ids[2]).Status, "a kind without a handler stays, in plain sight")
}

func TestHandlersSteerWhatBecomesOfAJob(t *testing.T) {
	f := setup(t)
	boom := errors.New("boom")
	var snoozes atomic.Int64
	f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		switch job.Kind {
		case "fail-once":
			if job.Attempt == 1 {
				return boom
			}
			return nil
		case "never":
			return jobs.NonRetryable(boom)
		case "unwanted":
			return jobs.Cancel(boom)
		case "snooze":
			if snoozes.Add(1) < 3 {
				return jobs.Snooze(0)
			}
			return nil
		case "panic":
			panic("a handler's mistake")
		case "goexit":
			runtime.Goexit()
		case "after":
			return jobs.RetryAfter(time.Hour, boom)
		case "typed-nil":
			var nothing *url.Error
			return nothing // not nil, and it panics when it is asked
		}
		return nil
	})})
	kinds := []string{"fail-once", "never", "unwanted", "snooze", "panic", "goexit", "after", "fine", "typed-nil"}
	params := make([]jobs.Params, len(kinds))
	for i, kind := range kinds {
		params[i] = jobs.Params{Queue: "q", Kind: kind, MaxRetries: jobs.Retries(1)}
	}
	ids := f.enqueue(params...)
	require.Equal(t, 2, f.await(ids[0], jobs.Completed).Attempt)
	require.Equal(t, "not_retryable", f.await(ids[1], jobs.Dead).Reason)
	require.Equal(t, "worker", f.await(ids[2], jobs.Cancelled).Reason)
	snoozed := f.await(ids[3], jobs.Completed)
	require.Equal(t, 1, snoozed.Attempt)
	require.Equal(t, 2, snoozed.Snoozes)
	panicked := f.await(ids[4], jobs.Dead)
	require.Equal(t, "exhausted", panicked.Reason)
	require.Equal(t, "PanicError", panicked.Error.Type)
	require.Contains(t, panicked.Error.Stack, "engine_test.go")
	require.Len(t, f.attempts(ids[4]), 2)
	require.Equal(t, "exhausted", f.await(ids[5], jobs.Dead).Reason) // the slot survived, or the rest would hang
	after := f.await(ids[6], jobs.Retrying)
	require.WithinDuration(t, time.Now().Add(time.Hour), after.RunAt, 7*time.Minute)
	f.await(ids[7], jobs.Completed)
	require.Equal(t, "PanicError", f.await(ids[8], jobs.Dead).Error.Type)
	f.requireInvariants(invariants.Always)
}

func TestIdleWorkerStartsAJobFromAnotherSessionAtOnce(t *testing.T) {
	f := setup(t)
	started := make(chan time.Time, 1)
	f.start(workers.Config{NoSweeps: true, Registry: handler(func(context.Context, *jobs.Claimed) error {
		started <- time.Now()
		return nil
	})})
	conn := f.db.Conn(t)
	for range 5 {
		_, err := conn.Exec(t.Context(), `SELECT mini_asynq.enqueue('q', '{}')`)
		require.NoError(t, err)
		pgtest.Receive(t, started, 5*time.Second, "the job starts, with no sweep to find it")
	}
}

func TestDelayedJobsStartWhenDueAndNotBefore(t *testing.T) {
	f := setup(t)
	starts := make(chan *jobs.Claimed, 10)
	f.start(workers.Config{NoSweeps: true, Registry: handler(func(_ context.Context, job *jobs.Claimed) error {
		starts <- job
		return nil
	})})
	f.enqueue(jobs.Params{Queue: "q", Delay: time.Hour}) // the timer sleeps for long
	f.enqueue(jobs.Params{Queue: "q", Delay: 150 * time.Millisecond})
	job := pgtest.Receive(t, starts, 5*time.Second, "the nearer job starts")
	require.False(t, job.LockedAt.Before(job.RunAt), "never early, by the database's clock")
	require.Less(t, job.LockedAt.Sub(job.RunAt), time.Second)
}

func TestTimeoutEndsTheContextWithItsCause(t *testing.T) {
	f := setup(t)
	causes := make(chan error, 2)
	f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		if job.Kind == "late" {
			return nil
		}
		return context.Cause(ctx)
	})})
	ids := f.enqueue(
		jobs.Params{Queue: "q", Kind: "slow", Timeout: time.Second, MaxRetries: jobs.Retries(0)},
		jobs.Params{Queue: "q", Kind: "late", Timeout: time.Second},
	)
	require.ErrorIs(t, pgtest.Receive(t, causes, 5*time.Second, "the context ends"), jobs.ErrTimeout)
	f.await(ids[0], jobs.Dead)
	require.Equal(t, "timed_out", f.attempts(ids[0])[0].Status)
	f.await(ids[1], jobs.Completed) // a success that is a little late still counts
}

func TestCancelReachesARunningHandler(t *testing.T) {
	f := setup(t)
	running := make(chan *jobs.Claimed, 1)
	f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		running <- job
		<-ctx.Done()
		return context.Cause(ctx)
	})})
	f.enqueue(jobs.Params{Queue: "q"})
	job := pgtest.Receive(t, running, 5*time.Second, "the job runs")
	_, requested, err := jobs.CancelJob(t.Context(), f.pool, job.ID, jobs.Act{Actor: "me"})
	require.NoError(t, err)
	require.True(t, requested)
	require.Equal(t, "operator", f.await(job.ID, jobs.Cancelled).Reason)
}

func TestLongHandlersKeepTheirLease(t *testing.T) {
	f := setup(t)
	release := make(chan struct{})
	f.start(workers.Config{Lease: 600 * time.Millisecond, Registry: handler(func(ctx context.Context, _ *jobs.Claimed) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})})
	id := f.enqueue(jobs.Params{Queue: "q"})[0]
	job := f.await(id, jobs.Running)
	pgtest.Eventually(t, 10*time.Second, "the lease is extended past its first end", func() bool {
		now := f.get(id)
		return now.LeaseExpiresAt.After(job.LeaseExpiresAt.Add(700 * time.Millisecond))
	})
	close(release)
	done := f.await(id, jobs.Completed)
	require.Equal(t, 1, done.Attempt)
	require.EqualValues(t, 3, done.Version) // heartbeats make no version and no event
}

// TestZombieCannotFinish: a node that is cut off from the database stops its attempt by itself before the lease ends; the
// job runs elsewhere, and the late outcome is refused by its fence.
func TestZombieCannotFinish(t *testing.T) {
	f := setup(t)
	proxy := pgtest.NewProxy(t, f.db.DSN())
	release := make(chan struct{})
	running, causes := make(chan struct{}), make(chan error, 1)
	zombie, err := workers.New(t.Context(), workers.Config{
		DatabaseURL: proxy.DSN(f.db.DSN()), Lease: time.Second, Grace: time.Second, Node: "zombie",
		Registry: handler(func(ctx context.Context, _ *jobs.Claimed) error {
			close(running)
			<-ctx.Done()
			causes <- context.Cause(ctx)
			<-release // deaf, as a paused process is
			return nil
		}),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = zombie.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	id := f.enqueue(jobs.Params{Queue: "q"})[0]
	pgtest.Receive(t, running, 10*time.Second, "the job runs")
	first := f.get(id)
	proxy.Stall()
	cut := time.Now()
	require.ErrorIs(t, pgtest.Receive(t, causes, 5*time.Second, "the zombie fences itself"), jobs.ErrLeaseLost)
	require.Less(t, time.Since(cut), time.Second, "before its lease ends")

	f.start(workers.Config{Lease: time.Second, Node: "healthy", Registry: handler(func(context.Context, *jobs.Claimed) error { return nil })})
	done := f.await(id, jobs.Completed)
	require.Greater(t, done.Fence, first.Fence)
	proxy.Resume()
	close(release) // the zombie says that it has completed the job
	pgtest.Eventually(t, 10*time.Second, "its outcome is answered", func() bool { return zombie.Dispatcher.Running() == 0 })
	require.Equal(t, done, f.get(id), "the late outcome changed nothing")
	attempts := f.attempts(id)
	require.Len(t, attempts, 2)
	require.Equal(t, "lease_expired", attempts[0].Status)
	require.Equal(t, "completed", attempts[1].Status)
	f.requireInvariants(invariants.Always)
}

func TestStopGivesHandlersTheirGraceAndTakesNoLonger(t *testing.T) {
	for name, deaf := range map[string]bool{"a handler that ends": false, "a handler that is deaf": true} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			block := make(chan struct{})
			causes := make(chan error, 1)
			started := make(chan struct{})
			n := f.start(workers.Config{Grace: 300 * time.Millisecond, Slots: 1, Registry: handler(func(ctx context.Context, _ *jobs.Claimed) error {
				close(started)
				<-ctx.Done()
				causes <- context.Cause(ctx)
				if deaf {
					<-block
				}
				return context.Cause(ctx)
			})})
			id := f.enqueue(jobs.Params{Queue: "q"})[0]
			waiting := f.enqueue(jobs.Params{Queue: "q"})[0]
			// Claimed is not enough: what is stopped before it was handed out is given back unstarted.
			pgtest.Receive(t, started, 10*time.Second, "the handler runs")
			require.Less(t, n.stop(), 300*time.Millisecond+2*time.Second)
			require.ErrorIs(t, pgtest.Receive(t, causes, 5*time.Second, "the handler is told"), jobs.ErrShutdown)
			job := f.get(id)
			require.Equal(t, jobs.Pending, job.Status, "given back")
			require.Zero(t, job.Attempt, "without spending an attempt")
			require.Equal(t, jobs.Pending, f.get(waiting).Status)
			close(block)
		})
	}
}

// TestTwoNodesShareTheWork: with the invariants watched beside it, every job ends once.
func TestTwoNodesShareTheWork(t *testing.T) {
	f := setup(t)
	var ran [2]atomic.Int64
	for i := range ran {
		f.start(workers.Config{Slots: 20, Registry: handler(func(_ context.Context, job *jobs.Claimed) error {
			ran[i].Add(1)
			var payload struct{ Fail int }
			if err := json.Unmarshal(job.Payload, &payload); err != nil {
				return err
			}
			if job.Attempt <= payload.Fail {
				return errors.New("not yet")
			}
			return nil
		})})
	}
	watch, stopWatch := context.WithCancel(t.Context())
	violations := make(chan []invariants.Violation, 1)
	conn := f.db.Conn(t)
	go func() {
		found, _ := invariants.Watch(watch, conn)
		violations <- found
	}()
	const total = 3000
	for range total / 100 {
		params := make([]jobs.Params, 100)
		for i := range params {
			params[i] = jobs.Params{Queue: "q", Payload: map[string]int{"Fail": (i % 5) / 4}}
		}
		f.enqueue(params...)
	}
	pgtest.Eventually(t, 60*time.Second, "all jobs end", func() bool {
		var left int
		require.NoError(t, f.pool.QueryRow(context.Background(), `SELECT count(*) FROM mini_asynq.jobs`).Scan(&left))
		return left == 0
	})
	stopWatch()
	require.Empty(t, <-violations)
	require.Positive(t, ran[0].Load())
	require.Positive(t, ran[1].Load())
	require.EqualValues(t, total+total/5, ran[0].Load()+ran[1].Load())
	f.requireInvariants(invariants.Always, invariants.Rest)
}

// TestDatabaseOutageLosesNothing: PostgreSQL is killed under load and comes back; the node goes on by itself, and every
// accepted job ends.
func TestDatabaseOutageLosesNothing(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, nil)
	engine, err := workers.New(t.Context(), workers.Config{
		DatabaseURL: cluster.DSN(), Lease: 2 * time.Second, Slots: 10, Grace: time.Second,
		Retry:    jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 50 * time.Millisecond},
		Registry: handler(func(context.Context, *jobs.Claimed) error { return nil }),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = engine.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	pgtest.Receive(t, engine.Stream.Ready(), 10*time.Second, "the node follows the stream")

	acknowledged := 0
	enqueue := func(n int) {
		for range n {
			callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
			if _, err := engine.Inserter.Enqueue(callCtx, jobs.Params{Queue: "q"}); err == nil {
				acknowledged++
			} else {
				require.True(t, jobs.Unavailable(err), err)
			}
			cancel()
		}
	}
	enqueue(200)
	cluster.Crash()
	enqueue(1)
	cluster.Start()
	pgtest.Eventually(t, 20*time.Second, "enqueue works again", func() bool {
		before := acknowledged
		enqueue(1)
		return acknowledged > before
	})
	enqueue(200)
	conn := connect(t, cluster.DSN())
	count := func(sql string) (n int) {
		require.NoError(t, conn.QueryRow(context.Background(), sql).Scan(&n))
		return n
	}
	pgtest.Eventually(t, 30*time.Second, "every job ends", func() bool { return count(`SELECT count(*) FROM mini_asynq.jobs`) == 0 })
	require.GreaterOrEqual(t, count(`SELECT count(*) FROM mini_asynq.jobs_finished WHERE status = 'completed'`), acknowledged)
	head, err := engine.Stream.Head()
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "the stream goes on", func() bool {
		head, err = engine.Stream.Head()
		return err == nil && int(head.Seq) == count(`SELECT count(*) FROM mini_asynq.events`)
	})
	found, err := invariants.Check(context.Background(), conn, invariants.Always)
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestEngineRefusesBadSettings(t *testing.T) {
	f := setup(t)
	_, err := workers.New(t.Context(), workers.Config{})
	require.Error(t, err)
	_, err = workers.New(t.Context(), workers.Config{
		DatabaseURL: f.db.DSN(), Registry: workers.NewRegistry(), Slots: -1, Timeout: time.Millisecond, Queues: map[string]int{"q": 0},
	})
	require.ErrorContains(t, err, "slots")
	require.ErrorContains(t, err, "timeout")
	require.ErrorContains(t, err, "weight")
}

// TestStartStopStorm: nodes that come and go at once leave nothing behind and lose nothing.
func TestStartStopStorm(t *testing.T) {
	f := setup(t)
	params := make([]jobs.Params, 200)
	for i := range params {
		params[i] = jobs.Params{Queue: "q"}
	}
	f.enqueue(params...)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 3 {
				engine, err := workers.New(context.Background(), workers.Config{
					DatabaseURL: f.db.DSN(), Slots: 5, Grace: time.Second, Lease: time.Second,
					Registry: handler(func(context.Context, *jobs.Claimed) error { return nil }),
				})
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				_ = engine.Run(ctx)
				cancel()
			}
		})
	}
	wg.Wait()
	f.start(workers.Config{Registry: handler(func(context.Context, *jobs.Claimed) error { return nil })})
	pgtest.Eventually(t, 20*time.Second, "all jobs end", func() bool {
		var done int
		require.NoError(t, f.pool.QueryRow(context.Background(), `SELECT count(*) FROM mini_asynq.jobs_finished`).Scan(&done))
		return done == 200
	})
	f.requireInvariants(invariants.Always, invariants.Rest)
}

// TestDeafHandlerLosesItsJobButKeepsItsSlot: five seconds after its timeout the job moves on; the slot stays taken until
// the handler returns, so the node never runs more handlers than it has slots.
func TestDeafHandlerLosesItsJobButKeepsItsSlot(t *testing.T) {
	f := setup(t)
	block, entered := make(chan struct{}), make(chan struct{}, 1)
	n := f.start(workers.Config{Slots: 1, Lease: 2 * time.Second, Registry: handler(func(_ context.Context, job *jobs.Claimed) error {
		if job.Kind == "deaf" {
			entered <- struct{}{}
			<-block
		}
		return nil
	})})
	id := f.enqueue(jobs.Params{Queue: "q", Kind: "deaf", Timeout: time.Second, MaxRetries: jobs.Retries(0)})[0]
	pgtest.Receive(t, entered, 5*time.Second, "the handler runs")
	next := f.enqueue(jobs.Params{Queue: "q", Kind: "fine"})[0]
	dead := f.await(id, jobs.Dead)
	require.Equal(t, "timed_out", f.attempts(id)[0].Status)
	require.GreaterOrEqual(t, dead.FinishedAt.Sub(dead.StartedAt), 5500*time.Millisecond)
	require.Equal(t, 1, n.Pool.Abandoned())
	require.Equal(t, 1, n.Pool.Busy())
	require.Equal(t, jobs.Pending, f.get(next).Status)
	close(block)
	f.await(next, jobs.Completed)
	pgtest.Eventually(t, 5*time.Second, "nothing is abandoned any more", func() bool { return n.Pool.Abandoned() == 0 })
}
