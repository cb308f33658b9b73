package hub_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// write commits transactions of several sizes from several connections, some rolled back, some held open for a moment.
func (d *door) write(transactions int) *sync.WaitGroup {
	var writers sync.WaitGroup
	for n := range 3 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(n)))
			for range transactions {
				err := pgx.BeginFunc(d.t.Context(), d.pool, func(tx pgx.Tx) error {
					params := make([]jobs.Params, 1+rng.IntN(9))
					for i := range params {
						params[i] = jobs.Params{Queue: fmt.Sprintf("q%d", rng.IntN(3)), Tags: []string{fmt.Sprintf("t%d", rng.IntN(3))}}
					}
					if _, err := jobs.Enqueue(d.t.Context(), tx, params...); err != nil {
						return err
					}
					if rng.IntN(5) == 0 {
						return pgx.ErrTxCommitRollback // of the test's own will
					}
					_, err := tx.Exec(d.t.Context(), `SELECT pg_sleep($1)`, rng.Float64()/200)
					return err
				})
				if err != nil && err != pgx.ErrTxCommitRollback { //nolint:errorlint // the very value
					d.t.Error(err)
				}
			}
		})
	}
	return &writers
}

// E7, E8: positions are dense for each client, and the same for all.
func TestEveryClientSeesEveryEventInOrder(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.enqueue(10, "before")
	d.mark("begin")
	first := d.dial("first", "after=earliest")
	begin := first.until("begin")
	const clients = 20
	results := make([][]seen, clients)
	var readers sync.WaitGroup
	for n := range clients {
		s := d.dial("reader", "after="+begin[len(begin)-1].Cursor)
		readers.Go(func() { results[n] = s.until("end") })
	}
	d.write(60).Wait()
	d.mark("end")
	readers.Wait()
	want := first.until("end")
	require.Greater(t, len(want), 300)
	for n := range results {
		require.Equal(t, want, results[n])
	}
	// Whoever comes later and reads from the table and the ring gets the same.
	require.Equal(t, append(begin, want...), d.dial("late", "after=earliest").until("end"))
}

// E10: whatever cuts the line, the last cursor continues without a hole and without a double.
func TestResumeAfterCutsIsGapFree(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 64}, func(c *hub.Config) { c.BatchEvents = 16 })
	d.mark("begin")
	d.dial("probe", "after=earliest").until("begin")
	start := d.head()
	want := d.dial("whole", "after="+start)
	writers := d.write(60)
	rng := rand.New(rand.NewPCG(9, 9))
	cursor, cuts := start, 0
	var all []seen
	ended := make(chan struct{})
	go func() { // ends with the writers
		defer close(ended)
		writers.Wait()
		d.mark("end")
	}()
	for done := false; !done; cuts++ {
		s := d.dial("cut", "after="+cursor)
		for range 1 + rng.IntN(40) {
			e := s.next()
			all = append(all, e)
			cursor = e.Cursor
			if done = e.Queue == "end"; done {
				break
			}
		}
		if rng.IntN(2) == 0 {
			_ = s.NetConn().Close() // a cut; the other half says goodbye
		} else {
			_ = s.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second))
		}
		_ = s.Close()
	}
	<-ended
	require.Greater(t, cuts, 5)
	require.Equal(t, want.until("end"), all)
}

func TestWithoutACursorASocketBeginsNow(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.enqueue(3, "before")
	d.mark("begin")
	d.dial("probe", "after=earliest").until("begin")
	for _, query := range []string{"", "after=latest"} {
		s := d.dial("now"+query, query)
		name := "mark" + uuid.NewString()
		d.mark(name)
		require.Len(t, s.until(name), 1)
	}
}

// W7: others are not affected, and the cursor in the close frame is that of the last event the client got.
func TestW7SlowClientIsCutOffWithItsCursor(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	d := open(t, func(c *hub.Config) {
		c.SlowAfter, c.SendBuffer, c.SlowLinger, c.Registerer = 3*time.Second, 32<<10, limit, registry
	})
	slow := d.dial("slow", "", narrow())
	quick := d.dial("quick", "")
	d.await("parked", "slow")
	d.enqueue(3000, "q")
	d.mark("end")
	all := quick.until("end")
	require.Len(t, all, 3001)
	at := d.await("slow", "slow")
	code, why, got := slow.closed()
	require.Equal(t, hub.CloseSlow, code)
	require.Equal(t, "slow", why.Code)
	require.Positive(t, why.RetryMS)
	require.NotEmpty(t, got)
	require.Less(t, len(got), 3001)
	require.Equal(t, got[len(got)-1].Cursor, why.Cursor)
	require.Equal(t, all[:len(got)], got)
	require.NotEmpty(t, at.cursor)
	again := d.dial("again", "after="+why.Cursor)
	require.Equal(t, all[len(got):], again.until("end"))
	d.await("ended", "slow")
	pgtest.Eventually(t, limit, "its place is free", func() bool { return d.hub.Sockets() == 2 })
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP miniasynq_stream_disconnects_total Sockets that ended, by close code.
# TYPE miniasynq_stream_disconnects_total counter
miniasynq_stream_disconnects_total{code="4508"} 1
# HELP miniasynq_stream_subscribers Readers of the event stream on this node.
# TYPE miniasynq_stream_subscribers gauge
miniasynq_stream_subscribers{class="consumer",transport="ws"} 0
miniasynq_stream_subscribers{class="plain",transport="ws"} 2
miniasynq_stream_subscribers{class="view",transport="ws"} 0
`), "miniasynq_stream_disconnects_total", "miniasynq_stream_subscribers"))
}

// R6: a client that never reads costs its buffers and a cursor, however much happens.
func TestClientThatNeverReadsDoesNotGrow(t *testing.T) {
	d := openWith(t, events.StreamConfig{Ring: 1024}, func(c *hub.Config) { c.SlowAfter, c.SendBuffer = time.Hour, 32<<10 })
	quick := d.dial("quick", "queues=quick")
	const clients = 30
	for range clients {
		d.dial("stalled", "", narrow())
	}
	d.enqueue(2000, "fill")
	for range clients {
		d.await("blocked", "stalled")
	}
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	name := 0
	more := func(rounds int) {
		for range rounds {
			d.enqueue(2000, "fill")
			name++
			d.mark("quick")
			d.db.Exec(t, `DELETE FROM mini_asynq.queues WHERE name = 'quick'`)
			require.Equal(t, "quick", quick.next().Queue)
		}
	}
	more(2)
	before := heap()
	more(8)
	after := heap()
	// 16000 events of half a kilobyte for 30 clients would be 240 MB if anybody kept them.
	require.Less(t, int64(after)-int64(before), int64(clients*64<<10), "before %d, after %d", before, after)
}

// W7: a client whose machine is gone, or that does not speak the protocol, is found by its silence.
func TestW7ClientWithoutPongIsClosed(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.PingEvery, c.PongWithin = 30*time.Millisecond, 150*time.Millisecond })
	alive := d.dial("alive", "")
	pings := make(chan struct{}, 1000)
	answer := alive.PingHandler()
	alive.SetPingHandler(func(data string) error {
		pings <- struct{}{}
		return answer(data)
	})
	reading := make(chan error, 1)
	go func() { // ends with the connection
		_, err := alive.read()
		reading <- err
	}()
	silent := d.dial("silent", "")
	silent.SetPingHandler(func(string) error { return nil })
	code, why, _ := silent.closed()
	require.Equal(t, hub.CloseSilent, code)
	require.Equal(t, reason{Code: "silent", Cursor: d.head(), RetryMS: why.RetryMS}, why)
	for range 10 {
		pgtest.Receive(t, pings, limit, "a ping to the client that answers")
	}
	d.mark("still-there")
	require.NoError(t, pgtest.Receive(t, reading, limit, "the client that answers is served"))
}

// W8: a node that drains says so, with the cursor, and takes no more sockets; Run ends when all are gone.
func TestW8DrainSaysGoingAway(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.SlowAfter, c.SendBuffer, c.CloseWithin = time.Hour, 32<<10, limit })
	sockets := make([]*socket, 10)
	for n := range sockets {
		sockets[n] = d.dial("client", "")
	}
	stalled := d.dial("stalled", "", narrow())
	filtered := d.dial("filtered", "queues=nothing")
	d.await("parked", "filtered")
	d.enqueue(2000, "q")
	d.mark("end")
	var last seen
	for _, s := range sockets {
		all := s.until("end")
		last = all[len(all)-1]
	}
	d.await("blocked", "stalled")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	d.hub.Drain(ctx) // the stalled one is not waited for any longer
	for _, s := range append(sockets, filtered) {
		code, why, _ := s.closed()
		require.Equal(t, hub.CloseGoingAway, code)
		require.Equal(t, "draining", why.Code)
		require.Equal(t, last.Cursor, why.Cursor, "also what the filter held back is behind the client")
		require.InDelta(t, 1100, why.RetryMS, 900)
	}
	code, problem, _ := d.ask(http.MethodGet, "", upgrade())
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "draining", problem["code"])
	// The stalled client reads again, within the time that it has.
	code2, why, got := stalled.closed()
	require.Equal(t, hub.CloseGoingAway, code2)
	require.Equal(t, got[len(got)-1].Cursor, why.Cursor)
	d.stop()
	require.Zero(t, d.hub.Sockets())
}

// The end of Run does not wait for anybody.
func TestEndOfRunCutsStalledClients(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.SlowAfter, c.SendBuffer = time.Hour, 32<<10 })
	d.dial("stalled", "", narrow())
	d.dial("parked", "")
	d.enqueue(2000, "q")
	d.await("blocked", "stalled")
	d.stop() // the test's own limit would strike
	require.Zero(t, d.hub.Sockets())
}

// W6, W7: what ends a stream under an open socket.
func TestW7EpochAndExpiryCloseTheSocket(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 16}, func(c *hub.Config) { c.SlowAfter, c.SendBuffer = time.Hour, 32<<10 })
	stalled := d.dial("stalled", "", narrow())
	d.await("parked", "stalled")
	d.enqueue(3000, "q")
	d.mark("end")
	d.dial("quick", "after=earliest").until("end")
	d.await("blocked", "stalled")
	head := d.head()
	d.db.Exec(t, `UPDATE mini_asynq.epochs SET floor_seq = $1`, 3001)
	d.stream.Missed()
	pgtest.Eventually(t, limit, "the stream knows its floor", func() bool { return d.stream.Floor().Seq == 3001 })
	code, why, _ := stalled.closed()
	require.Equal(t, hub.CloseExpired, code)
	require.Equal(t, "cursor_expired", why.Code)
	require.Equal(t, head, why.Floor)

	parked := d.dial("parked", "")
	d.await("parked", "parked")
	d.db.Exec(t, `INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
		SELECT epoch + 1, pg_current_snapshot(), 3001, 3001, identity FROM mini_asynq.epochs`)
	d.stream.Missed()
	code, why, _ = parked.closed()
	require.Equal(t, hub.CloseEpoch, code)
	require.Equal(t, reason{Code: "epoch_changed", Cursor: head}, why)
}

func TestFilteredClientsGetWhatMatchesInOrder(t *testing.T) {
	t.Parallel()
	d := open(t)
	one := d.enqueue(1, "other")[0].ID.String()
	d.mark("begin")
	d.dial("probe", "after=earliest").until("begin")
	queries := map[string]func(seen) bool{
		"queues=q1,begin,end":                     func(e seen) bool { return e.Queue == "q1" || e.Queue == "begin" || e.Queue == "end" },
		"types=queue.*":                           func(e seen) bool { return strings.HasPrefix(e.Type, "queue.") },
		"queues=q*,end&types=job.*,queue.created": func(e seen) bool { return strings.HasPrefix(e.Queue, "q") || e.Queue == "end" },
	}
	var sockets []*socket
	var keep []func(seen) bool
	for query, matches := range queries {
		sockets, keep = append(sockets, d.dial("filtered", query)), append(keep, matches)
	}
	all := d.dial("all", "")
	for range sockets {
		d.await("parked", "filtered")
	}
	d.write(40).Wait()
	d.mark("end")
	everything := all.until("end")
	for n, s := range sockets {
		for _, want := range everything {
			if keep[n](want) {
				require.Equal(t, want, s.next())
			}
		}
	}
	byID := d.dial("by id", "after=earliest&job_ids="+one)
	require.Equal(t, one, byID.next().JobID)
	tagged := d.dial("tagged", "after=earliest&tags=t1")
	require.Equal(t, "job.enqueued", tagged.next().Type)
}

// W3: too many sockets, of one caller and in all.
func TestW3LimitsAnswerBeforeTheUpgrade(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) {
		var err error
		c.Readers, err = events.NewReaders(events.ReadersConfig{Stream: c.Stream, Max: 4, MaxEach: 2})
		require.NoError(t, err)
	})
	as := func(name string) http.Header { return upgrade(func(h http.Header) { h.Set("X-Caller", name) }) }
	ada := d.dial("ada", "")
	d.dial("ada", "")
	status, problem, header := d.ask(http.MethodGet, "", as("ada"))
	require.Equal(t, http.StatusTooManyRequests, status)
	require.Equal(t, "too_many_streams", problem["code"])
	require.EqualValues(t, 2, problem["limit"])
	require.Equal(t, "1", header.Get("Retry-After"))
	d.dial("unlimited", "")
	d.dial("unlimited", "")
	status, problem, _ = d.ask(http.MethodGet, "", as("bob"))
	require.Equal(t, http.StatusTooManyRequests, status)
	require.EqualValues(t, 4, problem["limit"])
	require.NoError(t, ada.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(limit)))
	code, _, _ := ada.closed()
	require.Equal(t, hub.CloseNormal, code)
	pgtest.Eventually(t, limit, "the place is free again", func() bool {
		status, _, _ := d.ask(http.MethodGet, "", as("bob"))
		return status == http.StatusSwitchingProtocols
	})
}

// L6: a storm of sockets that come and go leaves nothing behind; goleak looks at the end.
func TestSocketsThatComeAndGoLeaveNothing(t *testing.T) {
	t.Parallel()
	d := open(t)
	writers := d.write(20)
	var storm sync.WaitGroup
	for range 8 {
		storm.Go(func() {
			for range 25 {
				conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), d.address("after=earliest"), nil)
				if err != nil {
					continue // limits, or the end
				}
				_ = conn.Close()
			}
		})
	}
	storm.Wait()
	writers.Wait()
	pgtest.Eventually(t, limit, "all sockets are gone", func() bool { return d.hub.Sockets() == 0 })
}

func TestConfigIsRefusedWithAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := hub.New(hub.Config{MaxMessages: -1, AllowedHosts: []string{"https://x"}, SlowAfter: -1})
	require.ErrorContains(t, err, "Stream is required")
	require.ErrorContains(t, err, "MaxMessages")
	require.ErrorContains(t, err, "allowed host")
	require.ErrorContains(t, err, "SlowAfter")
}

// TestW8GoodbyesAreOutWhenTheDrainReturns: whoever stops the hub right after it cuts nobody off who has not been told.
func TestW8GoodbyesAreOutWhenTheDrainReturns(t *testing.T) {
	t.Parallel()
	d := open(t)
	var plain []*socket
	var frames []*framed
	for n := range 60 {
		plain = append(plain, d.dial("many", "after=latest"))
		if n%2 == 0 {
			frames = append(frames, d.dialFramed("many"))
		}
	}
	d.hub.Drain(t.Context())
	require.Zero(t, d.hub.Unsaid())
	d.stop()
	for _, s := range plain {
		code, _, _ := s.closed()
		require.Equal(t, hub.CloseGoingAway, code)
	}
	for _, f := range frames {
		code, _, before := f.closed()
		require.Equal(t, hub.CloseGoingAway, code)
		require.Equal(t, "bye", before[len(before)-1].T)
	}
}
