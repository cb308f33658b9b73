package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// How long the run is, and what it begins with: go test ./api -run Wild -args -wild=5m -seed=7
var (
	wildFor  = flag.Duration("wild", 3*time.Second, "how long wild calls are sent")
	wildSeed = flag.Uint64("seed", 0, "the seed of the wild calls; 0: another one each time")
)

// TestWildCallsAreAnsweredAsDocumented makes calls out of the document, spoils most of them, and sends them to a real door.
// Whatever comes: no 5xx, an answer that is documented (door.do judges each), nothing that PostgreSQL has to refuse; and what
// the document allows is never malformed.
func TestWildCallsAreAnsweredAsDocumented(t *testing.T) {
	t.Parallel()
	seed := *wildSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -args -seed=%d", seed)
	cluster := pgtest.NewCluster(t, nil) // its log is this test's alone
	d := setupOn(t, cluster.DSN(), whole, func(c *api.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	w := &wild{d: d, c: contractOf(t), r: rand.New(rand.NewPCG(seed, 0)), ids: []string{exampleID}, fences: []int64{1}}
	operations := slices.DeleteFunc(slices.Clone(w.c.operations), func(o *operation) bool {
		return slices.Contains(announced, o.id) || o.id == "openSocket" // the socket is a stand-in here
	})
	taken := map[string]int{}
	end := time.Now().Add(*wildFor)
	calls := 0
	// Each operation comes up some times, however slow the machine is, and more often while few have succeeded by chance.
	for ; calls < 4*len(operations) || time.Now().Before(end) || calls < 12*len(operations) && len(taken) <= len(operations)/2; calls++ {
		if calls%100 == 0 {
			w.furnish()
		}
		o := operations[calls%len(operations)]
		if w.call(o) {
			taken[o.id]++
		}
	}
	t.Logf("%d calls, %d of the %d operations succeeded", calls, len(taken), len(operations))
	require.Greater(t, len(taken), len(operations)/2, "calls that are all refused show little")
	log := string(must(os.ReadFile(cluster.LogFile())))
	require.NotContains(t, log, "ERROR:", "the database had to refuse what the door should have")
	require.NotContains(t, d.log.String(), `"level":"error"`)
}

// wild makes calls.
type wild struct {
	d      *door
	c      *contract
	r      *rand.Rand
	ids    []string // of things that were there
	fences []int64
	sound  bool // the present call is not to be spoilt
}

// furnish gives the calls something to meet.
func (w *wild) furnish() {
	d := w.d
	_, job := d.running("wild-running")
	w.ids = append(w.ids, job.ID.String(), d.enqueue(`{"queue":"wild","delay":"1h"}`), d.dead("wild-dead"), d.completed("wild-done", `[1]`),
		d.post("/workers", `{"name":"wild","queues":{"wild":1}}`).is(http.StatusCreated).text("id"),
		d.post("/admin/keys", `{"name":"wild","role":"viewer"}`, asAdmin).is(http.StatusCreated).text("id"))
	if id, ok := d.post("/admin/webhooks", `{"url":"http://127.0.0.1:9/"}`, asAdmin).object()["id"].(string); ok { // there is room for a hundred
		w.ids = append(w.ids, id, id)
	}
	w.fences = append(w.fences, job.Fence)
	w.ids, w.fences = w.ids[max(0, len(w.ids)-40):], w.fences[max(0, len(w.fences)-8):]
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// chance is true once in n.
func (w *wild) chance(n int) bool { return w.r.IntN(n) == 0 }

// call sends one call; true: it succeeded.
func (w *wild) call(o *operation) bool {
	w.sound = w.chance(3)
	path := o.path
	for _, p := range o.parameters {
		if p.in == "path" {
			path = strings.ReplaceAll(path, "{"+p.name+"}", url.PathEscape(w.segment(p)))
		}
	}
	path += w.query(o)
	body := ""
	if o.body.value != nil && (o.body.value["required"] == true || !w.chance(3)) {
		body = w.body(o.body.pointer + "/content/application~1json/schema")
	}
	options := []with{w.from(o)}
	for _, p := range o.parameters {
		if p.in == "header" && p.value["required"] == true && !w.chance(8) {
			options = append(options, header(p.name, pick(w.r, []string{`"v1"`, "*", `"v2"`})))
		}
	}
	if !w.sound && w.chance(4) {
		name := pick(w.r, []string{"Idempotency-Key", "If-None-Match", "If-Match", "Traceparent", "X-Request-Id", "Accept", "Content-Type", "Content-Encoding", "Last-Event-Id", "Range"})
		value := pick(w.r, []string{"x", `"v1"`, `W/"v1", *`, "*", "\u00fc", strings.Repeat("k", 300), "application/json; charset=\"utf-8\"", "text/html, */*;q=0", "bytes=0-", "-1", `"v99999999999999999999"`})
		options = append(options, header(name, value))
	}
	if path == "" || path[0] != '/' || strings.Contains(path, "//") {
		path = "/" + strings.TrimLeft(path, "/")
	}
	a := w.d.send(o.method, path, body, options...)
	told := fmt.Sprintf("%s %s\n%.2000s\n%d %s", o.method, path, body, a.status, a.raw)
	require.Less(w.d.t, a.status, 500, told)
	if w.sound && body != "" && a.status == http.StatusBadRequest {
		require.NotContains(w.d.t, string(a.raw), `"malformed_request"`, "the document allows it: %s", told)
	}
	if a.status/100 == 2 {
		w.remember(a)
	}
	return a.status/100 == 2
}

// from is who calls: the operator, but for sign-ins, whose failures would shut the operator out.
func (w *wild) from(o *operation) with {
	if o.id == "login" || o.id == "logout" {
		return header("X-Forwarded-For", fmt.Sprintf("203.0.%d.%d", w.r.IntN(256), w.r.IntN(256)))
	}
	return asAdmin
}

// remember keeps ids and fences of an answer, for later calls.
func (w *wild) remember(a *answer) {
	var body struct {
		ID   string `json:"id"`
		Jobs []struct {
			ID    string `json:"id"`
			Fence int64  `json:"fence"`
		} `json:"jobs"`
	}
	if json.Unmarshal(a.raw, &body) != nil {
		return
	}
	if len(body.ID) == len(exampleID) {
		w.ids = append(w.ids, body.ID)
	}
	for _, job := range body.Jobs {
		w.ids, w.fences = append(w.ids, job.ID), append(w.fences, job.Fence)
	}
}

// texts are strings of all kinds: names, spans, times, cursors, and what breaks readers of them. No span among them makes a
// call wait for long.
var texts = []string{
	"", "a", "mail", "*", "wild*", ".", "..", "../x", "a/b", "a b", strings.Repeat("n", 255), strings.Repeat("n", 256), strings.Repeat("\u00e9", 64),
	"0", "0s", "1ms", "250ms", "-1s", "61s", "7d", "8d", "31d", "365d", "366d", "1h", "9999999999999h", "1", ".5h", "1e3s",
	"2026-03-01T12:00:00Z", "2001-01-01T00:00:00.5+01:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "infinity",
	"earliest", "latest", "3-1", "3-99999999999999999999", "-1", "+1", "1.5", "1e3", "99999999999999999999", "\x00", "\u202eabc", "\U0001F600", "a,b", ",", "%", "_",
	"'; DROP TABLE jobs--", "{{7*7}}", "<script>", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "null", "true", "[]", `{"a":1}`,
	"\ufeff", "\ufffd", strings.Repeat("x", 5000), "high", "dead", "admin", "read:payload",
}

func (w *wild) segment(p parameter) string {
	if !w.sound && w.chance(8) {
		if text := pick(w.r, texts); text != "" && len(text) < 1000 {
			return text
		}
	}
	if p.name == "id" {
		return pick(w.r, w.ids)
	}
	value, _ := w.value(p.pointer+"/schema", 0).(string)
	if value == "" {
		value, _ = p.value["example"].(string)
	}
	return value
}

func (w *wild) query(o *operation) string {
	query := url.Values{}
	for _, p := range o.parameters {
		if p.in != "query" || !w.chance(4) {
			continue
		}
		name, text := p.name, ""
		switch v := w.value(p.pointer+"/schema", 0).(type) {
		case []any:
			parts := make([]string, len(v))
			for i := range v {
				parts[i] = fmt.Sprint(v[i])
			}
			text = strings.Join(parts, ",")
		case map[string]any:
			name, text = name+".key", "value"
		default:
			text = fmt.Sprint(v)
		}
		if p.value["content"] != nil {
			text = string(must(json.Marshal(w.anything(2))))
		}
		if !w.sound && w.chance(3) {
			text = pick(w.r, texts)
		}
		if w.chance(20) {
			name = pick(w.r, []string{"x", "limt", "metadata.", "metadata.\x00", name + "[]"})
		}
		query.Add(name, text)
		if !w.sound && w.chance(20) {
			query.Add(name, text)
		}
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// body is a text for a schema: as the document allows it, or spoilt in one or two places.
func (w *wild) body(schema string) string {
	value := w.value(schema, 0)
	if w.sound {
		return string(must(json.Marshal(value)))
	}
	for range 1 + w.r.IntN(2) {
		value = w.spoil(value, 0)
	}
	text := string(must(json.Marshal(value)))
	if !w.chance(8) {
		return text
	}
	cut := w.r.IntN(len(text) + 1)
	return pick(w.r, []string{
		text[:cut], text + text, text[:cut] + "\xff" + text[cut:], "\xEF\xBB\xBF" + text, text[:cut] + `\ud800` + text[cut:],
		strings.Replace(text, "{", `{"queue":"a","queue":"a",`, 1), strings.ReplaceAll(text, ":", ": "), "\n" + text + "\t",
		strings.Replace(text, "1", "1e131071", 1), strings.Replace(text, `"`, "'", 2),
	})
}

// spoil replaces one part of a value.
func (w *wild) spoil(value any, depth int) any {
	switch v := value.(type) {
	case map[string]any:
		if len(v) > 0 && !w.chance(4) {
			name := pick(w.r, slices.Sorted(maps.Keys(v)))
			out := maps.Clone(v)
			switch w.r.IntN(6) {
			case 0:
				delete(out, name)
			case 1:
				out[pick(w.r, append(texts, strings.ToUpper(name), name+" "))] = v[name]
			default:
				out[name] = w.spoil(v[name], depth+1)
			}
			return out
		}
	case []any:
		if len(v) > 0 && !w.chance(3) {
			out := slices.Clone(v)
			i := w.r.IntN(len(out))
			out[i] = w.spoil(out[i], depth+1)
			return out
		}
		return slices.Repeat(append(v, w.anything(1)), 1+w.r.IntN(40))
	case json.Number:
		if !w.chance(3) {
			return json.Number(pick(w.r, []string{"-1", "0", "-0", "1.0", "1e2", "1001", "9007199254740993", "9223372036854775808", "1e400", "0.1", "-99999999999999999999"}))
		}
	case string:
		if !w.chance(3) {
			return pick(w.r, texts)
		}
	}
	return w.anything(3)
}

// anything is any JSON.
func (w *wild) anything(depth int) any {
	switch w.r.IntN(8) {
	case 0:
		return nil
	case 1:
		return w.chance(2)
	case 2:
		return json.Number(pick(w.r, []string{"0", "1", "-5", "2.5", "1e10", "123456789012345678901234567890"}))
	case 3:
		if depth > 0 {
			return map[string]any{pick(w.r, texts): w.anything(depth - 1), "k": w.anything(depth - 1)}
		}
	case 4:
		if depth > 0 {
			return []any{w.anything(depth - 1), w.anything(depth - 1)}
		}
	case 5:
		var deep any = "x"
		for range 30 * w.r.IntN(4) {
			deep = []any{deep}
		}
		return deep
	}
	return pick(w.r, texts)
}

// schema follows references, whatever stands beside them.
func (w *wild) schema(pointer string) node {
	n := w.c.at(pointer)
	for {
		ref, ok := n.value["$ref"].(string)
		if !ok {
			return n
		}
		n = w.c.at(strings.TrimPrefix(ref, "#"))
	}
}

// value is one that a schema allows, as far as its own words say.
func (w *wild) value(pointer string, depth int) any {
	n := w.schema(pointer)
	if values, ok := n.value["enum"].([]any); ok {
		return pick(w.r, values)
	}
	kind := n.value["type"]
	if kinds, ok := kind.([]any); ok {
		if kind = kinds[0]; w.chance(6) {
			kind = pick(w.r, kinds)
		}
	}
	switch kind {
	case "null":
		return nil
	case "boolean":
		return w.chance(2)
	case "integer", "number":
		return w.number(n)
	case "string":
		return w.text(n)
	case "array":
		return w.array(n, depth)
	case "object":
		return w.object(n, depth)
	}
	if w.sound {
		return map[string]any{"sent": true, "n": json.Number("1")}
	}
	return w.anything(3)
}

func (w *wild) number(n node) any {
	bound := func(name string, fallback int64) int64 {
		if f, ok := n.value[name].(float64); ok {
			return int64(f)
		}
		return fallback
	}
	lowest, highest := bound("minimum", bound("exclusiveMinimum", -1)+1), bound("maximum", 1<<53-1)
	if n.pointer == "/components/schemas/Fence" {
		return json.Number(strconv.FormatInt(pick(w.r, w.fences), 10))
	}
	return json.Number(strconv.FormatInt(pick(w.r, []int64{lowest, highest, lowest + w.r.Int64N(highest-lowest+1), min(highest, lowest+3)}), 10))
}

// text is a string that keeps the length, the pattern and the format.
func (w *wild) text(n node) any {
	if n.value["format"] == "uuid" {
		return pick(w.r, w.ids)
	}
	allowed := texts
	if n.value["format"] == "date-time" {
		allowed = []string{"2026-03-01T12:00:00Z", "2001-01-01T00:00:00.5+01:00", "2030-06-01T00:00:00.123456Z"}
	}
	length := func(name string, fallback int) int {
		if f, ok := n.value[name].(float64); ok {
			return int(f)
		}
		return fallback
	}
	pattern, _ := n.value["pattern"].(string)
	match := regexp.MustCompile(pattern)
	not, _ := n.value["not"].(map[string]any)
	refused, _ := not["enum"].([]any)
	fits := slices.DeleteFunc(slices.Clone(allowed), func(s string) bool {
		runes := len([]rune(s))
		return runes < length("minLength", 0) || runes > length("maxLength", 1<<20) || !match.MatchString(s) || slices.Contains(refused, any(s)) ||
			strings.ContainsRune(s, 0) // no string that is stored has one, whatever its schema says
	})
	if len(fits) == 0 {
		return "none"
	}
	return pick(w.r, fits)
}

func (w *wild) array(n node, depth int) any {
	least := 0
	if f, ok := n.value["minItems"].(float64); ok {
		least = int(f)
	}
	out := []any{}
	for range least + w.r.IntN(3) {
		out = append(out, w.value(n.pointer+"/items", depth+1))
	}
	if n.value["uniqueItems"] == true {
		out = slices.CompactFunc(out, func(a, b any) bool { return a == b })
	}
	return out
}

func (w *wild) object(n node, depth int) any {
	out := map[string]any{}
	properties, _ := n.value["properties"].(map[string]any)
	required, _ := n.value["required"].([]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if slices.Contains(required, any(name)) || w.chance(3) {
			out[name] = w.value(n.pointer+"/properties/"+name, depth+1)
		}
	}
	if _, more := n.value["additionalProperties"].(map[string]any); more {
		out["mail"] = w.value(n.pointer+"/additionalProperties", depth+1)
	}
	if n.value["patternProperties"] != nil {
		out["metadata.key"] = "value"
	}
	return out
}

// Found by wild calls: the number was taken for a 32-bit one.
func TestEventsAfterTheLargestVersionAreNone(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.completed("largest", "")
	for _, after := range []string{"2147483647", "2147483648", "9007199254740991"} {
		require.Empty(t, d.get("/jobs/"+id+"/events?after="+after).is(http.StatusOK).data())
	}
}

// The generator is held against the validator: what it calls sound is.
func TestWildValuesAreAllowedUntilTheyAreSpoilt(t *testing.T) {
	t.Parallel()
	w := &wild{c: contractOf(t), r: rand.New(rand.NewPCG(1, 2)), ids: []string{exampleID}, fences: []int64{1}, sound: true}
	spoilt := 0
	for _, o := range w.c.operations {
		if o.body.value == nil {
			continue
		}
		schema := o.body.pointer + "/content/application~1json/schema"
		for range 50 {
			value := w.value(schema, 0)
			require.NoError(t, w.c.validate(schema, false, asJSON(t, value)), "%s: %v", o.id, value)
			if w.c.validate(schema, false, must(jsonValue(w.spoil(value, 0)))) != nil {
				spoilt++
			}
		}
	}
	require.Greater(t, spoilt, 200, "what is spoilt is mostly not allowed")
}

func jsonValue(v any) (out any, err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err = dec.Decode(&out)
	return out, err
}
