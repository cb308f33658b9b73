package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

const eventLimit = 20 * time.Second

// logged is the part of an event that tests look at.
type logged struct {
	Cursor string   `json:"cursor"`
	Seq    int64    `json:"seq"`
	Type   string   `json:"type"`
	Queue  string   `json:"queue"`
	Kind   string   `json:"kind"`
	JobID  string   `json:"job_id"`
	Tags   []string `json:"tags"`
	raw    string
}

func decodeLogged(t testing.TB, raw []byte) logged {
	t.Helper()
	e := logged{raw: string(raw)}
	require.NoError(t, json.Unmarshal(raw, &e), "%s", raw)
	return e
}

// eventsPage is an answer of GET /events.
type eventsPage struct {
	Data     []json.RawMessage `json:"data"`
	Cursor   string            `json:"cursor"`
	CaughtUp bool              `json:"caught_up"`
	events   []logged
}

func (a *answer) page() (p eventsPage) {
	a.t.Helper()
	a.is(http.StatusOK)
	require.Equal(a.t, "application/json", a.header.Get("Content-Type"))
	require.NoError(a.t, json.Unmarshal(a.raw, &p), "%s", a.raw)
	require.NotNil(a.t, p.Data)
	for _, raw := range p.Data {
		p.events = append(p.events, decodeLogged(a.t, raw))
	}
	return p
}

// settled waits until this node has read all that is committed, and returns the head.
func (d *door) settled(n int) string {
	d.t.Helper()
	pgtest.Eventually(d.t, eventLimit, "the log has its events", func() bool {
		head, err := d.stream.Head()
		return err == nil && head.Seq >= int64(n)
	})
	return must(d.stream.Head()).String()
}

// poll reads the log in pages from a cursor to the head.
func (d *door) poll(query, after string, options ...with) (all []logged, calls int) {
	d.t.Helper()
	for {
		p := d.get("/events?after="+after+"&"+query, options...).page()
		all, calls = append(all, p.events...), calls+1
		if p.CaughtUp {
			return all, calls
		}
		require.NotEqual(d.t, after, p.Cursor, "no progress")
		after = p.Cursor
	}
}

// mixed makes some jobs of several queues, kinds and tags, and returns a job's id. n is how many events there are at least.
func (d *door) mixed() (id string, n int) {
	d.t.Helper()
	var params []jobs.Params
	for i := range 60 {
		params = append(params, jobs.Params{
			Queue: []string{"mail", "mail.fast", "video"}[i%3], Kind: []string{"send", "mail.send"}[i%2],
			Tags: [][]string{nil, {"a"}, {"a", "b c"}}[i%3],
		})
	}
	made, err := jobs.Enqueue(d.t.Context(), d.pool, params...)
	require.NoError(d.t, err)
	for range 5 {
		d.finish(jobs.Complete(&d.claim("mail").Job, nil))
		d.finish(failWithStack(d.claim("video")))
	}
	return made[0].ID.String(), 60 + 20
}

func TestPagesOfTheLogAgreeWithTheFilter(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id, n := d.mixed()
	d.settled(n + 3) // queue.created
	all, _ := d.poll("limit=1000", "earliest")
	for i, e := range all {
		require.EqualValues(t, i+1, e.Seq, "dense")
	}
	prefix := func(s, p string) bool { return strings.HasPrefix(s, p) }
	for query, keep := range map[string]func(logged) bool{
		"":                                       func(logged) bool { return true },
		"types=job.dead":                         func(e logged) bool { return e.Type == "job.dead" },
		"types=job.s*,queue.*":                   func(e logged) bool { return prefix(e.Type, "job.s") || prefix(e.Type, "queue.") },
		"queues=mail":                            func(e logged) bool { return e.Queue == "mail" },
		"queues=mail*":                           func(e logged) bool { return prefix(e.Queue, "mail") },
		"kinds=mail.*":                           func(e logged) bool { return prefix(e.Kind, "mail.") },
		"tags=b%20c,x":                           func(e logged) bool { return slices.Contains(e.Tags, "b c") },
		"job_ids=" + id:                          func(e logged) bool { return e.JobID == id },
		"queues=mail&types=job.completed&tags=a": func(logged) bool { return false },
		"queues=video&types=job.dead&tags=a":     func(e logged) bool { return e.Queue == "video" && e.Type == "job.dead" },
	} {
		var want []logged
		for _, e := range all {
			if keep(e) {
				want = append(want, e)
			}
		}
		for _, limit := range []string{"1000", "7", "1"} {
			got, _ := d.poll("limit="+limit+"&"+query, "earliest")
			require.Equal(t, want, got, "%s, %s at a time", query, limit)
		}
		lines := d.get("/events?after=earliest&"+query, header("Accept", "application/x-ndjson")).is(http.StatusOK)
		require.Equal(t, "application/x-ndjson", lines.header.Get("Content-Type"))
		require.Equal(t, want, linesOf(t, lines.raw), query)
	}
}

func linesOf(t testing.TB, raw []byte) (all []logged) {
	t.Helper()
	for line := range strings.Lines(string(raw)) {
		require.True(t, strings.HasSuffix(line, "\n"), "a line is whole")
		all = append(all, decodeLogged(t, []byte(strings.TrimSuffix(line, "\n"))))
	}
	return all
}

func TestNarrowFilterMakesProgressWithBoundedWork(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for range 3 {
		_, err := jobs.Enqueue(t.Context(), d.pool, make([]jobs.Params, 4000)...)
		require.NoError(t, err)
	}
	_, err := jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "needle"})
	require.NoError(t, err)
	d.settled(12_003) // two queues
	// wait does not hold up an answer that is on its way.
	first := d.get("/events?after=earliest&queues=needle&wait=60s").page()
	require.Empty(t, first.Data)
	require.False(t, first.CaughtUp)
	require.True(t, strings.HasSuffix(first.Cursor, "-10000"), first.Cursor)
	found, calls := d.poll("queues=needle&types=job.*", "earliest")
	require.Len(t, found, 1)
	require.Equal(t, 2, calls)
}

// countedDB counts the statements of the door.
type countedDB struct {
	jobs.DB
	n *atomic.Int64
}

func (c countedDB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.n.Add(1)
	return c.DB.Query(ctx, sql, args...)
}

func (c countedDB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	c.n.Add(1)
	return c.DB.QueryRow(ctx, sql, args...)
}

func (c countedDB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c.n.Add(1)
	return c.DB.Exec(ctx, sql, args...)
}

func (c countedDB) Begin(ctx context.Context) (pgx.Tx, error) {
	c.n.Add(1)
	return c.DB.Begin(ctx)
}

// resting waits until n readers are parked at the head.
func (d *door) resting(n int) {
	d.t.Helper()
	pgtest.Eventually(d.t, eventLimit, fmt.Sprintf("%d readers rest", n), func() bool {
		parked, at := d.readers.Parked()
		head, err := d.stream.Head()
		return err == nil && parked == n && at == head
	})
}

func TestLongPollsWakeAtOnceAndCostNoStatement(t *testing.T) {
	t.Parallel()
	var statements atomic.Int64
	d := setup(t, func(c *api.Config) { c.DB, c.Work = countedDB{c.DB, &statements}, nil })
	_, err := jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "a"}, jobs.Params{Queue: "b"})
	require.NoError(t, err)
	d.settled(4)
	_, tableBefore := d.stream.Reads()
	before := statements.Load()
	const pollers = 20
	answers := make(chan *answer, pollers) // capacity: all of them
	for i := range pollers {
		go func() { answers <- d.get("/events?wait=60s&queues=" + []string{"a", "b"}[i%2]) }()
	}
	d.resting(pollers)
	_, err = jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "a"})
	require.NoError(t, err)
	started := time.Now()
	for range pollers / 2 {
		p := pgtest.Receive(t, answers, eventLimit, "an answer").page()
		require.Len(t, p.events, 1)
		require.Equal(t, "a", p.events[0].Queue)
		require.Equal(t, p.events[0].Cursor, p.Cursor)
		require.True(t, p.CaughtUp)
	}
	require.Less(t, time.Since(started), 5*time.Second)
	d.resting(pollers / 2) // those of b sleep on
	_, err = jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "b"})
	require.NoError(t, err)
	for range pollers / 2 {
		require.Equal(t, "b", pgtest.Receive(t, answers, eventLimit, "an answer").page().events[0].Queue)
	}
	require.Equal(t, before, statements.Load(), "a poll asks the database nothing")
	_, tableAfter := d.stream.Reads()
	require.Equal(t, tableBefore, tableAfter, "what is near the head comes out of memory")

	// At the end of the wait there is nothing but the way that was made.
	head := must(d.stream.Head()).String()
	p := d.get("/events?wait=50ms&queues=none").page()
	require.Equal(t, eventsPage{Data: []json.RawMessage{}, Cursor: head, CaughtUp: true}, p)
}

func TestDrainAnswersParkedPollsAtOnce(t *testing.T) {
	t.Parallel()
	d := setup(t)
	answers := make(chan *http.Response, 1)
	go func() {
		r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/api/v1/events?wait=60s", nil))
		answers <- must(d.client.Do(r))
	}()
	d.resting(1)
	d.server.Drain()
	response := pgtest.Receive(t, answers, 5*time.Second, "the answer")
	raw := must(io.ReadAll(response.Body))
	require.NoError(t, response.Body.Close())
	require.True(t, response.Close, "Connection: close")
	require.True(t, (&answer{t, response.StatusCode, response.Header, raw}).page().CaughtUp)
	d.get("/events", header("Accept", "text/event-stream")).problem(http.StatusServiceUnavailable, "draining")
}

func TestPositionSaysWhereTheLogBeginsAndEnds(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"a"}`)
	head := d.settled(2)
	body := d.get("/events/position").is(http.StatusOK).object()
	epoch, _, _ := strings.Cut(head, "-")
	require.Equal(t, map[string]any{"cursor": head, "floor": d.stream.Floor().String(), "epoch": json.Number(epoch)}, body)
	d.get("/events/position?x=1").problem(http.StatusBadRequest, "invalid-parameter")
	// From there on nothing is missed.
	d.enqueue(`{"queue":"a"}`)
	require.Equal(t, "job.enqueued", d.get("/events?wait=20s&after=" + head).page().events[0].Type)
}

func TestPayloadsAreThoseOfNow(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"a","payload":{"to":"a@example.com"}}`)
	gone := d.enqueue(`{"queue":"gone","payload":[1]}`)
	d.finish(failWithStack(d.claim("gone")))
	d.send(http.MethodDelete, "/api/v1/admin/jobs/"+gone, "", asAdmin).is(http.StatusNoContent)
	d.settled(7)
	for name, all := range map[string][]logged{
		"page":  d.get("/events?after=earliest&include=payload").page().events,
		"lines": linesOf(t, d.get("/events?after=earliest&include=payload", header("Accept", "application/x-ndjson")).raw),
	} {
		require.Len(t, all, 7, name)
		for _, e := range all {
			want := `,"payload":null}`
			if e.JobID == id {
				want = `,"payload":{"to": "a@example.com"}}`
			}
			if name == "page" { // encoded as it is stored
				require.Contains(t, e.raw, want)
			} else {
				require.True(t, strings.HasSuffix(e.raw, want), e.raw)
			}
		}
	}
	// A page that is full of payloads ends early, and the next one goes on.
	large := strings.Repeat("x", 250_000)
	for range 40 {
		_, err := jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "large", Payload: json.RawMessage(`"` + large + `"`)})
		require.NoError(t, err)
	}
	d.settled(47)
	first := d.get("/events?after=earliest&queues=large&types=job.*&include=payload&limit=1000").page()
	require.Less(t, len(first.events), 40)
	require.False(t, first.CaughtUp)
	all, _ := d.poll("queues=large&types=job.*&include=payload&limit=1000", "earliest")
	require.Len(t, all, 40)
}

func TestEveryAcceptHeaderHasItsAnswer(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.StreamLife = time.Millisecond })
	for accept, want := range map[string]string{
		"*/*": "application/json", "application/json": "application/json", "application/*;q=0.1": "application/json",
		"text/event-stream": "text/event-stream", "text/*": "text/event-stream", "text/event-stream, */*": "text/event-stream",
		"application/x-ndjson": "application/x-ndjson", "APPLICATION/X-NDJSON": "application/x-ndjson",
		"application/json, text/event-stream":                             "application/json",
		"text/event-stream;q=0.2, application/json":                       "application/json",
		"application/json;q=0, */*":                                       "text/event-stream",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "application/json",
		", ,application/json":                                             "application/json",
		"text/html":                                                       "", "application/json;q=0": "", "nonsense": "", "image/*": "", "*/*;q=2": "",
	} {
		a := d.get("/events", header("Accept", accept))
		if want == "" {
			a.problem(http.StatusNotAcceptable, "not-acceptable")
			continue
		}
		a.is(http.StatusOK)
		require.Equal(t, want, a.header.Get("Content-Type"), accept)
		require.Equal(t, "Accept", a.header.Get("Vary"))
	}
	require.Equal(t, "application/json", d.get("/events", func(r *http.Request) { r.Header["Accept"] = nil }).header.Get("Content-Type"))
}

// W6, Q4, A2 of the bad-input matrix, for each representation.
func TestBadReadingsOfTheLogAreRefused(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"a"}`)
	d.settled(2)
	_, err := d.pool.Exec(t.Context(), `UPDATE mini_asynq.epochs SET floor_seq = 1`)
	require.NoError(t, err)
	d.stream.Missed()
	pgtest.Eventually(t, eventLimit, "the stream knows its floor", func() bool { return d.stream.Floor().Seq == 1 })
	epoch, _, _ := strings.Cut(must(d.stream.Head()).String(), "-")
	viewer := bearer(d.key(`"role":"viewer"`))
	for _, accept := range []string{"application/json", "text/event-stream", "application/x-ndjson"} {
		call := func(name, query string, status int, problem string, more ...with) row {
			return row{name: accept + " " + name, method: http.MethodGet, path: "/events?" + query, status: status, problem: problem,
				with: append([]with{header("Accept", accept)}, more...), pointer: "-"}
		}
		d.refuses(t, "W6",
			call("malformed", "after="+secretInput, 400, "cursor-invalid"),
			call("spelled otherwise", "after="+epoch+"-02", 400, "cursor-invalid"),
			call("ahead", "after="+epoch+"-999999", 400, "cursor-invalid"),
			call("another epoch", "after=1-1", 409, "epoch-changed"),
			call("expired", "after="+epoch+"-0", 410, "cursor-expired"),
		)
		d.refuses(t, "Q4",
			call("no cursor", "after=", 400, "invalid-parameter"),
			call("unknown", "queue=a", 400, "invalid-parameter"),
			call("workflows are not there yet", "workflow_ids=x", 400, "invalid-parameter"),
			call("repeated", "types=job.dead&types=job.ready", 400, "invalid-parameter"),
			call("type", "types=Job.Dead", 400, "invalid-parameter"),
			call("star in front", "types=*.dead", 400, "invalid-parameter"),
			call("queue", "queues="+url.QueryEscape("a/b' or 1=1--"), 400, "invalid-parameter"),
			call("empty value", "kinds=a,", 400, "invalid-parameter"),
			call("id", "job_ids=abc", 400, "invalid-parameter"),
			call("tag", "tags="+strings.Repeat("t", 65), 400, "invalid-parameter"),
			call("many", "queues="+strings.Repeat("a,", 200)+"a", 400, "invalid-parameter"),
			call("include", "include=result", 400, "invalid-parameter"),
		)
		d.refuses(t, "A2", call("payload", "include=payload", 403, "forbidden", viewer))
	}
	page := func(query string) row {
		return row{name: query, method: http.MethodGet, path: "/events?" + query, status: 400, problem: "invalid-parameter"}
	}
	d.refuses(t, "Q4", page("limit=0"), page("limit=-1"), page("limit=1001"), page("limit=abc"), page("wait=61s"), page("wait=-1s"),
		page("wait=5"), page("until=latest"))
	lines := func(query string, status int, problem string) row {
		return row{name: query, method: http.MethodGet, path: "/events?" + query, status: status, problem: problem,
			with: []with{header("Accept", "application/x-ndjson")}}
	}
	d.refuses(t, "W6", lines("until=x", 400, "cursor-invalid"), lines("until="+epoch+"-99", 400, "cursor-invalid"),
		lines("until=earliest", 400, "invalid-parameter"), lines("after=latest&until="+epoch+"-1", 400, "invalid-parameter"),
		lines("limit=5", 400, "invalid-parameter"))
	last := func(name string, ids ...string) row {
		return row{name: "Last-Event-ID " + name, method: http.MethodGet, path: "/events?after=latest", status: 400, problem: "cursor-invalid",
			with: []with{header("Accept", "text/event-stream"), func(r *http.Request) { r.Header["Last-Event-Id"] = ids }}}
	}
	twice := last("twice", "1-1", "1-1")
	twice.problem = "invalid-parameter"
	d.refuses(t, "W6", last("malformed", "x"), twice)
	body := d.get("/events?after=1-1").problem(http.StatusConflict, "epoch-changed")
	require.Equal(t, json.Number(epoch), body["epoch"])
	body = d.get("/events?after="+epoch+"-0").problem(http.StatusGone, "cursor-expired")
	require.Equal(t, epoch+"-1", body["floor"])
}

// A2, E14: a key that is held to queues sees their events and nothing else, history and live.
func TestA2BoundKeySeesItsQueuesInTheLog(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.mixed()
	key := bearer(d.key(`"scopes":["read"],"queues":["mail"]`))
	_, err := jobs.RegisterWorker(t.Context(), d.pool, jobs.Worker{Name: "w", Queues: map[string]int{"mail": 1}, Slots: 1})
	require.NoError(t, err)
	d.settled(85)
	all, _ := d.poll("limit=1000", "earliest")
	var want []logged
	var hidden []string
	for _, e := range all {
		if e.Queue == "mail" {
			want = append(want, e)
		} else {
			hidden = append(hidden, e.Type)
		}
	}
	for _, of := range []string{"job.dead", "queue.created", "key.created", "worker.online"} {
		require.Contains(t, hidden, of, "there is something to hide")
	}
	got, _ := d.poll("limit=13", "earliest", key)
	require.Equal(t, want, got)
	require.Equal(t, want, linesOf(t, d.get("/events?after=earliest", header("Accept", "application/x-ndjson"), key).raw))
	for _, query := range []string{"queues=video", "types=worker.*,key.*"} {
		got, _ = d.poll(query, "earliest", key)
		require.Empty(t, got, query)
	}
	stream := d.sse(t, "after=earliest", key)
	for _, e := range want {
		require.Equal(t, e, stream.event())
	}
	polled := make(chan *answer, 1)
	go func() { polled <- d.get("/events?wait=60s", key) }()
	d.resting(2)
	d.enqueue(`{"queue":"video"}`)
	d.enqueue(`{"queue":"mail"}`)
	require.Equal(t, "mail", stream.event().Queue)
	require.Equal(t, "mail", pgtest.Receive(t, polled, eventLimit, "the answer").page().events[0].Queue)
	d.get("/events?after=earliest&include=payload", key).problem(http.StatusForbidden, "forbidden")
}

func TestStreamsAreMeasured(t *testing.T) {
	t.Parallel()
	numbers := prometheus.NewRegistry()
	d := setup(t, func(c *api.Config) { c.Registerer = numbers })
	d.enqueue(`{"queue":"a"}`)
	d.settled(2)
	d.get("/events?after=earliest").page()
	stream := d.sse(t, "after=earliest")
	stream.event()
	stream.event()
	d.get("/events?after=earliest", header("Accept", "application/x-ndjson")).is(http.StatusOK)
	pgtest.Eventually(t, eventLimit, "all are counted", func() bool {
		return maps.Equal(map[string]float64{"http": 2, "sse": 2, "ndjson": 2}, transports(t, numbers, "miniasynq_stream_events_sent_total"))
	})
	require.Equal(t, map[string]float64{"http": 0, "sse": 1, "ndjson": 0}, transports(t, numbers, "miniasynq_stream_subscribers"))
}

// transports reads a metric by its label transport.
func transports(t testing.TB, numbers *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := numbers.Gather()
	require.NoError(t, err)
	out := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "transport" {
					out[label.GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
	}
	return out
}
