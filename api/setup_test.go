package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// password is planted: no log line and no answer may repeat it.
const password = "planted-admin-secret"

// testLease is the lease of remote claims in these tests.
const testLease = 30 * time.Second

// door is a node's REST door on a database of its own, as a caller from this machine sees it.
type door struct {
	t       testing.TB
	url     string // http://127.0.0.1:port
	dsn     string
	pool    *pgxpool.Pool
	server  *api.Server
	routes  map[string]bool // as the document writes them
	stream  *events.Stream
	readers *events.Readers
	// For remote workers: with a lease of testLease.
	dispatch *dispatcher.Dispatcher

	log    *pgtest.Log
	pgLog  string // where PostgreSQL's log is, if this test has it for itself
	client *http.Client
}

// setup starts a door: pool, inserter, pacer, listener, stream and an http.Server on a port of its own.
func setup(t testing.TB, change ...func(*api.Config)) *door {
	t.Helper()
	return setupOn(t, newDatabase(t), change...)
}

// setupOn is another node on the same database.
func setupOn(t testing.TB, dsn string, change ...func(*api.Config)) *door {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	poolConfig, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	poolConfig.MaxConns = 6
	// As a node has its own: the history of a job is compiled for a third of a second otherwise.
	maps.Copy(poolConfig.ConnConfig.RuntimeParams, map[string]string{"jit": "off", "enable_seqscan": "off"})
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	require.NoError(t, err)
	connect := func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, dsn) }

	turnConfig := poolConfig.Copy()
	turnConfig.MaxConns = 2
	maps.Copy(turnConfig.ConnConfig.RuntimeParams, jobs.PlanSettings())
	turns, err := pgxpool.NewWithConfig(ctx, turnConfig)
	require.NoError(t, err)

	d := &door{t: t, dsn: dsn, pool: pool, log: &pgtest.Log{}}
	d.dispatch, err = dispatcher.New(dispatcher.Config{
		Store: dispatcher.Database{Engine: turns, Keeper: pool}, Node: "test-node", Lease: testLease, Sweep: -1,
		Log: zerolog.New(d.log),
	})
	require.NoError(t, err)
	d.stream = events.NewStream(events.StreamConfig{DB: pool})
	pacer := events.NewPacer(events.PacerConfig{Connect: connect, Published: func(events.Tick) { d.stream.Wake() }})
	listener := events.NewListener(events.ListenerConfig{
		Connect: connect, DB: pool, Missed: d.stream.Missed,
		Heard: func(n events.Note) { pacer.Hear(n); d.stream.Heard(n) },
	})
	overview := events.NewOverview(events.OverviewConfig{DB: pool, Stream: d.stream, NewQueues: func(names []string) {
		_ = jobs.AddQueues(ctx, pool, names) // offered again if it fails
	}})
	d.stream.Tap(overview.Fold)
	d.stream.Tap(func(batch []*events.Event) {
		for _, e := range batch {
			if e.Status == jobs.Pending {
				d.dispatch.WakeWhole(e.Queue)
			}
		}
	})
	inserter := jobs.NewInserter(pool, jobs.InserterConfig{Stored: func([]jobs.Enqueued) { pacer.Wake() }})
	config := api.Config{
		DB: pool, Inserter: inserter, Stream: d.stream, Overview: overview, Log: zerolog.New(d.log).Level(zerolog.DebugLevel),
		Work: d.dispatch, Retry: jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: time.Hour}, BindIsLoopback: true, AdminPassword: password, Node: "test-node", Version: "v0", GinMode: "test",
	}
	config.Readers, err = events.NewReaders(events.ReadersConfig{Stream: d.stream})
	require.NoError(t, err)
	guard, err := events.NewGuard([]string{"127.0.0.1"}, true)
	require.NoError(t, err)
	hooks, err := events.NewWebhooks(events.WebhooksConfig{
		DB: pool, Readers: config.Readers, Guard: guard, Node: uuid.NewString(), Timeout: time.Second,
	})
	require.NoError(t, err)
	d.stream.Tap(hooks.Fold)
	config.Webhooks = hooks
	for _, fn := range change {
		fn(&config)
	}
	d.readers = config.Readers
	d.server, err = api.New(config)
	require.NoError(t, err)
	d.routes = routesOf(d.server, config.BasePath)

	var running sync.WaitGroup
	services := []func(context.Context) error{d.stream.Run, pacer.Run, listener.Run, inserter.Run, overview.Run, config.Readers.Run, hooks.Run, d.server.Run, d.dispatch.Run}
	for _, run := range services {
		running.Go(func() { _ = run(ctx) })
	}
	line, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	httpServer := d.server.HTTPServer()
	running.Go(func() { _ = httpServer.Serve(line) })
	d.url = "http://" + line.Addr().String()
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	d.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = httpServer.Close()
		cancel()
		running.Wait()
		turns.Close()
		pool.Close()
	})
	select {
	case <-d.stream.Ready():
	case <-time.After(20 * time.Second):
		require.Fail(t, "the stream is not ready")
	}
	return d
}

// answer is what came back.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	raw    []byte
}

// with sets a header of a request.
type with func(*http.Request)

func header(name, value string) with {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = []string{value} }
}

func asAdmin(r *http.Request) { r.SetBasicAuth("admin", password) }

// send makes a call. A body that is not empty is JSON unless a header says otherwise.
func (d *door) send(method, path, body string, options ...with) *answer {
	d.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, reader)
	require.NoError(d.t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, option := range options {
		option(r)
	}
	return d.do(r)
}

func (d *door) do(r *http.Request) *answer {
	d.t.Helper()
	response, err := d.client.Do(r)
	require.NoError(d.t, err)
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	require.NoError(d.t, err)
	a := &answer{d.t, response.StatusCode, response.Header, raw}
	require.NoError(d.t, contractOf(d.t).check(d.routes, r, a), "%s %s", r.Method, r.URL)
	return a
}

func (d *door) get(path string, options ...with) *answer {
	d.t.Helper()
	return d.send(http.MethodGet, "/api/v1"+path, "", options...)
}

func (d *door) post(path, body string, options ...with) *answer {
	d.t.Helper()
	return d.send(http.MethodPost, "/api/v1"+path, body, options...)
}

// enqueue makes a job and returns its id.
func (d *door) enqueue(body string) string {
	d.t.Helper()
	a := d.post("/jobs", body)
	a.is(http.StatusCreated)
	return a.text("id")
}

// is checks the status, and shows the body if it is another.
func (a *answer) is(status int) *answer {
	a.t.Helper()
	require.Equal(a.t, status, a.status, "%s", a.raw)
	return a
}

// object is the body as JSON; numbers stay as they were written.
func (a *answer) object() map[string]any {
	a.t.Helper()
	var out map[string]any
	dec := json.NewDecoder(bytes.NewReader(a.raw))
	dec.UseNumber()
	require.NoError(a.t, dec.Decode(&out), "%s", a.raw)
	return out
}

func (a *answer) text(name string) string {
	a.t.Helper()
	s, ok := a.object()[name].(string)
	require.True(a.t, ok, "%s in %s", name, a.raw)
	return s
}

func (a *answer) data() []any {
	a.t.Helper()
	items, ok := a.object()["data"].([]any)
	require.True(a.t, ok, "%s", a.raw)
	return items
}

// problem checks a refusal in all that every refusal has.
func (a *answer) problem(status int, name string) map[string]any {
	a.t.Helper()
	a.is(status)
	require.Equal(a.t, "application/problem+json", a.header.Get("Content-Type"))
	body := a.object()
	require.Equal(a.t, "/problems/"+name, body["type"])
	require.Equal(a.t, strings.ReplaceAll(name, "-", "_"), body["code"])
	require.Equal(a.t, json.Number(itoa(status)), body["status"])
	for _, member := range []string{"title", "detail", "instance", "request_id"} {
		require.NotEmpty(a.t, body[member], member)
	}
	require.Equal(a.t, a.header.Get("X-Request-Id"), body["request_id"])
	require.Equal(a.t, "nosniff", a.header.Get("X-Content-Type-Options"))
	require.Equal(a.t, "no-store", a.header.Get("Cache-Control"))
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		require.NotEmpty(a.t, a.header.Get("Retry-After"))
	}
	return body
}

// pointer checks the first fault.
func (a *answer) pointer(want string) {
	a.t.Helper()
	faults, ok := a.object()["errors"].([]any)
	require.True(a.t, ok && len(faults) > 0, "%s", a.raw)
	fault, ok := faults[0].(map[string]any)
	require.True(a.t, ok)
	require.Equal(a.t, want, fault["pointer"], "%s", a.raw)
}

func itoa(n int) string { return string(must(json.Marshal(n))) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// rows counts what a refused call may not add to. The row of a queue comes after its first event, and is nobody's call.
func (d *door) rows() (n int) {
	d.t.Helper()
	err := d.pool.QueryRow(d.t.Context(), `
		SELECT (SELECT count(*) FROM mini_asynq.all_jobs) + (SELECT count(*) FROM mini_asynq.events WHERE type <> 'queue.created')
		     + (SELECT count(*) FROM mini_asynq.idempotency_keys)`).Scan(&n)
	require.NoError(d.t, err)
	return n
}

// claim makes the head of a queue running, for a worker w1.
func (d *door) claim(queue string) *jobs.Claimed {
	d.t.Helper()
	turn := jobs.Turn{Claims: []jobs.Claim{{Queue: queue, Limit: 1, Worker: "w1", Lease: time.Minute}}}
	result, err := turn.Do(d.t.Context(), d.pool)
	require.NoError(d.t, err)
	require.Len(d.t, result.Claimed[0], 1)
	return result.Claimed[0][0]
}

// finish ends an attempt.
func (d *door) finish(outcome jobs.Outcome) {
	d.t.Helper()
	verdicts, err := jobs.Finish(d.t.Context(), d.pool, []jobs.Outcome{outcome})
	require.NoError(d.t, err)
	require.True(d.t, verdicts[0].Landed)
}

// fails is why an attempt of these tests fails.
func fails(kind string) *jobs.Failure {
	return jobs.NewFailure(kind, "TestError", "it failed", "stack-text")
}

// completed, dead and running make a job that is so, and return its id.
func (d *door) completed(queue, result string) string {
	d.t.Helper()
	id := d.enqueue(`{"queue":"` + queue + `"}`)
	var raw json.RawMessage
	if result != "" {
		raw = json.RawMessage(result)
	}
	d.finish(jobs.Complete(&d.claim(queue).Job, raw))
	return id
}

func (d *door) dead(queue string) string {
	d.t.Helper()
	id := d.enqueue(`{"queue":"` + queue + `"}`)
	d.finish(jobs.FailFinally(&d.claim(queue).Job, fails(queue)))
	return id
}

func (d *door) running(queue string) (string, *jobs.Claimed) {
	d.t.Helper()
	id := d.enqueue(`{"queue":"` + queue + `"}`)
	return id, d.claim(queue)
}

func uid(s string) uuid.UUID { return uuid.MustParse(s) }

// failWithStack is an attempt that failed for good.
func failWithStack(job *jobs.Claimed) jobs.Outcome {
	return jobs.FailFinally(&job.Job, fails(job.Kind))
}
