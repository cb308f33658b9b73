package api_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func (d *door) patch(id, body, version string, options ...with) *answer {
	d.t.Helper()
	options = append(options, asAdmin)
	if version != "" {
		options = append(options, header("If-Match", version))
	}
	return d.send(http.MethodPatch, "/api/v1/admin/jobs/"+id, body, options...)
}

func TestPatchNeedsTheVersionThatItIsBasedOn(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"q","tags":["a"]}`)
	d.patch(id, `{"priority":"high"}`, "").problem(http.StatusPreconditionRequired, "precondition-required")
	body := d.patch(id, `{"priority":"high"}`, `"v2"`).problem(http.StatusPreconditionFailed, "version-conflict")
	require.Equal(t, json.Number("1"), body["version"])
	for _, bad := range []string{"v1", `W/"v1"`, `"v1", "v2"`, `"v-1"`, `"v0"`, ""} {
		d.send(http.MethodPatch, "/api/v1/admin/jobs/"+id, `{}`, asAdmin, header("If-Match", bad)).
			problem(http.StatusBadRequest, "invalid-parameter")
	}
	a := d.patch(id, `{"priority":"high","timeout":"90s","tags":[],"reason":"urgent"}`, `"v1"`).is(http.StatusOK)
	require.Equal(t, `"v2"`, a.header.Get("ETag"))
	job := a.object()
	require.Equal(t, []any{"high", "1m30s", []any{}}, []any{job["priority"], job["timeout"], job["tags"]})
	require.NotContains(t, job, "payload")
	a = d.patch(id, `{"priority":"high","timeout":null}`, `*`).is(http.StatusOK)
	require.Equal(t, `"v2"`, a.header.Get("ETag"), "nothing to change")
	require.Equal(t, "scheduled", d.patch(id, `{"delay":"1h"}`, `"v2"`).is(http.StatusOK).text("status"))

	running, _ := d.running("r")
	body = d.patch(running, `{"priority":"low"}`, `"v2"`).problem(http.StatusConflict, "invalid-transition")
	require.Equal(t, []any{"cancel", "clone"}, body["allowed_actions"])
	d.patch("0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e", `{}`, "*").problem(http.StatusNotFound, "not-found")
}

func TestBadEditsChangeNothing(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"q"}`)
	before := d.rows()
	for _, c := range []struct {
		body    string
		status  int
		pointer string
	}{
		{`{"queue":"x"}`, 400, "/queue"}, {`{"payload":{}}`, 400, "/payload"}, {`{"Priority":"low"}`, 400, "/Priority"},
		{`{"retry":{}}`, 400, "/retry"}, {`{"priority":"low","priority":"low"}`, 400, "/priority"}, {`{"max_retries":"3"}`, 400, "/max_retries"},
		{`{"max_retries":1.5}`, 400, "/max_retries"}, {`[]`, 400, ""}, {`null`, 400, ""},
		{`{"priority":"urgent"}`, 422, "/priority"}, {`{"max_retries":1001}`, 422, "/max_retries"}, {`{"max_retries":-1}`, 422, "/max_retries"},
		{`{"timeout":"0s"}`, 422, "/timeout"}, {`{"timeout":"25h"}`, 422, "/timeout"}, {`{"run_at":"tomorrow"}`, 422, "/run_at"},
		{`{"run_at":"2026-03-01T12:00:00"}`, 422, "/run_at"}, {`{"delay":"-1s"}`, 422, "/delay"}, {`{"delay":"1s","run_at":"2026-03-01T12:00:00Z"}`, 422, "/run_at"},
		{`{"tags":[""]}`, 422, "/tags/0"}, {`{"metadata":{"a":1}}`, 422, "/metadata/a"}, {`{"reason":"\u0000"}`, 422, "/reason"},
	} {
		d.patch(id, c.body, `"v1"`).is(c.status).pointer(c.pointer)
	}
	d.patch(id, ``, `"v1"`).is(http.StatusUnsupportedMediaType)
	for _, c := range []struct {
		body    string
		status  int
		pointer string
	}{
		{`{"idempotency_key":"k"}`, 400, "/idempotency_key"}, {`{"status":"dead"}`, 400, "/status"}, {`{"queue":""}`, 422, "/queue"},
		{`{"queue":"../x"}`, 422, "/queue"}, {`{"payload":{"a":1,"a":2}}`, 422, "/payload"}, {`{"delay":"11y"}`, 422, "/delay"},
	} {
		d.post("/admin/jobs/"+id+"/clone", c.body, asAdmin).is(c.status).pointer(c.pointer)
	}
	d.post("/admin/jobs/"+id+"/clone", "", asAdmin, header("Idempotency-Key", "k")).problem(http.StatusBadRequest, "invalid-parameter")
	d.post("/admin/jobs/0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e/clone", "", asAdmin).problem(http.StatusNotFound, "not-found")
	d.post("/admin/jobs/abc/clone", "", asAdmin).problem(http.StatusBadRequest, "invalid-parameter")
	require.Equal(t, before, d.rows())
	require.Equal(t, json.Number("1"), d.get("/jobs/" + id).object()["version"])
}

func TestCloneOfAFinishedJob(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.completed("q", `{"ok":true}`)
	a := d.post("/admin/jobs/"+id+"/clone", "", asAdmin).is(http.StatusCreated)
	clone := a.object()
	require.Equal(t, "/api/v1/jobs/"+a.text("id"), a.header.Get("Location"))
	require.Equal(t, `"v1"`, a.header.Get("ETag"))
	require.Equal(t, []any{id, "clone", "pending"}, []any{clone["cloned_from"], clone["source"], clone["status"]})
	other := d.post("/admin/jobs/"+id+"/clone", `{"queue":"other","payload":{"n":1},"delay":"1h","reason":"again"}`, asAdmin).is(http.StatusCreated)
	require.Equal(t, []any{"other", "scheduled"}, []any{other.object()["queue"], other.object()["status"]})
	require.Equal(t, map[string]any{"n": json.Number("1")}, d.get("/jobs/" + other.text("id")).object()["payload"])
	now := d.post("/admin/jobs/"+other.text("id")+"/clone", `{"delay":"0s"}`, asAdmin).is(http.StatusCreated)
	require.Equal(t, "pending", now.text("status"))
}

func TestA2EditsAndClonesStayInTheQueuesOfTheKey(t *testing.T) {
	t.Parallel()
	d := setup(t)
	mine, foreign := d.enqueue(`{"queue":"mine"}`), d.enqueue(`{"queue":"foreign"}`)
	bound := bearer(d.key(`"role":"operator","queues":["mine"]`))
	before := d.rows()
	d.send(http.MethodPatch, "/api/v1/admin/jobs/"+foreign, `{"priority":"low"}`, bound, header("If-Match", "*")).problem(http.StatusNotFound, "not-found")
	d.post("/admin/jobs/"+foreign+"/clone", "", bound).problem(http.StatusNotFound, "not-found")
	d.post("/admin/jobs/"+mine+"/clone", `{"queue":"foreign"}`, bound).problem(http.StatusNotFound, "not-found")
	require.Equal(t, before, d.rows())
	d.send(http.MethodPatch, "/api/v1/admin/jobs/"+mine, `{"priority":"low"}`, bound, header("If-Match", "*")).is(http.StatusOK)
	d.post("/admin/jobs/"+mine+"/clone", "", bound).is(http.StatusCreated)
	viewer := bearer(d.key(`"role":"viewer"`))
	d.post("/admin/jobs/"+mine+"/clone", "", viewer).problem(http.StatusForbidden, "forbidden")
}
