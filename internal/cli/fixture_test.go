package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/cli"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// startServer starts a node on a database of its own and returns its address.
func startServer(t *testing.T) string {
	t.Helper()
	log := &pgtest.Log{}
	ready := make(chan net.Addr, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	config := app.Config{
		DatabaseURL: pgtest.NewDB(t).DSN(), Migrate: true, Bind: "127.0.0.1", Address: "127.0.0.1:0", Slots: 5,
		Lease: 2 * time.Second, Grace: 2 * time.Second, DemoHandlers: "true", WebhookAllow: []string{"127.0.0.1"},
		Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 50 * time.Millisecond},
		Log:   zerolog.New(log).Level(zerolog.InfoLevel), Ready: func(a net.Addr) { ready <- a },
	}
	go func() { done <- app.Run(ctx, config) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	address := "http://" + pgtest.Receive(t, ready, 30*time.Second, "the server listens").String()
	pgtest.Eventually(t, 15*time.Second, "the server is ready", func() bool {
		return run(t, nil, "health", "--server", address).code == 0
	})
	return address
}

// ran is a command line that has ended.
type ran struct {
	t        *testing.T
	args     []string
	out, err string
	code     int
}

// run executes a command line with an environment of its own.
func run(t *testing.T, environ []string, args ...string) ran {
	t.Helper()
	return runWith(t, t.Context(), environ, "", args...)
}

//nolint:revive // the test comes first, as everywhere
func runWith(t *testing.T, ctx context.Context, environ []string, in string, args ...string) ran {
	t.Helper()
	var out, err safeBuffer
	code := cli.Execute(ctx, args, cli.Surroundings{In: strings.NewReader(in), Out: &out, Err: &err, Environ: environ})
	return ran{t, args, out.String(), err.String(), code}
}

// exits checks the exit code and that stderr says each of the texts.
func (r ran) exits(code int, says ...string) ran {
	r.t.Helper()
	require.Equal(r.t, code, r.code, "%v\nstdout: %s\nstderr: %s", r.args, r.out, r.err)
	for _, text := range says {
		require.Contains(r.t, r.err, text, "%v", r.args)
	}
	return r
}

// object reads stdout as JSON.
func (r ran) object() map[string]any {
	r.t.Helper()
	var value map[string]any
	require.NoError(r.t, json.Unmarshal([]byte(r.out), &value), "%v: %s", r.args, r.out)
	return value
}

// lines reads stdout as JSON lines.
func (r ran) lines() []map[string]any {
	r.t.Helper()
	var found []map[string]any
	decoder := json.NewDecoder(strings.NewReader(r.out))
	for {
		var value map[string]any
		if err := decoder.Decode(&value); err == io.EOF {
			return found
		} else {
			require.NoError(r.t, err, r.out)
		}
		found = append(found, value)
	}
}

// safeBuffer may be read while a command writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// relay passes connections on to a server until it is told to cut them.
type relay struct {
	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	group    sync.WaitGroup
}

func newRelay(t *testing.T, server string) *relay {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{listener: listener, conns: make(map[net.Conn]struct{})}
	r.group.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
			if err != nil {
				near.Close()
				continue
			}
			r.mu.Lock()
			r.conns[near], r.conns[far] = struct{}{}, struct{}{}
			r.mu.Unlock()
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				r.group.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.cut()
		r.group.Wait()
	})
	return r
}

func (r *relay) address() string { return "http://" + r.listener.Addr().String() }

// cut breaks every connection and tells how many there were.
func (r *relay) cut() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.conns)
	for conn := range r.conns {
		conn.Close()
	}
	clear(r.conns)
	return n
}
