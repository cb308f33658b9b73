package api_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// endless is a body that never ends; it counts what was read of it.
type endless struct {
	head  io.Reader
	chunk []byte
	read  int
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.head.Read(p)
	if n == 0 || err != nil {
		n = copy(p, e.chunk)
	}
	e.read += n
	return n, nil
}

func (e *endless) Close() error { return nil }

func TestB9EndlessBodiesAreReadToTheLimitAndNoFurther(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for path, limit := range map[string]int{"/jobs": 512 << 10, "/jobs/batch": 16 << 20, "/admin/queues/a/pause": 512 << 10} {
		body := &endless{head: strings.NewReader(`{"payload":"`), chunk: bytes.Repeat([]byte("x"), 8<<10)}
		r := httptest.NewRequest(http.MethodPost, "/api/v1"+path, body)
		r.ContentLength = -1
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "127.0.0.1:9"
		asAdmin(r)
		w := httptest.NewRecorder()
		d.server.Handler().ServeHTTP(w, r)
		require.Equal(t, http.StatusRequestEntityTooLarge, w.Code, path)
		require.LessOrEqual(t, body.read, limit+64<<10, path)
	}
	// With a length nothing is read at all.
	body := &endless{head: strings.NewReader(`{"payload":"`), chunk: []byte("x")}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/jobs", body)
	r.ContentLength, r.Host, r.RemoteAddr = 1<<30, "localhost", "127.0.0.1:9"
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	d.server.Handler().ServeHTTP(w, r)
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	require.Zero(t, body.read)
}

// raw sends bytes and returns the first answer's status and the rest of the connection.
func (d *door) raw(request string) (status int, rest string) {
	d.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	require.NoError(d.t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(d.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	go func() { _, _ = conn.Write([]byte(request)) }() // ends with the connection
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	require.NoError(d.t, err)
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	return response.StatusCode, string(body)
}

func TestQ6AndQ7BrokenRequests(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"Q6 large headers":    {"GET /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", 431},
		"Q6 many headers":     {"GET /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X-A: a\r\n", 10_000) + "\r\n", 431},
		"Q6 authorization":    {"GET /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic " + strings.Repeat(".", 1<<20) + "\r\n\r\n", 431},
		"Q6 address":          {"GET /api/v1/jobs?x=" + strings.Repeat("a", 9<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 414},
		"Q7 two lengths":      {"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
		"Q7 no host":          {"GET /api/v1/jobs HTTP/1.1\r\n\r\n", 400},
		"Q7 two hosts":        {"GET /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400},
		"Q7 unknown encoding": {"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		"Q7 expect":           {"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n{}", 417},
		"Q7 bad chunk": {"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
			"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400},
		"Q7 old HTTP without host": {"GET /api/v1/jobs HTTP/1.0\r\n\r\n", 421},
	} {
		t.Run(name, func(t *testing.T) {
			d := *d
			d.t = t
			before := d.rows()
			status, _ := d.raw(c.request)
			require.Equal(t, c.status, status)
			require.Equal(t, before, d.rows())
		})
	}
	// A length beside chunks: the chunks count, and what follows is no second request.
	status, body := d.raw("POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 40\r\n" +
		"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /api/v1/admin HTTP/1.1\r\n\r\n")
	require.Equal(t, http.StatusCreated, status, body)
}

func TestU2TricklersAreCutOff(t *testing.T) {
	t.Parallel()
	d := setup(t)
	s := d.server.HTTPServer()
	require.Equal(t, 5*time.Second, s.ReadHeaderTimeout)
	require.Zero(t, s.WriteTimeout)
	require.NotZero(t, s.IdleTimeout)
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	started := time.Now()
	_, err = conn.Write([]byte("GET /api/v1/jobs HTTP/1.1\r\nHost: loc"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(15*time.Second)))
	_, err = io.Copy(io.Discard, conn) // the server closes
	require.NoError(t, err)
	require.Less(t, time.Since(started), 10*time.Second)
}

func TestU2TricklingBodyIsCutOff(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes the 30 s that a body may take")
	}
	d := setup(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	require.NoError(t, err)
	before := d.rows()
	_, err = conn.Write([]byte("POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"))
	require.NoError(t, err)
	started := time.Now()
	var trickle sync.WaitGroup
	over := make(chan struct{})
	trickle.Go(func() { // ends when the server closes, at the latest when the test does, which waits for it
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			if _, err := conn.Write([]byte("{")); err != nil {
				return
			}
		}
	})
	defer func() {
		close(over)
		_ = conn.Close()
		trickle.Wait()
	}()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(45*time.Second)))
	raw, _ := io.ReadAll(conn) // a reset is an end too
	require.Contains(t, string(raw), "malformed_request")
	require.InDelta(t, 30, time.Since(started).Seconds(), 8)
	require.Equal(t, before, d.rows())
}

func TestU2CallerGoneInMidRequestLeavesNothing(t *testing.T) {
	t.Parallel()
	d := setup(t)
	before := d.rows()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	require.NoError(t, err)
	_, err = conn.Write([]byte("POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
		"X-Request-Id: gone\r\nContent-Length: 1000\r\n\r\n{\"queue\":"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	pgtest.Eventually(t, 10*time.Second, "the request has ended", func() bool {
		return strings.Contains(d.log.String(), `"request_id":"gone"`)
	})
	require.Equal(t, before, d.rows())
}

// brokenDB is a database that answers nothing.
type brokenDB struct {
	jobs.DB
	err error
}

func (b brokenDB) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, b.err }
func (b brokenDB) QueryRow(context.Context, string, ...any) pgx.Row        { return brokenRow{b.err} }
func (b brokenDB) Begin(context.Context) (pgx.Tx, error)                   { return nil, b.err }

type brokenRow struct{ err error }

func (r brokenRow) Scan(...any) error { return r.err }

func TestU1DatabaseTroubleIs503(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{}`)
	for name, err := range map[string]error{
		"away":      &pgconn.ConnectError{},
		"read-only": &pgconn.PgError{Code: "25006", Message: "cannot execute " + secretInput},
		"full":      &pgconn.PgError{Code: "53100"},
		"shut down": &pgconn.PgError{Code: "57P01"},
		"pool":      context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			broken := setupOn(t, d.dsn, func(c *api.Config) {
				c.DB = brokenDB{c.DB, err}
				inserter := jobs.NewInserter(c.DB, jobs.InserterConfig{})
				run, stop := context.WithCancel(context.Background())
				done := make(chan struct{})
				go func() { defer close(done); _ = inserter.Run(run) }() // ends with the test; waited for below
				t.Cleanup(func() { stop(); <-done })
				c.Inserter = inserter
			})
			for _, a := range []*answer{
				broken.get("/jobs/" + id), broken.get("/jobs"), broken.get("/queues"), broken.get("/jobs/" + id + "/attempts"),
				broken.post("/admin/jobs/"+id+"/cancel", "", asAdmin), broken.post("/admin/queues/a/pause", "", asAdmin),
				broken.post("/jobs", `{}`, key("k")),
			} {
				a.problem(http.StatusServiceUnavailable, "unavailable")
				require.Contains(t, []string{"1", "2"}, a.header.Get("Retry-After"))
				require.NotContains(t, string(a.raw), secretInput)
			}
			broken.get("/health/live").is(http.StatusOK)
			a := broken.post("/jobs", `{}`)
			a.is(http.StatusServiceUnavailable)
		})
	}
}

func TestU1PoolUsedUp(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.Deadline = 200 * time.Millisecond })
	id := d.enqueue(`{}`)
	for range d.pool.Config().MaxConns {
		conn := must(d.pool.Acquire(t.Context()))
		defer conn.Release()
	}
	for _, path := range []string{"/jobs/" + id, "/jobs", "/jobs/count", "/queues"} {
		a := d.get(path)
		a.problem(http.StatusServiceUnavailable, "unavailable")
		require.Equal(t, "1", a.header.Get("Retry-After"))
	}
}

func TestListThatTakesTooLongIsTooBroad(t *testing.T) {
	t.Parallel()
	d := setup(t)
	tx := must(d.pool.Begin(t.Context()))
	must(tx.Exec(t.Context(), `LOCK TABLE mini_asynq.jobs_finished IN ACCESS EXCLUSIVE MODE`))
	body := d.get("/jobs?status=dead").problem(http.StatusUnprocessableEntity, "query-too-broad")
	require.NotEmpty(t, body["hint"])
	require.NoError(t, tx.Rollback(t.Context()))
	d.get("/jobs?status=dead").is(http.StatusOK)
}

func TestU1LostCommitIsUnknownNotFailed(t *testing.T) {
	t.Parallel()
	d := setup(t)
	broken := setupOn(t, d.dsn, func(c *api.Config) {
		inserter := jobs.NewInserter(brokenDB{c.DB, io.ErrUnexpectedEOF}, jobs.InserterConfig{})
		run, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = inserter.Run(run) }() // ends with the test; waited for below
		t.Cleanup(func() { stop(); <-done })
		c.Inserter = inserter
	})
	body := broken.post("/jobs", `{}`).problem(http.StatusServiceUnavailable, "commit-unknown")
	require.Contains(t, body["detail"], "Idempotency-Key")
}

func TestUnknownFaultsAreInternalAndNotShown(t *testing.T) {
	t.Parallel()
	fault := &pgconn.PgError{Code: "22P05", Message: secretInput + " in SELECT"}
	d := setup(t, func(c *api.Config) { c.DB = brokenDB{c.DB, fault} })
	a := d.get("/jobs/0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e")
	a.problem(http.StatusInternalServerError, "internal")
	require.NotContains(t, string(a.raw), "SELECT")
	require.Contains(t, d.log.String(), a.header.Get("X-Request-Id"))
}

func TestPanicIsOneAnswerAndTheServerGoesOn(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) {
		c.Hub = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(errors.New("planted")) })
	})
	a := d.get("/ws")
	a.problem(http.StatusInternalServerError, "internal")
	require.NotContains(t, string(a.raw), "planted")
	require.Contains(t, d.log.String(), "handler panicked")
	d.get("/queues").is(http.StatusOK)
}

func TestAccessLogHasTemplatesAndNoInput(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"payload":"` + secretInput + `"}`)
	d.get("/jobs/" + id)
	d.get("/jobs?queue=" + secretInput)
	d.get("/" + secretInput)
	log := d.log.String()
	require.Contains(t, log, `"route":"/api/v1/jobs/:id"`)
	require.Contains(t, log, `"route":"unmatched"`)
	require.NotContains(t, log, secretInput)
	require.NotContains(t, log, id)
}

// Large batches are let in by their size, so that many at once do not use up the memory; small ones pass.
func TestLargeBatchesWaitForRoom(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) {
		c.Inserter = jobs.NewInserter(c.DB, jobs.InserterConfig{}) // nobody runs it: whatever is let in stays
		c.Deadline = time.Minute
	})
	payload := `{"queue":"q","payload":"` + strings.Repeat("x", 200<<10) + `"}`
	large := `{"jobs":[` + strings.Repeat(payload+",", 74) + payload + `]}` // 15 MB: two of them fill the room
	ctx, leave := context.WithCancel(t.Context())
	answers := make(chan string, 3)
	var callers sync.WaitGroup
	defer callers.Wait()
	defer leave()
	for range cap(answers) {
		callers.Go(func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+"/api/v1/jobs/batch", strings.NewReader(large))
			if err != nil {
				return
			}
			request.Header.Set("Content-Type", "application/json")
			answer, err := d.client.Do(request)
			if err != nil {
				return // left: it was let in, and no answer comes
			}
			defer func() { _ = answer.Body.Close() }()
			text, _ := io.ReadAll(answer.Body) // what is missing of it fails the test
			answers <- answer.Status + " " + answer.Header.Get("Retry-After") + " " + string(text)
		})
	}
	refused := pgtest.Receive(t, answers, 30*time.Second, "one is refused")
	require.Contains(t, refused, "503 Service Unavailable 1 ")
	require.Contains(t, refused, "too many large batches at once")
	require.Empty(t, answers)
}
