package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// drivers are the clients' worker programs: the tool, and what it runs.
var drivers = map[string][]string{
	"python":     {"python3", "../python/conformance_worker.py"},
	"typescript": {"node", "../typescript/dist/conformance-worker.js"},
}

// all is set where every client must be there, as in CI: then a missing tool is a failure.
var all = flag.Bool("all", false, "a client that cannot run here is a failure, not a skip")

// eachClient runs a test with every client that can run here.
func eachClient(t *testing.T, test func(t *testing.T, s *suite)) {
	t.Helper()
	eachClientOf(t, nil, test)
}

// eachClientOf is eachClient with a server that lets callers without a credential do so much; nil: as by default.
func eachClientOf(t *testing.T, anonymous []string, test func(t *testing.T, s *suite)) {
	t.Helper()
	t.Parallel()
	for name, command := range drivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := exec.LookPath(command[0])
			if err == nil {
				_, err = os.Stat(command[1])
			}
			if err != nil && !*all {
				t.Skipf("the client for %s cannot run here (%v): make clients-check", name, err)
			}
			require.NoError(t, err)
			s := &suite{t: t, command: command, dsn: pgtest.NewDB(t).DSN(), anonymous: anonymous}
			s.serve("127.0.0.1:0")
			test(t, s)
		})
	}
}

// lease of these servers: clients send a heartbeat at a third of it.
const lease = 2 * time.Second

// suite is a server and the client under test.
type suite struct {
	t       *testing.T
	command []string
	dsn     string
	address string
	stop    func() // ends the server

	anonymous []string
}

func (s *suite) serve(address string) {
	s.t.Helper()
	log := &pgtest.Log{}
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	// Ends with stop, which waits for it.
	go func() {
		done <- app.Run(ctx, app.Config{
			DatabaseURL: s.dsn, Migrate: true, Bind: "127.0.0.1", Address: address, Slots: 1, Lease: lease, Grace: time.Second,
			DemoHandlers: "false", WebhookAllow: []string{"127.0.0.1"}, Anonymous: s.anonymous, Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 100 * time.Millisecond},
			Log: zerolog.New(log).Level(zerolog.InfoLevel), Ready: func(a net.Addr) { ready <- a },
		})
	}()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Log("the server ended with", err)
			}
		})
	}
	s.t.Cleanup(s.stop)
	select {
	case a := <-ready:
		s.address = a.String()
	case err := <-done:
		done <- err
		require.NoError(s.t, err, log.String())
	case <-time.After(30 * time.Second):
		require.Fail(s.t, "the server did not start", log.String())
	}
	pgtest.Eventually(s.t, 30*time.Second, "the server is ready", func() bool {
		status, _ := s.call(http.MethodGet, "/health/ready", "")
		return status == http.StatusOK
	})
}

// client has no keep-alive, so that no connection outlives its server.
var client = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// call answers with the body as JSON.
func (s *suite) call(method, path, body string) (int, map[string]any) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, "http://"+s.address+"/api/v1"+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if strings.Contains(path, "/admin/") {
		r.SetBasicAuth("admin", "password")
	}
	answer, err := client.Do(r)
	require.NoError(s.t, err)
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	var decoded map[string]any
	if len(raw) > 0 && raw[0] == '{' {
		require.NoError(s.t, json.Unmarshal(raw, &decoded))
	}
	return answer.StatusCode, decoded
}

func (s *suite) enqueue(kind, payload, more string) string {
	s.t.Helper()
	status, job := s.call(http.MethodPost, "/jobs", fmt.Sprintf(`{"kind":%q,"queue":"conformance","payload":%s%s}`, kind, payload, more))
	require.Equal(s.t, http.StatusCreated, status, job)
	return job["id"].(string)
}

// ended waits for the end of a job and returns it with its result and attempts.
func (s *suite) ended(id string) map[string]any {
	s.t.Helper()
	status, job := s.call(http.MethodGet, "/jobs/"+id+"?wait=50s&until=finished&include=attempts", "")
	require.Equal(s.t, http.StatusOK, status)
	return job
}

func (s *suite) awaitStatus(id, want string) {
	s.t.Helper()
	pgtest.Eventually(s.t, 30*time.Second, "the job is "+want, func() bool {
		_, job := s.call(http.MethodGet, "/jobs/"+id, "")
		return job["status"] == want
	})
}

// awaitHeld waits until the worker itself says that it has the job: its heartbeat has moved the lease. That the job is running
// only says that it was claimed; an answer that is still on its way can be taken back.
func (s *suite) awaitHeld(id string) {
	s.t.Helper()
	pgtest.Eventually(s.t, 30*time.Second, "the lease is extended", func() bool {
		_, job := s.call(http.MethodGet, "/jobs/"+id, "")
		if job["status"] != "running" {
			return false
		}
		locked, err := time.Parse(time.RFC3339, job["locked_at"].(string))
		require.NoError(s.t, err)
		until, err := time.Parse(time.RFC3339, job["lease_expires_at"].(string))
		require.NoError(s.t, err)
		return until.Sub(locked) > lease+lease/10
	})
}

// worker is a process of the client.
type worker struct {
	s    *suite
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
	out  bytes.Buffer  // what it said; read after done
}

// work starts a worker and returns when it is registered.
func (s *suite) work(name string, environ ...string) *worker {
	s.t.Helper()
	w := &worker{s: s, cmd: exec.Command(s.command[0], s.command[1:]...), done: make(chan struct{})}
	w.cmd.Env = append(append(os.Environ(), "MINIASYNQ_SERVER=http://"+s.address, "WORKER_NAME="+name), environ...)
	output, input := io.Pipe()
	w.cmd.Stdout, w.cmd.Stderr = input, input
	require.NoError(s.t, w.cmd.Start())
	ready := make(chan struct{})
	read := make(chan struct{})
	// Both end with the process.
	go func() {
		defer close(read)
		lines := bufio.NewScanner(output)
		lines.Buffer(nil, 1<<20)
		for seen := false; lines.Scan(); {
			w.out.WriteString(lines.Text() + "\n")
			if !seen && lines.Text() == "ready" {
				seen = true
				close(ready)
			}
		}
	}()
	go func() {
		w.err = w.cmd.Wait()
		_ = input.Close()
		<-read
		close(w.done)
	}()
	s.t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.done
		if s.t.Failed() {
			s.t.Logf("worker %s said:\n%s", name, w.out.String())
		}
	})
	select {
	case <-ready:
	case <-w.done:
		require.Fail(s.t, "the worker ended", w.out.String())
	case <-time.After(30 * time.Second):
		require.Fail(s.t, "the worker is not ready")
	}
	return w
}

func (w *worker) signal(sig os.Signal) {
	w.s.t.Helper()
	require.NoError(w.s.t, w.cmd.Process.Signal(sig))
}

// ends waits for the end of the process, which must be in order.
func (w *worker) ends(limit time.Duration) {
	w.s.t.Helper()
	select {
	case <-w.done:
		require.NoError(w.s.t, w.err, w.out.String())
	case <-time.After(limit):
		require.Fail(w.s.t, "the worker did not end in time")
	}
}

func (s *suite) workers() []any {
	s.t.Helper()
	status, list := s.call(http.MethodGet, "/workers", "")
	require.Equal(s.t, http.StatusOK, status, list)
	return list["data"].([]any)
}

func attempts(job map[string]any) (list []string) {
	all, _ := job["attempts"].([]any)
	for _, a := range all {
		list = append(list, a.(map[string]any)["status"].(string))
	}
	return list
}

func TestHandlersEndAsTheySay(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		s.work("w1")
		check := func(kind, payload, more string, want func(job map[string]any)) {
			t.Helper()
			want(s.ended(s.enqueue(kind, payload, more)))
		}
		check("echo", `{"n":1.5,"text":"jörg 🦫","list":[null,true]}`, "", func(job map[string]any) {
			require.Equal(t, "completed", job["status"])
			require.Equal(t, map[string]any{"n": 1.5, "text": "jörg 🦫", "list": []any{nil, true}}, job["result"])
			require.Equal(t, []string{"completed"}, attempts(job))
		})
		check("fail", `{"message":"no luck"}`, `,"max_retries":2`, func(job map[string]any) {
			require.Equal(t, "dead", job["status"])
			require.Equal(t, "exhausted", job["reason"])
			require.Equal(t, []string{"failed", "failed", "failed"}, attempts(job))
			failure := job["error"].(map[string]any)
			require.Equal(t, "Boom", failure["type"])
			require.Equal(t, "no luck", failure["message"])
			require.NotEmpty(t, failure["stack"])
		})
		check("never", `{"message":"hopeless"}`, "", func(job map[string]any) {
			require.Equal(t, "dead", job["status"])
			require.Equal(t, "not_retryable", job["reason"])
			require.Equal(t, "Boom", job["error"].(map[string]any)["type"])
			require.Equal(t, []string{"failed"}, attempts(job))
		})
		check("retry_after", `{"after":1}`, "", func(job map[string]any) {
			require.Equal(t, "done", job["result"])
			require.Equal(t, []string{"failed", "completed"}, attempts(job))
			list := job["attempts"].([]any)
			failed, _ := time.Parse(time.RFC3339, list[0].(map[string]any)["completed_at"].(string))
			again, _ := time.Parse(time.RFC3339, list[1].(map[string]any)["started_at"].(string))
			require.GreaterOrEqual(t, again.Sub(failed), time.Second)
		})
		check("snooze", `{"times":2}`, `,"max_retries":0`, func(job map[string]any) {
			require.EqualValues(t, 2, job["result"])
			require.EqualValues(t, 2, job["snoozes"])
			require.Equal(t, []string{"completed"}, attempts(job))
		})
		check("progress", `{"ms":1500}`, "", func(job map[string]any) {
			require.Equal(t, "done", job["result"])
			require.Equal(t, "half", job["progress"].(map[string]any)["message"])
		})
		check("bad_result", `{}`, `,"max_retries":0`, func(job map[string]any) {
			require.Equal(t, "dead", job["status"])
			require.Equal(t, []string{"failed"}, attempts(job))
		})
		check("cancel_self", `{}`, "", func(job map[string]any) {
			require.Equal(t, "cancelled", job["status"])
			require.Equal(t, "worker", job["reason"])
		})
		check("sleep", `{"ms":5000}`, "", func(job map[string]any) { // longer than two leases
			require.Equal(t, "slept", job["result"])
			require.Equal(t, []string{"completed"}, attempts(job))
		})
	})
}

func TestManyJobsRunOnceEach(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		const n = 500
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(`{"kind":"echo","queue":"conformance","payload":%d}`, i)
		}
		status, _ := s.call(http.MethodPost, "/jobs/batch", `{"jobs":[`+strings.Join(items, ",")+`]}`)
		require.Equal(t, http.StatusCreated, status)
		s.work("w1", "WORKER_SLOTS=8")
		s.work("w2", "WORKER_SLOTS=8")
		pgtest.Eventually(t, 60*time.Second, "all are completed", func() bool {
			_, count := s.call(http.MethodGet, "/jobs/count?status=completed", "")
			return count["count"] == float64(n)
		})
		for _, query := range []string{"status=completed&attempt_min=2", "status=dead,retrying,cancelled"} {
			_, count := s.call(http.MethodGet, "/jobs/count?"+query, "")
			require.Zero(t, count["count"], query)
		}
	})
}

func TestKilledWorkerLosesNothing(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		first := s.work("w1")
		id := s.enqueue("sleep", `{"ms":3000}`, "")
		s.awaitHeld(id)
		first.signal(syscall.SIGKILL)
		<-first.done
		s.work("w2")
		job := s.ended(id)
		require.Equal(t, "slept", job["result"])
		require.Equal(t, []string{"lease_expired", "completed"}, attempts(job))
	})
}

// TestFrozenWorkerIsNotBelieved: it wakes up after its lease, and another has the job.
func TestFrozenWorkerIsNotBelieved(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		frozen := s.work("frozen")
		id := s.enqueue("sleep", `{"ms":4000}`, "")
		s.awaitHeld(id)
		frozen.signal(syscall.SIGSTOP)
		s.awaitStatus(id, "pending")
		s.work("w2")
		s.awaitHeld(id)
		frozen.signal(syscall.SIGCONT)
		job := s.ended(id)
		// The frozen one may have lost it twice: its parked claim still took the answer.
		ended := attempts(job)
		require.GreaterOrEqual(t, len(ended), 2)
		for _, status := range ended[:len(ended)-1] {
			require.Equal(t, "lease_expired", status)
		}
		require.Equal(t, "completed", ended[len(ended)-1])
		list := job["attempts"].([]any)
		require.Equal(t, "w2", list[len(list)-1].(map[string]any)["worker"])
		require.Equal(t, "completed", s.ended(s.enqueue("echo", `1`, ""))["status"], "both still work")
	})
}

func TestStopWaitsForRunningJobs(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		w := s.work("w1")
		id := s.enqueue("sleep", `{"ms":3000}`, "")
		s.awaitHeld(id)
		w.signal(syscall.SIGTERM)
		w.ends(20 * time.Second)
		job := s.ended(id)
		require.Equal(t, []string{"completed"}, attempts(job))
		require.Empty(t, s.workers())
	})
}

func TestStopGivesBackWhatDoesNotEnd(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		w := s.work("w1", "WORKER_GRACE=0.5")
		id := s.enqueue("sleep", `{"ms":600000}`, "")
		s.awaitHeld(id)
		w.signal(syscall.SIGTERM)
		w.ends(20 * time.Second)
		_, job := s.call(http.MethodGet, "/jobs/"+id, "")
		require.Equal(t, "pending", job["status"])
		require.Zero(t, job["attempt"], "not charged")
		require.Empty(t, s.workers())
	})
}

func TestIdleWorkerStopsAtOnce(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		w := s.work("w1")
		w.signal(syscall.SIGTERM)
		w.ends(8 * time.Second) // its claim is parked for longer
		require.Empty(t, s.workers())
	})
}

func TestRestartedServerFindsItsWorkers(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		s.work("w1")
		require.Equal(t, "completed", s.ended(s.enqueue("echo", `1`, ""))["status"])
		s.stop()
		s.serve(s.address)
		job := s.ended(s.enqueue("echo", `2`, ""))
		require.EqualValues(t, 2, job["result"])
		require.Len(t, s.workers(), 1, "it need not register again")
	})
}

func TestOperatorCancelsARunningJob(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		s.work("w1")
		id := s.enqueue("sleep", `{"ms":600000}`, "")
		s.awaitHeld(id)
		status, _ := s.call(http.MethodPost, "/admin/jobs/"+id+"/cancel", "")
		require.Equal(t, http.StatusAccepted, status)
		job := s.ended(id)
		require.Equal(t, "cancelled", job["status"])
		require.Equal(t, "operator", job["reason"])
	})
}

func TestDrainedWorkerFinishesAndGoes(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		w := s.work("w1")
		id := s.enqueue("sleep", `{"ms":3000}`, "")
		s.awaitHeld(id)
		worker := s.workers()[0].(map[string]any)
		status, _ := s.call(http.MethodPost, "/admin/workers/"+worker["id"].(string)+"/drain", "")
		require.Equal(t, http.StatusAccepted, status)
		w.ends(20 * time.Second)
		require.Equal(t, []string{"completed"}, attempts(s.ended(id)))
		require.Empty(t, s.workers())
	})
}

// TestRemovedWorkerRegistersAgain: somebody took its registration away.
func TestRemovedWorkerRegistersAgain(t *testing.T) {
	eachClient(t, func(t *testing.T, s *suite) {
		s.work("w1")
		worker := s.workers()[0].(map[string]any)
		status, _ := s.call(http.MethodDelete, "/workers/"+worker["id"].(string), "")
		require.Equal(t, http.StatusNoContent, status)
		require.Equal(t, "completed", s.ended(s.enqueue("echo", `1`, ""))["status"])
		require.NotEqual(t, worker["id"], s.workers()[0].(map[string]any)["id"])
	})
}

// TestKeyOfSomeQueuesWorksThereOnly: the worker asks for all queues, and gets those of its key. Without the key it gets
// nothing any more, and still ends when it is told to.
func TestKeyOfSomeQueuesWorksThereOnly(t *testing.T) {
	eachClientOf(t, []string{"enqueue", "read", "read:payload"}, func(t *testing.T, s *suite) {
		status, key := s.call(http.MethodPost, "/admin/keys", `{"name":"worker","scopes":["work"],"queues":["conformance"]}`)
		require.Equal(t, http.StatusCreated, status, key)
		w := s.work("w1", "MINIASYNQ_API_KEY="+key["secret"].(string))
		status, elsewhere := s.call(http.MethodPost, "/jobs", `{"kind":"echo","queue":"elsewhere"}`)
		require.Equal(t, http.StatusCreated, status)
		require.EqualValues(t, 1, s.ended(s.enqueue("echo", `1`, ""))["result"])
		require.Equal(t, map[string]any{"conformance": 1.0}, s.workers()[0].(map[string]any)["queues"])
		status, _ = s.call(http.MethodDelete, "/admin/keys/"+key["id"].(string), "")
		require.Equal(t, http.StatusNoContent, status)
		id := s.enqueue("echo", `2`, "")
		w.signal(syscall.SIGTERM)
		w.ends(30 * time.Second)
		for _, left := range []string{id, elsewhere["id"].(string)} {
			_, job := s.call(http.MethodGet, "/jobs/"+left, "")
			require.Equal(t, "pending", job["status"])
		}
	})
}
