package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// door is a hub on a database of its own.
type door struct {
	t       testing.TB
	db      *pgtest.DB
	pool    *pgxpool.Pool
	stream  *events.Stream
	hub     *hub.Hub
	server  *httptest.Server
	signals chan signal
	stop    func()
	pacing  func() string
}

// signal is a moment in the life of a client.
type signal struct{ moment, principal, cursor string }

const limit = 20 * time.Second

// open starts a door. The principal of a request is what its header X-Caller says.
func open(t testing.TB, change ...func(*hub.Config)) *door {
	t.Helper()
	return openWith(t, events.StreamConfig{}, change...)
}

func openWith(t testing.TB, streamConfig events.StreamConfig, change ...func(*hub.Config)) *door {
	t.Helper()
	d := &door{t: t, db: pgtest.NewDB(t), signals: make(chan signal, 10_000)}
	d.pool = d.db.Pool(t, func(c *pgxpool.Config) {
		maps.Copy(c.ConnConfig.RuntimeParams, jobs.PlanSettings())
		c.MaxConns = 8
	})
	streamConfig.DB = d.pool
	d.stream = events.NewStream(streamConfig)
	connect := func(ctx context.Context) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig(d.db.DSN())
		if err != nil {
			return nil, err
		}
		maps.Copy(config.RuntimeParams, jobs.PlanSettings())
		return pgx.ConnectConfig(ctx, config)
	}
	var pacer *events.Pacer
	listener := events.NewListener(events.ListenerConfig{
		Connect: connect, DB: d.pool,
		Heard:  func(n events.Note) { pacer.Hear(n); d.stream.Heard(n) },
		Missed: func() { pacer.Wake(); d.stream.Missed() },
	})
	pacer = events.NewPacer(events.PacerConfig{
		Connect: connect, Published: func(events.Tick) { d.stream.Wake() }, Hearing: listener.Hears,
	})
	config := hub.Config{
		Stream: d.stream,
		Principal: func(r *http.Request) hub.Caller {
			name := r.Header.Get("X-Caller")
			return hub.Caller{Name: name, Unlimited: name == "unlimited"}
		},
	}
	for _, fn := range change {
		fn(&config)
	}
	var err error
	if config.Readers == nil {
		config.Readers, err = events.NewReaders(events.ReadersConfig{Stream: d.stream, MaxEach: 5000})
		require.NoError(t, err)
	}
	d.hub, err = hub.New(config)
	require.NoError(t, err)
	d.hub.OnSignal(func(moment, principal, cursor string) {
		select {
		case d.signals <- signal{moment, principal, cursor}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{d.stream.Run, pacer.Run, listener.Run, config.Readers.Run, d.hub.Run} {
		running.Go(func() { _ = run(ctx) })
	}
	d.pacing = func() string {
		return fmt.Sprintf("pacer leads %t, made %d ticks, last well %s ago; listener hears %t", pacer.Leads(), pacer.Ticks(),
			time.Since(pacer.LastSuccess()).Round(time.Millisecond), listener.Hears())
	}
	d.server = httptest.NewServer(d.hub)
	d.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		d.server.Close()
	})
	t.Cleanup(d.stop)
	pgtest.Receive(t, d.stream.Ready(), limit, "the stream is ready")
	return d
}

// await waits for a moment of a client.
func (d *door) await(moment, principal string) signal {
	d.t.Helper()
	for {
		s := pgtest.Receive(d.t, d.signals, limit, moment+" of "+principal)
		if s.moment == moment && s.principal == principal {
			return s
		}
	}
}

func (d *door) address(query string) string {
	return "ws" + strings.TrimPrefix(d.server.URL, "http") + "/api/v1/ws?" + query
}

// socket is a client of a test.
type socket struct {
	*websocket.Conn
	t    testing.TB
	door *door
}

// dial opens a socket as somebody.
func (d *door) dial(caller, query string, dialer ...*websocket.Dialer) *socket {
	d.t.Helper()
	use := websocket.DefaultDialer
	if len(dialer) > 0 {
		use = dialer[0]
	}
	conn, response, err := use.DialContext(d.t.Context(), d.address(query), http.Header{"X-Caller": {caller}})
	if err != nil {
		text := ""
		if response != nil {
			raw, _ := io.ReadAll(response.Body)
			text = string(raw)
		}
		require.NoError(d.t, err, text)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return &socket{conn, d.t, d}
}

// seen is the part of an event that tests look at.
type seen struct {
	Cursor string `json:"cursor"`
	Seq    int64  `json:"seq"`
	Type   string `json:"type"`
	Queue  string `json:"queue"`
	JobID  string `json:"job_id"`
}

// next reads one event.
func (s *socket) next() seen {
	s.t.Helper()
	e, err := s.read()
	if err != nil {
		require.NoError(s.t, err, s.door.state())
	}
	return e
}

// state is what a test that waited in vain says: where stream, ticks and hub stand.
func (d *door) state() string {
	head, err := d.stream.Head()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var stored string
	err = errors.Join(err, d.pool.QueryRow(ctx, `
		SELECT format('last event %s, last tick %s, promise %s, now %s, sessions %s', (SELECT max(id) FROM mini_asynq.outbox),
		              (SELECT first_seq + n - 1 FROM mini_asynq.ticks ORDER BY epoch DESC, first_seq DESC LIMIT 1),
		              (SELECT last_value FROM mini_asynq.promise), extract(epoch FROM clock_timestamp()) * 1000,
		              (SELECT string_agg(concat_ws(' ', pid, state, wait_event, round(extract(epoch FROM clock_timestamp() - state_change)), backend_xid, backend_xmin, left(query, 50)), '; ')
		                 FROM pg_stat_activity WHERE datname = current_database()))`).Scan(&stored))
	return fmt.Sprintf("stream at %s, database: %s, %v; %s; %s", head, stored, err, d.pacing(), d.hub.State())
}

func (s *socket) read() (e seen, err error) {
	if err := s.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return e, err
	}
	kind, raw, err := s.ReadMessage()
	if err != nil {
		return e, err
	}
	if kind != websocket.TextMessage {
		return e, errors.New("not a text message")
	}
	mustBeEvent(s.t, raw)
	return e, json.Unmarshal(raw, &e)
}

// reason is what a close frame says.
type reason struct {
	Code    string `json:"code"`
	Cursor  string `json:"cursor"`
	Floor   string `json:"floor"`
	RetryMS int64  `json:"retry_ms"`
}

// closed reads until the close frame; events before it are given back.
func (s *socket) closed() (code hub.CloseCode, why reason, before []seen) {
	s.t.Helper()
	for {
		e, err := s.read()
		if err == nil {
			before = append(before, e)
			continue
		}
		var closed *websocket.CloseError
		require.ErrorAs(s.t, err, &closed, s.door.state())
		require.LessOrEqual(s.t, len(closed.Text), 123)
		mustBeReason(s.t, closed.Code, closed.Text)
		if closed.Text != "" {
			require.NoError(s.t, json.Unmarshal([]byte(closed.Text), &why), closed.Text)
		}
		return hub.CloseCode(closed.Code), why, before
	}
}

// until reads up to the event of a queue made last, and checks that positions are dense.
func (s *socket) until(queue string) (all []seen) {
	s.t.Helper()
	for {
		e := s.next()
		if n := len(all); n > 0 {
			require.Equal(s.t, all[n-1].Seq+1, e.Seq, "dense")
		}
		if all = append(all, e); e.Type == "queue.created" && e.Queue == queue {
			return all
		}
	}
}

// mark makes an event that comes after everything committed before.
func (d *door) mark(name string) {
	d.t.Helper()
	d.db.Exec(d.t, `INSERT INTO mini_asynq.queues (name) VALUES ($1)`, name)
}

// enqueue stores n jobs in one transaction.
func (d *door) enqueue(n int, queue string) []jobs.Enqueued {
	d.t.Helper()
	params := make([]jobs.Params, n)
	for i := range params {
		params[i] = jobs.Params{Queue: queue}
	}
	out, err := jobs.Enqueue(d.t.Context(), d.pool, params...)
	require.NoError(d.t, err)
	return out
}

func (d *door) head() string {
	d.t.Helper()
	head, err := d.stream.Head()
	require.NoError(d.t, err)
	return head.String()
}

// wide is a dialer whose sockets take little before the sender has to wait.
func narrow() *websocket.Dialer {
	return &websocket.Dialer{
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = errors.Join(err, tcp.SetReadBuffer(4096))
			}
			return conn, err
		},
		ReadBufferSize: 512,
	}
}

// ask makes a plain request and returns status and problem.
func (d *door) ask(method, query string, header http.Header) (int, map[string]any, http.Header) {
	d.t.Helper()
	u, err := url.Parse(d.server.URL)
	require.NoError(d.t, err)
	u.Path, u.RawQuery = "/api/v1/ws", query
	r, err := http.NewRequestWithContext(d.t.Context(), method, u.String(), nil)
	require.NoError(d.t, err)
	r.Header = header
	if host := header.Get("Host"); host != "" {
		r.Host = host
	}
	conn, err := (&net.Dialer{}).DialContext(d.t.Context(), "tcp", u.Host)
	require.NoError(d.t, err)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer func() {
		transport.CloseIdleConnections()
		_ = conn.Close()
	}()
	response, err := transport.RoundTrip(r)
	require.NoError(d.t, err)
	var problem map[string]any
	if response.StatusCode != http.StatusSwitchingProtocols {
		raw, err := io.ReadAll(response.Body)
		require.NoError(d.t, err)
		require.NoError(d.t, json.Unmarshal(raw, &problem), string(raw))
	}
	_ = response.Body.Close()
	return response.StatusCode, problem, response.Header
}

// upgrade are the headers of a good request.
func upgrade(change ...func(http.Header)) http.Header {
	h := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for _, fn := range change {
		fn(h)
	}
	return h
}
