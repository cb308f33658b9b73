package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// server is a node of Mini Asynq in this process.
type server struct {
	t       *testing.T
	dsn     string
	address string
	stop    func()
}

func serve(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, dsn: pgtest.NewDB(t).DSN(), address: "127.0.0.1:0"}
	s.start()
	return s
}

// start starts it, once more at the same address.
func (s *server) start() {
	s.t.Helper()
	log := &pgtest.Log{}
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	// Ends with stop, which waits for it.
	go func() {
		done <- app.Run(ctx, app.Config{
			DatabaseURL: s.dsn, Migrate: true, Bind: "127.0.0.1", Address: s.address, Slots: 5, Queues: map[string]int{"*": 1},
			Lease: 2 * time.Second, Grace: time.Second, DemoHandlers: "true",
			Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 50 * time.Millisecond},
			Log:   zerolog.New(log).Level(zerolog.InfoLevel), Ready: func(a net.Addr) { ready <- a },
		})
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Log("the server ended with", err)
		}
	})
	s.t.Cleanup(s.stop)
	select {
	case address := <-ready:
		if s.address != address.String() { // only at first: others call it meanwhile
			s.address = address.String()
		}
	case err := <-done:
		done <- err
		require.NoError(s.t, err, log.String())
	case <-time.After(30 * time.Second):
		require.Fail(s.t, "the server did not start", log.String())
	}
	pgtest.EventuallyNoError(s.t, 30*time.Second, "the server is ready", func() error {
		_, err := s.call(http.MethodGet, "/health/ready", "", "")
		return err
	})
}

func (s *server) url() string { return "http://" + s.address }

// client has no keep-alive, so that no connection outlives its server.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (s *server) call(method, path, body, accept string) ([]byte, error) {
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url()+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s: %s", answer.Status, raw)
	}
	return raw, err
}

// enqueue makes n jobs, which the demo handler completes.
func (s *server) enqueue(n int) error {
	_, err := s.call(http.MethodPost, "/jobs/batch", `{"jobs":[`+strings.TrimSuffix(strings.Repeat(`{"queue":"mail"},`, n), ",")+`]}`, "")
	return err
}

// finished waits until no job is left to do, and the log holds all that was done.
func (s *server) finished() {
	s.t.Helper()
	pgtest.Eventually(s.t, 60*time.Second, "every job is finished", func() bool {
		raw, err := s.call(http.MethodGet, "/jobs/count?status=pending,running,retrying,scheduled", "", "")
		var body struct{ Count int }
		return err == nil && json.Unmarshal(raw, &body) == nil && body.Count == 0
	})
	conn, err := pgx.Connect(s.t.Context(), s.dsn)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, conn.Close(s.t.Context())) }()
	pgtest.Eventually(s.t, 60*time.Second, "every event has its position, and the server has read it", func() bool {
		var head string
		err := conn.QueryRow(s.t.Context(), `
			SELECT t.epoch || '-' || t.first_seq + t.n - 1 FROM (
			    SELECT * FROM mini_asynq.ticks ORDER BY epoch DESC, first_seq DESC LIMIT 1) t
			 WHERE NOT EXISTS (SELECT FROM mini_asynq.outbox WHERE NOT pg_visible_in_snapshot(xid, t.snap))`).Scan(&head)
		raw, err2 := s.call(http.MethodGet, "/events/position", "", "")
		var body struct{ Cursor string }
		return err == nil && err2 == nil && json.Unmarshal(raw, &body) == nil && body.Cursor == head
	})
}

// log is the whole stream of the server, a line an event.
func (s *server) log() []string {
	s.t.Helper()
	raw, err := s.call(http.MethodGet, "/events?after=earliest", "", "application/x-ndjson")
	require.NoError(s.t, err)
	var lines []string
	scanner := bufio.NewScanner(bytes.NewReader(raw))
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	require.NoError(s.t, scanner.Err())
	return lines
}

// program is the relay as users run it.
type program struct {
	t    *testing.T
	path string
	args []string
	log  *pgtest.Log
}

func build(t *testing.T, s *server, c *natsCluster, args ...string) *program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mini-asynq-nats")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../cmd/mini-asynq-nats").CombinedOutput()
	require.NoError(t, err, string(out))
	return &program{t: t, path: path, log: &pgtest.Log{}, args: append([]string{
		"-server", s.url(), "-nats", c.url(), "-replicas", "3", "-ack-wait", "2s",
	}, args...)}
}

// start starts one; kill ends it at once, as a crash would, and says what it ended with, if it had before.
func (p *program) start() (kill func() error) {
	p.t.Helper()
	command := exec.CommandContext(p.t.Context(), p.path, p.args...)
	command.Stderr = p.log
	command.Env = append(os.Environ(), "MINIASYNQ_LOG_LEVEL=info")
	require.NoError(p.t, command.Start())
	kill = sync.OnceValue(func() error {
		_ = command.Process.Kill() // it may have ended
		err := command.Wait()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !exit.Exited() {
			return nil
		}
		return err
	})
	p.t.Cleanup(func() { _ = kill() })
	return kill
}
