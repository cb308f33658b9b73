package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// carryOut does what a node does with the operations that wait.
func (d *door) carryOut() {
	d.t.Helper()
	ops, _, err := jobs.ClaimOperations(d.t.Context(), d.pool, "node", time.Minute, 8)
	require.NoError(d.t, err)
	for _, op := range ops {
		for {
			p, err := op.CarryOn(d.t.Context(), d.pool, "node", time.Minute)
			require.NoError(d.t, err)
			if p.Over {
				break
			}
		}
	}
}

func (d *door) operate(body string, options ...with) *answer {
	d.t.Helper()
	return d.post("/admin/operations", body, append([]with{asAdmin}, options...)...)
}

func number(n int) json.Number { return json.Number(itoa(n)) }

func TestOperationFromDryRunToEnd(t *testing.T) {
	t.Parallel()
	d := setup(t)
	oldest := d.dead("mail")
	d.dead("mail")
	kept := d.dead("other")
	const filter = `"action":"retry","filter":{"status":"dead","queue":["mail","sms*"]}`
	before := d.rows()
	dry := d.operate(`{` + filter + `,"dry_run":true}`).is(http.StatusOK)
	require.Equal(t, number(2), dry.object()["matched"])
	sample, ok := dry.object()["sample"].([]any)
	require.True(t, ok)
	require.Len(t, sample, 2)
	first, ok := sample[0].(map[string]any)
	require.True(t, ok)
	require.Equal(t, oldest, first["id"])
	require.NotContains(t, first, "payload")
	require.Equal(t, before, d.rows(), "a dry run changes nothing")

	// One more dies: the set that the dry run saw is as it was.
	d.dead("mail")
	run := func(expected int, at string) *answer {
		return d.operate(fmt.Sprintf(`{%s,"before":%q,"expected_count":%d,"rate":1000,"stop_when":{"failure_ratio":0.5},"reason":"smtp is back"}`, filter, at, expected))
	}
	changed := run(2, "2999-01-01T00:00:00Z").problem(http.StatusConflict, "count-changed")
	require.Equal(t, number(3), changed["matched"])
	a := run(2, dry.text("before")).is(http.StatusAccepted)
	id := a.text("id")
	require.Equal(t, "/api/v1/operations/"+id, a.header.Get("Location"))
	op := a.object()
	for name, want := range map[string]any{
		"action": "retry", "status": "running", "total": number(2), "done": number(0), "errors": []any{}, "rate": number(1000),
		"filter": map[string]any{"status": []any{"dead"}, "queue": []any{"mail", "sms*"}}, "before": dry.text("before"), "finished_at": nil,
		"stop_when": map[string]any{"failure_ratio": json.Number("0.5"), "min_sample": number(20)}, "actor": "basic:admin", "reason": "smtp is back",
	} {
		require.Equal(t, want, op[name], name)
	}
	d.carryOut()
	op = d.get("/operations/" + id).is(http.StatusOK).object()
	require.Equal(t, []any{"completed", number(2), number(0), number(0)}, []any{op["status"], op["done"], op["skipped"], op["failed"]})
	require.Equal(t, "pending", d.get("/jobs/"+oldest).text("status"))
	require.Equal(t, "dead", d.get("/jobs/"+kept).text("status"))

	body := d.post("/admin/operations/"+id+"/cancel", "", asAdmin).problem(http.StatusConflict, "invalid-transition")
	require.Equal(t, "completed", body["operation_status"])
	named := d.operate(`{"action":"delete","ids":["` + kept + `","` + oldest + `"]}`).is(http.StatusAccepted)
	require.Equal(t, number(2), named.object()["total"])
	require.Nil(t, named.object()["filter"])
	d.carryOut()
	op = d.get("/operations/" + named.text("id")).object()
	require.Equal(t, []any{number(1), number(1)}, []any{op["done"], op["skipped"]})
	d.get("/jobs/"+kept).problem(http.StatusNotFound, "not-found")

	idle := d.operate(`{"action":"cancel","ids":["` + oldest + `"]}`).is(http.StatusAccepted).text("id")
	for range 2 {
		a := d.post("/admin/operations/"+idle+"/cancel", `{"reason":"a mistake"}`, asAdmin).is(http.StatusOK)
		require.Equal(t, "cancelled", a.text("status"))
	}
	d.carryOut()
	require.Equal(t, "pending", d.get("/jobs/"+oldest).text("status"))

	page := d.get("/operations?limit=2").is(http.StatusOK)
	require.NotEmpty(t, page.text("as_of"))
	require.Len(t, page.data(), 2)
	rest := d.get("/operations?limit=2&cursor=" + page.text("next_cursor")).data()
	require.Len(t, rest, 1)
	require.Equal(t, id, rest[0].(map[string]any)["id"])
	require.Len(t, d.get("/operations?status=cancelled").data(), 1)
	audit := d.get("/admin/audit?action=operation.*", asAdmin).data()
	require.Len(t, audit, 4)
}

func TestBadOperationsDoNothing(t *testing.T) {
	t.Parallel()
	d := setup(t)
	dead := d.dead("q")
	const at = `"before":"2026-03-01T12:00:00Z","expected_count":1`
	many := strings.Repeat(`"`+dead+`",`, jobs.MaxOperationJobs) + `"` + dead + `"`
	before := d.rows()
	for _, c := range []struct {
		body    string
		status  int
		pointer string
	}{
		{`[]`, 400, ""}, {`{"Action":"retry"}`, 400, "/Action"}, {`{"action":"retry","action":"retry"}`, 400, "/action"},
		{`{"action":1}`, 400, "/action"}, {`{"action":"retry","undo":true}`, 400, "/undo"}, {`{"action":"retry","ids":"x"}`, 400, "/ids"},
		{`{"action":"retry","ids":[null]}`, 400, "/ids/0"}, {`{"action":"retry","dry_run":"yes"}`, 400, "/dry_run"},
		{`{"action":"retry","filter":"status=dead"}`, 400, "/filter"}, {`{"action":"retry","filter":{"state":"dead"}}`, 400, "/filter/state"},
		{`{"action":"retry","filter":{"queue":[1]}}`, 400, "/filter/queue/0"}, {`{"action":"retry","filter":{"sort":"id"}}`, 400, "/filter/sort"},
		{`{"action":"retry","rate":1.5,"ids":["` + dead + `"]}`, 400, "/rate"}, {`{"action":"retry","expected_count":"1"}`, 400, "/expected_count"},
		{`{"action":"retry","stop_when":{"ratio":1}}`, 400, "/stop_when/ratio"}, {`{"action":"retry","stop_when":0.5}`, 400, "/stop_when"},
		{`{"action":"retry","filter":{"metadata.":"x"}}`, 400, "/filter/metadata."},
		{`{"ids":["` + dead + `"]}`, 422, "/action"}, {`{"action":"clone","ids":["` + dead + `"]}`, 422, "/action"},
		{`{"action":"retry"}`, 422, "/filter"}, {`{"action":"retry","ids":["` + dead + `"],"filter":{},` + at + `}`, 422, "/ids"},
		{`{"action":"retry","ids":[]}`, 422, "/ids"}, {`{"action":"retry","ids":["abc"]}`, 422, "/ids/0"},
		{`{"action":"retry","ids":[` + many + `]}`, 422, "/ids"},
		{`{"action":"retry","filter":{}}`, 422, "/before"}, {`{"action":"retry","filter":{},"before":"2026-03-01T12:00:00Z"}`, 422, "/expected_count"},
		{`{"action":"retry","filter":{},"before":"yesterday","expected_count":1}`, 422, "/before"},
		{`{"action":"retry","filter":{},"before":"2026-03-01T12:00:00","expected_count":1}`, 422, "/before"},
		{`{"action":"retry","filter":{},"before":"2026-03-01T12:00:00Z","expected_count":-1}`, 422, "/expected_count"},
		{`{"action":"retry","filter":{"status":"gone"},` + at + `}`, 422, "/filter/status"},
		{`{"action":"retry","filter":{"queue":[]},` + at + `}`, 422, "/filter/queue"}, {`{"action":"retry","filter":{"tag":["a,b"]},` + at + `}`, 422, "/filter/tag/0"},
		{`{"action":"retry","filter":{"created_after":"x"},` + at + `}`, 422, "/filter/created_after"},
		{`{"action":"retry","filter":{"payload":{"a":1}},` + at + `}`, 422, "/filter/payload"},
		{`{"action":"retry","filter":{},` + at + `,"rate":0}`, 422, "/rate"}, {`{"action":"retry","filter":{},` + at + `,"rate":-5}`, 422, "/rate"},
		{`{"action":"retry","filter":{},` + at + `,"stop_when":{"failure_ratio":1.01}}`, 422, "/stop_when/failure_ratio"},
		{`{"action":"retry","filter":{},` + at + `,"stop_when":{"failure_ratio":1e999}}`, 422, "/stop_when/failure_ratio"},
		{`{"action":"retry","filter":{},` + at + `,"stop_when":{}}`, 422, "/stop_when"},
		{`{"action":"retry","filter":{},` + at + `,"stop_when":{"failure_ratio":0.1,"min_sample":0}}`, 422, "/stop_when/min_sample"},
		{`{"action":"delete","filter":{},` + at + `,"stop_when":{"failure_ratio":0.1}}`, 422, "/stop_when"},
		{`{"action":"delete","filter":{},` + at + `,"reason":"` + strings.Repeat("x", 1025) + `"}`, 422, "/reason"},
	} {
		a := d.operate(c.body)
		require.Equal(t, c.status, a.status, "%.200s: %s", c.body, a.raw)
		a.pointer(c.pointer)
	}
	d.operate(``).problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
	d.send(http.MethodPost, "/api/v1/admin/operations?dry_run=true", `{}`, asAdmin).problem(http.StatusBadRequest, "invalid-parameter")
	for _, path := range []string{"?limit=0", "?limit=501", "?status=gone", "?sort=id", "?limit=1&limit=2", "/abc"} {
		d.get("/operations"+path).problem(http.StatusBadRequest, "invalid-parameter")
	}
	d.get("/operations?cursor=x").problem(http.StatusBadRequest, "cursor-invalid")
	const unknown = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"
	d.get("/operations/"+unknown).problem(http.StatusNotFound, "not-found")
	d.post("/admin/operations/"+unknown+"/cancel", "", asAdmin).problem(http.StatusNotFound, "not-found")
	d.post("/admin/operations/"+unknown+"/undo", "", asAdmin).problem(http.StatusNotFound, "not-found")
	require.Equal(t, before, d.rows())
	for _, text := range []string{"%", "_", `\\`, "' or 1=1--"} {
		a := d.operate(`{"action":"retry","dry_run":true,"filter":{"queue":"` + text + `"}}`).is(http.StatusOK)
		require.Equal(t, number(0), a.object()["matched"], "text is literal")
	}
	d.operate(`{"action":"retry","dry_run":true,"filter":{"queue":"q","payload":{},"attempt_min":1,"metadata":{}}}`).is(http.StatusOK)
}

func TestA2OperationsStayInTheQueuesOfTheKey(t *testing.T) {
	t.Parallel()
	d := setup(t)
	mine, foreign := d.dead("mine"), d.dead("foreign")
	bound := bearer(d.key(`"role":"operator","queues":["mine"]`))
	dry := d.post("/admin/operations", `{"action":"retry","dry_run":true,"filter":{}}`, bound).is(http.StatusOK)
	require.Equal(t, number(1), dry.object()["matched"])
	require.NotContains(t, string(dry.raw), foreign)
	own := d.post("/admin/operations", `{"action":"retry","ids":["`+mine+`","`+foreign+`"]}`, bound).is(http.StatusAccepted).text("id")
	others := d.operate(`{"action":"cancel","ids":["` + foreign + `"]}`).is(http.StatusAccepted).text("id")
	d.get("/operations/"+others, bound).problem(http.StatusNotFound, "not-found")
	d.post("/admin/operations/"+others+"/cancel", "", bound).problem(http.StatusNotFound, "not-found")
	require.Len(t, d.get("/operations", bound).data(), 1)
	require.Len(t, d.get("/operations").data(), 2)
	d.carryOut()
	require.Equal(t, number(1), d.get("/operations/"+own, bound).object()["done"])
	require.Equal(t, "pending", d.get("/jobs/"+mine).text("status"))
	require.Equal(t, "dead", d.get("/jobs/"+foreign).text("status"))

	// Who may not read payloads may not ask for them, nor see what others asked.
	blind := bearer(d.key(`"scopes":["read","operate"]`))
	const filter = `{"action":"retry","dry_run":%t,"filter":{"queue":"mine","payload":{"card":"4111"}},"before":"2026-03-01T12:00:00Z","expected_count":0}`
	body := d.post("/admin/operations", fmt.Sprintf(filter, true), blind).problem(http.StatusForbidden, "forbidden")
	require.Equal(t, "read:payload", body["required_scope"])
	id := d.operate(fmt.Sprintf(filter, false)).is(http.StatusAccepted).text("id")
	require.NotContains(t, string(d.get("/operations/"+id, blind).raw), "4111")
	require.Contains(t, string(d.get("/operations/"+id, asAdmin).raw), "4111")
}
