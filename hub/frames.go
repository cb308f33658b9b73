package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/mini-asynq/mini-asynq/events"
)

// The frames of framed mode: one JSON object in a text frame, whose member t says which. docs/stream-protocol.md tells
// them to those who write clients.

// Bounds of a session.
const (
	maxSubs   = 16
	maxCredit = 10_000
	maxEvents = 200       // of one ev frame
	maxFrame  = 256 << 10 // bytes of one ev frame, unless a single event is larger
	maxID     = 64        // bytes of a subscription's id
	minStats  = 500 * time.Millisecond
	maxStats  = 10 * time.Second
)

// Classes of subscriptions; metrics count sockets in plain mode as one more.
const (
	classPlain    = "plain"
	classView     = "view"     // coalesced, for screens
	classConsumer = "consumer" // lossless, for programs
)

// wish is a frame of the client, as far as its shape goes.
type wish struct {
	T       string
	ID      string
	Class   string
	After   string
	Filter  map[string][]string // nil: the frame has none
	Include []string
	Credit  int64
	N       int64 // ping: comes back; credit: how much
	Every   string
	Queues  []string

	given map[string]bool // the members that are there
}

// member says how a member is read into a wish.
type member func(*wish, json.RawMessage) error

// into reads a member into one of the fields.
func into[T any](field func(*wish) *T) member {
	return func(w *wish, raw json.RawMessage) error {
		if string(raw) == "null" {
			return errShape
		}
		return json.Unmarshal(raw, field(w))
	}
}

var (
	idMember     = into(func(w *wish) *string { return &w.ID })
	filterMember = into(func(w *wish) *map[string][]string { return &w.Filter })
	numberMember = into(func(w *wish) *int64 { return &w.N })
)

// verbs are the frames that a client may send: their members, and which must be there. All have t.
var verbs = map[string]struct {
	members map[string]member
	needs   []string
}{
	"sub": {map[string]member{
		"id": idMember, "class": into(func(w *wish) *string { return &w.Class }),
		"after": into(func(w *wish) *string { return &w.After }), "filter": filterMember,
		"include": into(func(w *wish) *[]string { return &w.Include }),
		"credit":  into(func(w *wish) *int64 { return &w.Credit }),
	}, []string{"id", "class"}},
	"credit": {map[string]member{"id": idMember, "n": numberMember}, []string{"id", "n"}},
	"filter": {map[string]member{"id": idMember, "filter": filterMember}, []string{"id", "filter"}},
	"unsub":  {map[string]member{"id": idMember}, []string{"id"}},
	"ping":   {map[string]member{"n": numberMember}, []string{"n"}},
	"stats": {map[string]member{
		"every": into(func(w *wish) *string { return &w.Every }), "queues": into(func(w *wish) *[]string { return &w.Queues }),
	}, []string{"every"}},
}

var errShape = errors.New("hub: not a frame of the protocol")

// readWish reads a frame of a client. Whoever sends what is not one has a bug: unknown and repeated members are refused as
// everywhere else. detail is for the client, and empty when all is well.
func readWish(said []byte) (w wish, detail string) {
	members, err := readMembers(said)
	if err != nil {
		return w, "one JSON object, no member twice"
	}
	if json.Unmarshal(members["t"], &w.T) != nil {
		return w, "t says which frame it is"
	}
	verb, ok := verbs[w.T]
	if !ok {
		return w, "unknown t"
	}
	w.given = make(map[string]bool, len(members))
	for _, name := range slices.Sorted(maps.Keys(members)) { // what is wrong first is the same each time
		if name == "t" {
			continue
		}
		raw := members[name]
		read, ok := verb.members[name]
		if !ok {
			return w, "unknown member"
		}
		if read(&w, raw) != nil {
			return w, "a member of the wrong type"
		}
		w.given[name] = true
	}
	for _, name := range verb.needs {
		if !w.given[name] {
			return w, "without " + name
		}
	}
	if w.given["id"] && (w.ID == "" || len(w.ID) > maxID || !utf8.ValidString(w.ID)) {
		return w, "id: 1 to 64 bytes"
	}
	return w, ""
}

// readMembers splits an object. The library would take Id for id, and the last of two.
func readMembers(said []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(said))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errShape
	}
	members := make(map[string]json.RawMessage)
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errShape
		}
		key, _ := name.(string) // a name of a member is one
		var raw json.RawMessage
		if _, twice := members[key]; twice || dec.Decode(&raw) != nil {
			return nil, errShape
		}
		members[key] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, errShape
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errShape
	}
	return members, nil
}

// filterOf makes the filter of a frame. *events.FilterError.
func filterOf(fields map[string][]string) (*events.Filter, error) {
	given := maps.Clone(fields)
	for _, name := range events.FilterFields() {
		if len(given[name]) == 0 {
			delete(given, name) // it lets all through
		}
	}
	return events.ParseFilter(given)
}

// hello and the others are the frames of the server, beside ev, which is put together from events (outbox.events).
type hello struct {
	T        string `json:"t"`
	V        int    `json:"v"`
	Node     string `json:"node"`
	Epoch    int64  `json:"epoch"`
	Head     string `json:"head"`
	Floor    string `json:"floor"`
	MaxSubs  int    `json:"max_subs"`
	MaxBatch int    `json:"max_batch"`
}

// place is subbed, caught_up, mark, skip and ended.
type place struct {
	T      string `json:"t"`
	ID     string `json:"id"`
	From   string `json:"from,omitempty"`
	Cursor string `json:"cursor,omitempty"`
	Behind *int64 `json:"behind,omitempty"` // subbed
	N      int64  `json:"n,omitempty"`      // skip: positions that were passed over
	Code   string `json:"code,omitempty"`   // ended
	Floor  string `json:"floor,omitempty"`
}

// fault is err.
type fault struct {
	T      string `json:"t"`
	ID     string `json:"id,omitempty"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

type pong struct {
	T string `json:"t"`
	N int64  `json:"n"`
}

type bye struct {
	T       string `json:"t"`
	RetryMS int64  `json:"retry_ms"`
}

// frame appends one of the frames above.
func (o *outbox) frame(f any) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	o.bytes = appendFrame(o.bytes, websocket.TextMessage, raw)
	o.close(0)
	return nil
}

// evEnvelope is what an ev frame has around its list, at most: an escaped id and a cursor.
const evEnvelope = 64 + 6*maxID + 40

// events appends an ev frame: lists of encoded events, n events in all, and up to where they bring the client.
func (o *outbox) events(id []byte, lists [][]byte, n int, upTo events.Position) {
	const before, between, end = `{"t":"ev","id":`, `,"ev":[`, `],"cursor":"`
	var digits [48]byte
	cursor := append(strconv.AppendInt(digits[:0], upTo.Epoch, 10), '-')
	cursor = strconv.AppendInt(cursor, upTo.Seq, 10)
	size := len(before) + len(id) + len(between) + len(lists) - 1 + len(end) + len(cursor) + len(`"}`)
	for _, list := range lists {
		size += len(list)
	}
	o.bytes = appendHead(o.bytes, websocket.TextMessage, size)
	o.bytes = append(append(append(o.bytes, before...), id...), between...)
	for i, list := range lists {
		if i > 0 {
			o.bytes = append(o.bytes, ',')
		}
		o.bytes = append(o.bytes, list...)
	}
	o.bytes = append(append(append(o.bytes, end...), cursor...), `"}`...)
	o.close(n)
}
