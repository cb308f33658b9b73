package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// secretInput stands in refused inputs: no log line may repeat it.
const secretInput = "planted-payload-secret"

// row is one case of the bad-input matrix (its ids are those there).
type row struct {
	name    string
	method  string // POST
	path    string // /jobs
	body    string
	with    []with
	status  int
	problem string // "": by the status
	pointer string // "-": none
}

var statusNames = map[int]string{
	400: "malformed-request", 401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "method-not-allowed",
	409: "invalid-transition", 413: "payload-too-large", 415: "unsupported-media-type", 422: "validation-failed",
	429: "rate-limited", 503: "unavailable", 414: "uri-too-long",
}

// refuses sends the rows of one id and checks what must hold after each.
func (d *door) refuses(t *testing.T, id string, rows ...row) {
	t.Helper()
	t.Run(id, func(t *testing.T) {
		d := *d
		d.t = t
		for _, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				d := d
				d.t = t
				before := d.rows()
				if r.method == "" {
					r.method = http.MethodPost
				}
				if r.path == "" {
					r.path = "/jobs"
				}
				if r.problem == "" {
					r.problem = statusNames[r.status]
				}
				a := d.send(r.method, "/api/v1"+r.path, r.body, r.with...)
				body := a.problem(r.status, r.problem)
				switch r.pointer {
				case "-":
					require.NotContains(t, body, "errors")
				case "":
				default:
					a.pointer(r.pointer)
				}
				detail, _ := body["detail"].(string)
				require.LessOrEqual(t, len(detail), 512)
				require.Equal(t, before, d.rows(), "a refused call wrote something")
				log := d.log.String()
				require.NotContains(t, log, secretInput)
				require.NotContains(t, log, password)
				require.NotContains(t, log, `"level":"error"`)
			})
		}
		d.post("/jobs", `{"queue":"next-good-call"}`).is(http.StatusCreated)
		if d.pgLog != "" {
			require.NotContains(t, string(must(os.ReadFile(d.pgLog))), "ERROR:", "the database had to refuse what the door should have")
		}
	})
}

// TestBadInputMatrix runs on a PostgreSQL of its own, whose log shows what a shared one would mix: no input may reach it
// that it answers with an ERROR.
func TestBadInputMatrix(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, nil)
	d := setupOn(t, cluster.DSN())
	d.pgLog = cluster.LogFile()
	d.badBodies(t)
	d.badValues(t)
	d.badAddresses(t)
	d.badKeys(t)
	d.badActions(t)
	d.badWork(t)
	d.badConsumers(t)
}

func (d *door) badWork(t *testing.T) {
	t.Helper()
	worker := d.register(`{"name":"bad","queues":{"*":1},"slots":5}`)
	id := d.enqueue(`{"queue":"x5"}`)
	job := d.claimFor(worker, `{"max":1,"wait":"20s","queues":{"x5":1}}`)[0]
	call := func(name, path, body string, status int, pointer string) row {
		return row{name: name, path: path, body: body, status: status, pointer: pointer}
	}
	job1 := "/jobs/" + id
	fence := fmt.Sprintf(`"fence":%d`, job.Fence)
	d.refuses(t, "X5",
		call("NUL", job1+"/complete", `{`+fence+`,"result":"a\u0000"}`, 422, "/result"),
		call("half a surrogate", job1+"/complete", `{`+fence+`,"result":["\ud800"]}`, 422, "/result"),
		call("too deep", job1+"/complete", `{`+fence+`,"result":`+strings.Repeat("[", 70)+strings.Repeat("]", 70)+`}`, 422, "/result"),
		call("digits", job1+"/complete", `{`+fence+`,"result":1e1000}`, 422, "/result"),
		call("too large", job1+"/complete", `{`+fence+`,"result":"`+strings.Repeat("a", jobs.MaxResult)+`"}`, 413, "/result"),
		call("progress 101", job1+"/progress", `{`+fence+`,"percent":101}`, 422, "/percent"),
		call("progress -1", job1+"/progress", `{`+fence+`,"percent":-1}`, 422, "/percent"),
		call("progress text", job1+"/progress", `{`+fence+`,"percent":"5"}`, 400, "/percent"),
		call("no fence", job1+"/complete", `{}`, 422, "/fence"),
		call("fence 0", job1+"/complete", `{"fence":0}`, 422, "/fence"),
		call("fence text", job1+"/complete", `{"fence":"1"}`, 400, "/fence"),
		call("another outcome's field", job1+"/complete", `{`+fence+`,"delay":"1s"}`, 400, "/delay"),
		call("no error", job1+"/fail", `{`+fence+`}`, 422, "/error"),
		call("retry", job1+"/fail", `{`+fence+`,"error":{},"retry":"maybe"}`, 422, "/retry"),
		call("after nothing", job1+"/fail", `{`+fence+`,"error":{},"retry":"after"}`, 422, "/retry_after"),
		call("after 8d", job1+"/fail", `{`+fence+`,"error":{},"retry":"after","retry_after":"8d"}`, 422, "/retry_after"),
		call("snooze -1", job1+"/snooze", `{`+fence+`,"delay":"-1s"}`, 422, "/delay"),
		call("snooze 366d", job1+"/snooze", `{`+fence+`,"delay":"366d"}`, 422, "/delay"),
		call("outcomes of none", worker+"/outcomes", `{"outcomes":[]}`, 422, "/outcomes"),
		call("outcomes of 1001", worker+"/outcomes", `{"outcomes":[`+strings.Repeat("{},", 1000)+`{}]}`, 422, "/outcomes"),
		call("no outcomes", worker+"/outcomes", `{}`, 422, "/outcomes"),
	)
	require.Equal(t, "running", d.get(job1).text("status"), "attempt and lease are unharmed")
	d.post(job1+"/complete", `{`+fence+`}`).is(http.StatusOK)

	d.refuses(t, "X6",
		call("max 0", worker+"/claim", `{"max":0}`, 422, "/max"),
		call("max 10^6", worker+"/claim", `{"max":1000000}`, 422, "/max"),
		call("wait -1", worker+"/claim", `{"wait":"-1s"}`, 422, "/wait"),
		call("wait 1 h", worker+"/claim", `{"wait":"1h"}`, 422, "/wait"),
		call("wait text", worker+"/claim", `{"wait":20}`, 400, "/wait"),
		call("newline", "/workers", `{"name":"a\nb"}`, 422, "/name"),
		call("4 KiB", "/workers", `{"name":"`+strings.Repeat("a", 4096)+`"}`, 422, "/name"),
		call("no name", "/workers", `{"slots":1}`, 422, "/name"),
		call("slots 0", "/workers", `{"name":"a","slots":0}`, 422, "/slots"),
		call("slots 1001", "/workers", `{"name":"a","slots":1001}`, 422, "/slots"),
		call("weight 0", "/workers", `{"name":"a","queues":{"q":0}}`, 422, "/queues/q"),
		call("weight text", "/workers", `{"name":"a","queues":{"q":"1"}}`, 400, "/queues/q"),
		call("queue", "/workers", `{"name":"a","queues":{"a b":1}}`, 422, "/queues/a b"),
		call("no queues", "/workers", `{"name":"a","queues":{}}`, 422, "/queues"),
		call("no kinds", "/workers", `{"name":"a","kinds":[]}`, 422, "/kinds"),
		call("kind", "/workers", `{"name":"a","kinds":["x/y"]}`, 422, "/kinds/0"),
		call("labels", "/workers", `{"name":"a","labels":{"x":{}}}`, 422, "/labels/x"),
		call("unknown field", "/workers", `{"name":"a","colour":1}`, 400, "/colour"),
		call("lease without a fence", worker+"/heartbeat", `{"leases":[{"job_id":"`+id+`"}],"busy":0}`, 422, "/leases/0"),
		call("no leases", worker+"/heartbeat", `{"busy":1}`, 422, "/leases"),
		call("busy -1", worker+"/heartbeat", `{"leases":[],"busy":-1}`, 422, "/busy"),
		row{name: "id", path: "/workers/abc/claim", body: `{}`, status: 400, problem: "invalid-parameter"},
	)
	require.Empty(t, d.claimFor(worker, `{"wait":"300ms","queues":{"nobody-has-it":1}}`))
}

func (d *door) badBodies(t *testing.T) {
	t.Helper()
	nested := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	whole := func(name, body string) row { return row{name: name, body: body, status: 400} }

	d.refuses(t, "B1",
		whole("blank", "  "), whole("null", "null"), whole("array", "[]"), whole("string", `"x"`),
		whole("byte order mark", "\xEF\xBB\xBF{}"), whole("cut off", `{"queue":"`+secretInput),
		whole("trailing comma", `{"queue":"a",}`), whole("comment", `{/* x */}`), whole("NaN", `{"max_retries":NaN}`),
		whole("second value", `{}{}`), whole("text behind", `{} x`),
		row{name: "empty", body: "", status: 400, with: []with{header("Content-Type", "application/json")}},
		row{name: "batch", path: "/jobs/batch", body: `[]`, status: 400},
		row{name: "action", path: "/admin/jobs/" + d.enqueue(`{}`) + "/cancel", body: `[]`, status: 400, with: []with{asAdmin}},
	)
	d.refuses(t, "B2",
		row{name: "unknown", body: `{"payload":"` + secretInput + `","quue":"x"}`, status: 400, pointer: "/quue"},
		row{name: "repeated", body: `{"queue":"a","queue":"b"}`, status: 400, pointer: "/queue"},
		row{name: "repeated by an escape", body: `{"queue":"a","\u0071ueue":"b"}`, status: 400, pointer: "/queue"},
		row{name: "other case", body: `{"Queue":"a"}`, status: 400, pointer: "/Queue"},
		row{name: "number as text", body: `{"max_retries":"3"}`, status: 400, pointer: "/max_retries"},
		row{name: "fraction", body: `{"max_retries":1.5}`, status: 400, pointer: "/max_retries"},
		row{name: "exponent", body: `{"max_retries":1e2}`, status: 400, pointer: "/max_retries"},
		row{name: "text as number", body: `{"queue":1}`, status: 400, pointer: "/queue"},
		row{name: "tags", body: `{"tags":["a",1]}`, status: 400, pointer: "/tags/1"},
		row{name: "metadata", body: `{"metadata":[]}`, status: 400, pointer: "/metadata"},
		row{name: "metadata repeated", body: `{"metadata":{"a/b":"1","a/b":"2"}}`, status: 400, pointer: "/metadata/a~1b"},
		row{name: "not built yet", body: `{"unique":{"key":"x"}}`, status: 400, pointer: "/unique"},
		row{name: "in a batch", path: "/jobs/batch", body: `{"jobs":[{},{"x~y":1}]}`, status: 400, pointer: "/jobs/1/x~0y"},
		row{name: "batch of numbers", path: "/jobs/batch", body: `{"jobs":[1]}`, status: 400, pointer: "/jobs/0"},
		row{name: "jobs is no list", path: "/jobs/batch", body: `{"jobs":{}}`, status: 400, pointer: "/jobs"},
	)
	d.refuses(t, "B3",
		whole("invalid", "{\"payload\":\"\xff\"}"), whole("overlong", "{\"payload\":\"\xc0\xaf\"}"),
		whole("surrogate bytes", "{\"payload\":\"\xed\xa0\x80\"}"), whole("in a key", "{\"\xff\":1}"),
	)
	refused := func(name, body, pointer string) row {
		return row{name: name, body: body, status: 422, pointer: pointer}
	}
	d.refuses(t, "B4",
		refused("NUL", `{"payload":"\u0000`+secretInput+`"}`, "/payload"),
		refused("NUL in a key", `{"payload":{"\u0000":1}}`, "/payload"),
		refused("lone surrogate", `{"payload":"\ud800"}`, "/payload"),
		refused("reversed surrogates", `{"payload":"\udc00\ud800"}`, "/payload"),
		refused("NUL in a tag", `{"tags":["a\u0000"]}`, "/tags/0"),
		refused("lone surrogate in metadata", `{"metadata":{"a":"\ud800"}}`, "/metadata/a"),
		refused("NUL in a field's name", `{"\u0000":1}`, ""),
		refused("NUL in a queue", `{"queue":"a\u0000"}`, "/queue"),
	)
	d.refuses(t, "B6",
		refused("repeated key", `{"payload":{"a":1,"a":2}}`, "/payload"),
		refused("repeated by an escape", `{"payload":{"a":{"b":1,"\u0062":2}}}`, "/payload"),
	)
	d.refuses(t, "B7",
		refused("65 levels", `{"payload":`+nested(65)+`}`, "/payload"),
		refused("66 levels", `{"payload":`+nested(66)+`}`, "/payload"),
		refused("100k brackets", `{"payload":`+strings.Repeat("[", 100_000)+`}`, "/payload"),
		refused("100k brackets alone", strings.Repeat("[", 100_000), ""),
		refused("objects", strings.Repeat(`{"a":`, 100_000), "/a"),
		row{name: "batch", path: "/jobs/batch", status: 422, pointer: "/jobs/1/payload",
			body: `{"jobs":[{},{"queue":"a,b","payload":` + nested(66) + `}]}`},
	)
	d.refuses(t, "B8",
		refused("1e131071", `{"payload":1e131071}`, "/payload"), refused("1e-20000", `{"payload":1e-20000}`, "/payload"),
		refused("402 digits", `{"payload":`+strings.Repeat("1", 402)+`}`, "/payload"),
		refused("larger as stored", `{"payload":[`+strings.TrimSuffix(strings.Repeat("1e300,", 5000), ",")+`]}`, "/payload"),
	)
	over := strings.Repeat("x", 256<<10)
	d.refuses(t, "B9",
		row{name: "with length", body: `{"payload":"` + strings.Repeat("x", 512<<10) + `"}`, status: 413},
		row{name: "without length", body: `{"payload":"` + strings.Repeat("x", 512<<10) + `"}`, status: 413,
			with: []with{func(r *http.Request) { r.ContentLength = -1 }}},
		row{name: "payload", body: `{"payload":"` + over + `"}`, status: 413, pointer: "/payload"},
		row{name: "payload in a batch", path: "/jobs/batch", body: `{"jobs":[{},{"payload":"` + over + `"}]}`, status: 413,
			pointer: "/jobs/1/payload"},
	)
	typed := func(name string, with ...with) row { return row{name: name, body: `{}`, status: 415, with: with} }
	d.refuses(t, "B11",
		typed("missing", func(r *http.Request) { r.Header.Del("Content-Type") }),
		typed("text", header("Content-Type", "text/plain")), typed("form", header("Content-Type", "multipart/form-data; boundary=x")),
		typed("charset", header("Content-Type", "application/json; charset=utf-16")),
		typed("like JSON", header("Content-Type", "application/problem+json")),
		typed("malformed", header("Content-Type", "application/json; charset")),
		typed("two", func(r *http.Request) { r.Header.Add("Content-Type", "application/json") }),
		typed("gzip", header("Content-Encoding", "gzip")), typed("identity", header("Content-Encoding", "identity")),
	)
	many := strings.TrimSuffix(strings.Repeat("{},", 1001), ",")
	d.refuses(t, "B12",
		row{name: "none", path: "/jobs/batch", body: `{"jobs":[]}`, status: 422, pointer: "/jobs"},
		row{name: "not given", path: "/jobs/batch", body: `{}`, status: 422, pointer: "/jobs"},
		row{name: "1001", path: "/jobs/batch", body: `{"jobs":[` + many + `]}`, status: 422, pointer: "/jobs"},
		row{name: "one bad", path: "/jobs/batch", body: `{"jobs":[{},{"queue":"a/b"}]}`, status: 422, pointer: "/jobs/1/queue"},
		row{name: "one bad for the domain", path: "/jobs/batch", body: `{"jobs":[{},{"max_retries":-1}]}`, status: 422,
			pointer: "/jobs/1/max_retries"},
		row{name: "the only one", path: "/jobs/batch", body: `{"jobs":[{"max_retries":-1}]}`, status: 422,
			pointer: "/jobs/0/max_retries"},
	)
}

func (d *door) badValues(t *testing.T) {
	t.Helper()
	refused := func(field, value string) row {
		name := value
		if len(name) > 40 {
			name = fmt.Sprintf("%s, %d bytes", name[:10], len(value))
		}
		return row{name: field + " " + name, body: `{"` + field + `":` + value + `}`, status: 422, pointer: "/" + field}
	}
	var names []row
	for _, field := range []string{"queue", "kind"} {
		for _, name := range []string{"", strings.Repeat("a", 256), ".", "..", "../x", "a/b", `a\nb`, `a\"b`,
			"'; drop table jobs--" + secretInput, "\u0430bc", " a", "a*"} {
			names = append(names, refused(field, `"`+name+`"`))
		}
	}
	d.refuses(t, "V1", names...)
	d.refuses(t, "V2",
		refused("priority", `"urgent"`), refused("priority", `"High"`), refused("priority", `""`),
		refused("max_retries", "-1"), refused("max_retries", "1001"), refused("max_retries", "2147483648"),
		refused("max_retries", "99999999999999999999999"), refused("max_retries", "-99999999999999999999999"),
		refused("timeout", `"0s"`), refused("timeout", `"0"`), refused("timeout", `"-1s"`), refused("timeout", `"25h"`),
		refused("timeout", `"1"`), refused("timeout", `""`), refused("timeout", `"9999999999999h"`),
		refused("delay", `"-1s"`), refused("delay", `"5000d"`), refused("delay", `"1h 30m"`),
		refused("tags", `[`+strings.TrimSuffix(strings.Repeat(`"a",`, 1000), ",")+`]`),
		row{name: "1 MiB tag", body: `{"tags":["` + strings.Repeat("a", 1<<20) + `"]}`, status: 413},
		row{name: "long tag", body: `{"tags":["` + strings.Repeat("a", 65) + `"]}`, status: 422, pointer: "/tags/0"},
		row{name: "empty tag", body: `{"tags":["a",""]}`, status: 422, pointer: "/tags/1"},
		row{name: "nested metadata", body: `{"metadata":{"a":{"b":"c"}}}`, status: 422, pointer: "/metadata/a"},
		row{name: "null in metadata", body: `{"metadata":{"a":null}}`, status: 422, pointer: "/metadata/a"},
		refused("metadata", `{"a":"`+strings.Repeat("x", 9000)+`"}`),
		refused("metadata", `{"a":"`+strings.Repeat("x", 90000)+`"}`),
		refused("traceparent", `"00-xyz"`), refused("traceparent", `""`),
	)
	times := []row{
		{name: "both", body: `{"run_at":"2026-03-01T12:00:00Z","delay":"0s"}`, status: 422, pointer: "/delay"},
	}
	for _, at := range []string{"", "2026-03-01T12:00:00", "2026-03-01 12:00:00Z", "infinity", "2026-03-01T12:00:60Z",
		"0000-01-01T00:00:00Z", "294277-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z",
		"2026-03-01T1:00:00Z", "2026-03-01T12:00:00,5Z", "1709294400", "2026-03-01T12:00:00+25:00"} {
		times = append(times, refused("run_at", `"`+at+`"`))
	}
	d.refuses(t, "V3", times...)
}

func TestGoodExtremesReadBackEqual(t *testing.T) {
	t.Parallel()
	d := setup(t)
	keys := make([]string, 20_000)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"%x":1`, i)
	}
	for name, payload := range map[string]string{
		"B5 text of an escape": `"\\u0000"`,
		"B5 U+FFFE":            `"\ufffe"`,
		"B5 right to left":     `"\u202e abc"`,
		"B5 joined emoji":      `"👩‍👩‍👧‍👦 \ud83d\ude00"`,
		"B5 combining marks":   `"a` + strings.Repeat("\u0301", 10_000) + `"`,
		"B8 2^63":              `9223372036854775808`,
		"B8 1e400":             `1e400`,
		"B8 400 digits":        `0.` + strings.Repeat("1", 400),
		"B8 negative zero":     `-0`,
		"B10 20k keys":         `{` + strings.Join(keys, ",") + `}`,
		"B10 data":             `{"__proto__":{"x":1},"a":"{{7*7}}","b":"<script>alert(1)</script>","c":"=cmd()"}`,
		"B7 64 levels":         strings.Repeat("[", 64) + strings.Repeat("]", 64),
	} {
		t.Run(name, func(t *testing.T) {
			d := *d
			d.t = t
			id := d.enqueue(`{"payload":` + payload + `}`)
			a := d.get("/jobs/" + id).is(http.StatusOK)
			var body struct{ Payload json.RawMessage }
			require.NoError(t, json.Unmarshal(a.raw, &body))
			switch payload { // as numeric writes them
			case "-0":
				payload = "0"
			case "1e400":
				payload = "1" + strings.Repeat("0", 400)
			}
			if strings.HasPrefix(name, "B8") {
				require.Equal(t, payload, string(body.Payload)) // digit by digit, never through a float
				return
			}
			require.JSONEq(t, payload, string(body.Payload))
		})
	}
	t.Run("B12 batch of 1000", func(t *testing.T) {
		d := *d
		d.t = t
		body := `{"jobs":[` + strings.TrimSuffix(strings.Repeat(`{"queue":"bulk"},`, 1000), ",") + `]}`
		require.Len(t, d.post("/jobs/batch", body).is(http.StatusCreated).data(), 1000)
	})
	t.Run("content type with charset", func(t *testing.T) {
		d := *d
		d.t = t
		d.post("/jobs", `{}`, header("Content-Type", "Application/JSON; charset=UTF-8")).is(http.StatusCreated)
	})
}

func (d *door) badAddresses(t *testing.T) {
	t.Helper()
	id := d.enqueue(`{}`)
	get := func(path string, status int, problem string) row {
		return row{name: limitedName(path), method: http.MethodGet, path: path, status: status, problem: problem}
	}
	d.refuses(t, "Q1",
		get("/nothing", 404, ""), get("/schedules", 404, ""), get("/jobs/"+id+"/clone", 404, ""),
		row{name: "PUT", method: http.MethodPut, path: "/jobs", status: 405},
		row{name: "PATCH", method: http.MethodPatch, path: "/jobs/" + id, status: 405, with: []with{asAdmin}},
		row{name: "GET of an action", method: http.MethodGet, path: "/admin/jobs/" + id + "/retry", status: 405},
		row{name: "OPTIONS", method: http.MethodOptions, path: "/jobs", status: 405},
		row{name: "invented", method: "FROB", path: "/jobs", status: 405},
	)
	a := d.send(http.MethodPut, "/api/v1/jobs", "")
	require.ElementsMatch(t, []string{"GET", "POST"}, strings.Split(a.header.Get("Allow"), ", "))

	for _, path := range []string{"/jobs/", "//jobs", "/jobs//", "/jobs/%2e%2e%2fjobs", "/jobs/..", "/jobs/%2e%2e/jobs",
		"/jobs/" + id + "%2Fattempts", "/jobs/" + id + "/", "/jobs/./" + id, "/jobs/" + id + "%5Cx", "/%6Aobs"} {
		d.refuses(t, "Q2", get(path, 404, ""))
		if path != "/jobs/" {
			continue
		}
		d.refuses(t, "Q2", row{name: "POST " + path, path: path, body: `{}`, status: 404})
	}
	d.refuses(t, "Q2", get("/jobs/%00", 400, "invalid-parameter"), get("/jobs/"+id+"%00", 400, "invalid-parameter"))

	const unknown = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"
	for _, suffix := range []string{"", "/attempts", "/events", "/result"} {
		for _, bad := range []string{"abc", "-1", "%20", "%D9%A1%D9%A2", "%7B" + id + "%7D", strings.ReplaceAll(id, "-", ""),
			"urn:uuid:" + id, id + "0"} {
			d.refuses(t, "Q3", get("/jobs/"+bad+suffix, 400, "invalid-parameter"))
		}
		d.refuses(t, "Q3", get("/jobs/"+unknown+suffix, 404, ""))
	}
	for _, action := range []string{"/retry", "/run-now", "/cancel"} {
		d.refuses(t, "Q3",
			row{name: "abc" + action, path: "/admin/jobs/abc" + action, status: 400, problem: "invalid-parameter", with: []with{asAdmin}},
			row{name: "unknown" + action, path: "/admin/jobs/" + unknown + action, status: 404, with: []with{asAdmin}})
	}
	for _, bad := range []string{"limit=0", "limit=-1", "limit=501", "limit=abc", "limit=%2B5", "limit=", "limit=1&limit=2",
		"limt=5", "sort=payload;select%20pg_sleep(5)", "sort=payload%3Bselect%20pg_sleep(5)", "sort=", "status=gone",
		"status=pending,", "priority=urgent", "id=abc", "queue=%00", "queue=%ff", "%00=1", "metadata.=x", "metadata.%00=x",
		"created_after=yesterday", "attempt_min=-1", "attempt_min=99999999999", "include=secrets", "payload=%7B&queue=a",
		"payload=1", "wait=1s", "x=" + secretInput} {
		d.refuses(t, "Q4", get("/jobs?"+bad, 400, "invalid-parameter"))
	}
	for _, bad := range []string{"limit=5", "sort=created_at", "cursor=x", "x=1"} {
		d.refuses(t, "Q4", get("/jobs/count?"+bad, 400, "invalid-parameter"))
	}
	for _, bad := range []string{"wait=-1s", "wait=61s", "wait=x", "until=never", "include=payload2", "x=1"} {
		d.refuses(t, "Q4", get("/jobs/"+id+"?"+bad, 400, "invalid-parameter"))
	}
	d.refuses(t, "Q4",
		get("/jobs/"+id+"/events?limit=1001", 400, "invalid-parameter"), get("/jobs/"+id+"/attempts?after=x", 400, "invalid-parameter"),
		row{name: "post with a query", path: "/jobs?wait=1s", body: `{}`, status: 400, problem: "invalid-parameter"})
	for _, text := range []string{"%25", "_", "%5C", "'%20or%201=1--", "%25*", "a_c*", "%5C*"} {
		require.Empty(t, d.get("/jobs?queue="+text).is(http.StatusOK).data(), text)
	}

	for range 2 {
		d.enqueue(`{"queue":"pages"}`)
	}
	cursor := d.get("/jobs?queue=pages&limit=1").text("next_cursor")
	d.get("/jobs?queue=pages&limit=1&cursor=" + cursor).is(http.StatusOK)
	d.refuses(t, "Q5",
		get("/jobs?cursor=x", 400, "cursor-invalid"), get("/jobs?queue=other&cursor="+cursor, 400, "cursor-invalid"),
		get("/jobs?queue=pages&sort=run_at&cursor="+cursor, 400, "cursor-invalid"),
		get("/jobs?queue=pages&cursor="+strings.Replace(cursor, ".", "x.", 1), 400, "cursor-invalid"),
		get("/jobs?queue=pages&cursor=.", 400, "cursor-invalid"),
		row{name: "of another caller", method: http.MethodGet, path: "/jobs?queue=pages&limit=1&cursor=" + cursor, status: 400,
			problem: "cursor-invalid", with: []with{asAdmin}})
	d.refuses(t, "Q6", get("/jobs?queue="+strings.Repeat("a", 9<<10), 414, ""))
}

func limitedName(s string) string { return s[:min(len(s), 48)] }

func TestQ8StrangersHeadersAreIgnored(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{}`)
	a := d.get("/jobs/"+id, header("X-HTTP-Method-Override", "DELETE"), header("X-Original-URL", "/api/v1/health")).is(http.StatusOK)
	require.Equal(t, id, a.text("id"))
	a = d.get("/jobs/"+id, header("X-Request-Id", "mine_1.2-3"))
	require.Equal(t, "mine_1.2-3", a.header.Get("X-Request-Id"))
	require.Contains(t, d.log.String(), "mine_1.2-3")
	for _, bad := range []string{strings.Repeat("a", 4096), "a b", "ü", "a;b", ""} {
		a = d.get("/jobs/"+id, header("X-Request-Id", bad))
		require.NotEqual(t, bad, a.header.Get("X-Request-Id"))
		require.Regexp(t, `^[A-Za-z0-9._-]{1,64}$`, a.header.Get("X-Request-Id"))
	}
}

func (d *door) badActions(t *testing.T) {
	t.Helper()
	done, dead := d.completed("done", ""), d.dead("dead")
	running, _ := d.running("running")
	for _, c := range []struct{ id, method, action, status string }{
		{done, "POST", "/cancel", "completed"}, {dead, "POST", "/cancel", "dead"}, {running, "POST", "/retry", "running"},
		{done, "POST", "/retry", "completed"}, {done, "POST", "/run-now", "completed"}, {running, "DELETE", "", "running"},
	} {
		body := d.send(c.method, "/api/v1/admin/jobs/"+c.id+c.action, "", asAdmin).problem(http.StatusConflict, "invalid-transition")
		require.Equal(t, c.status, body["job_status"])
		require.NotEmpty(t, body["allowed_actions"])
	}
	d.refuses(t, "C1",
		row{name: "unknown field", path: "/admin/jobs/" + dead + "/cancel", body: `{"force":true}`, status: 400, pointer: "/force", with: []with{asAdmin}},
		row{name: "delay of a cancel", path: "/admin/jobs/" + dead + "/cancel", body: `{"delay":"1s"}`, status: 400, with: []with{asAdmin}},
		row{name: "delay", path: "/admin/jobs/" + dead + "/retry", body: `{"delay":"-1s"}`, status: 422, pointer: "/delay", with: []with{asAdmin}},
		row{name: "reason", path: "/admin/jobs/" + dead + "/retry", body: `{"reason":"` + strings.Repeat("a", 1025) + `"}`, status: 422, pointer: "/reason", with: []with{asAdmin}},
		row{name: "text", path: "/admin/jobs/" + dead + "/retry", body: `{}`, status: 415, with: []with{asAdmin, header("Content-Type", "text/plain")}},
		row{name: "pause both", path: "/admin/queues/a/pause", body: `{"for":"1h","until":"2099-01-01T00:00:00Z"}`, status: 422, with: []with{asAdmin}},
		row{name: "pause for nothing", path: "/admin/queues/a/pause", body: `{"for":"0s"}`, status: 422, pointer: "/for", with: []with{asAdmin}},
		row{name: "pause until the past", path: "/admin/queues/a/pause", body: `{"until":"2001-01-01T00:00:00Z"}`, status: 422, pointer: "/until", with: []with{asAdmin}},
		row{name: "pause of no name", path: "/admin/queues/a%20b/pause", status: 400, problem: "invalid-parameter", with: []with{asAdmin}},
	)
}
