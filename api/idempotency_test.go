package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func key(k string) with { return header("Idempotency-Key", k) }

// F10.1, K2: 100 at once.
func TestHundredEqualPostsOnTwoNodesMakeOneJob(t *testing.T) {
	t.Parallel()
	d := setup(t)
	nodes := []*door{d, setupOn(t, d.dsn)}
	answers := make([]*answer, 100)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			// Lanes are bounded and so is the wait for a key: an honest client tries again.
			for {
				a := nodes[i%2].post("/jobs", `{"queue":"once","payload":{"n":1}}`, key("welcome-42"))
				if a.status != http.StatusConflict && a.status != http.StatusServiceUnavailable {
					answers[i] = a
					return
				}
			}
		})
	}
	all.Wait()
	first := 0
	for _, a := range answers {
		a.is(http.StatusCreated)
		require.Equal(t, string(answers[0].raw), string(a.raw))
		require.Equal(t, answers[0].header.Get("Location"), a.header.Get("Location"))
		require.Equal(t, `"v1"`, a.header.Get("ETag"))
		if a.header.Get("Idempotency-Replayed") == "" {
			first++
		}
	}
	require.Equal(t, 1, first)
	require.Len(t, d.get("/jobs?queue=once").data(), 1)
}

// F10.3, K2.
func TestReplayIsTheFirstAnswerWhateverBecameOfTheJob(t *testing.T) {
	t.Parallel()
	d := setup(t)
	body := `{"queue":"replay","payload":{"a":1,"b":[1.0,2]},"tags":["x"]}`
	first := d.post("/jobs", body, key("k1")).is(http.StatusCreated)
	require.Equal(t, "k1", first.text("idempotency_key"))
	require.Empty(t, first.header.Get("Idempotency-Replayed"))
	d.finish(jobs.Complete(&d.claim("replay").Job, nil))
	d.send(http.MethodDelete, "/api/v1/admin/jobs/"+first.text("id"), "", asAdmin).is(http.StatusNoContent)
	for _, again := range []*answer{
		d.post("/jobs", body, key("k1")),
		d.post("/jobs", `{ "tags":["x"], "payload":{"b":[1.0,2],"a":1}, "queue":"replay" }`, key("k1")), // another order
		d.post("/jobs", `{"queue":"replay","payload":{"a":1,"b":[1.0,2]},"tags":["x"],"idempotency_key":"k1"}`),
		d.post("/jobs", `{"queue":"replay","payload":{"a":1,"b":[1.0,2]},"tags":["x"],"idempotency_key":"k1"}`, key("k1")),
	} {
		again.is(http.StatusCreated)
		require.Equal(t, string(first.raw), string(again.raw))
		require.Equal(t, "true", again.header.Get("Idempotency-Replayed"))
		require.Equal(t, first.header.Get("Location"), again.header.Get("Location"))
	}
	before := d.rows()
	d.post("/jobs", `{"queue":"replay","payload":{"a":2}}`, key("k1")).problem(http.StatusUnprocessableEntity, "idempotency-reused")
	d.post("/jobs/batch", `{"jobs":[`+body+`]}`, key("k1")).problem(http.StatusUnprocessableEntity, "idempotency-reused")
	require.Equal(t, before, d.rows())

	// A refused request leaves no key behind.
	d.post("/jobs", `{"queue":"replay","max_retries":-1}`, key("k2")).problem(http.StatusUnprocessableEntity, "validation-failed")
	d.post("/jobs", `{"queue":"replay"}`, key("k2")).is(http.StatusCreated)

	// An expired one is free.
	must(d.pool.Exec(t.Context(), `UPDATE mini_asynq.idempotency_keys SET expires_at = clock_timestamp() WHERE key = 'k2'`))
	fresh := d.post("/jobs", `{"queue":"another"}`, key("k2")).is(http.StatusCreated)
	require.Empty(t, fresh.header.Get("Idempotency-Replayed"))
}

func TestOneKeyCoversABatchAndItemsMayHaveTheirOwn(t *testing.T) {
	t.Parallel()
	d := setup(t)
	body := `{"jobs":[{"queue":"b"},{"queue":"b","idempotency_key":"item"}]}`
	first := d.post("/jobs/batch", body, key("batch")).is(http.StatusCreated)
	again := d.post("/jobs/batch", body, key("batch")).is(http.StatusCreated)
	require.Equal(t, string(first.raw), string(again.raw))
	require.Equal(t, "true", again.header.Get("Idempotency-Replayed"))
	// Without the batch's key only the item with its own is a repeat.
	second := d.post("/jobs/batch", body).is(http.StatusCreated).data()
	require.Equal(t, first.data()[1].(map[string]any)["id"], second[1].(map[string]any)["id"])
	require.NotEqual(t, first.data()[0].(map[string]any)["id"], second[0].(map[string]any)["id"])
	require.Equal(t, "b", second[1].(map[string]any)["queue"])
	require.Len(t, d.get("/jobs?queue=b").data(), 3)
	d.post("/jobs/batch", `{"jobs":[{"queue":"c","idempotency_key":"item"}]}`).
		problem(http.StatusUnprocessableEntity, "idempotency-reused")
}

func TestKeyOfAnotherDoorIsAnsweredFromTheJob(t *testing.T) {
	t.Parallel()
	d := setup(t)
	var id string
	err := d.pool.QueryRow(t.Context(), `SELECT mini_asynq.enqueue('sql', '{"a":1}', NULL, '{"idempotency_key":"shared"}')::text`).Scan(&id)
	require.NoError(t, err)
	a := d.post("/jobs", `{"queue":"sql","payload":{"a":1}}`, key("shared")).is(http.StatusCreated)
	require.Equal(t, id, a.text("id"))
	require.Equal(t, "true", a.header.Get("Idempotency-Replayed"))
	require.Equal(t, "sql", a.text("source"))
}

func (d *door) badKeys(t *testing.T) {
	t.Helper()
	long := strings.Repeat("k", 256)
	for _, bad := range []string{"", long, "a\tb", "\xff", "a\u00adb"} {
		name := fmt.Sprintf("%.8q", bad)
		d.refuses(t, "K1",
			row{name: "header " + name, body: `{}`, status: 400, problem: "invalid-parameter", with: []with{key(bad)}},
			row{name: "batch " + name, path: "/jobs/batch", body: `{"jobs":[{}]}`, status: 400, problem: "invalid-parameter",
				with: []with{key(bad)}})
	}
	for _, bad := range []string{"", long, `a\nb`, `\u0000`} {
		d.refuses(t, "K1", row{name: fmt.Sprintf("field %.8q", bad), body: `{"idempotency_key":"` + bad + `"}`, status: 422,
			pointer: "/idempotency_key"})
	}
	d.refuses(t, "K1",
		row{name: "different", body: `{"idempotency_key":"a"}`, status: 400, problem: "invalid-parameter", with: []with{key("b")}},
		row{name: "twice", body: `{}`, status: 400, problem: "invalid-parameter",
			with: []with{func(r *http.Request) { r.Header["Idempotency-Key"] = []string{"a", "a"} }}})
	d.post("/jobs", `{}`, key(strings.Repeat("ü", 255))).is(http.StatusCreated)
}

func TestK2FirstRequestStillInFlight(t *testing.T) {
	t.Parallel()
	d := setup(t)
	tx := must(d.pool.Begin(t.Context()))
	must(tx.Exec(t.Context(), `SELECT mini_asynq.enqueue('a', '{}', NULL, '{"idempotency_key":"busy"}')`))
	started := time.Now()
	a := d.post("/jobs", `{"queue":"a"}`, key("busy"))
	a.problem(http.StatusConflict, "idempotency-in-flight")
	require.NotEmpty(t, a.header.Get("Retry-After"))
	require.GreaterOrEqual(t, time.Since(started), 1900*time.Millisecond)
	d.post("/jobs", `{"queue":"a"}`).is(http.StatusCreated) // nobody else waits
	require.NoError(t, tx.Rollback(t.Context()))
	d.post("/jobs", `{"queue":"a"}`, key("busy")).is(http.StatusCreated)
}

func TestIdempotencyTTLIsTheConfigured(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.IdempotencyTTL = time.Hour })
	d.post("/jobs", `{}`, key("ttl")).is(http.StatusCreated)
	var left time.Duration
	err := d.pool.QueryRow(t.Context(), `SELECT expires_at - clock_timestamp() FROM mini_asynq.idempotency_keys`).Scan(&left)
	require.NoError(t, err)
	require.InDelta(t, time.Hour.Seconds(), left.Seconds(), 60)
}
