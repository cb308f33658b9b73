package events_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// follower is what a node has to follow the stream: pacer, listener and stream, and what the stream gave.
type follower struct {
	*events.Stream
	pacer    *events.Pacer
	listener *events.Listener
	stop     func()

	mu   sync.Mutex
	seen []*events.Event
}

// options of follow.
type options struct {
	noSweeps   bool
	noListener bool
	noPacer    bool
	listenDSN  string
	wire       func(*events.Stream) // before it runs
}

// follow starts one; it is stopped when the test ends, or by stop.
func follow(t testing.TB, dsn string, o options) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	connect := func(dsn string) func(context.Context) (*pgx.Conn, error) {
		return func(ctx context.Context) (*pgx.Conn, error) {
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				return nil, err
			}
			maps.Copy(config.RuntimeParams, jobs.PlanSettings())
			config.RuntimeParams["application_name"] = "mini-asynq/test"
			return pgx.ConnectConfig(ctx, config)
		}
	}
	pool := pinned(t, dsn)
	sweep := time.Duration(0)
	if o.noSweeps {
		sweep = -1
	}
	if o.listenDSN == "" {
		o.listenDSN = dsn
	}
	f := &follower{}
	f.Stream = events.NewStream(events.StreamConfig{DB: pool, Sweep: sweep, Taps: []func([]*events.Event){func(batch []*events.Event) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen = append(f.seen, batch...)
	}}})
	if o.wire != nil {
		o.wire(f.Stream)
	}
	f.listener = events.NewListener(events.ListenerConfig{
		Connect: connect(o.listenDSN), DB: pool, Quiet: 300 * time.Millisecond, Echo: 300 * time.Millisecond,
		Heard:  func(n events.Note) { f.pacer.Hear(n); f.Stream.Heard(n) },
		Missed: func() { f.pacer.Wake(); f.Stream.Missed() },
	})
	f.pacer = events.NewPacer(events.PacerConfig{
		Connect: connect(dsn), Sweep: sweep, LockPoll: 200 * time.Millisecond,
		Published: func(events.Tick) { f.Stream.Wake() },
		Hearing:   func() bool { return o.noListener || f.listener.Hears() },
	})
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Stream.Run(ctx) })
	if !o.noPacer {
		wg.Go(func() { _ = f.pacer.Run(ctx) })
	}
	if !o.noListener {
		wg.Go(func() { _ = f.listener.Run(ctx) })
	}
	f.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		pool.Close()
	})
	t.Cleanup(f.stop)
	return f
}

func pinned(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	maps.Copy(config.ConnConfig.RuntimeParams, jobs.PlanSettings())
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func (f *follower) events() []*events.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*events.Event(nil), f.seen...)
}

// ready waits until the stream knows its head.
func (f *follower) ready(t testing.TB) events.Position {
	t.Helper()
	pgtest.Receive(t, f.Ready(), 10*time.Second, "the stream is ready")
	head, err := f.Head()
	require.NoError(t, err)
	return head
}

// requireInvariants runs the queries that must return no row.
func requireInvariants(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	found, err := invariants.Check(context.Background(), conn, invariants.Always)
	require.NoError(t, err)
	require.Empty(t, found)
}

// replay reads the whole stream as a stranger who begins at the floor.
func replay(t testing.TB, dsn string) []*events.Event {
	t.Helper()
	f := follow(t, dsn, options{noListener: true, noPacer: true})
	defer f.stop()
	f.ready(t)
	var all []*events.Event
	at, err := f.Resolve(context.Background(), "earliest")
	require.NoError(t, err)
	for {
		batch, err := f.Read(context.Background(), at, 97) // pages that do not fall on ticks
		require.NoError(t, err)
		if len(batch) == 0 {
			return all
		}
		all = append(all, batch...)
		at = batch[len(batch)-1].Position
	}
}
