package workers_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// diary is what happened, in order. Safe for concurrent use.
type diary struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (d *diary) write(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.lines...)
}

// writes is middleware that tells the diary about its making, and about each job on the way in and out.
func (d *diary) writes(name string) workers.Middleware {
	return func(next workers.Handler) workers.Handler {
		d.write("make " + name)
		return workers.HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
			d.write("into " + name)
			defer d.write("out of " + name)
			return next.Handle(ctx, job)
		})
	}
}

var greet = jobs.Kind[string]{Name: "greet"}

func TestMiddlewareWrapsInTheOrderOfTheList(t *testing.T) {
	t.Parallel()
	var d diary
	registry := workers.NewRegistry()
	workers.Handle(registry, greet, func(context.Context, *jobs.Claimed, string) error {
		d.write("handle")
		return nil
	}, d.writes("own 1"), d.writes("own 2"))
	registry.Use(d.writes("all 1")) // also around what was added before
	registry.Use(d.writes("all 2"))
	job := &jobs.Claimed{Job: jobs.Job{Kind: "greet", Payload: []byte(`"ann"`)}}
	way := []string{
		"into all 1", "into all 2", "into own 1", "into own 2", "handle", "out of own 2", "out of own 1", "out of all 2", "out of all 1",
	}
	require.NoError(t, registry.Handle(t.Context(), job))
	require.Equal(t, append([]string{"make own 2", "make own 1", "make all 2", "make all 1"}, way...), d.all())
	require.NoError(t, registry.Handle(t.Context(), job))
	require.Equal(t, way, d.all()[4+len(way):], "it is applied once, not once a job")
}

func TestMiddlewareOfAKindIsNotAroundTheOthers(t *testing.T) {
	t.Parallel()
	var d diary
	registry := workers.NewRegistry()
	registry.Use(d.writes("all"))
	registry.Add("a", workers.HandlerFunc(func(context.Context, *jobs.Claimed) error { return nil }), d.writes("a's"))
	registry.Fallback(workers.HandlerFunc(func(context.Context, *jobs.Claimed) error { return nil }))
	require.NoError(t, registry.Handle(t.Context(), &jobs.Claimed{Job: jobs.Job{Kind: "b"}}))
	require.Equal(t, []string{"make a's", "make all", "into all", "out of all"}, d.all())
}

type requestID struct{}

// TestMiddlewareChangesWhatANodeSees: context values, errors that become steers, panics; all on a node that runs.
func TestMiddlewareChangesWhatANodeSees(t *testing.T) {
	f := setup(t)
	var d diary
	busy := errors.New("the provider is busy")
	registry := workers.NewRegistry()
	registry.Use(
		func(next workers.Handler) workers.Handler {
			return workers.HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
				defer func() { d.write("left " + job.Kind) }()
				return next.Handle(context.WithValue(ctx, requestID{}, job.Kind), job)
			})
		},
		func(next workers.Handler) workers.Handler {
			return workers.HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
				err := next.Handle(ctx, job)
				if errors.Is(err, busy) && job.Snoozes == 0 {
					return jobs.Snooze(0)
				}
				return err
			})
		})
	registry.Add("value", workers.HandlerFunc(func(ctx context.Context, _ *jobs.Claimed) error {
		return jobs.SetResult(ctx, ctx.Value(requestID{}))
	}))
	registry.Add("busy", workers.HandlerFunc(func(_ context.Context, job *jobs.Claimed) error {
		if job.Snoozes == 0 {
			return busy
		}
		return nil
	}))
	registry.Add("panic", workers.HandlerFunc(func(context.Context, *jobs.Claimed) error { panic("a handler's mistake") }))
	f.start(workers.Config{Registry: registry})
	ids := f.enqueue(
		jobs.Params{Kind: "value"}, jobs.Params{Kind: "busy", MaxRetries: jobs.Retries(0)},
		jobs.Params{Kind: "panic", MaxRetries: jobs.Retries(0)},
	)
	require.JSONEq(t, `"value"`, string(f.await(ids[0], jobs.Completed).Result))
	require.Equal(t, 1, f.await(ids[1], jobs.Completed).Snoozes)
	dead := f.await(ids[2], jobs.Dead)
	require.Equal(t, "PanicError", dead.Error.Type)
	require.Contains(t, dead.Error.Stack, "middleware_test.go")
	require.Contains(t, d.all(), "left panic", "deferred calls of middleware run")
}

func TestRegistryRefusesMistakesOfItsProgrammer(t *testing.T) {
	t.Parallel()
	registry := workers.NewRegistry()
	nop := func(context.Context, *jobs.Claimed, string) error { return nil }
	workers.Handle(registry, greet, nop)
	require.PanicsWithValue(t, `workers: the kind "greet" has a handler already`, func() { workers.Handle(registry, greet, nop) })
	require.Panics(t, func() { workers.Handle(registry, jobs.Kind[string]{}, nop) })
	require.ErrorContains(t, registry.Handle(t.Context(), &jobs.Claimed{Job: jobs.Job{Kind: "other"}}), "no handler")
}

func TestAllFaultsOfASettingAreToldAtOnce(t *testing.T) {
	f := setup(t)
	_, err := workers.New(t.Context(), workers.Config{
		Pool: f.pool, DatabaseURL: f.db.DSN(), Registry: workers.NewRegistry(), Slots: -1, Timeout: time.Millisecond,
		Queues: map[string]int{"q": 0, "a queue": 1}, Lease: time.Millisecond, Grace: -1, DoorConns: -1, KeepDone: -1,
		Retry: jobs.RetryPolicy{Strategy: "never"},
	})
	for _, fault := range []string{
		"not both", "no handler", "slots", "timeout", "weight", `queue "a queue"`, "lease 1ms", "grace", "door", "done jobs", "strategy",
	} {
		require.ErrorContains(t, err, fault)
	}
	_, err = workers.New(t.Context(), workers.Config{})
	require.EqualError(t, err, "workers: DatabaseURL or Pool is required")
}

// TestNodeSharesTheProgramsPool: it connects as that does, enqueues through it, and leaves it open.
func TestNodeSharesTheProgramsPool(t *testing.T) {
	f := setup(t)
	registry := workers.NewRegistry()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	workers.Handle(registry, greet, func(ctx context.Context, _ *jobs.Claimed, name string) error {
		defer stop()
		return jobs.SetResult(ctx, "hello "+name)
	})
	engine, err := workers.New(ctx, workers.Config{Pool: f.pool, Registry: registry, Queues: map[string]int{"mail": 3, "*": 1}})
	require.NoError(t, err)
	require.Same(t, f.pool, engine.Door)
	job, err := greet.Enqueue(ctx, f.pool, "ann")
	require.NoError(t, err)
	require.NoError(t, engine.Run(ctx), "a stop that was asked for is no error")
	require.JSONEq(t, `"hello ann"`, string(f.get(job.ID).Result), "the pool is open, and the outcome stored")
}
