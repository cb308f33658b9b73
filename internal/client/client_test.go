package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a client of a server that answers as it is told.
func open(t *testing.T, answer http.HandlerFunc, change func(*client.Config)) *client.Client {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	config := client.Config{Server: server.URL, Timeout: 10 * time.Second}
	if change != nil {
		change(&config)
	}
	c, err := client.New(config)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func refuse(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

func TestRefusalsAreTyped(t *testing.T) {
	t.Parallel()
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/queues" {
			http.Error(w, "<html>", http.StatusBadGateway)
			return
		}
		refuse(w, 422, `{"code":"validation_failed","detail":"2 faults","request_id":"r-1",
			"errors":[{"pointer":"/queue","code":"x","detail":"no name"},{"pointer":"/kind","code":"y","detail":"too long"}]}`)
	}, nil)
	_, err := c.Enqueue(t.Context(), map[string]string{}, "")
	var problem *client.Problem
	require.ErrorAs(t, err, &problem)
	require.Equal(t, 422, problem.Status)
	require.Equal(t, "validation_failed", problem.Code)
	require.Equal(t, "r-1", problem.RequestID)
	require.Len(t, problem.Errors, 2)
	require.ErrorContains(t, err, "/kind: too long")
	_, err = c.Queues(t.Context())
	require.ErrorAs(t, err, &problem)
	require.Equal(t, http.StatusBadGateway, problem.Status)
	require.ErrorContains(t, err, "did not come from a mini-asynq server")
}

// A call is sent again where that changes nothing, and nowhere else.
func TestOnlySafeCallsAreRepeated(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := open(t, func(w http.ResponseWriter, r *http.Request) {
		switch calls.Add(1) {
		case 1:
			refuse(w, 503, `{"code":"unavailable"}`)
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks
		default:
			_, _ = w.Write([]byte(`{"id":"` + r.Header.Get("Idempotency-Key") + `","data":[]}`))
		}
	}, nil)
	_, err := c.Queues(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, calls.Swap(0))
	job, err := c.Enqueue(t.Context(), map[string]string{}, "k")
	require.NoError(t, err)
	require.Equal(t, "k", job.Value.ID)
	require.EqualValues(t, 3, calls.Swap(0))
	_, err = c.Enqueue(t.Context(), map[string]string{}, "")
	var problem *client.Problem
	require.ErrorAs(t, err, &problem)
	require.EqualValues(t, 1, calls.Load())
	_, err = c.Enqueue(t.Context(), map[string]string{}, "")
	var unreachable *client.UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.False(t, unreachable.NeverSent)
	require.EqualValues(t, 2, calls.Load())
}

func TestEveryCallHasADeadline(t *testing.T) {
	t.Parallel()
	c := open(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		func(config *client.Config) { config.Timeout = 50 * time.Millisecond })
	_, err := c.Queues(t.Context())
	var unreachable *client.UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.True(t, unreachable.Late)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Queues(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAddressesAndCredentials(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "localhost:8080", "ftp://x", "http://", "http://a:secret@x", "http://x?y"} {
		_, err := client.New(client.Config{Server: address})
		require.ErrorIs(t, err, client.ErrAddress, address)
		require.NotContains(t, err.Error(), "secret")
	}
	seen := make(chan *http.Request, 1)
	answer := func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("Date", "Sun, 01 Mar 2026 12:00:00 GMT")
		_, _ = w.Write([]byte(`{}`))
	}
	c := open(t, answer, func(config *client.Config) {
		config.Server += "/base/api/v1/"
		config.Key, config.User = "mak_1_x", "u"
	})
	_, err := c.Queue(t.Context(), "a/b ?")
	require.NoError(t, err)
	request := <-seen
	require.Equal(t, "/base/api/v1/queues/a%2Fb%20%3F", request.URL.EscapedPath())
	require.Equal(t, "Bearer mak_1_x", request.Header.Get("Authorization"))
	now, ok := c.Now()
	require.True(t, ok)
	require.Equal(t, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), now)
	c = open(t, answer, func(config *client.Config) { config.User, config.Password = "u", "p" })
	_, err = c.Queues(t.Context())
	require.NoError(t, err)
	user, password, _ := (<-seen).BasicAuth()
	require.Equal(t, "u:p", user+":"+password)
}

// stream is a server whose socket sends the events after a cursor, breaks, and begins again one event too early.
func stream(t *testing.T, each int, end func(*websocket.Conn)) http.HandlerFunc {
	upgrader := websocket.Upgrader{}
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/queues" {
			_, _ = w.Write([]byte(`{"data":[],"as_of":"3-10"}`))
			return
		}
		var from int
		_, err := fmt.Sscanf(r.URL.Query().Get("after"), "3-%d", &from)
		if err != nil {
			refuse(w, 400, `{"code":"cursor_invalid"}`)
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		for seq := from; seq <= from+each; seq++ { // from itself was had already
			if conn.WriteJSON(map[string]any{"cursor": fmt.Sprintf("3-%d", seq), "epoch": 3, "seq": seq, "type": "job.ready"}) != nil {
				return
			}
		}
		if end != nil {
			end(conn)
		}
	}
}

var errEnough = errors.New("enough")

func TestAFollowHasNoGapAndNoDouble(t *testing.T) {
	t.Parallel()
	c := open(t, stream(t, 3, nil), nil)
	var got []int64
	lost := 0
	err := c.Follow(t.Context(), client.Following{Lost: func(error) { lost++ }}, func(e client.Doc[client.Event]) error {
		require.True(t, json.Valid(e.Raw))
		if got = append(got, e.Value.Seq); len(got) == 7 {
			return errEnough
		}
		return nil
	})
	require.ErrorIs(t, err, errEnough)
	require.Equal(t, []int64{10, 11, 12, 13, 14, 15, 16}, got)
	require.Equal(t, 1, lost)
}

func TestAFollowEndsWhereComingBackIsNoUse(t *testing.T) {
	t.Parallel()
	for code, status := range map[int]int{4401: 401, 4403: 403, 4410: 410, 4412: 409} {
		c := open(t, stream(t, 1, func(conn *websocket.Conn) {
			reason := websocket.FormatCloseMessage(code, `{"code":"why","floor":"3-5"}`)
			_ = conn.WriteControl(websocket.CloseMessage, reason, time.Now().Add(time.Second))
		}), nil)
		err := c.Follow(t.Context(), client.Following{}, func(client.Doc[client.Event]) error { return nil })
		var problem *client.Problem
		require.ErrorAs(t, err, &problem, code)
		require.Equal(t, status, problem.Status)
		require.Equal(t, "why", problem.Code)
	}
	c := open(t, stream(t, 1, nil), nil)
	err := c.Follow(t.Context(), client.Following{After: "x", Filter: url.Values{"types": {"job.*"}}}, nil)
	var problem *client.Problem
	require.ErrorAs(t, err, &problem)
	require.Equal(t, "cursor_invalid", problem.Code)
}
