package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestEnqueuedJobIsToldWithoutItsPayload(t *testing.T) {
	t.Parallel()
	d := setup(t)
	a := d.post("/jobs", `{"queue":"mail","kind":"email.send","payload":{"to":"a@example.com"},"priority":"high",
		"max_retries":2,"timeout":"90s","tags":["welcome"],"metadata":{"who":"me"}}`).is(http.StatusCreated)
	job := a.object()
	id := a.text("id")
	require.Equal(t, "/api/v1/jobs/"+id, a.header.Get("Location"))
	require.Equal(t, `"v1"`, a.header.Get("ETag"))
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	require.NotContains(t, job, "payload")
	for name, want := range map[string]any{
		"queue": "mail", "kind": "email.send", "priority": "high", "status": "pending", "timeout": "1m30s",
		"max_retries": json.Number("2"), "attempts_left": json.Number("3"), "attempt": json.Number("0"),
		"version": json.Number("1"), "source": "api", "fence": nil, "locked_by": nil, "reason": nil, "error": nil,
		"started_at": nil, "tags": []any{"welcome"}, "metadata": map[string]any{"who": "me"},
		"cloned_from": nil, "allowed_actions": []any{"cancel", "patch", "clone"},
	} {
		require.Equal(t, want, job[name], name)
	}
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`, job["created_at"])

	got := d.get("/jobs/" + id).is(http.StatusOK)
	require.Equal(t, map[string]any{"to": "a@example.com"}, got.object()["payload"])
	d.get("/jobs/"+id, header("If-None-Match", `W/"v1"`)).is(http.StatusNotModified)
	d.get("/jobs/"+strings.ToUpper(id), header("If-None-Match", `"v2", "v3"`)).is(http.StatusOK)
	head := d.send(http.MethodHead, "/api/v1/jobs/"+id, "").is(http.StatusOK)
	require.Empty(t, head.raw)
}

func TestDefaultsOfAnEmptyJob(t *testing.T) {
	t.Parallel()
	d := setup(t)
	job := d.post("/jobs", `{}`).is(http.StatusCreated).object()
	require.Equal(t, "default", job["queue"])
	require.Equal(t, "default", job["kind"])
	require.Equal(t, "normal", job["priority"])
	require.Nil(t, job["timeout"])
	got := d.get("/jobs/" + job["id"].(string)).object()
	require.Equal(t, map[string]any{}, got["payload"])
	require.Equal(t, "null", string(must(json.Marshal(
		d.get("/jobs/" + d.enqueue(`{"payload":null,"queue":null}`)).object()["payload"]))))
}

func TestDelayedJobsAreScheduled(t *testing.T) {
	t.Parallel()
	d := setup(t)
	job := d.post("/jobs", `{"delay":"1d12h"}`).is(http.StatusCreated).object()
	require.Equal(t, "scheduled", job["status"])
	at := must(time.Parse(time.RFC3339, job["run_at"].(string)))
	require.WithinDuration(t, time.Now().Add(36*time.Hour), at, time.Minute)
	require.Equal(t, []any{"run-now", "cancel", "patch", "clone"}, job["allowed_actions"])
	// The past is now: nobody jumps the line.
	job = d.post("/jobs", `{"run_at":"2001-02-03T04:05:06+02:00"}`).is(http.StatusCreated).object()
	require.Equal(t, "pending", job["status"])
	require.Equal(t, job["created_at"], job["run_at"])
}

func TestBatchIsStoredInOrder(t *testing.T) {
	t.Parallel()
	d := setup(t)
	a := d.post("/jobs/batch", `{"jobs":[{"queue":"a"},{"queue":"b","delay":"1h"},{}]}`).is(http.StatusCreated)
	lines := a.data()
	require.Len(t, lines, 3)
	for i, want := range []string{"a", "b", "default"} {
		line := lines[i].(map[string]any)
		require.Equal(t, want, line["queue"])
		require.Equal(t, want, d.get("/jobs/"+line["id"].(string)).text("queue"))
	}
	require.Equal(t, "scheduled", lines[1].(map[string]any)["status"])
}

func TestListsFilterSortAndPage(t *testing.T) {
	t.Parallel()
	d := setup(t)
	var ids []string
	for range 5 {
		ids = append(ids, d.enqueue(`{"queue":"list","tags":["x"],"metadata":{"tenant":"acme"},"payload":{"n":1}}`))
	}
	other := d.enqueue(`{"queue":"other_1"}`)

	seen := map[string]bool{}
	path := "/jobs?queue=list&limit=2&sort=created_at"
	for pages := 0; ; pages++ {
		require.Less(t, pages, 4)
		a := d.get(path).is(http.StatusOK)
		for _, item := range a.data() {
			id := item.(map[string]any)["id"].(string)
			require.Equal(t, ids[len(seen)], id)
			require.NotContains(t, item, "payload")
			seen[id] = true
		}
		require.NotEmpty(t, a.text("as_of"))
		next, more := a.object()["next_cursor"].(string)
		if !more {
			break
		}
		path = "/jobs?queue=list&limit=2&sort=created_at&cursor=" + next
	}
	require.Len(t, seen, 5)

	for filter, want := range map[string]int{
		"queue=list,other_1": 6, "queue=l*": 5, "tag=x": 5, "metadata.tenant=acme": 5, "metadata.tenant=other": 0,
		"id=" + other: 1, "status=pending&priority=normal": 6, "status=dead": 0, "kind=list": 5, "worker=w9": 0,
		"attempt_min=1": 0, "created_after=2001-01-01T00:00:00Z": 6, "created_before=2001-01-01T00:00:00Z": 0,
		"payload=%7B%22n%22:1%7D&queue=list": 5, "payload=%7B%22n%22:2%7D&queue=list": 0,
		"fingerprint=00": 0, "run_after=2001-01-01T00:00:00Z": 6, "finished_after=2001-01-01T00:00:00Z": 0,
	} {
		require.Len(t, d.get("/jobs?"+filter).is(http.StatusOK).data(), want, filter)
		require.Equal(t, json.Number(itoa(want)), d.get("/jobs/count?" + filter).is(http.StatusOK).object()["count"], filter)
	}
	withPayload := d.get("/jobs?queue=list&limit=1&include=payload,result,stack").is(http.StatusOK).data()
	require.Equal(t, map[string]any{"n": json.Number("1")}, withPayload[0].(map[string]any)["payload"])
}

func TestJobTellsItsLife(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id, job := d.running("life")
	got := d.get("/jobs/" + id + "?include=attempts").is(http.StatusOK).object()
	require.Equal(t, "running", got["status"])
	require.Equal(t, json.Number(itoa(int(job.Fence))), got["fence"])
	require.Equal(t, "w1", got["locked_by"])
	require.NotNil(t, got["lease_expires_at"])
	attempt := got["attempts"].([]any)[0].(map[string]any)
	require.Equal(t, "running", attempt["status"])
	require.Nil(t, attempt["run_seconds"])
	d.get("/jobs/" + id + "/result").is(http.StatusAccepted)

	d.finish(jobs.Fail(&job.Job, fails("life"), time.Hour))
	got = d.get("/jobs/" + id).object()
	require.Equal(t, "retrying", got["status"])
	require.Nil(t, got["fence"])
	require.Nil(t, got["reason"])
	require.Equal(t, "stack-text", got["error"].(map[string]any)["stack"])
	d.post("/admin/jobs/"+id+"/retry", "", asAdmin).is(http.StatusOK)

	d.finish(jobs.Complete(&d.claim("life").Job, json.RawMessage(`{"sent": true, "n": 1e2}`)))
	result := d.get("/jobs/" + id + "/result?wait=1s").is(http.StatusOK)
	require.JSONEq(t, `{"sent":true,"n":100}`, string(result.raw))
	attempts := d.get("/jobs/" + id + "/attempts?limit=1").is(http.StatusOK)
	require.Len(t, attempts.data(), 1)
	require.Equal(t, "1", attempts.text("next_cursor"))
	rest := d.get("/jobs/" + id + "/attempts?after=1").is(http.StatusOK)
	require.Nil(t, rest.object()["next_cursor"])
	second := rest.data()[0].(map[string]any)
	require.Equal(t, json.Number("2"), second["attempt_number"])
	require.Equal(t, "completed", second["status"])

	require.Eventually(t, func() bool { // the last event is published a tick after its commit
		a := d.get("/jobs/" + id + "/events?limit=1000").is(http.StatusOK)
		var types []string
		for _, e := range a.data() {
			types = append(types, e.(map[string]any)["type"].(string))
		}
		require.Equal(t, false, a.object()["truncated"])
		return strings.Join(types, " ") == "job.enqueued job.started job.retrying job.ready job.started job.completed"
	}, 10*time.Second, 10*time.Millisecond)
	page := d.get("/jobs/" + id + "/events?after=2&limit=2").is(http.StatusOK)
	require.Len(t, page.data(), 2)
	require.Equal(t, "4", page.text("next_cursor"))
}

func TestResultOfAJobThatHasNone(t *testing.T) {
	t.Parallel()
	d := setup(t)
	require.Empty(t, d.get("/jobs/"+d.completed("none", "")+"/result").is(http.StatusNoContent).raw)
	body := d.get("/jobs/"+d.dead("gone")+"/result").problem(http.StatusConflict, "result-unavailable")
	require.Equal(t, "dead", body["job_status"])
}

func TestOperatorsRetryCancelRunAndDelete(t *testing.T) {
	t.Parallel()
	d := setup(t)
	dead := d.dead("ops")
	require.Equal(t, []any{"retry", "clone", "delete"}, d.get("/jobs/" + dead).object()["allowed_actions"])
	require.Equal(t, "not_retryable", d.get("/jobs/" + dead).object()["reason"])
	a := d.post("/admin/jobs/"+dead+"/retry", `{"reason":"fixed","delay":"1h"}`, asAdmin).is(http.StatusOK)
	require.Equal(t, "scheduled", a.text("status"))
	require.Equal(t, json.Number("1"), a.object()["redrives"])
	require.NotEmpty(t, a.header.Get("ETag"))
	a = d.post("/admin/jobs/"+dead+"/run-now", "", asAdmin).is(http.StatusOK)
	require.Equal(t, "pending", a.text("status"))
	a = d.post("/admin/jobs/"+dead+"/cancel", `{"reason":"not wanted"}`, asAdmin).is(http.StatusOK)
	require.Equal(t, "cancelled", a.text("status"))
	require.Equal(t, "operator", a.text("reason"))
	version := a.object()["version"]
	// Already true: 200, and nothing changed.
	require.Equal(t, version, d.post("/admin/jobs/"+dead+"/cancel", "", asAdmin).is(http.StatusOK).object()["version"])
	require.Empty(t, d.send(http.MethodDelete, "/api/v1/admin/jobs/"+dead, "", asAdmin).is(http.StatusNoContent).raw)
	d.get("/jobs/"+dead).problem(http.StatusNotFound, "not-found")

	running, _ := d.running("ops2")
	a = d.post("/admin/jobs/"+running+"/cancel", `{}`, asAdmin).is(http.StatusAccepted)
	require.Equal(t, "running", a.text("status"))
	require.NotNil(t, a.object()["cancel_requested_at"])
	require.Eventually(t, func() bool {
		raw := string(d.get("/jobs/" + running + "/events").raw)
		return strings.Contains(raw, `"job.cancel_requested"`) && strings.Contains(raw, `"actor":"basic:admin"`)
	}, 10*time.Second, 10*time.Millisecond)
}

func TestQueuesPauseAndResume(t *testing.T) {
	t.Parallel()
	d := setup(t)
	a := d.post("/admin/queues/mail/pause", `{"reason":"smtp","for":"30m"}`, asAdmin).is(http.StatusOK)
	require.Equal(t, true, a.object()["paused"])
	pause := a.object()["pause"].(map[string]any)
	require.Equal(t, "smtp", pause["reason"])
	require.Equal(t, "basic:admin", pause["actor"])
	require.WithinDuration(t, time.Now().Add(30*time.Minute), must(time.Parse(time.RFC3339, pause["until"].(string))), time.Minute)
	d.enqueue(`{"queue":"mail"}`) // a paused queue takes new jobs

	got := d.get("/queues/mail").is(http.StatusOK).object()
	for _, member := range []string{"counts", "oldest_pending_at", "rates_1m", "wait_seconds", "slots", "busy", "limits", "version"} {
		require.Contains(t, got, member)
	}
	found := d.get("/queues").is(http.StatusOK).data()
	require.Equal(t, "mail", found[0].(map[string]any)["name"])
	d.post("/admin/queues/mail/pause", "", asAdmin).is(http.StatusOK) // again: without an end now
	require.Nil(t, d.get("/queues/mail").object()["pause"].(map[string]any)["until"])

	for range 2 { // the second time it was so already
		a = d.post("/admin/queues/mail/resume", "", asAdmin).is(http.StatusOK)
		require.Equal(t, false, a.object()["paused"])
		require.Nil(t, a.object()["pause"])
	}
	d.get("/queues/unknown").problem(http.StatusNotFound, "not-found")
	d.post("/admin/queues/unknown/resume", "", asAdmin).problem(http.StatusNotFound, "not-found")
	d.post("/admin/queues/mail/pause", `{"until":"2001-01-01T00:00:00Z"}`, asAdmin).
		problem(http.StatusUnprocessableEntity, "validation-failed")
	d.post("/admin/queues/mail/pause", `{"until":"2100-01-01T00:00:00Z","for":"1h"}`, asAdmin).
		problem(http.StatusUnprocessableEntity, "validation-failed")
	d.get("/queues/a%20b").problem(http.StatusBadRequest, "invalid-parameter")
}

func TestQueueNumbersComeFromTheStream(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"numbers"}`)
	d.enqueue(`{"queue":"numbers"}`)
	d.running("numbers")
	d.dead("other")
	pgtest.Eventually(t, 20*time.Second, "the numbers are right", func() bool {
		a := d.get("/queues/numbers")
		if a.status != http.StatusOK { // the queue has neither a row nor numbers yet
			return false
		}
		counts := a.object()["counts"].(map[string]any)
		return counts["pending"] == json.Number("2") && counts["running"] == json.Number("1") && counts["dead"] == json.Number("0")
	})
	counts := d.get("/queues").is(http.StatusOK).data()[1].(map[string]any)["counts"].(map[string]any)
	require.NotContains(t, counts, "completed")
	points := d.get("/stats?queue=numbers&window=1m&step=5s").is(http.StatusOK).object()["points"].([]any)
	require.NotEmpty(t, points)
	enqueued := 0
	for _, p := range points {
		enqueued += int(must(p.(map[string]any)["enqueued"].(json.Number).Int64()))
	}
	require.Equal(t, 3, enqueued)
}

func TestUnconfirmedPauseSaysThatItIsStored(t *testing.T) {
	t.Parallel()
	d := setup(t)
	// A claim of ours that began before: its snapshot may hold the queue unpaused.
	claiming := must(d.pool.Acquire(t.Context()))
	defer claiming.Release()
	tx := must(claiming.Begin(t.Context()))
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	must(tx.Exec(t.Context(), `SET LOCAL application_name = '`+jobs.ClaimApplicationName+`'`))
	must(tx.Exec(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`))
	must(tx.Exec(t.Context(), `SELECT count(*) FROM mini_asynq.jobs`))
	body := d.post("/admin/queues/mail/pause", "", asAdmin).problem(http.StatusServiceUnavailable, "unavailable")
	require.Contains(t, body["detail"], "the pause is stored")
	require.Equal(t, true, d.get("/queues/mail").object()["paused"])
}

func TestStatsAreASeries(t *testing.T) {
	t.Parallel()
	d := setup(t)
	got := d.get("/stats?window=10m&step=10s").is(http.StatusOK).object()
	require.Equal(t, "10m", got["window"])
	require.Equal(t, "10s", got["step"])
	require.Contains(t, got, "points")
	for _, bad := range []string{"window=25h", "step=1s", "window=x", "queue=a%2Cb", "step=-5s"} {
		d.get("/stats?"+bad).problem(http.StatusBadRequest, "invalid-parameter")
	}
}

func TestHealthSaysMoreToReaders(t *testing.T) {
	t.Parallel()
	report := api.HealthReport{Status: api.HealthDegraded, Leader: true, Checks: map[string]string{"listener": "silent"}}
	d := setup(t, func(c *api.Config) { c.Health = func(context.Context) api.HealthReport { return report } })
	got := d.get("/health").is(http.StatusOK).object()
	require.Equal(t, "degraded", got["status"])
	require.Equal(t, "test-node", got["node"])
	require.Equal(t, true, got["leader"])
	require.Equal(t, "silent", got["checks"].(map[string]any)["listener"])
	stranger := header("X-Forwarded-For", "203.0.113.9")
	require.JSONEq(t, `{"status":"degraded"}`, string(d.get("/health", stranger).is(http.StatusOK).raw))
	require.JSONEq(t, `{"status":"ok"}`, string(d.get("/health/live").is(http.StatusOK).raw))
	require.JSONEq(t, `{"status":"degraded"}`, string(d.get("/health/ready").is(http.StatusOK).raw))

	unwell := setupOn(t, d.dsn, func(c *api.Config) {
		c.Health = func(context.Context) api.HealthReport { return api.HealthReport{Status: api.HealthUnavailable} }
	})
	a := unwell.get("/health/ready").is(http.StatusServiceUnavailable)
	require.Equal(t, "1", a.header.Get("Retry-After"))
	unwell.get("/health").is(http.StatusServiceUnavailable)
	unwell.get("/health/live").is(http.StatusOK)
}

func TestMetricsMeasureRoutesNotAddresses(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	d := setup(t, func(c *api.Config) { c.Gatherer, c.Registerer = registry, registry })
	id := d.enqueue(`{}`)
	d.get("/jobs/" + id).is(http.StatusOK)
	d.send("FROB", "/api/v1/jobs/"+id, "").is(http.StatusMethodNotAllowed)
	plain := string(d.get("/metrics").is(http.StatusOK).raw)
	require.Contains(t, plain, `miniasynq_http_request_seconds_count{code="200",method="GET",route="/api/v1/jobs/:id"} 1`)
	require.Contains(t, plain, `method="other"`)
	require.NotContains(t, plain, id)
	open := d.get("/metrics", header("Accept", "application/openmetrics-text; version=1.0.0")).is(http.StatusOK)
	require.Contains(t, open.header.Get("Content-Type"), "openmetrics")
}

func TestMountedHandlersKnowTheCaller(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) {
		c.BasePath = "/x/y"
		c.Hub = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, ok := api.PrincipalOf(r)
			_, _ = w.Write([]byte(p.Name))
			require.True(t, ok)
		})
		c.Web = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("web:" + r.URL.Path)) })
	})
	page := header("Accept", "text/html,*/*")
	require.Equal(t, "anonymous", string(d.send("GET", "/x/y/api/v1/ws", "").is(200).raw))
	require.Equal(t, "basic:admin", string(d.send("GET", "/x/y/api/v1/ws", "", asAdmin).is(200).raw))
	require.Equal(t, "web:/", string(d.send("GET", "/x/y/", "").is(200).raw))
	require.Equal(t, "web:/assets/a/b.js", string(d.send("GET", "/x/y/assets/a/b.js", "").is(200).raw))
	require.Equal(t, "web:/jobs/7", string(d.send("GET", "/x/y/jobs/7", "", page).is(200).raw))
	for _, path := range []string{"/x/y/jobs/7", "/x/y/api/v2/jobs", "/", "/x/y", "/x/yy/"} {
		require.Equal(t, 404, d.send("GET", path, "").status, path)
	}
	require.Equal(t, 404, d.send("GET", "/x/y/api/v1/nothing", "", page).status)
	require.Equal(t, "/x/y/problems/not-found", d.send("GET", "/x/y/api/v1/nothing", "").object()["type"])
	location := d.send("POST", "/x/y/api/v1/jobs", `{}`).is(201).header.Get("Location")
	d.send("GET", location, "").is(200)
}

func TestMountedHandlersRefuseInTheSameWords(t *testing.T) {
	t.Parallel()
	var server *api.Server
	d := setup(t, func(c *api.Config) {
		c.Hub = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, _ := api.PrincipalOf(r)
			server.Refuse(w, r, "too-many-streams", "the limit is reached", map[string]any{"local": p.Local})
		})
	})
	server = d.server
	body := d.get("/ws").problem(http.StatusTooManyRequests, "too-many-streams")
	require.Equal(t, true, body["local"])
	body = d.get("/ws", asAdmin, header("X-Forwarded-For", "203.0.113.9")).problem(http.StatusTooManyRequests, "too-many-streams")
	require.Equal(t, false, body["local"])
}

func TestEveryProblemHasAPage(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for _, name := range api.ProblemNames() {
		a := d.send("GET", "/problems/"+name, "").is(http.StatusOK)
		require.Contains(t, string(a.raw), name)
		require.Contains(t, a.header.Get("Content-Type"), "text/html")
		require.Contains(t, a.header.Get("Content-Security-Policy"), "default-src 'none'")
	}
	d.send("GET", "/problems/unheard-of", "").problem(http.StatusNotFound, "not-found")
}

func TestDrainingNode(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"slow"}`)
	parked := make(chan *answer, 1)
	go func() { parked <- d.get("/jobs/" + id + "?wait=60s") }()
	require.Eventually(t, func() bool { return d.server.Parked() == 1 }, 10*time.Second, time.Millisecond)
	d.server.Drain()
	d.server.Drain() // again is the same
	a := <-parked
	a.is(http.StatusOK)
	require.Equal(t, "pending", a.text("status"))
	d.post("/jobs", `{}`).problem(http.StatusServiceUnavailable, "draining")
	require.JSONEq(t, `{"status":"draining"}`, string(d.get("/health/ready").is(http.StatusServiceUnavailable).raw))
	d.get("/health/live").is(http.StatusOK)
	d.get("/jobs/" + id + "?wait=60s").is(http.StatusOK) // reads go on, and nobody parks any more
}
