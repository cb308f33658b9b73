package hub_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/hub"
)

// framed is a client of framed mode.
type framed struct {
	*websocket.Conn
	t    testing.TB
	door *door
	was  map[string]int64 // the seq that each subscription was sent last
}

// frame is any frame of the server.
type frame struct {
	T        string            `json:"t"`
	ID       string            `json:"id"`
	V        int               `json:"v"`
	Node     string            `json:"node"`
	Epoch    int64             `json:"epoch"`
	Head     string            `json:"head"`
	Floor    string            `json:"floor"`
	MaxSubs  int               `json:"max_subs"`
	MaxBatch int               `json:"max_batch"`
	From     string            `json:"from"`
	Cursor   string            `json:"cursor"`
	Behind   *int64            `json:"behind"`
	N        int64             `json:"n"`
	Ev       []json.RawMessage `json:"ev"`
	Code     string            `json:"code"`
	Detail   string            `json:"detail"`
	RetryMS  int64             `json:"retry_ms"`
	raw      []byte
}

// dialFramed opens a socket in framed mode, as somebody, and takes the greeting.
func (d *door) dialFramed(caller string, dialer ...*websocket.Dialer) *framed {
	d.t.Helper()
	use := *websocket.DefaultDialer
	if len(dialer) > 0 {
		use = *dialer[0]
	}
	use.Subprotocols = []string{hub.Subprotocol}
	conn, response, err := use.DialContext(d.t.Context(), d.address(""), http.Header{"X-Caller": {caller}})
	require.NoError(d.t, err)
	require.Equal(d.t, hub.Subprotocol, response.Header.Get("Sec-WebSocket-Protocol"))
	d.t.Cleanup(func() { _ = conn.Close() })
	f := &framed{conn, d.t, d, make(map[string]int64)}
	hello := f.next()
	require.Equal(d.t, "hello", hello.T)
	require.Equal(d.t, 1, hello.V)
	require.Equal(d.t, 16, hello.MaxSubs)
	require.Equal(d.t, 200, hello.MaxBatch)
	require.Equal(d.t, fmt.Sprint(hello.Epoch), strings.Split(hello.Head, "-")[0])
	require.Equal(d.t, d.stream.Floor().String(), hello.Floor)
	return f
}

// say sends a frame.
func (f *framed) say(format string, args ...any) {
	f.t.Helper()
	require.NoError(f.t, f.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)))
}

// next reads a frame, and holds ev frames to what holds for all: their size, and positions that only grow.
func (f *framed) next() frame {
	f.t.Helper()
	got, err := f.read()
	if err != nil {
		require.NoError(f.t, err, f.door.state())
	}
	return got
}

func (f *framed) read() (got frame, err error) {
	f.t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return got, err
	}
	kind, raw, err := f.ReadMessage()
	if err != nil {
		return got, err
	}
	require.Equal(f.t, websocket.TextMessage, kind)
	require.NoError(f.t, json.Unmarshal(raw, &got), "%s", raw)
	got.raw = raw
	mustBeFrame(f.t, got.T, raw)
	if got.T != "ev" {
		return got, nil
	}
	require.NotEmpty(f.t, got.Ev)
	require.LessOrEqual(f.t, len(got.Ev), 200)
	if len(got.Ev) > 1 {
		require.LessOrEqual(f.t, len(raw), 256<<10)
	}
	for _, e := range got.events(f.t) {
		require.Greater(f.t, e.Seq, f.was[got.ID], "strictly rising")
		f.was[got.ID] = e.Seq
	}
	require.GreaterOrEqual(f.t, seqOf(f.t, got.Cursor), f.was[got.ID])
	return got, nil
}

// events are those of an ev frame.
func (got frame) events(t require.TestingT) []seen {
	all := make([]seen, len(got.Ev))
	for i, raw := range got.Ev {
		require.NoError(t, json.Unmarshal(raw, &all[i]))
	}
	return all
}

// until reads up to a frame of a kind and gives back those before it, too; marks are passed over unless they are looked for.
func (f *framed) until(t, id string) (last frame, before []frame) {
	f.t.Helper()
	for {
		got := f.next()
		if got.T == t && got.ID == id {
			return got, before
		}
		if got.T != "mark" {
			before = append(before, got)
		}
	}
}

// upTo reads the events of a subscription up to one that says that a queue was made, opening a credit of n as it is used up.
func (f *framed) upTo(id, queue string, n int) (all []seen) {
	f.t.Helper()
	begin := time.Now()
	for open := n; ; {
		require.Less(f.t, time.Since(begin), limit, "%d events so far; %s", len(all), f.door.state())
		got := f.next()
		if got.T != "ev" || got.ID != id {
			continue
		}
		batch := got.events(f.t)
		for _, e := range batch {
			if all = append(all, e); e.Type == "queue.created" && e.Queue == queue {
				return all
			}
		}
		if open -= len(batch); open == 0 && n > 0 {
			f.say(`{"t":"credit","id":%q,"n":%d}`, id, n)
			open = n
		}
	}
}

// closed reads until the close frame; frames before it are given back.
func (f *framed) closed() (code hub.CloseCode, why reason, before []frame) {
	f.t.Helper()
	for {
		got, err := f.read()
		if err == nil {
			before = append(before, got)
			continue
		}
		var closed *websocket.CloseError
		require.ErrorAs(f.t, err, &closed, f.door.state())
		require.LessOrEqual(f.t, len(closed.Text), 123)
		mustBeReason(f.t, closed.Code, closed.Text)
		if closed.Text != "" {
			require.NoError(f.t, json.Unmarshal([]byte(closed.Text), &why), closed.Text)
		}
		return hub.CloseCode(closed.Code), why, before
	}
}

func seqOf(t require.TestingT, cursor string) (seq int64) {
	var epoch int64
	_, err := fmt.Sscanf(cursor, "%d-%d", &epoch, &seq)
	require.NoError(t, err, cursor)
	return seq
}

// before is the cursor of the event before.
func (e seen) before() string {
	epoch, _, _ := strings.Cut(e.Cursor, "-")
	return fmt.Sprintf("%s-%d", epoch, e.Seq-1)
}
