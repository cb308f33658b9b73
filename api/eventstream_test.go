package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// eventSource is a client of a test, as a browser has one.
type eventSource struct {
	t      testing.TB
	header http.Header
	in     *bufio.Reader
	cut    func()
	lastID string
	retry  string
	pings  int
}

// block is what stands between two empty lines.
type block struct{ id, event, data string }

// sse opens a stream of server-sent events.
func (d *door) sse(t testing.TB, query string, options ...with) *eventSource {
	t.Helper()
	response, cancel := d.streamEvents(t, "text/event-stream", query, options...)
	require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
	return &eventSource{t: t, header: response.Header, in: bufio.NewReader(response.Body), cut: cancel}
}

// streamEvents opens the log in one of its streaming forms; cut ends it, and so does the end of the test.
func (d *door) streamEvents(t testing.TB, accept, query string, options ...with) (response *http.Response, cut func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*eventLimit)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/api/v1/events?"+query, nil)
	require.NoError(t, err)
	r.Header.Set("Accept", accept)
	for _, option := range options {
		option(r)
	}
	response, err = d.client.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(response.Body)
		require.Equal(t, http.StatusOK, response.StatusCode, "%s", raw)
	}
	require.Equal(t, accept, response.Header.Get("Content-Type"))
	return response, cancel
}

// block reads one; comments are counted.
func (s *eventSource) block() (b block, err error) {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return b, err
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "":
			if line == ": ping" {
				s.pings++
				break
			}
			if b != (block{}) {
				return b, nil
			}
		case "id":
			b.id, s.lastID = value, value
		case "event":
			b.event = value
		case "data":
			b.data = value
		case "retry":
			s.retry = value
		default:
			return b, fmt.Errorf("a line that no client knows: %q", line)
		}
	}
}

// event reads up to the next one.
func (s *eventSource) event() logged {
	s.t.Helper()
	for {
		b, err := s.block()
		require.NoError(s.t, err)
		if b.event == "" {
			continue
		}
		e := decodeLogged(s.t, []byte(b.data))
		require.Equal(s.t, e.Type, b.event)
		require.Equal(s.t, e.Cursor, b.id)
		return e
	}
}

// rest reads up to the end of the stream.
func (s *eventSource) rest() (all []block, err error) {
	for {
		b, err := s.block()
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
}

func TestStreamResumesAtAnyPoint(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	d := setup(t)
	other := setupOn(t, d.dsn)
	_, n := d.mixed()
	d.settled(n + 3)
	other.settled(n + 3)
	whole, _ := d.poll("limit=1000", "earliest")
	var got []logged
	source := d.sse(t, "after=earliest")
	require.Equal(t, d.stream.Floor().String(), source.header.Get("Miniasynq-Resumed-From"))
	for len(got) < len(whole) {
		for range random.IntN(12) {
			if len(got) < len(whole) {
				got = append(got, source.event())
			}
		}
		if len(got) == len(whole) {
			break // with a stream that was read from: the next one would have said nothing yet
		}
		if random.IntN(3) == 0 { // what was on the way is lost
			_, _ = io.CopyN(io.Discard, source.in, random.Int64N(300)+1)
		}
		id := source.lastID
		if id == "" {
			id = source.header.Get("Miniasynq-Resumed-From")
		}
		source.cut()
		// The id wins over the address, which a browser keeps.
		source = []*door{d, other}[random.IntN(2)].sse(t, "after=earliest", header("Last-Event-ID", id))
		require.Equal(t, id, source.header.Get("Miniasynq-Resumed-From"))
	}
	require.Equal(t, whole, got)
	require.Equal(t, "2000", source.retry)
}

func TestStreamWithoutACursorBeginsNowAndSaysWhere(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"before"}`)
	head := d.settled(2)
	source := d.sse(t, "")
	first, err := source.block()
	require.NoError(t, err)
	require.Equal(t, block{id: head}, first, "cut off here, the client misses nothing")
	d.enqueue(`{"queue":"after"}`)
	require.Equal(t, "after", source.event().Queue)
}

func TestMarksMoveTheResumePointAndPingsKeepTheLine(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.StreamMark, c.StreamPing = 20*time.Millisecond, 50*time.Millisecond })
	head := d.settled(0)
	source := d.sse(t, "queues=none")
	b, err := source.block()
	require.NoError(t, err)
	require.Equal(t, block{id: head}, b)
	d.enqueue(`{"queue":"other"}`)
	for range 2 { // the job's event, and that of its queue; they may come at once
		if b, err = source.block(); source.lastID == d.settled(2) {
			break
		}
		require.NoError(t, err)
		require.Empty(t, b.event)
	}
	require.Equal(t, block{id: d.settled(2)}, b)
	// Nothing moved since: only pings.
	line, err := source.in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, ": ping\n", line)
}

func TestStreamEndsAfterItsLife(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.StreamLife, c.StreamMark = 100*time.Millisecond, 10*time.Millisecond })
	all, err := d.sse(t, "").rest()
	require.ErrorIs(t, err, io.EOF, "a whole answer: the client comes back")
	require.Equal(t, all[0], all[len(all)-1])
}

func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	d := setup(t)
	source := d.sse(t, "queues=none")
	d.enqueue(`{"queue":"other"}`)
	head := d.settled(2)
	d.resting(1)
	d.server.Drain()
	all, err := source.rest()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, block{id: head}, all[len(all)-1], "it goes on from there at another node")
}

func TestLostHistoryIsSaidInTheStream(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"a"}`)
	d.settled(2)
	source := d.sse(t, "after=earliest")
	source.event()
	source.event()
	d.resting(1)
	var epoch int64
	require.NoError(t, d.pool.QueryRow(t.Context(), `
		INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
		SELECT epoch + 1, pg_current_snapshot(), 2, 2, identity FROM mini_asynq.epochs RETURNING epoch`).Scan(&epoch))
	d.stream.Missed()
	all, err := source.rest()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, []block{{event: "lost", data: fmt.Sprintf(`{"code":"epoch_changed","floor":"%d-2"}`, epoch)}}, all)
	d.get("/events", header("Accept", "text/event-stream"), header("Last-Event-ID", source.lastID)).
		problem(http.StatusConflict, "epoch-changed")
}

func TestRevokedKeyEndsItsStreamsAndPolls(t *testing.T) {
	t.Parallel()
	d := setup(t)
	key := d.key(`"scopes":["read"]`)
	d.settled(1)
	source, other := d.sse(t, "queues=none", bearer(key)), d.sse(t, "")
	polled := make(chan *answer, 1)
	go func() { polled <- d.get("/events?wait=60s&queues=none", bearer(key)) }()
	d.resting(3)
	started := time.Now()
	d.revoke(key)
	all, err := source.rest()
	require.ErrorIs(t, err, io.EOF)
	require.Len(t, all, 1)
	pgtest.Receive(t, polled, 5*time.Second, "the answer").problem(http.StatusUnauthorized, "unauthorized")
	require.Less(t, time.Since(started), 5*time.Second)
	require.Equal(t, "key.revoked", other.event().Type, "others stay")
}

func TestStreamsAreLimitedAndPollsGoOn(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) {
		var err error
		c.Readers, err = events.NewReaders(events.ReadersConfig{Stream: c.Stream, Max: 3, MaxEach: 1})
		require.NoError(t, err)
	})
	stream := header("Accept", "text/event-stream")
	first := d.sse(t, "", asAdmin)
	body := d.get("/events", stream, asAdmin).problem(http.StatusTooManyRequests, "too-many-streams")
	require.Equal(t, json.Number("1"), body["limit"])
	d.sse(t, "") // nobody, from this machine: as many as there is room for
	d.sse(t, "")
	body = d.get("/events", stream).problem(http.StatusTooManyRequests, "too-many-streams")
	require.Equal(t, json.Number("3"), body["limit"])
	d.get("/events", asAdmin).page()
	first.cut()
	pgtest.Eventually(t, eventLimit, "the place is free again", func() bool {
		leave, err := d.readers.Join("basic:admin", false)
		if err == nil {
			leave()
		}
		return err == nil
	})
}

// stall opens a stream of payloads, many megabytes of them, on a line that takes little, and reads the header only.
func (d *door) stall(t *testing.T, accept string) (*net.TCPConn, *http.Response) {
	t.Helper()
	large := json.RawMessage(`"` + strings.Repeat("x", 250_000) + `"`)
	for range 5 {
		params := make([]jobs.Params, 10)
		for i := range params {
			params[i] = jobs.Params{Queue: "large", Payload: large}
		}
		_, err := jobs.Enqueue(t.Context(), d.pool, params...)
		require.NoError(t, err)
	}
	d.settled(50)
	address := strings.TrimPrefix(d.url, "http://")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	tcp, ok := conn.(*net.TCPConn)
	require.True(t, ok)
	require.NoError(t, errors.Join(tcp.SetReadBuffer(4096), conn.SetDeadline(time.Now().Add(2*eventLimit))))
	_, err = io.WriteString(conn, "GET /api/v1/events?after=earliest&include=payload HTTP/1.1\r\nHost: "+address+"\r\nAccept: "+accept+"\r\n\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)
	return tcp, response
}

// W7.
func TestW7SlowStreamIsCutOff(t *testing.T) {
	t.Parallel()
	numbers := prometheus.NewRegistry()
	d := setup(t, func(c *api.Config) { c.SlowAfter, c.Registerer = 200*time.Millisecond, numbers })
	line, response := d.stall(t, "text/event-stream")
	pgtest.Eventually(t, eventLimit, "the stream began", func() bool {
		return transports(t, numbers, "miniasynq_stream_events_sent_total")["sse"] > 0
	})
	pgtest.Eventually(t, eventLimit, "the slow one is cut off", func() bool {
		return transports(t, numbers, "miniasynq_stream_subscribers")["sse"] == 0
	})
	require.Less(t, transports(t, numbers, "miniasynq_stream_events_sent_total")["sse"], 50.0)
	// What it got is a beginning of the log, and it goes on behind it.
	require.NoError(t, line.SetReadBuffer(1<<20))
	source := &eventSource{t: t, in: bufio.NewReader(response.Body)}
	_, err := source.rest()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_ = response.Body.Close()
	require.NotEmpty(t, source.lastID)
	d.sse(t, "", header("Last-Event-ID", source.lastID)).event()
}

func TestLinesThatAreCutOffAreNoWholeAnswer(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.SlowAfter = eventLimit })
	line, response := d.stall(t, "application/x-ndjson")
	require.Equal(t, must(d.stream.Head()).String(), response.Header.Get("Miniasynq-Until"))
	d.server.Drain()
	require.NoError(t, line.SetReadBuffer(1<<20))
	_, err := io.Copy(io.Discard, response.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_ = response.Body.Close()
}

func TestLinesEndWhereTheyAreTold(t *testing.T) {
	t.Parallel()
	d := setup(t)
	_, n := d.mixed()
	d.settled(n + 3)
	whole, _ := d.poll("limit=1000", "earliest")
	lines := header("Accept", "application/x-ndjson")
	for from := 0; from < len(whole); from += 9 {
		for to := from; to < len(whole); to += 17 {
			a := d.get("/events?after="+whole[from].Cursor+"&until="+whole[to].Cursor, lines).is(http.StatusOK)
			require.Equal(t, whole[to].Cursor, a.header.Get("Miniasynq-Until"))
			require.Equal(t, whole[from].Cursor, a.header.Get("Miniasynq-Resumed-From"))
			require.ElementsMatch(t, whole[from+1:to+1], linesOf(t, a.raw))
		}
	}
	require.Empty(t, d.get("/events", lines).is(http.StatusOK).raw, "from now until now")
	require.Equal(t, whole, linesOf(t, d.get("/events?after=earliest&until=latest", lines).raw))
}
