package miniasynq_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	miniasynq "github.com/mini-asynq/mini-asynq/clients/go"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const limit = 20 * time.Second

// quick is a pace at which a test waits for nothing.
var quick = miniasynq.Pace{
	FirstPause: time.Millisecond, MaxPause: 2 * time.Millisecond, Silence: limit, GrantEvery: time.Millisecond,
}

// fake is a server that does what its script says, for what a real one does not do, or not when asked. Each call of a
// script is one socket, n counts them from 0; at its end the line is cut.
type fake struct {
	t      *testing.T
	url    string
	script func(s *end, n int)

	mu     sync.Mutex // guards opened
	opened int
}

// end is the server's end of a socket.
type end struct {
	t    *testing.T
	conn *websocket.Conn
}

func newFake(t *testing.T, script func(s *end, n int)) *fake {
	f := &fake{t: t, script: script}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{"miniasynq.v1"}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	f.mu.Lock()
	n := f.opened
	f.opened++
	f.mu.Unlock()
	f.script(&end{f.t, conn}, n)
}

// say sends frames. A client that is gone is none of the script's business.
func (s *end) say(frames ...string) {
	for _, frame := range frames {
		_ = s.conn.WriteMessage(websocket.TextMessage, []byte(frame))
	}
}

// hear reads a frame of the client; nil: it is gone.
func (s *end) hear() map[string]any {
	_ = s.conn.SetReadDeadline(time.Now().Add(limit))
	var frame map[string]any
	if s.conn.ReadJSON(&frame) != nil {
		return nil
	}
	return frame
}

// greet goes through hello and sub, and says where the subscription begins.
func (s *end) greet(cursor string) (sub map[string]any) {
	s.say(`{"t":"hello","v":1,"node":"a","epoch":3,"head":"3-100","floor":"3-2","max_subs":16,"max_batch":200}`)
	sub = s.hear()
	s.say(fmt.Sprintf(`{"t":"subbed","id":"log","cursor":%q,"behind":7}`, cursor))
	return sub
}

// shut closes in order and reads on until the client is gone, so that it gets to see why.
func (s *end) shut(code int, reason string) {
	deadline := time.Now().Add(limit)
	_ = s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), deadline)
	s.rest()
}

// rest reads until the client is gone.
func (s *end) rest() {
	for s.hear() != nil {
	}
}

// ev is a frame of events with these numbers.
func ev(upTo int64, seqs ...int64) string {
	var all []string
	for _, seq := range seqs {
		all = append(all, fmt.Sprintf(`{"cursor":"3-%d","epoch":3,"seq":%d,"type":"job.enqueued","v":1,"queue":"q","worker":null,"data":{}}`, seq, seq))
	}
	return fmt.Sprintf(`{"t":"ev","id":"log","ev":[%s],"cursor":"3-%d"}`, strings.Join(all, ","), upTo)
}

// memory keeps a cursor, and all that were saved.
type memory struct {
	mu    sync.Mutex // guards all
	saved []string
	fail  error
}

func (m *memory) Load(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.saved) == 0 {
		return "", m.fail
	}
	return m.saved[len(m.saved)-1], m.fail
}

func (m *memory) Save(ctx context.Context, cursor string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if m.fail == nil {
		m.saved = append(m.saved, cursor)
	}
	return m.fail
}

// gather consumes until the event with the last number, or an error; it says which numbers came.
func gather(t *testing.T, o miniasynq.Options, last int64) (seqs []int64, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err = miniasynq.ConsumeAt(ctx, quick, o, func(_ context.Context, e miniasynq.Event) error {
		seqs = append(seqs, e.Seq)
		if e.Seq == last {
			cancel()
		}
		return nil
	})
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	return seqs, err
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}
