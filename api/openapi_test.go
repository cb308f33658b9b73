package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
)

// announced are operations that the document has and no server yet: others write clients by it. The list only shrinks: one
// that exists has to leave it.
var announced = []string{}

// whole is a door with everything that a server may have; the socket and the dashboard are stand-ins.
func whole(c *api.Config) {
	c.Gatherer = prometheus.NewRegistry()
	c.Hub = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUpgradeRequired) })
	c.Web = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html>"))
	})
}

func TestDocumentIsOpenAPI(t *testing.T) {
	t.Parallel()
	c := contractOf(t)
	meta := must(jsonschema.UnmarshalJSON(bytes.NewReader(must(os.ReadFile("testdata/openapi-3.1-schema.json")))))
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("openapi-3.1-schema.json", meta))
	schema := must(compiler.Compile("openapi-3.1-schema.json"))
	require.NoError(t, schema.Validate(any(c.root)))

	// That schema leaves schemas alone: compiling one holds it against the dialect.
	schemas, _ := c.root["components"].(map[string]any)["schemas"].(map[string]any)
	for name := range schemas {
		_, err := compiledAt(c, "/components/schemas/"+name)
		require.NoError(t, err, name)
	}
}

// compiledAt compiles a schema without asking it anything.
func compiledAt(c *contract, pointer string) (*jsonschema.Schema, error) {
	_ = c.validate(pointer, false, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if schema := c.compiled[pointer]; schema != nil {
		return schema, nil
	}
	return c.plain.Compile("openapi.json#" + pointer)
}

func TestReferencesLeadSomewhereAndNothingIsForgotten(t *testing.T) {
	t.Parallel()
	c := contractOf(t)
	used := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				require.NotNil(t, c.at(strings.TrimPrefix(ref, "#")).value, ref)
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(c.root)
	components, _ := c.root["components"].(map[string]any)
	for group, members := range components {
		for name := range members.(map[string]any) {
			if group != "securitySchemes" {
				require.True(t, used["#/components/"+group+"/"+name], "components/%s/%s is used by nothing", group, name)
			}
		}
	}
}

func TestEveryRouteIsInTheDocumentAndBack(t *testing.T) {
	t.Parallel()
	d := setup(t, whole)
	c := contractOf(t)
	documented := map[string]*operation{}
	for _, o := range c.operations {
		documented[o.method+" "+strings.Replace(o.path, "//", "/", 1)] = o
	}
	for _, route := range d.server.Routes() {
		name := route.Method + " " + templatePart.ReplaceAllString(route.Path, "{$1}")
		o := documented[name]
		require.NotNil(t, o, "api/openapi.yaml has no %s", name)
		require.NotContains(t, announced, o.id, "%s exists: take %s out of the list of what is announced", name, o.id)
		scope := string(route.Scope)
		if scope == "" {
			scope = "open"
		}
		require.Equal(t, scope, o.scope, "x-scope of %s", name)
		delete(documented, name)
	}
	for name, o := range documented {
		require.Contains(t, announced, o.id, "no server has %s", name)
	}
	require.Len(t, announced, len(documented), "what is announced is in the document")
}

func TestEveryOperationIsDescribed(t *testing.T) {
	t.Parallel()
	c := contractOf(t)
	ids := map[string]bool{}
	tags := map[string]bool{}
	for _, tag := range c.root["tags"].([]any) {
		tags[tag.(map[string]any)["name"].(string)] = true
	}
	for _, o := range c.operations {
		require.NotEmpty(t, o.id, o.path)
		require.False(t, ids[o.id], "%s twice", o.id)
		ids[o.id] = true
		summary, _ := o.node["summary"].(string)
		require.NotEmpty(t, summary, o.id)
		own, _ := o.node["tags"].([]any)
		require.Len(t, own, 1, o.id)
		require.True(t, tags[fmt.Sprint(own[0])], "%s: the tag %v is not described", o.id, own[0])
		examples := 0
		for status, response := range o.responses {
			examples += len(c.examples(response))
			content, _ := response.value["content"].(map[string]any)
			for media := range content {
				if media == "application/json" || media == "application/problem+json" {
					require.NotEmpty(t, c.examplesOf(response, media), "%s, %s: an example of %s", o.id, status, media)
				}
			}
		}
		if o.body.value != nil {
			require.NotEmpty(t, c.examples(o.body), "%s: an example of its body", o.id)
		}
		require.NotZero(t, examples, o.id)
		for _, p := range o.parameters {
			if p.in == "path" {
				require.Contains(t, o.path, "{"+p.name+"}", o.id)
				require.NotNil(t, p.value["example"], "%s: an example of %s", o.id, p.name)
			}
		}
		require.Equal(t, strings.Count(o.path, "{"), len(slices.DeleteFunc(slices.Clone(o.parameters), func(p parameter) bool { return p.in != "path" })), o.id)
		_, refuses := o.responses["401"]
		require.Equal(t, o.node["security"] == nil || o.id == "login", refuses, "%s: who is asked who he is may be refused", o.id)
	}
}

// example is a value beside a schema.
type example struct {
	name, schema string // schema: the pointer to it
	value        any
}

// examples are those of all JSON bodies of a request or an answer.
func (c *contract) examples(of node) (out []example) {
	content, _ := of.value["content"].(map[string]any)
	for media := range content {
		out = append(out, c.examplesOf(of, media)...)
	}
	return out
}

func (c *contract) examplesOf(of node, media string) (out []example) {
	at := of.pointer + "/content/" + escape(media)
	named, _ := c.at(at).value["examples"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(named)) {
		found := c.at(at + "/examples/" + name)
		out = append(out, example{name, at + "/schema", found.value["value"]})
	}
	return out
}

// asJSON is a value as the validator reads it: numbers as they were written.
func asJSON(t testing.TB, v any) any {
	t.Helper()
	return must(jsonschema.UnmarshalJSON(bytes.NewReader(must(json.Marshal(v)))))
}

func TestEveryExampleIsValid(t *testing.T) {
	t.Parallel()
	c := contractOf(t)
	seen := 0
	check := func(o *operation, of node, strict bool) {
		for _, e := range c.examples(of) {
			seen++
			require.NoError(t, c.validate(e.schema, strict, asJSON(t, e.value)), "%s: the example %s", o.id, e.name)
		}
	}
	for _, o := range c.operations {
		check(o, o.body, false)
		for _, response := range o.responses {
			check(o, response, true)
		}
		for _, p := range o.parameters {
			if value := p.value["example"]; value != nil {
				seen++
				require.NoError(t, c.validate(p.pointer+"/schema", false, asJSON(t, value)), "%s: the example of %s", o.id, p.name)
			}
		}
	}
	require.Greater(t, seen, 200)
}

func TestEveryProblemIsInTheDocumentAndBack(t *testing.T) {
	t.Parallel()
	c := contractOf(t)
	var names, inAnswers []string
	for _, code := range c.at("/components/schemas/ProblemCode").value["enum"].([]any) {
		names = append(names, strings.ReplaceAll(fmt.Sprint(code), "_", "-"))
	}
	require.ElementsMatch(t, api.ProblemNames(), names)
	responses, _ := c.root["components"].(map[string]any)["responses"].(map[string]any)
	for name := range responses {
		response := c.at("/components/responses/" + name)
		for _, e := range c.examplesOf(response, "application/problem+json") {
			body, _ := e.value.(map[string]any)
			require.Equal(t, "/problems/"+strings.ReplaceAll(fmt.Sprint(body["code"]), "_", "-"), body["type"], name)
		}
		codes, _ := c.at(response.pointer + "/content/application~1problem+json/schema/properties/code").value["enum"].([]any)
		for _, code := range codes {
			inAnswers = append(inAnswers, fmt.Sprint(code))
		}
	}
	// What no operation of the document answers: other methods of an address, and what is not built.
	for _, code := range []string{"method_not_allowed", "queue_not_empty", "workflow_ended", "batch_closed"} {
		require.NotContains(t, inAnswers, code)
		inAnswers = append(inAnswers, code)
	}
	for _, name := range names {
		require.Contains(t, inAnswers, strings.ReplaceAll(name, "-", "_"), "no answer may be this")
	}
}

func TestDocumentIsServedInThreeForms(t *testing.T) {
	t.Parallel()
	d := setup(t, whole)
	asYAML := d.get("/openapi.yaml").is(http.StatusOK)
	require.Equal(t, string(api.Description()), string(asYAML.raw))
	asObject := d.get("/openapi.json").is(http.StatusOK)
	require.JSONEq(t, string(must(json.Marshal(contractOf(t).root))), string(asObject.raw))
	page := d.send(http.MethodGet, "/docs", "").is(http.StatusOK)
	policy := page.header.Get("Content-Security-Policy")
	require.NotContains(t, policy, "unsafe")
	require.Contains(t, policy, "default-src 'none'")
	for _, never := range []string{"<script", "<link", " src=", " style=", "=\"http", "='http", "url("} {
		require.NotContains(t, string(page.raw), never, "the page stands alone")
	}
	for _, o := range contractOf(t).operations {
		require.Contains(t, string(page.raw), `<article id="`+o.id+`">`)
	}
	schemas, _ := contractOf(t).root["components"].(map[string]any)["schemas"].(map[string]any)
	for name := range schemas {
		require.Contains(t, string(page.raw), `<article id="schema-`+name+`">`)
	}
	for path, a := range map[string]*answer{"/api/v1/openapi.yaml": asYAML, "/api/v1/openapi.json": asObject, "/docs": page} {
		etag := a.header.Get("ETag")
		for _, known := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
			require.Empty(t, d.send(http.MethodGet, path, "", header("If-None-Match", known)).is(http.StatusNotModified).raw)
		}
		d.send(http.MethodGet, path, "", header("If-None-Match", `"other"`)).is(http.StatusOK)
		d.send(http.MethodGet, path+"?x=1", "").problem(http.StatusBadRequest, "invalid-parameter")
	}
}

func TestDocumentKnowsTheBasePath(t *testing.T) {
	t.Parallel()
	d := setup(t, whole, func(c *api.Config) { c.BasePath = "/a,b/queue" })
	require.Contains(t, string(d.send(http.MethodGet, "/a,b/queue/api/v1/openapi.yaml", "").is(http.StatusOK).raw), `{url: "/a,b/queue/api/v1",`)
	root := d.send(http.MethodGet, "/a,b/queue/api/v1/openapi.json", "").is(http.StatusOK).object()
	require.Equal(t, "/a,b/queue/api/v1", serverOf(root))
	paths, _ := root["paths"].(map[string]any)
	docs, _ := paths["/docs"].(map[string]any)
	require.Equal(t, "/a,b/queue", serverOf(docs))
	page := string(d.send(http.MethodGet, "/a,b/queue/docs", "").is(http.StatusOK).raw)
	require.Contains(t, page, `href="/a,b/queue/api/v1/openapi.yaml"`)
	require.Contains(t, page, `href="/a,b/queue/problems/lease-lost"`)
	require.Contains(t, page, "<code>/a,b/queue/docs</code>")
}

// scene is what an operation's examples need around them: a job in a status, a worker, a key; more is a query for one
// parameter that cannot stand alone.
type scene struct {
	id    func(d *door) (id string, fence int64)
	setup func(d *door, body map[string]any)
	more  map[string]string
}

// TestEveryExampleIsTaken sends the example of each body and each parameter to a real door.
func TestEveryExampleIsTaken(t *testing.T) {
	t.Parallel()
	d := setup(t, whole)
	c := contractOf(t)
	taken := map[string]bool{}
	for _, o := range c.operations {
		if slices.Contains(announced, o.id) || o.id == "openSocket" {
			continue
		}
		t.Run(o.id, func(t *testing.T) {
			d := *d
			d.t = t
			bodies := c.examples(o.body)
			if required, _ := o.body.value["required"].(bool); !required {
				bodies = append(bodies, example{name: "none"})
			}
			for _, e := range bodies {
				d.sendExample(o, "", e)
			}
			for _, p := range o.parameters {
				if p.in != "path" && p.value["example"] != nil {
					for _, e := range bodies {
						d.sendParameter(o, p, e)
					}
				}
			}
		})
		taken[o.id] = true
	}
	require.GreaterOrEqual(t, len(taken), 50)
}

func (d *door) sendParameter(o *operation, p parameter, e example) {
	d.t.Helper()
	if p.in == "header" {
		if body, _ := e.value.(map[string]any); p.name == "Idempotency-Key" && body["idempotency_key"] != nil {
			return // it has one of its own
		}
		// A key is for one request; each example is another.
		d.sendExample(o, "", e, header(p.name, strings.Replace(fmt.Sprint(p.value["example"]), "welcome-42", o.id+"-"+e.name, 1)))
		return
	}
	query := parameterText(p)
	if more := scenes[o.id].more[p.name]; more != "" {
		query += "&" + more
	}
	d.sendExample(o, "?"+query, e)
}

// parameterText writes the example of a query parameter as a URL does.
func parameterText(p parameter) string {
	value := p.value["example"]
	if content, ok := p.value["content"].(map[string]any); ok {
		media, _ := content["application/json"].(map[string]any)
		return p.name + "=" + url.QueryEscape(string(must(json.Marshal(media["example"]))))
	}
	switch v := value.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, part := range v {
			parts[i] = url.QueryEscape(fmt.Sprint(part))
		}
		return p.name + "=" + strings.Join(parts, ",")
	case map[string]any:
		for name, part := range v {
			return name + "=" + url.QueryEscape(fmt.Sprint(part))
		}
	}
	return p.name + "=" + url.QueryEscape(fmt.Sprint(value))
}

func (d *door) sendExample(o *operation, query string, e example, options ...with) {
	d.t.Helper()
	path := o.path
	var id string
	var fence int64
	set := scenes[o.id]
	if set.id != nil {
		id, fence = set.id(d)
	}
	for _, p := range o.parameters {
		if p.in == "path" {
			value := fmt.Sprint(p.value["example"])
			if value == exampleID && id != "" {
				value = id
			}
			path = strings.ReplaceAll(path, "{"+p.name+"}", value)
		}
		if p.in == "query" && p.value["required"] == true && !strings.Contains(query, p.name+"=") {
			query = "?" + strings.TrimPrefix(strings.TrimPrefix(query, "?")+"&"+parameterText(p), "&")
		}
		if p.in == "header" && p.value["required"] == true {
			options = append(options, header(p.name, fmt.Sprint(p.value["example"])))
		}
	}
	body := ""
	if e.value != nil {
		sent, _ := asJSON(d.t, e.value).(map[string]any)
		if _, states := sent["fence"]; states {
			sent["fence"] = fence
		}
		if set.setup != nil {
			set.setup(d, sent)
		}
		body = string(must(json.Marshal(sent)))
	}
	options = append(options, asAdmin)
	a := d.send(o.method, path+query, body, options...)
	require.True(d.t, a.status/100 == 2 || a.status == http.StatusNotModified, "%s, the example %s, %s: %d %s", o.id, e.name, query, a.status, a.raw)
}

// scenes say what the examples need. An operation that is not here needs nothing.
var scenes = map[string]scene{
	"listJobs":     {more: map[string]string{"payload": "queue=mail"}},
	"countJobs":    {more: map[string]string{"payload": "queue=mail"}},
	"getJob":       {id: completedJob},
	"listAttempts": {id: completedJob}, "listJobEvents": {id: completedJob}, "getResult": {id: completedJob},
	"completeJob": {id: runningJob}, "failJob": {id: runningJob}, "snoozeJob": {id: runningJob}, "releaseJob": {id: runningJob},
	"reportProgress": {id: runningJob},
	"deleteJob":      {id: completedJob},
	"retryJob":       {id: deadJob},
	"runJobNow":      {id: func(d *door) (string, int64) { return d.enqueue(`{"delay":"1h"}`), 0 }},
	"cancelJob":      {id: func(d *door) (string, int64) { return d.enqueue(`{"delay":"1h"}`), 0 }},
	"getQueue":       {id: pausedMail}, "resumeQueue": {id: pausedMail},
	"getWorker": {id: anyWorker}, "removeWorker": {id: anyWorker}, "quietWorker": {id: anyWorker}, "drainWorker": {id: anyWorker},
	"claimJobs": {
		id: anyWorker,
		setup: func(d *door, _ map[string]any) {
			d.enqueue(`{"queue":"scene-claim"}`)
		},
	},
	"sendHeartbeat":  {id: anyWorker, setup: func(d *door, body map[string]any) { stateLease(d, body["leases"]) }},
	"reportOutcomes": {id: anyWorker, setup: func(d *door, body map[string]any) { stateLease(d, body["outcomes"]) }},
	"cloneJob":       {id: deadJob},
	"editJob":        {id: func(d *door) (string, int64) { return d.enqueue(`{"delay":"1h"}`), 0 }},
	"getOperation":   {id: anyOperation}, "cancelOperation": {id: anyOperation},
	"getConsumer": {id: anyConsumer}, "readConsumer": {id: anyConsumer}, "deleteConsumer": {id: anyConsumer}, "resetConsumer": {id: anyConsumer},
	"ackConsumer": {id: anyConsumer, setup: readToTheEnd},
	"revokeKey":   {id: anyKey}, "rotateKey": {id: anyKey},
	"getWebhook": {id: anyWebhook}, "editWebhook": {id: anyWebhook}, "deleteWebhook": {id: anyWebhook},
	"testWebhook": {id: anyWebhook}, "rotateWebhookSecret": {id: anyWebhook}, "pauseWebhook": {id: anyWebhook},
	"resumeWebhook": {id: pausedWebhook}, "replayWebhook": {id: anyWebhook}, "listDeliveries": {id: anyWebhook},
	"login": {setup: func(_ *door, body map[string]any) { body["password"] = password }},
}

func completedJob(d *door) (string, int64) { return d.completed("scene-completed", `{"sent":true}`), 0 }

func deadJob(d *door) (string, int64) { return d.dead("scene-" + uuid.NewString()), 0 }

func runningJob(d *door) (string, int64) {
	_, job := d.running("scene-running") // maybe an older one, which another example gave back
	return job.ID.String(), job.Fence
}

func pausedMail(d *door) (string, int64) {
	d.post("/admin/queues/mail/pause", "", asAdmin).is(http.StatusOK)
	return "", 0
}

func anyWorker(d *door) (string, int64) {
	return d.post("/workers", `{"name":"scene","queues":{"scene-claim":1}}`).is(http.StatusCreated).text("id"), 0
}

func anyOperation(d *door) (string, int64) {
	body := `{"action":"cancel","ids":["` + d.enqueue(`{"delay":"1h"}`) + `"]}`
	return d.post("/admin/operations", body, asAdmin).is(http.StatusAccepted).text("id"), 0
}

func anyConsumer(d *door) (string, int64) {
	d.send(http.MethodPut, "/api/v1/admin/consumers/billing", `{"after":"earliest"}`, asAdmin)
	return "", 0
}

// readToTheEnd has the reader of the example read, and states what it may acknowledge.
func readToTheEnd(d *door, body map[string]any) {
	body["cursor"] = d.get("/consumers/billing/events?reader=" + body["reader"].(string)).page().Cursor
}

func anyKey(d *door) (string, int64) {
	return d.post("/admin/keys", `{"name":"scene","role":"viewer"}`, asAdmin).is(http.StatusCreated).text("id"), 0
}

func anyWebhook(d *door) (string, int64) {
	// Nothing listens there: a test of it ends at once.
	return d.post("/admin/webhooks", `{"url":"http://127.0.0.1:9/hook"}`, asAdmin).is(http.StatusCreated).text("id"), 0
}

func pausedWebhook(d *door) (string, int64) {
	id, _ := anyWebhook(d)
	d.post("/admin/webhooks/"+id+"/pause", "", asAdmin).is(http.StatusOK)
	return id, 0
}

// stateLease puts a job that runs into the first line of a list.
func stateLease(d *door, lines any) {
	id, fence := runningJob(d)
	line, _ := lines.([]any)[0].(map[string]any)
	line["job_id"], line["fence"] = id, fence
}
