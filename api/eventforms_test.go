package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestHeadOfAStreamIsItsHeaderAndNoMore: who asks for the header of a stream gets it, and has his connection for the next
// request at once, not when the stream would have ended.
func TestHeadOfAStreamIsItsHeaderAndNoMore(t *testing.T) {
	t.Parallel()
	methods := make(chan string, 1) // that the hub sees
	d := setup(t, func(c *api.Config) {
		c.Hub = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			methods <- r.Method
			w.WriteHeader(http.StatusOK)
		})
	})
	d.enqueue(`{"queue":"a"}`)
	d.settled(2)
	line := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 10 * time.Second}
	t.Cleanup(line.CloseIdleConnections)
	call := func(method, path, accept string) http.Header {
		r, err := http.NewRequestWithContext(t.Context(), method, d.url+"/api/v1"+path, nil)
		require.NoError(t, err)
		r.Header.Set("Accept", accept)
		response, err := line.Do(r)
		require.NoError(t, err, "%s %s", method, accept)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		return response.Header
	}
	for _, accept := range []string{"text/event-stream", "application/x-ndjson", "application/json"} {
		require.Equal(t, accept, call(http.MethodHead, "/events?after=earliest", accept).Get("Content-Type"))
		call(http.MethodGet, "/events/position", "*/*")
	}
	call(http.MethodHead, "/ws", "*/*")
	require.Equal(t, http.MethodHead, pgtest.Receive(t, methods, eventLimit, "the hub is asked"), "it opens no socket for it")
}

// lines opens a stream of lines.
func (d *door) lines(t testing.TB, query string, options ...with) *bufio.Reader {
	t.Helper()
	response, _ := d.streamEvents(t, "application/x-ndjson", query, options...)
	return bufio.NewReader(response.Body)
}

// floorTo lets retention pass by: all up to a position is gone, and the node knows.
func (d *door) floorTo(seq int64) (floor string) {
	d.t.Helper()
	_, err := d.pool.Exec(d.t.Context(), `UPDATE mini_asynq.epochs SET floor_seq = $1`, seq)
	require.NoError(d.t, err)
	d.stream.Missed()
	pgtest.Eventually(d.t, eventLimit, "the node knows the floor", func() bool { return d.stream.Floor().Seq == seq })
	return d.stream.Floor().String()
}

// TestRetentionThatPassesAReaderIsSaidInEveryForm: one that was reading is told where the log begins now; in the form that
// has no place for it, lines, the answer is no whole one, and the next call is told.
func TestRetentionThatPassesAReaderIsSaidInEveryForm(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.SlowAfter = time.Hour })
	d.putConsumer("c", `{"after":"earliest"}`).is(http.StatusCreated)
	// More than a line holds whose end is not read, and then more than a stream reads at once.
	large := make([]jobs.Params, 40)
	for i := range large {
		large[i].Payload = json.RawMessage(`"` + strings.Repeat("x", 250_000) + `"`)
	}
	for _, params := range [][]jobs.Params{large, make([]jobs.Params, 600)} {
		_, err := jobs.Enqueue(t.Context(), d.pool, params...)
		require.NoError(t, err)
	}
	d.settled(640)
	source := d.sse(t, "after=earliest&include=payload")
	source.event()
	lines := d.lines(t, "after=earliest&include=payload")
	first, err := lines.ReadBytes('\n')
	require.NoError(t, err)
	cursor := decodeLogged(t, first).Cursor
	read := d.get("/consumers/c/events?reader=r&limit=1").page()
	floor := d.floorTo(must(d.stream.Head()).Seq)

	all, err := source.rest()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, block{event: "lost", data: `{"code":"cursor_expired","floor":"` + floor + `"}`}, all[len(all)-1])
	text, err := io.ReadAll(lines)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	got := linesOf(t, text[:bytes.LastIndexByte(text, '\n')+1])
	require.Less(t, len(got), 640)

	for name, call := range map[string]*answer{
		"page":     d.get("/events?after=" + cursor),
		"poll":     d.get("/events?wait=20s&after=" + cursor),
		"stream":   d.get("/events", header("Accept", "text/event-stream"), header("Last-Event-ID", source.lastID)),
		"lines":    d.get("/events?after="+got[len(got)-1].Cursor, header("Accept", "application/x-ndjson")),
		"consumer": d.get("/consumers/c/events?reader=r"),
		"ahead":    d.get("/consumers/c/events?reader=r&after=" + read.Cursor),
	} {
		body := call.problem(http.StatusGone, "cursor-expired")
		require.Equal(t, floor, body["floor"], name)
	}
	require.Equal(t, "cursor_expired", d.consumer("c", "problem"))
	require.Empty(t, d.get("/events?after="+floor).page().events, "and from there it goes on")
}

// TestForkIsSaidToThoseWhoWait: a new history answers calls that are parked, and moves nothing of a consumer.
func TestForkIsSaidToThoseWhoWait(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"a"}`)
	head := d.settled(2)
	d.putConsumer("c", `{}`).is(http.StatusCreated)
	paths := []string{
		"/events?wait=60s", "/events?wait=60s&queues=none", "/consumers/c/events?reader=r&wait=60s",
	}
	answers := make(chan *answer, len(paths))
	for _, path := range paths {
		go func() { answers <- d.get(path) }()
	}
	d.resting(len(paths))
	var epoch json.Number
	require.NoError(t, d.pool.QueryRow(t.Context(), `
		INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
		SELECT epoch + 1, pg_current_snapshot(), 2, 2, identity FROM mini_asynq.epochs RETURNING epoch::text`).Scan(&epoch))
	d.stream.Missed()
	for range paths {
		body := pgtest.Receive(t, answers, 5*time.Second, "the answer").problem(http.StatusConflict, "epoch-changed")
		require.Equal(t, epoch, body["epoch"])
	}
	require.Equal(t, head, d.consumer("c", "cursor"))
	for _, accept := range []string{"application/json", "text/event-stream", "application/x-ndjson"} {
		d.get("/events?after="+head, header("Accept", accept)).problem(http.StatusConflict, "epoch-changed")
	}
	// Whoever takes stock goes on from there, in the new history.
	asOf := d.get("/jobs").is(http.StatusOK).text("as_of")
	d.enqueue(`{"queue":"a"}`)
	p := d.get("/events?wait=20s&after=" + asOf).page()
	require.Equal(t, epoch.String()+"-3", p.events[0].Cursor)
}

// TestKeyOfSomeQueuesSeesTheirEventsAloneInEveryForm: history and live, whatever it asks for.
func TestKeyOfSomeQueuesSeesTheirEventsAloneInEveryForm(t *testing.T) {
	t.Parallel()
	d := setup(t)
	theirs, n := d.mixed()
	d.settled(n + 3)
	d.putConsumer("c", `{"after":"earliest","filter":{"queues":["video"]}}`).is(http.StatusCreated)
	key := bearer(d.key(`"scopes":["read"],"queues":["video"]`))
	var want []logged
	all, _ := d.poll("limit=1000", "earliest")
	for _, e := range all {
		if e.Queue == "video" {
			want = append(want, e)
		}
	}
	require.NotEmpty(t, want)
	for _, query := range []string{"", "&queues=video,mail", "&queues=*", "&types=job.*,queue.*,key.*,worker.*"} {
		got, _ := d.poll("limit=7"+query, "earliest", key)
		require.Equal(t, want, got, query)
		lines := d.get("/events?after=earliest"+query, header("Accept", "application/x-ndjson"), key).is(http.StatusOK)
		require.Equal(t, want, linesOf(t, lines.raw), query)
		source := d.sse(t, "after=earliest"+query, key)
		for _, e := range want {
			require.Equal(t, e, source.event(), query)
		}
		source.cut()
	}
	for _, query := range []string{"queues=mail", "job_ids=" + theirs, "types=key.*,worker.*,history.*"} {
		got, _ := d.poll(query, "earliest", key)
		require.Empty(t, got, query)
	}
	require.Equal(t, want, d.get("/consumers/c/events?reader=r&limit=1000", key).page().events)
	d.get("/jobs/"+theirs+"/events", key).problem(http.StatusNotFound, "not-found")

	live, from := d.sse(t, "", key), must(d.stream.Head()).String()
	d.enqueue(`{"queue":"mail"}`)
	mine := d.enqueue(`{"queue":"video"}`)
	require.Equal(t, mine, live.event().JobID)
	require.Equal(t, mine, d.get("/events?wait=20s&after="+from, key).page().events[0].JobID)
}

// TestEndOfAKeyEndsLinesAndParkedConsumers: what it holds open ends within seconds, as no whole answer, and the consumer that
// it held for a wait is free as soon as any other.
func TestEndOfAKeyEndsLinesAndParkedConsumers(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.SlowAfter = time.Hour })
	large := make([]jobs.Params, 40) // more than a line holds whose end is not read
	for i := range large {
		large[i].Payload = json.RawMessage(`"` + strings.Repeat("x", 250_000) + `"`)
	}
	_, err := jobs.Enqueue(t.Context(), d.pool, large...)
	require.NoError(t, err)
	d.settled(41)
	d.putConsumer("c", `{"filter":{"queues":["none"]}}`).is(http.StatusCreated)
	key := d.key(`"scopes":["read","read:payload"]`)
	lines := d.lines(t, "after=earliest&include=payload", bearer(key))
	_, err = lines.ReadBytes('\n')
	require.NoError(t, err)
	parked := make(chan *answer, 1)
	go func() { parked <- d.get("/consumers/c/events?reader=r&wait=60s", bearer(key)) }()
	d.resting(1)
	require.Contains(t, d.consumer("c", "free_in"), "1m")
	d.revoke(key)
	pgtest.Receive(t, parked, 5*time.Second, "the answer").problem(http.StatusUnauthorized, "unauthorized")
	require.NotContains(t, d.consumer("c", "free_in"), "m")
	text, err := io.ReadAll(lines)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Less(t, bytes.Count(text, []byte("\n")), 39)
}
