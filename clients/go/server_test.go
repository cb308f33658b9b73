package miniasynq_test

import (
	"bufio"
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

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	miniasynq "github.com/mini-asynq/mini-asynq/clients/go"
	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// startNode starts a node in this process and returns its address, host and port.
func startNode(t *testing.T, dsn string) (address string) {
	t.Helper()
	log := &pgtest.Log{}
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	// Ends with the test, which waits for it.
	go func() {
		done <- app.Run(ctx, app.Config{
			DatabaseURL: dsn, Migrate: true, Bind: "127.0.0.1", Address: "127.0.0.1:0", Slots: 4, Queues: map[string]int{"*": 1},
			Lease: 5 * time.Second, Grace: time.Second, DemoHandlers: "true",
			Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 50 * time.Millisecond},
			Log:   zerolog.New(log).Level(zerolog.InfoLevel), Ready: func(a net.Addr) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		err := <-done // it is asked to end
		if t.Failed() {
			t.Log(err, log)
		}
	})
	select {
	case a := <-ready:
		address = a.String()
	case err := <-done:
		done <- err
		require.NoError(t, err, log)
	case <-time.After(30 * time.Second):
		require.Fail(t, "the node did not start", log)
	}
	awaitReady(t, address)
	return address
}

func awaitReady(t *testing.T, address string) {
	t.Helper()
	pgtest.Eventually(t, 60*time.Second, "the node is ready", func() bool {
		status, _ := get(t, address, "/health/ready")
		return status == http.StatusOK
	})
}

// spawnNode starts a node in a process of its own, and returns how to kill it.
func spawnNode(t *testing.T, dsn string) (address string, kill func()) {
	t.Helper()
	path, err := binary()
	require.NoError(t, err)
	cmd := exec.Command(path)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "DATABASE_URL=" + dsn, "SERVER_PORT=0", "VISIBILITY_TIMEOUT=1s",
		"MINIASYNQ_DEMO_HANDLERS=true",
	}
	output, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	found, done := make(chan string, 1), make(chan struct{})
	// Ends with the process; kill waits for it.
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			var line struct{ Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Address != "" {
				select {
				case found <- line.Address:
				default:
				}
			}
		}
		_ = cmd.Wait() // it is killed
	}()
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	t.Cleanup(kill)
	address = pgtest.Receive(t, found, 60*time.Second, "the process says where it listens")
	awaitReady(t, address)
	return address, kill
}

// binary builds the server, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mini-asynq-client-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mini-asynq")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/server").CombinedOutput()
	if err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return path, nil
})

// plain has no keep-alive, so that no connection outlives its node.
var plain = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks a node; status 0: it does not answer.
func get(t *testing.T, address, path string, header ...string) (status int, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+address+"/api/v1"+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := plain.Do(request)
	if err != nil {
		return 0, nil
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, body
}

// replay reads the log after a cursor, as lines, up to a cursor that the node may not know yet: it was learnt elsewhere.
func replay(t *testing.T, address, after, upTo string) (all []miniasynq.Event) {
	t.Helper()
	pgtest.EventuallyNoError(t, limit, upTo+" is there", func() error {
		status, body := get(t, address, "/events?after="+after+"&until="+upTo, "Accept", "application/x-ndjson")
		if status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		all = nil
		for line := range strings.Lines(string(body)) {
			var e miniasynq.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return err
			}
			all = append(all, e)
		}
		if len(all) == 0 || all[len(all)-1].Cursor != upTo {
			return fmt.Errorf("%d events", len(all))
		}
		return nil
	})
	return all
}

// field reads a member of the answer to a call; while the database comes back, it asks again.
func field(t *testing.T, address, path, name string) (text string) {
	t.Helper()
	pgtest.EventuallyNoError(t, limit, path+" is answered", func() error {
		status, body := get(t, address, path)
		var members map[string]any
		if err := json.Unmarshal(body, &members); err != nil {
			return err
		}
		if text, _ = members[name].(string); status != http.StatusOK || text == "" {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	return text
}
