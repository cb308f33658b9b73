package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
)

// The contract is api/openapi.yaml as a judge: door.do shows it every call that any test of this package makes. An answer
// has to be documented (status, headers, media type, body, no field more), and so has a request that was taken.
type contract struct {
	root       map[string]any // as encoding/json reads it
	operations []*operation
	strict     *jsonschema.Compiler // answers: no field that is not there
	plain      *jsonschema.Compiler

	mu       sync.Mutex // guards the compilers and what they have compiled
	compiled map[string]*jsonschema.Schema
}

// operation is a method on a path, with what it shares with the others of its path.
type operation struct {
	id, method, path string // path: with the server's address before it
	scope            string
	segments         []string
	pointer          string // to it
	node             map[string]any
	parameters       []parameter
	body             node // the request's; nil: none
	responses        map[string]node
}

// node is a part of the document, with the pointer to where it stands, references followed.
type node struct {
	pointer string
	value   map[string]any
}

type parameter struct {
	node
	name, in string
}

var theContract = sync.OnceValues(readContract)

// contractOf is the one contract of this run; compiled schemas are shared.
func contractOf(t testing.TB) *contract {
	t.Helper()
	c, err := theContract()
	require.NoError(t, err)
	return c
}

func readContract() (*contract, error) {
	var read any
	if err := yaml.Unmarshal(api.Description(), &read); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(read)
	if err != nil {
		return nil, err
	}
	c := &contract{compiled: make(map[string]*jsonschema.Schema)}
	if err := json.Unmarshal(raw, &c.root); err != nil {
		return nil, err
	}
	for _, into := range []struct {
		compiler **jsonschema.Compiler
		closed   bool
	}{{&c.strict, true}, {&c.plain, false}} {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		if into.closed {
			closeObjects(document)
		}
		compiler := jsonschema.NewCompiler()
		compiler.AssertFormat()
		if err := compiler.AddResource("openapi.json", document); err != nil {
			return nil, err
		}
		*into.compiler = compiler
	}
	c.readOperations()
	return c, nil
}

// closeObjects refuses in each schema that lists properties whatever is not listed, unless it says itself what else may be
// there. Clients pass over new fields; the document must not.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, lists := v["properties"].(map[string]any); lists && v["additionalProperties"] == nil {
			v["unevaluatedProperties"] = false
		}
		for _, inner := range v {
			closeObjects(inner)
		}
	case []any:
		for _, inner := range v {
			closeObjects(inner)
		}
	}
}

func (c *contract) readOperations() {
	paths, _ := c.root["paths"].(map[string]any)
	base := serverOf(c.root)
	for path, item := range paths {
		members, _ := item.(map[string]any)
		before := base
		if members["servers"] != nil {
			before = strings.TrimSuffix(serverOf(members), "/")
		}
		at := "/paths/" + escape(path)
		for method, v := range members {
			op, isOperation := v.(map[string]any)
			if !isOperation {
				continue
			}
			o := &operation{
				method: strings.ToUpper(method), path: before + path, node: op, pointer: at + "/" + method,
				responses: make(map[string]node),
			}
			o.id, _ = op["operationId"].(string)
			o.scope, _ = op["x-scope"].(string)
			o.segments = strings.Split(o.path, "/")
			shared, _ := members["parameters"].([]any)
			own, _ := op["parameters"].([]any)
			for i := range shared {
				o.parameters = append(o.parameters, c.parameter(fmt.Sprintf("%s/parameters/%d", at, i)))
			}
			for i := range own {
				o.parameters = append(o.parameters, c.parameter(fmt.Sprintf("%s/parameters/%d", o.pointer, i)))
			}
			if op["requestBody"] != nil {
				o.body = c.at(o.pointer + "/requestBody")
			}
			responses, _ := op["responses"].(map[string]any)
			for status := range responses {
				o.responses[status] = c.at(o.pointer + "/responses/" + status)
			}
			c.operations = append(c.operations, o)
		}
	}
	slices.SortFunc(c.operations, func(a, b *operation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
}

func serverOf(of map[string]any) string {
	servers, _ := of["servers"].([]any)
	if len(servers) == 0 {
		return ""
	}
	server, _ := servers[0].(map[string]any)
	address, _ := server["url"].(string)
	return address
}

func (c *contract) parameter(pointer string) parameter {
	p := parameter{node: c.at(pointer)}
	p.name, _ = p.value["name"].(string)
	p.in, _ = p.value["in"].(string)
	return p
}

func escape(s string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(s) }

// at looks a pointer up, and follows the references that stand there.
func (c *contract) at(pointer string) node {
	var v any = c.root
	for _, part := range strings.Split(pointer, "/")[1:] {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(in) {
				return node{}
			}
			v = in[i]
		default:
			return node{}
		}
	}
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok && len(m) == 1 {
		return c.at(strings.TrimPrefix(ref, "#"))
	}
	return node{pointer, m}
}

// validate holds a value against the schema at a pointer.
func (c *contract) validate(pointer string, strict bool, value any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	compiler, key := c.plain, pointer
	if strict {
		compiler, key = c.strict, pointer+" strict"
	}
	schema := c.compiled[key]
	if schema == nil {
		var err error
		// A pointer inside of an address is escaped like one.
		if schema, err = compiler.Compile("openapi.json#" + (&url.URL{Fragment: pointer}).EscapedFragment()); err != nil {
			return err
		}
		c.compiled[key] = schema
	}
	return schema.Validate(value)
}

// find is the operation of a request, among those that this server has; fixed names go before parameters. On a server with
// a base path that is left out.
func (c *contract) find(routes map[string]bool, method, path string) *operation {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, inside := range []string{"/api/v1/", "/problems/", "/docs"} {
		if i := strings.Index(path, inside); i > 0 {
			path = path[i:]
		}
	}
	given := strings.Split(path, "/")
	var found *operation
	for _, o := range c.operations {
		if routes[o.method+" "+o.path] && o.method == method && o.matches(given) && (found == nil || strings.Count(o.path, "{") < strings.Count(found.path, "{")) {
			found = o
		}
	}
	return found
}

func (o *operation) matches(given []string) bool {
	if len(given) != len(o.segments) {
		return false
	}
	for i, segment := range o.segments {
		if segment != given[i] && (!strings.HasPrefix(segment, "{") || given[i] == "") {
			return false
		}
	}
	return true
}

// routesOf are the routes of a server as the document writes them: GET /api/v1/jobs/{id}.
func routesOf(s *api.Server, basePath string) map[string]bool {
	routes := make(map[string]bool)
	for _, route := range s.Routes() {
		routes[route.Method+" "+templatePart.ReplaceAllString(strings.TrimPrefix(route.Path, basePath), "{$1}")] = true
	}
	return routes
}

var templatePart = regexp.MustCompile(`[:*](\w+)`)

// check judges one call of a server with these routes.
func (c *contract) check(routes map[string]bool, r *http.Request, a *answer) error {
	o := c.find(routes, r.Method, r.URL.EscapedPath())
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	refused := media == "application/problem+json"
	switch {
	case o == nil && !refused:
		return nil // a page of the dashboard, a preflight: nothing of the interface
	case o == nil || r.Method == http.MethodOptions:
		return c.body(r, "/components/schemas/Problem", true, a.raw)
	case o.id == "openSocket" || !refused && (o.id == "getDashboard" || o.id == "getAsset"):
		return nil // mounted: here are stand-ins
	}
	response, documented := o.responses[strconv.Itoa(a.status)]
	if !documented {
		return fmt.Errorf("%s does not document the status %d: %s", o.id, a.status, a.raw)
	}
	if err := c.headers(response, a.header); err != nil {
		return fmt.Errorf("%s, %d: %w", o.id, a.status, err)
	}
	content, _ := response.value["content"].(map[string]any)
	switch {
	case r.Method == http.MethodHead:
	case content == nil:
		if len(a.raw) > 0 {
			return fmt.Errorf("%s, %d: a body that is not documented: %s", o.id, a.status, a.raw)
		}
	case content[media] == nil:
		return fmt.Errorf("%s, %d: the media type %q is not documented", o.id, a.status, media)
	case media == "application/json" || refused:
		if err := c.body(r, response.pointer+"/content/"+escape(media)+"/schema", true, a.raw); err != nil {
			return fmt.Errorf("%s, %d: %w\n%s", o.id, a.status, err, a.raw)
		}
	case media == "application/x-ndjson":
		for line := range bytes.Lines(a.raw) {
			if err := c.body(r, "/components/schemas/Event", true, line); err != nil {
				return fmt.Errorf("%s, %d: %w\n%s", o.id, a.status, err, line)
			}
		}
	}
	if a.status/100 == 2 {
		return c.checkRequest(o, r, a)
	}
	return nil
}

func (c *contract) headers(response node, given http.Header) error {
	headers, _ := response.value["headers"].(map[string]any)
	for name := range headers {
		h := c.at(response.pointer + "/headers/" + name)
		values := given.Values(name)
		if len(values) == 0 {
			if h.value["required"] == true {
				return fmt.Errorf("the header %s is missing", name)
			}
			continue
		}
		if err := c.validate(h.pointer+"/schema", false, values[0]); err != nil {
			return fmt.Errorf("the header %s: %w", name, err)
		}
	}
	return nil
}

// body validates JSON.
func (c *contract) body(r *http.Request, pointer string, strict bool, raw []byte) error {
	if r.Method == http.MethodHead {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return c.validate(pointer, strict, value)
}

// checkRequest judges a request that was taken: whatever the server takes, the document allows.
func (c *contract) checkRequest(o *operation, r *http.Request, a *answer) error {
	query := r.URL.Query()
	for _, p := range o.parameters {
		switch p.in {
		case "query":
			if err := c.checkParameter(p, query); err != nil {
				return fmt.Errorf("%s took ?%s: %w", o.id, r.URL.RawQuery, err)
			}
		case "header":
			given := r.Header.Values(p.name)
			if len(given) == 0 && p.value["required"] == true {
				return fmt.Errorf("%s did without the header %s", o.id, p.name)
			}
			if len(given) > 0 {
				if err := c.validate(p.pointer+"/schema", false, given[0]); err != nil {
					return fmt.Errorf("%s took the header %s: %w", o.id, p.name, err)
				}
			}
		}
	}
	if len(query) > 0 {
		return fmt.Errorf("%s took parameters that are not documented: %v", o.id, slices.Collect(maps.Keys(query)))
	}
	if o.body.value == nil || r.GetBody == nil {
		return nil
	}
	sent, err := r.GetBody()
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(sent)
	if err != nil || len(raw) == 0 {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if o.id == "reportOutcomes" {
		value = withoutRefused(value, a)
	}
	if err := c.validate(o.body.pointer+"/content/application~1json/schema", false, value); err != nil {
		return fmt.Errorf("%s took %.2000s: %w", o.id, raw, err)
	}
	return nil
}

// withoutRefused leaves out the outcomes that have a verdict of their own: refused.
func withoutRefused(request any, a *answer) any {
	body, _ := request.(map[string]any)
	sent, _ := body["outcomes"].([]any)
	results, _ := a.object()["results"].([]any)
	taken := []any{}
	for i, one := range sent {
		if verdict, _ := results[i].(map[string]any); verdict["problem"] == nil {
			taken = append(taken, one)
		}
	}
	if len(taken) == 0 {
		return map[string]any{"outcomes": []any{map[string]any{"job_id": exampleID, "fence": json.Number("1"), "outcome": "release"}}}
	}
	return map[string]any{"outcomes": taken}
}

// exampleID stands in the document wherever an id does.
const exampleID = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"

// checkParameter validates one parameter, and takes what it has seen out of the query.
func (c *contract) checkParameter(p parameter, query url.Values) error {
	if p.value["content"] != nil {
		defer query.Del(p.name)
		if !query.Has(p.name) {
			return nil
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(query.Get(p.name)))
		if err != nil {
			return err
		}
		return c.validate(p.pointer+"/content/application~1json/schema", false, value)
	}
	schema := p.pointer + "/schema"
	kind := c.at(schema).value["type"]
	if kind == "object" { // its members are parameters
		members := map[string]any{}
		for name := range query {
			if strings.HasPrefix(name, p.name+".") {
				members[name] = query.Get(name)
				query.Del(name)
			}
		}
		return c.validate(schema, false, members)
	}
	defer query.Del(p.name)
	if !query.Has(p.name) {
		return nil
	}
	text := query.Get(p.name)
	var value any = text
	switch kind {
	case "array":
		parts := []any{}
		for part := range strings.SplitSeq(text, ",") {
			parts = append(parts, part)
		}
		value = parts
	case "integer":
		value = json.Number(text)
	}
	return c.validate(schema, false, value)
}
