package app_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// TestJobTravelsTheWholeWay: enqueue, outbox, wake-up, claim, work, event. A job that calls a URL, seen by its receiver,
// by a socket and by a reader of REST.
func TestJobTravelsTheWholeWay(t *testing.T) {
	t.Parallel()
	arrived := make(chan string, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- r.Header.Get("Miniasynq-Job-Id") + " " + string(body)
	}))
	defer receiver.Close()
	defer client.CloseIdleConnections()
	s := serve(t, pgtest.NewDB(t).DSN(), func(c *app.Config) {
		c.HTTPAllow = []string{strings.TrimPrefix(receiver.URL, "http://")}
	})
	socket := s.socket("")
	id := s.enqueue(`{"queue":"hooks","kind":"http","payload":{"url":"` + receiver.URL + `/hook","body":{"hello":"world"}}}`)
	require.Equal(t, id+` {"hello": "world"}`, pgtest.Receive(t, arrived, 5*time.Second, "the call arrives"))
	job := s.await(id, "completed")
	require.EqualValues(t, 1, job["attempt"])

	var seq float64
	for _, want := range []string{"job.enqueued", "job.started", "job.completed"} {
		e := event(t, socket)
		for e["job_id"] == nil { // the row of the new queue is made beside the job
			require.Equal(t, "queue.created", e["type"])
			require.InDelta(t, max(seq+1, e["seq"].(float64)), e["seq"], 0)
			seq = e["seq"].(float64)
			e = event(t, socket)
		}
		require.Equal(t, want, e["type"])
		require.Equal(t, id, e["job_id"])
		if seq != 0 {
			require.InDelta(t, seq+1, e["seq"], 0, "dense")
		}
		seq = e["seq"].(float64)
	}
	status, attempts := s.call(http.MethodGet, "/api/v1/jobs/"+id+"/attempts", "")
	require.Equal(t, http.StatusOK, status)
	require.Len(t, attempts["data"], 1)
	status, result := s.call(http.MethodGet, "/api/v1/jobs/"+id+"/result", "")
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 200, result["status"])

	// What is not on the list is refused, at once and for good.
	other := s.enqueue(`{"queue":"hooks","kind":"http","payload":{"url":"http://127.0.0.1:1/"}}`)
	dead := s.await(other, "dead")
	require.Equal(t, "not_retryable", dead["reason"])
}

// TestEveryEndpointOfTheOriginal walks the endpoints of the original description.
func TestEveryEndpointOfTheOriginal(t *testing.T) {
	t.Parallel()
	s := serve(t, pgtest.NewDB(t).DSN(), nil)
	id := s.enqueue(`{"queue":"q","payload":{"sleep_ms":1}}`)
	s.await(id, "completed")
	status, list := s.call(http.MethodGet, "/api/v1/jobs", "")
	require.Equal(t, http.StatusOK, status)
	require.Len(t, list["data"], 1)
	status, job := s.call(http.MethodGet, "/api/v1/jobs/"+id, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, id, job["id"])

	failing := s.enqueue(`{"queue":"q","max_retries":0,"payload":{"fail":true}}`)
	s.await(failing, "dead")
	status, job = s.call(http.MethodPost, "/api/v1/admin/jobs/"+failing+"/retry", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "pending", job["status"])
	delayed := s.enqueue(`{"queue":"q","delay":"1h"}`)
	status, job = s.call(http.MethodPost, "/api/v1/admin/jobs/"+delayed+"/cancel", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "cancelled", job["status"])

	status, queue := s.call(http.MethodPost, "/api/v1/admin/queues/q/pause", `{"reason":"why"}`)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, true, queue["paused"])
	held := s.enqueue(`{"queue":"q"}`)
	status, queue = s.call(http.MethodPost, "/api/v1/admin/queues/q/resume", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, false, queue["paused"])
	s.await(held, "completed")

	socket := s.socket("?after=earliest")
	require.Equal(t, "job.enqueued", event(t, socket)["type"])
	status, health := s.call(http.MethodGet, "/api/v1/health", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok", health["status"])
	status, metrics := s.call(http.MethodGet, "/api/v1/metrics", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, metrics["text"], "miniasynq_jobs_claimed_total")
	status, page := s.call(http.MethodGet, "/", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, page["text"], "Mini Asynq")

	// The admin's password guards what it should.
	answer, err := client.Post(s.base+"/api/v1/admin/queues/q/pause", "application/json", nil)
	require.NoError(t, err)
	_ = answer.Body.Close()
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
}

// TestSocketResumesWithoutAHole: a socket that was cut comes back with its last cursor, on another node.
func TestSocketResumesWithoutAHole(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDB(t).DSN()
	first, second := serve(t, dsn, nil), serve(t, dsn, nil)
	socket := first.socket("?after=earliest")
	for range 5 {
		s := first
		s.await(s.enqueue(`{"queue":"q"}`), "completed")
	}
	var cursor string
	seen := 0.0
	for range 7 {
		e := event(t, socket)
		seen++
		require.InDelta(t, seen, e["seq"], 0)
		cursor = e["cursor"].(string)
	}
	require.NoError(t, socket.Close())
	socket = second.socket("?after=" + cursor)
	for seen < 16 { // 15 of the jobs, and the queue's row
		e := event(t, socket)
		seen++
		require.InDelta(t, seen, e["seq"], 0)
	}
	_, err := second.stop()
	require.NoError(t, err)
	_, _, err = socket.ReadMessage()
	var closed *websocket.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, websocket.CloseGoingAway, closed.Code)
}

// TestStopIsOrderly: long polls are answered, jobs that run are given back, and the end comes in time.
func TestStopIsOrderly(t *testing.T) {
	t.Parallel()
	s := serve(t, pgtest.NewDB(t).DSN(), func(c *app.Config) { c.Grace = 500 * time.Millisecond })
	id := s.enqueue(`{"queue":"q","payload":{"sleep_ms":60000}}`)
	pgtest.Eventually(t, 5*time.Second, "the job runs", func() bool {
		_, job := s.call(http.MethodGet, "/api/v1/jobs/"+id, "")
		return job["status"] == "running"
	})
	polled := make(chan int, 1)
	go func() {
		status, _ := s.call(http.MethodGet, "/api/v1/jobs/"+id+"?wait=60s", "")
		polled <- status
	}()
	pgtest.Eventually(t, 5*time.Second, "the poll is parked", func() bool {
		_, metrics := s.call(http.MethodGet, "/api/v1/metrics", "")
		return metrics != nil
	})
	took, err := s.stop()
	require.NoError(t, err)
	require.Less(t, took, 2500*time.Millisecond)
	<-polled
	require.NotContains(t, s.log.String(), `"level":"error"`)
}

// TestStopIsBoundedWhateverTheDatabaseDoes: the grace and two seconds, while a handler runs that ignores its context, a
// caller waits, and the database hangs on every connection or is gone.
func TestStopIsBoundedWhateverTheDatabaseDoes(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*pgtest.Proxy){
		"hangs": (*pgtest.Proxy).Stall,
		"gone":  func(p *pgtest.Proxy) { p.Refuse(true); p.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.NewDB(t).DSN()
			proxy := pgtest.NewProxy(t, dsn)
			const grace = 500 * time.Millisecond
			s := serve(t, proxy.DSN(dsn), func(c *app.Config) { c.Grace = grace })
			id := s.enqueue(`{"queue":"q","payload":{"sleep_ms":60000}}`)
			s.enqueue(`{"queue":"q","payload":{"sleep_ms":600}}`)
			pgtest.Eventually(t, 5*time.Second, "the job runs", func() bool {
				_, job := s.call(http.MethodGet, "/api/v1/jobs/"+id, "")
				return job["status"] == "running"
			})
			s.socket("")
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.base+"/api/v1/jobs",
					strings.NewReader(`{"queue":"q","payload":{}}`))
				if err != nil {
					return
				}
				request.Header.Set("Content-Type", "application/json")
				if answer, err := client.Do(request); err == nil { // whatever it is, it comes before the end
					_ = answer.Body.Close()
				}
			}()
			fault(proxy)
			took, err := s.stop()
			require.NoError(t, err)
			require.Less(t, took, grace+2*time.Second)
			pgtest.Receive(t, answered, 5*time.Second, "the caller is answered")
			proxy.Resume()
		})
	}
}

// TestPasswordIsAskedForWhereOthersCanReach: bound to another address the server does not start with the documented
// password, and says what to set.
func TestPasswordIsAskedForWhereOthersCanReach(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]app.Config{
		"documented": {Bind: "0.0.0.0"}, "short": {Bind: "0.0.0.0", AdminPassword: "hunter2"},
	} {
		err := app.Run(t.Context(), c)
		require.ErrorContains(t, err, "MINIASYNQ_ADMIN_PASSWORD", name)
	}
}

// TestPrivateDatabaseNeedsNoSetUp: nothing is configured, and the data survives a restart.
func TestPrivateDatabaseNeedsNoSetUp(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "mini-asynq-state-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	private := func(c *app.Config) { c.DatabaseURL, c.StateDir = "", dir+"/state" }
	s := serve(t, "", private)
	id := s.enqueue(`{"queue":"q"}`)
	s.await(id, "completed")
	_, err = s.stop()
	require.NoError(t, err)
	s = serve(t, "", private)
	s.await(id, "completed")
	second := serve(t, "", private) // joins the same PostgreSQL
	second.await(id, "completed")
}

// TestPrivateDatabaseIsStartedAgainWhenItDies: it is the node's own, so nobody else would.
func TestPrivateDatabaseIsStartedAgainWhenItDies(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "mini-asynq-state-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := serve(t, "", func(c *app.Config) { c.DatabaseURL, c.StateDir = "", dir+"/state" })
	id := s.enqueue(`{"queue":"q"}`)
	s.await(id, "completed")
	files, err := filepath.Glob(dir + "/state/*/postmaster.pid")
	require.NoError(t, err)
	require.Len(t, files, 1)
	text, err := os.ReadFile(files[0])
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL)) // as the out-of-memory killer does
	pgtest.Eventually(t, 60*time.Second, "it is up again", func() bool {
		return strings.Contains(s.log.String(), "the private PostgreSQL had died and was started again")
	})
	pgtest.Eventually(t, 60*time.Second, "jobs are accepted again", func() bool {
		status, job := s.call(http.MethodPost, "/api/v1/jobs", `{"queue":"q"}`)
		if status == http.StatusCreated {
			s.await(job["id"].(string), "completed")
		}
		return status == http.StatusCreated
	})
	s.await(id, "completed")
}

// TestConfiguredDatabaseIsMadeIfOnlyItIsMissing: a fresh PostgreSQL has no database of the quick start's name.
func TestConfiguredDatabaseIsMadeIfOnlyItIsMissing(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyDB(t)
	missing := strings.Replace(db.DSN(), db.Name(), db.Name()+"_more", 1)
	s := serve(t, missing, nil)
	s.await(s.enqueue(`{"queue":"q"}`), "completed")
	_, err := s.stop()
	require.NoError(t, err)
	_, err = db.Conn(t).Exec(t.Context(), `DROP DATABASE "`+db.Name()+`_more" WITH (FORCE)`)
	require.NoError(t, err)
}

// TestIdleServerIsQuiet: nothing polls. An idle server sends its heartbeat and its sweeps, 30 statements a minute at most.
func TestIdleServerIsQuiet(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, map[string]string{"log_statement": "all", "log_min_messages": "info"})
	s := serve(t, cluster.DSN(), nil)
	s.await(s.enqueue(`{"queue":"q"}`), "completed")
	statement := regexp.MustCompile(`(?m)LOG:  (statement|execute [^:]*): `)
	count := func() int {
		raw, err := os.ReadFile(cluster.LogFile())
		require.NoError(t, err)
		return len(statement.FindAll(raw, -1))
	}
	require.Positive(t, count(), "the log shows statements")
	wait := func(d time.Duration) { <-time.After(d) }
	wait(3 * time.Second) // until the pacer has parked
	// Half a minute holds one of each sweep. A listener that had to connect anew meanwhile, on a machine that is short of
	// breath, is not idle: then the next half counts.
	for range 4 {
		healed, before := s.reconnects(), count()
		wait(30 * time.Second)
		sent := count() - before
		t.Logf("an idle server sent %d statements in half a minute", sent)
		if s.reconnects() != healed {
			continue
		}
		require.LessOrEqual(t, sent, 15)
		require.Positive(t, sent)
		return
	}
	t.Fatal("the listener had to connect anew in each half minute")
}

// reconnects reads how often the listener had to connect anew.
func (s *server) reconnects() string {
	s.t.Helper()
	_, metrics := s.call(http.MethodGet, "/api/v1/metrics", "")
	return regexp.MustCompile(`(?m)^miniasynq_listener_reconnects_total .*$`).FindString(metrics["text"].(string))
}

func TestAddressInUseIsSaid(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = app.Run(ctx, app.Config{
		DatabaseURL: pgtest.NewDB(t).DSN(), Migrate: true, Bind: "127.0.0.1", Address: taken.Addr().String(), Slots: 1,
		Lease: time.Second, Grace: time.Second,
	})
	require.ErrorContains(t, err, "listen")
}
