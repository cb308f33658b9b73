package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func (d *door) putConsumer(name, body string, options ...with) *answer {
	d.t.Helper()
	return d.send(http.MethodPut, "/api/v1/admin/consumers/"+name, body, append([]with{asAdmin}, options...)...)
}

// consumer is what GET /consumers/:name says of one field.
func (d *door) consumer(name, field string) any {
	d.t.Helper()
	return d.get("/consumers/" + name).is(http.StatusOK).object()[field]
}

// lapse lets all claims be over.
func (d *door) lapse() {
	d.t.Helper()
	_, err := d.pool.Exec(d.t.Context(), `UPDATE mini_asynq.consumers SET held_until = clock_timestamp()`)
	require.NoError(d.t, err)
}

func (d *door) ack(name, reader, cursor string) *answer {
	d.t.Helper()
	return d.post("/consumers/"+name+"/ack", `{"reader":"`+reader+`","cursor":"`+cursor+`"}`)
}

// TestCrashBetweenReadAndAckLosesNothing: poll, process, acknowledge, crash; another reader takes over at another node.
func TestCrashBetweenReadAndAckLosesNothing(t *testing.T) {
	t.Parallel()
	d := setup(t)
	other := setupOn(t, d.dsn)
	_, n := d.mixed()
	d.settled(n + 3)
	other.settled(n + 3)
	made := d.putConsumer("billing", `{"after":"earliest","filter":{"queues":["mail","video"],"types":"job.*"},"reason":"why"}`).is(http.StatusCreated)
	require.Equal(t, "/api/v1/consumers/billing", made.header.Get("Location"))
	require.Equal(t, map[string]any{"queues": []any{"mail", "video"}, "types": []any{"job.*"}}, made.object()["filter"])
	want, _ := d.poll("limit=1000&queues=mail,video&types=job.*", "earliest")

	var got []logged
	doors, readers, turn := []*door{d, other}, []string{"a", "b"}, 0
	for {
		at, reader := doors[turn%2], readers[turn%2]
		p := at.get("/consumers/billing/events?limit=7&reader=" + reader).page()
		if len(p.events) == 0 {
			require.True(t, p.CaughtUp)
			break
		}
		if turn%3 == 2 {
			// This one dies before it acknowledges; the other one has to wait, and then gets the same.
			d2, second := doors[(turn+1)%2], readers[(turn+1)%2]
			busy := d2.get("/consumers/billing/events?reader=" + second)
			body := busy.problem(http.StatusConflict, "consumer-busy")
			require.Equal(t, reader, body["reader"])
			require.Regexp(t, `^(30|2\d|1\d)s$`, body["free_in"])
			require.NotEmpty(t, busy.header.Get("Retry-After"))
			d.lapse()
			again := d2.get("/consumers/billing/events?limit=7&reader=" + second).page()
			require.Equal(t, p.events, again.events)
			body = at.ack("billing", reader, p.Cursor).problem(http.StatusConflict, "consumer-busy")
			require.Equal(t, second, body["reader"])
			turn++
			at, reader = d2, second
		}
		got = append(got, p.events...)
		at.ack("billing", reader, p.Cursor).is(http.StatusNoContent)
		at.ack("billing", reader, p.Cursor).is(http.StatusNoContent)
		at.ack("billing", reader, got[0].Cursor).is(http.StatusNoContent) // an older one changes nothing
		require.Equal(t, p.Cursor, d.consumer("billing", "cursor"))
		d.lapse()
		turn++
	}
	require.Equal(t, want, got)
	require.Equal(t, json.Number("0"), d.consumer("billing", "lag_events"), "what the filter held back needs no acknowledgement")
}

// TestHeadClaimsNoConsumer: a HEAD changes nothing, so the reader who asks after it finds the consumer free.
func TestHeadClaimsNoConsumer(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.putConsumer("billing", `{"after":"earliest"}`).is(http.StatusCreated)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, d.url+"/api/v1/consumers/billing/events?reader=a", http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
	require.Equal(t, http.MethodGet, response.Header.Get("Allow"))
	d.get("/consumers/billing/events?reader=b").is(http.StatusOK)
}

func TestReadingAheadNeedsTheClaim(t *testing.T) {
	t.Parallel()
	d := setup(t)
	_, n := d.mixed()
	d.settled(n + 3)
	d.putConsumer("c", `{"after":"earliest"}`)
	first := d.get("/consumers/c/events?reader=a&limit=2").page()
	ahead := d.get("/consumers/c/events?reader=a&limit=2&after=" + first.Cursor).page()
	require.Equal(t, first.events[1].Seq+1, ahead.events[0].Seq)
	require.Equal(t, first, d.get("/consumers/c/events?reader=a&limit=2").page(), "nothing was acknowledged")
	d.get("/consumers/c/events?reader=b&after="+first.Cursor).problem(http.StatusConflict, "consumer-busy")
	d.post("/admin/consumers/c/reset", `{"to":"latest"}`, asAdmin).is(http.StatusOK)
	body := d.get("/consumers/c/events?reader=a&after="+ahead.Cursor).problem(http.StatusConflict, "consumer-busy")
	require.Nil(t, body["reader"])
	require.Equal(t, "0s", body["free_in"])
	body = d.ack("c", "a", ahead.Cursor).problem(http.StatusConflict, "consumer-busy")
	require.Equal(t, "0s", body["free_in"])
	require.Empty(t, d.get("/consumers/c/events?reader=a").page().events)
}

func TestParkedConsumersWakeForTheirFilterAndAskNothing(t *testing.T) {
	t.Parallel()
	var statements atomic.Int64
	d := setup(t, func(c *api.Config) { c.DB, c.Work = countedDB{c.DB, &statements}, nil })
	_, err := jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "a"}, jobs.Params{Queue: "b"})
	require.NoError(t, err)
	d.settled(4)
	answers := map[string]chan *answer{"a": make(chan *answer, 1), "b": make(chan *answer, 1)}
	for name, answer := range answers {
		d.putConsumer(name, `{"filter":{"queues":"`+name+`","types":"job.*"}}`).is(http.StatusCreated)
		go func() { answer <- d.get("/consumers/" + name + "/events?reader=r&wait=60s") }()
	}
	d.resting(2)
	before := statements.Load()
	_, err = jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "a"})
	require.NoError(t, err)
	p := pgtest.Receive(t, answers["a"], 5*time.Second, "the answer").page()
	require.Equal(t, "a", p.events[0].Queue)
	d.resting(1)
	require.Equal(t, before+1, statements.Load(), "to settle the one claim; the other one sleeps on")

	// While it waits it holds the consumer, and afterwards no longer than any other.
	require.Contains(t, d.consumer("b", "free_in"), "1m")
	require.Regexp(t, `^(30|2\d)s$`, d.consumer("a", "free_in"))
	d.get("/consumers/b/events?reader=x").problem(http.StatusConflict, "consumer-busy")
	// A reset under a parked reader: he is told, and given nothing.
	d.post("/admin/consumers/b/reset", `{"to":"earliest"}`, asAdmin).is(http.StatusOK)
	_, err = jobs.Enqueue(t.Context(), d.pool, jobs.Params{Queue: "b"})
	require.NoError(t, err)
	pgtest.Receive(t, answers["b"], 5*time.Second, "the answer").problem(http.StatusConflict, "consumer-busy")
	require.Len(t, d.get("/consumers/b/events?reader=r").page().events, 2)
}

func TestReaderWhoHangsUpLetsTheConsumerGoInTime(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.settled(0)
	d.putConsumer("c", `{}`).is(http.StatusCreated)
	ctx, hangUp := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		r := must(http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/api/v1/consumers/c/events?reader=r&wait=60s", nil))
		if response, err := d.client.Do(r); err == nil {
			_ = response.Body.Close()
		}
	}()
	d.resting(1)
	require.Contains(t, d.consumer("c", "free_in"), "1m")
	hangUp()
	<-over
	pgtest.Eventually(t, eventLimit, "the claim is as short as any", func() bool {
		return !strings.Contains(d.consumer("c", "free_in").(string), "m")
	})
	require.Equal(t, "r", d.consumer("c", "reader"))
}

func TestDrainAnswersParkedConsumers(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.putConsumer("c", `{}`).is(http.StatusCreated)
	answers := make(chan *answer, 1)
	go func() { answers <- d.get("/consumers/c/events?reader=r&wait=60s") }()
	d.resting(1)
	d.server.Drain()
	require.True(t, pgtest.Receive(t, answers, 5*time.Second, "the answer").page().CaughtUp)
	d.ack("c", "r", must(d.stream.Head()).String()).problem(http.StatusServiceUnavailable, "draining")
}

func TestConsumerIsToldWhatWasLost(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for n := range 3 {
		d.enqueue(`{"queue":"a"}`)
		d.settled(n + 2)
	}
	d.putConsumer("c", `{"after":"earliest"}`).is(http.StatusCreated)
	_, err := d.pool.Exec(t.Context(), `
		WITH old AS (DELETE FROM mini_asynq.ticks WHERE first_seq <= 2 RETURNING first_seq + n - 1 AS last)
		UPDATE mini_asynq.epochs SET floor_seq = (SELECT max(last) FROM old)`)
	require.NoError(t, err)
	require.Equal(t, "cursor_expired", d.consumer("c", "problem"))
	other := setupOn(t, d.dsn)
	body := other.get("/consumers/c/events?reader=r").problem(http.StatusGone, "cursor-expired")
	require.Equal(t, other.stream.Floor().String(), body["floor"])
	reset := other.post("/admin/consumers/c/reset", `{"to":"earliest"}`, asAdmin).is(http.StatusOK).object()
	require.Equal(t, body["floor"], reset["cursor"])
	require.Nil(t, reset["problem"])
	p := other.get("/consumers/c/events?reader=r&limit=1000").page()
	require.NotEmpty(t, p.events)

	var epoch json.Number
	require.NoError(t, d.pool.QueryRow(t.Context(), `
		INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
		SELECT epoch + 1, pg_current_snapshot(), 9, 9, identity FROM mini_asynq.epochs RETURNING epoch::text`).Scan(&epoch))
	other.stream.Missed()
	pgtest.Eventually(t, eventLimit, "the node is in the new epoch", func() bool {
		return must(other.stream.Head()).Seq == 9
	})
	require.Equal(t, epoch, other.get("/consumers/c/events?reader=r").problem(http.StatusConflict, "epoch-changed")["epoch"])
	require.Equal(t, epoch, other.ack("c", "r", p.Cursor).problem(http.StatusConflict, "epoch-changed")["epoch"])
	lost := other.get("/consumers/c").is(http.StatusOK).object()
	require.Equal(t, []any{"epoch_changed", nil, nil}, []any{lost["problem"], lost["lag_events"], lost["lag_seconds"]})
	other.post("/admin/consumers/c/reset", `{"to":"`+p.Cursor+`"}`, asAdmin).problem(http.StatusConflict, "epoch-changed")
	other.post("/admin/consumers/c/reset", `{"to":"latest"}`, asAdmin).is(http.StatusOK)
	require.Empty(t, other.get("/consumers/c/events?reader=r").page().events)

	// A node that has not heard of the new epoch yet takes nothing for lost.
	d.get("/consumers/c/events?reader=r").problem(http.StatusServiceUnavailable, "unavailable")
	d.stream.Missed()
	pgtest.Eventually(t, eventLimit, "the first node is in the new epoch", func() bool {
		return must(d.stream.Head()).Seq == 9
	})
	require.Empty(t, d.get("/consumers/c/events?reader=r").page().events)
}

// TestKeyOfSomeQueuesHasOnlyConsumersOfThose: to acknowledge is to do so for whoever reads the consumer, so what a key may
// not see whole it does not see.
func TestKeyOfSomeQueuesHasOnlyConsumersOfThose(t *testing.T) {
	t.Parallel()
	d := setup(t)
	_, n := d.mixed()
	d.settled(n + 3)
	key := bearer(d.key(`"scopes":["read","operate"],"queues":["mail"]`))
	for name, filter := range map[string]string{"all": `{}`, "wild": `{"queues":["mail*"]}`, "both": `{"queues":["mail","video"]}`} {
		d.putConsumer(name, `{"after":"earliest","filter":`+filter+`}`).is(http.StatusCreated)
		d.get("/consumers/"+name, key).problem(http.StatusNotFound, "not-found")
		d.get("/consumers/"+name+"/events?reader=r", key).problem(http.StatusNotFound, "not-found")
		d.post("/consumers/"+name+"/ack", `{"reader":"r","cursor":"1-1"}`, key).problem(http.StatusNotFound, "not-found")
		d.post("/admin/consumers/"+name+"/reset", `{"to":"latest"}`, key).problem(http.StatusNotFound, "not-found")
		d.putConsumer(name, `{"filter":{"queues":["mail"]}}`, key).problem(http.StatusNotFound, "not-found")
		d.send(http.MethodDelete, "/api/v1/admin/consumers/"+name, "", key).problem(http.StatusNotFound, "not-found")
		d.putConsumer("mine", `{"filter":`+filter+`}`, key).problem(http.StatusUnprocessableEntity, "validation-failed")
	}
	d.putConsumer("mine", `{"after":"earliest","filter":{"queues":["mail"]}}`, key).is(http.StatusCreated)
	require.Len(t, d.get("/consumers").data(), 4)
	require.Len(t, d.get("/consumers", key).data(), 1)
	want, _ := d.poll("limit=1000&queues=mail", "earliest")
	p := d.get("/consumers/mine/events?reader=r&limit=1000", key).page()
	require.Equal(t, want, p.events)
	d.post("/consumers/mine/ack", `{"reader":"r","cursor":"`+p.Cursor+`"}`, key).is(http.StatusNoContent)
	d.putConsumer("mine", `{}`).is(http.StatusOK) // by the operator
	d.get("/consumers/mine/events?reader=r", key).problem(http.StatusNotFound, "not-found")
}

func TestConsumersGivePayloadsToThoseWhoMayReadThem(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.putConsumer("c", `{"filter":{"queues":["a"],"types":["job.enqueued"]}}`)
	d.enqueue(`{"queue":"a","payload":{"x":1}}`)
	viewer := bearer(d.key(`"role":"viewer"`))
	body := d.get("/consumers/c/events?reader=r&include=payload", viewer).problem(http.StatusForbidden, "forbidden")
	require.Equal(t, "read:payload", body["required_scope"])
	require.Nil(t, d.consumer("c", "reader"), "who is refused has no claim")
	p := d.get("/consumers/c/events?reader=r&include=payload&wait=20s").page()
	require.Contains(t, p.events[0].raw, `"payload":{"x": 1}`)
	require.NotContains(t, d.get("/consumers/c/events?reader=r", viewer).page().events[0].raw, "payload")
}

func TestWhatOperatorsDoToConsumersIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.putConsumer("c", `{"filter":{"queues":["a"]},"reason":"one"}`).is(http.StatusCreated)
	d.putConsumer("c", `{"reason":"two"}`).is(http.StatusOK)
	d.post("/admin/consumers/c/reset", `{"to":"earliest","reason":"three"}`, asAdmin).is(http.StatusOK)
	d.send(http.MethodDelete, "/api/v1/admin/consumers/c", `{"reason":"four"}`, asAdmin).is(http.StatusNoContent)
	d.send(http.MethodDelete, "/api/v1/admin/consumers/c", "", asAdmin).problem(http.StatusNotFound, "not-found")
	lines := d.get("/admin/audit?target=c", asAdmin).data()
	require.Len(t, lines, 4)
	for i, want := range [][2]string{{"consumer.delete", "four"}, {"consumer.reset", "three"}, {"consumer.update", "two"}, {"consumer.create", "one"}} {
		line := lines[i].(map[string]any)
		require.Equal(t, want, [2]string{line["action"].(string), line["reason"].(string)})
		require.Equal(t, "basic:admin", line["actor"])
	}
	update := lines[2].(map[string]any)
	require.Equal(t, map[string]any{"filter": map[string]any{"queues": []any{"a"}}}, update["before"])
	require.Equal(t, map[string]any{"filter": map[string]any{}}, update["after"])
}

// badConsumers are the rows of the matrix that consumers add.
func (d *door) badConsumers(t *testing.T) {
	t.Helper()
	d.putConsumer("c", `{}`).is(http.StatusCreated)
	head := must(d.stream.Head())
	head.Seq += 1_000_000
	ahead := head.String()
	put := func(name, body string, status int, pointer string) row {
		return row{name: name, method: http.MethodPut, path: "/admin/consumers/c", body: body, with: []with{asAdmin}, status: status, pointer: pointer}
	}
	call := func(name, path, body string, status int, pointer string) row {
		return row{name: name, path: path, body: body, with: []with{asAdmin}, status: status, pointer: pointer}
	}
	problem := func(r row, name string) row { r.problem = name; return r }
	const reset, ack = "/admin/consumers/c/reset", "/consumers/c/ack"
	d.refuses(t, "B",
		put("null", `null`, 400, ""), put("array", `[]`, 400, ""), put("unknown", `{"x":1}`, 400, "/x"),
		put("unknown field of the filter", `{"filter":{"queue":"a"}}`, 400, "/filter/queue"),
		put("a filter that is text", `{"filter":"a"}`, 400, "/filter"),
		put("a number in it", `{"filter":{"queues":[1]}}`, 400, "/filter/queues/0"),
		put("null in it", `{"filter":{"queues":[null]}}`, 400, "/filter/queues/0"),
		put("nothing in it", `{"filter":{"queues":[]}}`, 422, "/filter/queues"),
		put("an empty name", `{"filter":{"queues":""}}`, 422, "/filter/queues"),
		put("a bad name", `{"filter":{"queues":["a/b"]}}`, 422, "/filter/queues"),
		put("a bad type", `{"filter":{"types":["Job"]}}`, 422, "/filter/types"),
		put("a bad id", `{"filter":{"job_ids":["1"]}}`, 422, "/filter/job_ids"),
		put("a long tag", `{"filter":{"tags":["`+strings.Repeat("a", 65)+`"]}}`, 422, "/filter/tags"),
		put("NUL in a tag", `{"filter":{"tags":["a\u0000"]}}`, 422, "/filter/tags/0"),
		put("too many", `{"filter":{"tags":["a"`+strings.Repeat(`,"a"`, 200)+`]}}`, 422, "/filter/tags"),
		put("a time to begin at", `{"after":"2026-03-01T12:00:00Z"}`, 422, "/after"),
		put("no cursor", `{"after":"01-2"}`, 422, "/after"), put("a number", `{"after":7}`, 400, "/after"),
		put("a long reason", `{"reason":"`+strings.Repeat("a", 1025)+`"}`, 422, "/reason"),
		call("no target", reset, `{}`, 422, "/to"), call("a null target", reset, `{"to":null}`, 422, "/to"),
		call("a bad target", reset, `{"to":"yesterday"}`, 422, "/to"), call("no zone", reset, `{"to":"2026-03-01T12:00:00"}`, 422, "/to"),
		call("a year that PostgreSQL has not", reset, `{"to":"0000-01-01T00:00:00Z"}`, 422, "/to"),
		call("a time ahead", reset, `{"to":"9999-03-01T12:00:00Z"}`, 422, "/to"),
		problem(call("ahead of the log", reset, `{"to":"`+ahead+`"}`, 400, "-"), "cursor-invalid"),
		problem(call("of another history", reset, `{"to":"1-1"}`, 409, "-"), "epoch-changed"),
		call("nothing said", ack, `{}`, 422, "/reader"), call("no cursor", ack, `{"reader":"r"}`, 422, "/cursor"),
		call("a bad reader", ack, `{"reader":"a b","cursor":"1-1"}`, 422, "/reader"),
		call("a word for a cursor", ack, `{"reader":"r","cursor":"latest"}`, 422, "/cursor"),
		problem(call("ahead of the log", ack, `{"reader":"r","cursor":"`+ahead+`"}`, 400, "-"), "cursor-invalid"),
		problem(call("of another history", ack, `{"reader":"r","cursor":"1-1"}`, 409, "-"), "epoch-changed"),
		problem(call("nobody has read", ack, `{"reader":"r","cursor":"`+must(d.stream.Head()).String()+`"}`, 409, "-"), "consumer-busy"),
		row{name: "no media type", path: ack, status: 415},
	)
	get := func(path string, status int) row {
		r := row{name: path, method: http.MethodGet, path: "/consumers" + path, status: status, pointer: "-"}
		if status == 400 {
			r.problem = "invalid-parameter"
		}
		return r
	}
	d.refuses(t, "Q",
		get("?limit=1", 400), get("/c?x=1", 400), get("/a%20b", 400), get("/none", 404), get("/c%00", 400),
		get("/"+strings.Repeat("a", 256), 400), get("/none/events?reader=r", 404),
		get("/c/events", 400), get("/c/events?reader=", 400), get("/c/events?reader=a%20b", 400), get("/c/events?reader=r&reader=r", 400),
		get("/c/events?reader=r&limit=0", 400), get("/c/events?reader=r&limit=1001", 400), get("/c/events?reader=r&wait=61s", 400),
		get("/c/events?reader=r&include=result", 400), get("/c/events?reader=r&after=earliest", 400), get("/c/events?reader=r&queues=a", 400),
	)
	d.get("/consumers/c/events?reader=r").page()
	d.get("/consumers/c/events?reader=r&after=x").problem(http.StatusBadRequest, "cursor-invalid")
	d.get("/consumers/c/events?reader=r&after="+ahead).problem(http.StatusBadRequest, "cursor-invalid")
}
