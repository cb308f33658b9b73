package app_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// server is a node in this process.
type server struct {
	t    testing.TB
	base string // http://127.0.0.1:port
	stop func() (time.Duration, error)
	log  *pgtest.Log
}

// serve starts a node on a database and waits until it is ready.
func serve(t testing.TB, dsn string, change func(*app.Config)) *server {
	t.Helper()
	s := &server{t: t, log: &pgtest.Log{}}
	ready := make(chan net.Addr, 1)
	config := app.Config{
		DatabaseURL: dsn, Migrate: true, Bind: "127.0.0.1", Address: "127.0.0.1:0", Slots: 5,
		Queues: map[string]int{"*": 1}, // what an empty environment says
		Lease:  2 * time.Second, Grace: 2 * time.Second, DemoHandlers: "true",
		Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 50 * time.Millisecond},
		Log:   zerolog.New(s.log).Level(zerolog.InfoLevel), Ready: func(a net.Addr) { ready <- a },
	}
	if change != nil {
		change(&config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx, config) }()
	select {
	case addr := <-ready:
		s.base = "http://" + addr.String()
	case err := <-done:
		cancel()
		t.Fatalf("the server did not start: %v", err)
	case <-time.After(30 * time.Second):
		cancel()
		t.Fatal("the server did not start in time")
	}
	var once sync.Once
	var took time.Duration
	var err error
	s.stop = func() (time.Duration, error) {
		once.Do(func() {
			started := time.Now()
			cancel()
			err = <-done
			took = time.Since(started)
		})
		return took, err
	}
	t.Cleanup(func() { _, _ = s.stop() })
	pgtest.Eventually(t, 15*time.Second, "the server is ready", func() bool {
		status, _ := s.call(http.MethodGet, "/api/v1/health/ready", "")
		return status == http.StatusOK
	})
	return s
}

// client has no keep-alive, so that no connection outlives its test.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// call makes a request, as admin where the path asks for it.
func (s *server) call(method, path, body string) (int, map[string]any) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, s.base+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if strings.Contains(path, "/admin/") {
		request.SetBasicAuth("admin", "password")
	}
	answer, err := client.Do(request)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	var decoded map[string]any
	if len(raw) > 0 && strings.Contains(answer.Header.Get("Content-Type"), "json") {
		require.NoError(s.t, json.Unmarshal(raw, &decoded), string(raw))
	} else {
		decoded = map[string]any{"text": string(raw)}
	}
	return answer.StatusCode, decoded
}

func (s *server) enqueue(body string) string {
	s.t.Helper()
	status, job := s.call(http.MethodPost, "/api/v1/jobs", body)
	require.Equal(s.t, http.StatusCreated, status, job)
	return job["id"].(string)
}

// await waits for the end of a job.
func (s *server) await(id, status string) map[string]any {
	s.t.Helper()
	code, job := s.call(http.MethodGet, "/api/v1/jobs/"+id+"?wait=20s&until=finished", "")
	require.Equal(s.t, http.StatusOK, code, job)
	require.Equal(s.t, status, job["status"], job)
	return job
}

// socket opens the event stream.
func (s *server) socket(query string) *websocket.Conn {
	s.t.Helper()
	url := "ws" + strings.TrimPrefix(s.base, "http") + "/api/v1/ws" + query
	conn, answer, err := websocket.DefaultDialer.Dial(url, nil)
	require.NoError(s.t, err)
	_ = answer.Body.Close()
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// event reads the next event from a socket.
func event(t testing.TB, conn *websocket.Conn) map[string]any {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	var e map[string]any
	require.NoError(t, conn.ReadJSON(&e))
	return e
}
