package app_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// told is the part of an event that says which job it is about.
type told struct {
	Cursor string
	Seq    int64
	Queue  string
}

// enqueuedReader gives, one after the other, the events of jobs that are enqueued from its beginning on.
type enqueuedReader struct {
	name string
	next func() told
}

// enqueuedReaders opens one of each form.
func (s *server) enqueuedReaders(hooks <-chan told) []enqueuedReader {
	s.t.Helper()
	const only = "types=job.enqueued"
	socket := s.socket("?" + only)
	framed := s.framed()
	lines := s.sse(only)
	return []enqueuedReader{
		{"socket", func() (e told) {
			require.NoError(s.t, socket.SetReadDeadline(time.Now().Add(10*time.Second)))
			require.NoError(s.t, socket.ReadJSON(&e))
			return e
		}},
		{"framed", func() told {
			for {
				var f struct {
					T  string
					Ev []told
				}
				require.NoError(s.t, framed.SetReadDeadline(time.Now().Add(10*time.Second)))
				require.NoError(s.t, framed.ReadJSON(&f))
				if f.T == "ev" {
					require.Len(s.t, f.Ev, 1)
					require.NoError(s.t, framed.WriteJSON(map[string]any{"t": "credit", "id": "s", "n": 1}))
					return f.Ev[0]
				}
			}
		}},
		{"stream", func() (e told) {
			for {
				line, err := lines.ReadBytes('\n')
				require.NoError(s.t, err)
				if raw, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
					require.NoError(s.t, json.Unmarshal(raw, &e))
					return e
				}
			}
		}},
		{"consumer", func() (e told) {
			status, page := s.call(http.MethodGet, "/api/v1/consumers/c/events?reader=r&limit=1&wait=10s", "")
			require.Equal(s.t, http.StatusOK, status, page)
			require.Len(s.t, page["data"], 1)
			raw, err := json.Marshal(page["data"].([]any)[0]) //nolint:forcetypeassert // a list of one
			require.NoError(s.t, err)
			require.NoError(s.t, json.Unmarshal(raw, &e))
			status, said := s.call(http.MethodPost, "/api/v1/consumers/c/ack", fmt.Sprintf(`{"reader":"r","cursor":%q}`, e.Cursor))
			require.Equal(s.t, http.StatusNoContent, status, said)
			return e
		}},
		{"webhook", func() told { return pgtest.Receive(s.t, hooks, 10*time.Second, "the webhook delivers") }},
	}
}

// framed opens a subscription to what is enqueued, with credit for one event.
func (s *server) framed() *websocket.Conn {
	s.t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{"miniasynq.v1"}}
	conn, answer, err := dialer.DialContext(s.t.Context(), "ws"+strings.TrimPrefix(s.base, "http")+"/api/v1/ws", nil)
	require.NoError(s.t, err)
	_ = answer.Body.Close()
	s.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(s.t, conn.WriteMessage(websocket.TextMessage,
		[]byte(`{"t":"sub","id":"s","class":"consumer","filter":{"types":["job.enqueued"]},"credit":1}`)))
	for said := ""; said != "subbed"; {
		var f struct{ T string }
		require.NoError(s.t, conn.ReadJSON(&f))
		said = f.T
	}
	return conn
}

// sse opens a stream of server-sent events.
func (s *server) sse(query string) *bufio.Reader {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/api/v1/events?"+query, nil)
	require.NoError(s.t, err)
	r.Header.Set("Accept", "text/event-stream")
	answer, err := client.Do(r)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = answer.Body.Close() })
	require.Equal(s.t, http.StatusOK, answer.StatusCode)
	return bufio.NewReader(answer.Body)
}

// D5, E3: a transaction that enqueued a job and stays open holds up nobody, in whatever form he reads, and for however long:
// events are published, delivered and acknowledged, and retention takes them, many times over. The event of the open one
// comes to everybody after its commit, once.
func TestOpenTransactionHoldsUpNoReader(t *testing.T) {
	t.Parallel()
	hooks := make(chan told, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e told
		if body, err := io.ReadAll(r.Body); err == nil && json.Unmarshal(body, &e) == nil {
			hooks <- e
		}
	}))
	defer receiver.Close()
	db := pgtest.NewDB(t)
	s := serve(t, db.DSN(), func(c *app.Config) {
		c.WebhookAllow = []string{strings.TrimPrefix(receiver.URL, "http://")}
	})
	const filter = `"filter":{"types":["job.enqueued"]}`
	status, made := s.call(http.MethodPut, "/api/v1/admin/consumers/c", `{`+filter+`}`)
	require.Equal(t, http.StatusCreated, status, made)
	status, made = s.call(http.MethodPost, "/api/v1/admin/webhooks", `{"url":"`+receiver.URL+`",`+filter+`}`)
	require.Equal(t, http.StatusCreated, status, made)
	readers := s.enqueuedReaders(hooks)

	open, err := db.Conn(t).Begin(t.Context())
	require.NoError(t, err)
	_, err = jobs.Enqueue(t.Context(), open, jobs.Params{Queue: "late"})
	require.NoError(t, err)

	keeper := db.Conn(t)
	floor := func() int64 { return pgtest.One[int64](t, db, `SELECT max(floor_seq) FROM mini_asynq.epochs`) }
	was := make([]told, len(readers))
	same := func(queue string) {
		t.Helper()
		for i, r := range readers {
			e := r.next()
			require.Equal(t, queue, e.Queue, r.name)
			require.Greater(t, e.Seq, was[i].Seq, r.name)
			was[i] = e
			require.Equal(t, was[0], e, r.name)
		}
	}
	for round := range 6 {
		queue := fmt.Sprintf("round-%d", round)
		s.await(s.enqueue(`{"queue":"`+queue+`"}`), "completed")
		same(queue)
		// Ten minutes later retention takes what is older than one, and what everybody has.
		before := floor()
		db.Exec(t, `UPDATE mini_asynq.ticks SET at = at - interval '10 minutes' WHERE first_seq + n - 1 <= $1`, was[0].Seq)
		require.NoError(t, events.Retire(t.Context(), keeper, events.Keep{Age: time.Minute}))
		if round > 0 { // the first tick may go on behind the first event
			require.Greater(t, floor(), before, "retention goes on")
		}
	}
	require.NoError(t, open.Commit(t.Context()))
	same("late")
	s.enqueue(`{"queue":"end"}`)
	same("end")
}
