package miniasynq_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	miniasynq "github.com/mini-asynq/mini-asynq/clients/go"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// go test ./clients/go -run Cut -args -cuts=1000 -seed=7
var (
	cuts = flag.Int("cuts", 100, "how often the lines of the resume test are cut")
	seed = flag.Uint64("seed", 0, "of its dice; 0: another one each time")
)

// dice are random numbers whose seed a failure shows.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-seed=%d", n)
	return rand.New(rand.NewPCG(n, 1))
}

// write makes work until over is closed: transactions of several sizes, some rolled back, some open for a while. The nodes
// do it meanwhile, and that makes most of the events. It waits for the writers, and makes an event that is the last one.
// Errors are the weather while a database is away.
func write(t *testing.T, pool *pgxpool.Pool, rng *rand.Rand, over <-chan struct{}) {
	t.Helper()
	var writers sync.WaitGroup
	for range 3 {
		rng := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		writers.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(rng.IntN(40)) * time.Millisecond):
				}
				_ = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					params := make([]jobs.Params, 1+rng.IntN(5))
					for i := range params {
						params[i] = jobs.Params{Queue: fmt.Sprintf("q%d", rng.IntN(3)), Tags: []string{fmt.Sprintf("t%d", rng.IntN(3))}}
					}
					if _, err := jobs.Enqueue(t.Context(), tx, params...); err != nil {
						return err
					}
					if rng.IntN(5) == 0 {
						return errors.New("rolled back on purpose")
					}
					_, err := tx.Exec(t.Context(), `SELECT pg_sleep($1)`, rng.Float64()/50)
					return err
				})
			}
		})
	}
	writers.Wait()
	pgtest.Eventually(t, time.Minute, "all jobs end", func() bool {
		var left int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.jobs`).Scan(&left)
		return err == nil && left == 0
	})
	pgtest.EventuallyNoError(t, limit, "the last event is stored", func() error {
		_, err := pool.Exec(t.Context(), `INSERT INTO mini_asynq.queues (name) VALUES ('last')`)
		return err
	})
}

// reading is a consumer at work, up to the event that write makes last.
type reading struct {
	all []miniasynq.Event // read after done
	err error
	// lines counts the connections that it had; read after done.
	lines int
	done  chan struct{}
}

func read(t *testing.T, o miniasynq.Options) *reading {
	t.Helper()
	r := &reading{done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	o.Observe = func(n miniasynq.Note) {
		if n.State == miniasynq.Connected {
			r.lines++
		}
	}
	p := quick
	p.Silence, p.GrantEvery = 15*time.Second, 25*time.Millisecond
	p.MaxPause = 20 * time.Millisecond
	end := errors.New("the last event")
	// Ends with the last event, or with the test.
	go func() {
		defer close(r.done)
		r.err = miniasynq.ConsumeAt(ctx, p, o, func(_ context.Context, e miniasynq.Event) error {
			r.all = append(r.all, e)
			if e.Type == "queue.created" && e.Queue == "last" {
				return end
			}
			return nil
		})
		if r.err == end { //nolint:errorlint // the very value: Consume hands it on as it is
			r.err = nil
		}
	}()
	return r
}

func (r *reading) result(t *testing.T) []miniasynq.Event {
	t.Helper()
	pgtest.Receive(t, r.done, 8*time.Minute, "the last event is read")
	require.NoError(t, r.err)
	return r.all
}

func lastOf(all []miniasynq.Event) string { return all[len(all)-1].Cursor }

func poolOf(t *testing.T, db *pgtest.DB) *pgxpool.Pool {
	t.Helper()
	return db.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 6 })
}

// E7, E8, E10: whatever cuts the line, and wherever it leads next, a consumer sees what one sees that was never cut, and what
// the log holds afterwards; a filter changes nothing about that.
func TestConsumerThatIsCutSeesWhatAnUncutOneSees(t *testing.T) {
	t.Parallel()
	rng := dice(t)
	db := pgtest.NewDB(t)
	a, b := startNode(t, db.DSN()), startNode(t, db.DSN())
	start := field(t, a, "/events/position", "cursor")
	filter := miniasynq.Filter{Queues: []string{"q1", "last"}, Types: []string{"job.*", "queue.*"}}

	uncut := read(t, miniasynq.Options{URL: "http://" + a, After: start})
	c := newCutter(t, rand.New(rand.NewPCG(rng.Uint64(), 1)), *cuts, 12_000, a, b)
	cut := read(t, miniasynq.Options{URL: c.url(), After: start, Credit: 50})
	f := newCutter(t, rand.New(rand.NewPCG(rng.Uint64(), 1)), *cuts/4, 6000, a, b)
	filtered := read(t, miniasynq.Options{URL: f.url(), After: start, Filter: filter, Credit: 7})

	over := make(chan struct{})
	go func() { // ends with the cuts
		defer close(over)
		for _, cutter := range []*cutter{c, f} {
			select {
			case <-cutter.over:
			case <-cut.done:
			case <-filtered.done:
			}
		}
	}()
	write(t, poolOf(t, db), rng, over)

	want := uncut.result(t)
	require.Equal(t, 1, uncut.lines)
	require.Equal(t, want, cut.result(t))
	require.Greater(t, cut.lines, *cuts/4, "most cuts come after the subscription")
	require.Equal(t, want, replay(t, b, start, lastOf(want)))
	var matching []miniasynq.Event
	for _, e := range want {
		if e.Queue == "q1" || e.Queue == "last" {
			matching = append(matching, e)
		}
	}
	require.Less(t, len(matching), len(want))
	require.Equal(t, matching, filtered.result(t))
	t.Logf("%d events, %d cuts, %d lines; with a filter %d events, %d lines", len(want), *cuts, cut.lines, len(matching), filtered.lines)
}

// The node is killed in the middle of its work, again and again; another process goes on with it.
func TestConsumerOutlivesKilledNodes(t *testing.T) {
	t.Parallel()
	rng := dice(t)
	db := pgtest.NewDB(t)
	address, kill := spawnNode(t, db.DSN())
	start := field(t, address, "/events/position", "cursor")
	c := newCutter(t, rand.New(rand.NewPCG(rng.Uint64(), 1)), 0, 1, address)
	r := read(t, miniasynq.Options{URL: c.url(), After: start})
	over, written := make(chan struct{}), make(chan struct{})
	pool := poolOf(t, db)
	writing := rand.New(rand.NewPCG(rng.Uint64(), 1))
	go func() { // ends when the nodes were killed and the work is done
		defer close(written)
		write(t, pool, writing, over)
	}()
	for range 3 {
		c.lead(address)
		awaitEvents(t, pool, 200)
		kill()
		address, kill = spawnNode(t, db.DSN())
	}
	c.lead(address)
	close(over)
	pgtest.Receive(t, written, 2*time.Minute, "the work is done")
	all := r.result(t)
	require.Equal(t, replay(t, address, start, lastOf(all)), all)
	require.Greater(t, r.lines, 3)
}

// awaitEvents waits until so many more events are in the log.
func awaitEvents(t *testing.T, pool *pgxpool.Pool, n int64) {
	t.Helper()
	before := position(t, pool)
	pgtest.Eventually(t, time.Minute, "events are made", func() bool { return position(t, pool) >= before+n })
}

// D2: what was published is not taken back when the database dies.
func TestConsumerOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	rng := dice(t)
	cluster := pgtest.NewCluster(t, nil)
	a, b := startNode(t, cluster.DSN()), startNode(t, cluster.DSN())
	start := field(t, a, "/events/position", "cursor")
	c := newCutter(t, rand.New(rand.NewPCG(rng.Uint64(), 1)), 20, 12_000, a, b)
	r := read(t, miniasynq.Options{URL: c.url(), After: start})
	over, written := make(chan struct{}), make(chan struct{})
	pool := poolOf(t, cluster.DB())
	go func() { // ends when the database came back for the last time and the work is done
		defer close(written)
		write(t, pool, rng, over)
	}()
	for _, end := range []func(){cluster.Crash, cluster.Stop} {
		awaitEvents(t, pool, 100)
		end()
		cluster.Start()
		pgtest.EventuallyNoError(t, time.Minute, "the database is back", func() error { return pool.Ping(t.Context()) })
	}
	awaitEvents(t, pool, 100)
	close(over)
	pgtest.Receive(t, written, 2*time.Minute, "the work is done")
	all := r.result(t)
	require.Equal(t, replay(t, b, start, lastOf(all)), all)
}

// W3, E11, E15: what retention has taken is said, with the oldest cursor that works; so is another history. The program decides
// how to go on, and goes on without a hole from there.
func TestLossIsSaidAndTheProgramGoesOn(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	pool := poolOf(t, db)
	mark := func(name string) { db.Exec(t, `INSERT INTO mini_asynq.queues (name) VALUES ($1)`, name) }
	store := &memory{}
	consume := func(address string) (queues []string, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		err = miniasynq.ConsumeAt(ctx, quick, miniasynq.Options{URL: "http://" + address, Cursors: store},
			func(_ context.Context, e miniasynq.Event) error {
				if queues = append(queues, e.Queue); e.Queue == "end" {
					cancel()
				}
				return nil
			})
		return queues, err
	}
	goesOn := func(address string) {
		require.NoError(t, store.Save(t.Context(), field(t, address, "/queues", "as_of")))
		mark("after")
		mark("end")
		queues, err := consume(address)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, []string{"after", "end"}, queues)
		db.Exec(t, `DELETE FROM mini_asynq.queues`)
	}

	first := startNode(t, db.DSN())
	old := field(t, first, "/events/position", "cursor")
	require.NoError(t, store.Save(t.Context(), old))
	made := position(t, pool)
	for n := range 5 {
		mark(fmt.Sprintf("gone%d", n))
	}
	pgtest.Eventually(t, limit, "the events have positions", func() bool { return position(t, pool) >= made+5 })
	db.Exec(t, `UPDATE mini_asynq.epochs SET floor_seq = $1`, made+4)
	second := startNode(t, db.DSN()) // nodes that run learn of it within minutes
	queues, err := consume(second)
	var expired *miniasynq.ExpiredError
	require.ErrorAs(t, err, &expired)
	require.Empty(t, queues)
	require.Equal(t, miniasynq.ExpiredError{Cursor: old, Floor: field(t, second, "/events/position", "floor")}, *expired)
	require.NotEqual(t, old, expired.Floor)
	goesOn(second)

	// As after a restore of another database's backup.
	before := store.saved[len(store.saved)-1]
	db.Exec(t, `UPDATE mini_asynq.epochs SET identity = 'elsewhere'`)
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	pgtest.Eventually(t, time.Minute, "there is a new history", func() bool {
		status, body := get(t, second, "/events/position")
		return status == http.StatusOK && !strings.HasPrefix(string(body), `{"cursor":"`+before[:strings.Index(before, "-")+1])
	})
	_, err = consume(second)
	var epoch *miniasynq.EpochError
	require.ErrorAs(t, err, &epoch)
	require.Equal(t, before, epoch.Cursor)
	require.Equal(t, field(t, second, "/events/position", "floor"), epoch.Floor)
	goesOn(second)
}

// position is how many events have one.
func position(t *testing.T, pool *pgxpool.Pool) (seq int64) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT COALESCE(max(first_seq + n - 1), 0) FROM mini_asynq.ticks`).Scan(&seq))
	return seq
}
