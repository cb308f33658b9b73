package hub_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// protocol is api/asyncapi.yaml as a judge: every frame and every close reason that a test of this package reads is shown to
// it. It is stricter than clients are: what is not described must not be sent.
type protocol struct {
	root     map[string]any
	compiler *jsonschema.Compiler

	mu       sync.Mutex // guards the compiler and what it has compiled
	compiled map[string]*jsonschema.Schema
}

var theProtocol = sync.OnceValues(readProtocol)

func protocolOf(t testing.TB) *protocol {
	t.Helper()
	p, err := theProtocol()
	require.NoError(t, err)
	return p
}

func readProtocol() (*protocol, error) {
	p := &protocol{compiler: jsonschema.NewCompiler(), compiled: make(map[string]*jsonschema.Schema)}
	p.compiler.AssertFormat()
	for name, text := range map[string][]byte{"asyncapi.yaml": api.SocketDescription(), "openapi.yaml": api.Description()} {
		var read any
		if err := yaml.Unmarshal(text, &read); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(read)
		if err != nil {
			return nil, err
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		if name == "asyncapi.yaml" {
			p.root, _ = document.(map[string]any)
		}
		closeObjects(document)
		if err := p.compiler.AddResource("file:///"+name, document); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// closeObjects refuses whatever a schema with properties does not list, unless it says itself what else may be there.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, lists := v["properties"].(map[string]any); lists && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
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

// check holds JSON against a schema of the document.
func (p *protocol) check(pointer string, raw []byte) error {
	p.mu.Lock()
	schema := p.compiled[pointer]
	if schema == nil {
		var err error
		if schema, err = p.compiler.Compile("file:///asyncapi.yaml#" + pointer); err != nil {
			p.mu.Unlock()
			return err
		}
		p.compiled[pointer] = schema
	}
	p.mu.Unlock()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// at follows a path of members, and references of the document to itself.
func (p *protocol) at(path ...string) map[string]any {
	node := p.root
	for _, name := range path {
		node, _ = node[name].(map[string]any)
		if ref, ok := node["$ref"].(string); ok {
			node = p.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
	}
	return node
}

// messages are the names of the messages of an operation.
func (p *protocol) messages(operation string) (names []string) {
	list, _ := p.at("operations", operation)["messages"].([]any)
	for _, item := range list {
		ref, _ := item.(map[string]any)["$ref"].(string)
		names = append(names, ref[strings.LastIndex(ref, "/")+1:])
	}
	return names
}

func payloadOf(message string) string { return "/components/messages/" + message + "/payload" }

// mustBeFrame fails unless what the server sent in framed mode is a frame of the document. What tests make up for the numbers of
// a queue is left out: TestEveryFrameOfTheDocumentIsSent looks at real ones.
func mustBeFrame(t testing.TB, kind string, raw []byte) {
	t.Helper()
	p := protocolOf(t)
	require.Contains(t, p.messages("sendFrames"), kind, "%s", raw)
	if kind == "stats" {
		return
	}
	require.NoError(t, p.check(payloadOf(kind), raw), "%s", raw)
}

// mustBeEvent is mustBeFrame for plain mode.
func mustBeEvent(t testing.TB, raw []byte) {
	t.Helper()
	require.NoError(t, protocolOf(t).check(payloadOf("event"), raw), "%s", raw)
}

// mustBeReason looks at a close frame of the server: a code of the document, under its name.
func mustBeReason(t testing.TB, code int, text string) {
	t.Helper()
	documented, ok := documentedCodes(t)[hub.CloseCode(code)]
	require.True(t, ok, "close code %d", code)
	if text == "" {
		return
	}
	require.NoError(t, protocolOf(t).check("/components/schemas/CloseReason", []byte(text)), text)
	var why reason
	require.NoError(t, json.Unmarshal([]byte(text), &why))
	require.Equal(t, documented.Name, why.Code)
}

// documentedCode is an entry of x-close-codes.
type documentedCode struct {
	Code        hub.CloseCode
	Name, Means string
	Then        hub.Advice
	Modes       []string
}

func documentedCodes(t testing.TB) map[hub.CloseCode]documentedCode {
	t.Helper()
	raw, err := json.Marshal(protocolOf(t).root["x-close-codes"])
	require.NoError(t, err)
	var list []documentedCode
	require.NoError(t, json.Unmarshal(raw, &list))
	all := make(map[hub.CloseCode]documentedCode)
	for _, c := range list {
		require.NotContains(t, all, c.Code)
		all[c.Code] = c
	}
	return all
}

func TestCloseCodesOfTheDocumentAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "closecode.go", nil, 0)
	require.NoError(t, err)
	constants := make(map[hub.CloseCode]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if kind, named := typeOf(spec); ok && named && kind == "CloseCode" {
			code, err := strconv.Atoi(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			constants[hub.CloseCode(code)] = true
		}
		return true
	})
	documented := documentedCodes(t)
	require.ElementsMatch(t, slices.Collect(maps.Keys(constants)), slices.Collect(maps.Keys(documented)))
	names := hub.CloseNames()
	for code, c := range documented {
		require.Equal(t, code.Advice(), c.Then, code)
		require.Equal(t, names[code], c.Name, code)
		require.NotEmpty(t, c.Means, code)
		require.Subset(t, []string{"plain", "framed"}, c.Modes, code)
	}
}

func typeOf(spec *ast.ValueSpec) (name string, ok bool) {
	if spec == nil || len(spec.Values) != 1 {
		return "", false
	}
	ident, ok := spec.Type.(*ast.Ident)
	if !ok {
		return "", false
	}
	return ident.Name, true
}

// The frames that the code takes, and their members, are those of the document.
func TestFramesOfClientsAreThoseOfTheDocument(t *testing.T) {
	t.Parallel()
	p, verbs := protocolOf(t), hub.Verbs()
	for _, message := range p.messages("receiveFrames") {
		payload := p.at("components", "messages", message, "payload")
		properties, _ := payload["properties"].(map[string]any)
		kind, _ := p.at("components", "messages", message, "payload", "properties", "t")["const"].(string)
		verb, ok := verbs[kind]
		require.True(t, ok, "%s: the code takes no %q", message, kind)
		delete(verbs, kind)
		require.ElementsMatch(t, append(verb.Members, "t"), slices.Collect(maps.Keys(properties)), message)
		require.ElementsMatch(t, append(slices.Clone(verb.Needs), "t"), payload["required"], message)
		require.Equal(t, false, payload["additionalProperties"], message)
	}
	require.Empty(t, verbs, "the document has no such frames")
}

func TestExamplesOfTheDocumentAreFrames(t *testing.T) {
	t.Parallel()
	p := protocolOf(t)
	all := p.at("components", "messages")
	require.NotEmpty(t, all)
	for message := range all {
		examples, _ := p.at("components", "messages", message)["examples"].([]any)
		require.NotEmpty(t, examples, message)
		for _, example := range examples {
			raw, err := json.Marshal(example.(map[string]any)["payload"])
			require.NoError(t, err)
			require.NoError(t, p.check(payloadOf(message), raw), message)
			if slices.Contains(p.messages("receiveFrames"), message) {
				require.Empty(t, hub.ReadWish(raw), "%s", raw)
			}
		}
	}
}

// What closes a socket with 4400 is not described as a frame, as far as a schema can tell.
func TestBadFramesAreNotFramesOfTheDocument(t *testing.T) {
	t.Parallel()
	p := protocolOf(t)
	looked := 0
	for name, text := range badFrames {
		var members map[string]any
		if json.Unmarshal([]byte(text), &members) != nil || strings.Contains(name, "twice") {
			continue // no JSON object, or one whose text alone shows what is wrong
		}
		looked++
		for _, message := range p.messages("receiveFrames") {
			require.Error(t, p.check(payloadOf(message), []byte(text)), "%s is a %s", name, message)
		}
	}
	require.Greater(t, looked, 15)
}

// Each frame that the document says the server sends is sent by this one.
func TestEveryFrameOfTheDocumentIsSent(t *testing.T) {
	t.Parallel()
	p := protocolOf(t)
	d := open(t, func(c *hub.Config) {
		c.Numbers, c.QueueBody, c.MarkEvery = &countedNumbers{}, api.QueueBody, 50*time.Millisecond
		c.Principal = func(*http.Request) hub.Caller { return hub.Caller{Payloads: true} }
	})
	d.enqueue(events.PayloadBatch, "mail")
	d.mark("begin")
	d.dial("", "after=earliest&include=payload").until("begin") // with payloads, in plain mode, too
	f := d.dialFramed("")
	sent := map[string]bool{"hello": true} // dialFramed has seen it
	await := func(kind, id string) {
		last, before := f.until(kind, id)
		for _, frame := range append(before, last) {
			sent[frame.T] = true
			require.NoError(t, p.check(payloadOf(frame.T), frame.raw), "%s", frame.raw)
		}
	}
	f.say(`{"t":"ping","n":7}`)
	await("pong", "")
	f.say(`{"t":"unsub","id":"gone"}`)
	await("err", "gone")
	f.say(`{"t":"stats","every":"500ms","queues":["mail"]}`)
	await("stats", "")
	f.say(`{"t":"stats","every":"0s"}`)
	f.say(`{"t":"sub","id":"c","class":"consumer","after":"earliest","include":["payload"],"credit":10000}`)
	await("subbed", "c")
	await("caught_up", "c")
	await("mark", "c")
	f.say(`{"t":"unsub","id":"c"}`)
	for range 3 {
		d.enqueue(1000, "mail")
	}
	d.mark("end")
	d.dial("", "after=earliest").until("end")
	f.say(`{"t":"sub","id":"v","class":"view","after":"earliest"}`)
	await("skip", "v")
	head, err := d.stream.Head()
	require.NoError(t, err)
	f.say(`{"t":"sub","id":"e","class":"view","after":%q}`, fmt.Sprintf("%d-1", head.Epoch-1))
	await("ended", "e")
	d.db.Exec(t, `UPDATE mini_asynq.epochs SET floor_seq = 5`)
	d.stream.Missed()
	pgtest.Eventually(t, limit, "the stream knows its floor", func() bool { return d.stream.Floor().Seq == 5 })
	f.say(`{"t":"sub","id":"x","class":"consumer","after":%q}`, fmt.Sprintf("%d-1", head.Epoch))
	await("ended", "x")
	d.hub.Drain(t.Context())
	await("bye", "")
	require.ElementsMatch(t, p.messages("sendFrames"), slices.Collect(maps.Keys(sent)))
	require.Equal(t, []string{"event"}, p.messages("sendEvents"))
}
