package pgtest_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// wait is for the slowest machine; nothing that is well waits that long.
const wait = 30 * time.Second

type proxied struct {
	db    *pgtest.DB
	proxy *pgtest.Proxy
}

func setup(t *testing.T) *proxied {
	t.Helper()
	db := pgtest.NewEmptyDB(t)
	db.Exec(t, `CREATE TABLE t (n int)`)
	return &proxied{db: db, proxy: pgtest.NewProxy(t, db.DSN())}
}

// conn goes through the proxy.
func (f *proxied) conn(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.proxy.DSN(f.db.DSN()))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func (f *proxied) rows(t *testing.T) int {
	t.Helper()
	return pgtest.One[int](t, f.db, `SELECT count(*)::int FROM t`)
}

// sessions is how many others the server has in the database.
func (f *proxied) sessions(t *testing.T) int {
	t.Helper()
	return pgtest.One[int](t, f.db, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()
		AND application_name = 'through'`, f.db.Name())
}

func run(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// commit inserts a row and gives the error of COMMIT.
func commit(t *testing.T, conn *pgx.Conn) error {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO t VALUES ($1)`, 1)
	require.NoError(t, err)
	return tx.Commit(t.Context())
}

// at does an action at each COMMIT.
func at(action pgtest.Action) func(byte, []byte) pgtest.Action {
	return func(kind byte, payload []byte) pgtest.Action {
		if pgtest.IsCommit(kind, payload) {
			return action
		}
		return pgtest.Forward
	}
}

func TestProxyPassesEverythingOn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn := f.conn(t)
	require.Equal(t, 1, f.proxy.Connections())
	require.NoError(t, commit(t, conn))
	var big string
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT repeat($1, 3000000)`, "x").Scan(&big))
	require.Len(t, big, 3000000)
	_, err := conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"},
		pgx.CopyFromSlice(1000, func(i int) ([]any, error) { return []any{i}, nil }))
	require.NoError(t, err)
	require.Equal(t, 1001, f.rows(t))
	require.NoError(t, conn.Close(t.Context()))
	pgtest.Eventually(t, wait, "the end of a connection has no signal", func() bool { return f.proxy.Connections() == 0 })
}

func TestProxyPassesTheQuestionForTLS(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config, err := pgx.ParseConfig(f.proxy.DSN(f.db.DSN()) + "&sslmode=prefer")
	require.NoError(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, conn.Ping(t.Context()))
	require.NoError(t, conn.Close(t.Context()))
}

func TestProxyPassesACancelRequest(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn := f.conn(t)
	done := make(chan error, 1)
	go func() { // ends with the query; the receive below waits for it
		_, err := conn.Exec(context.Background(), `SELECT pg_sleep(600)`)
		done <- err
	}()
	pgtest.Eventually(t, wait, "the server shows the query", func() bool {
		return pgtest.One[int](t, f.db, `SELECT count(*)::int FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND datname = $1 AND state = 'active'`, f.db.Name()) == 1
	})
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
	require.Equal(t, "57014", pgtest.SQLState(pgtest.Receive(t, done, wait, "the query ends")))
}

func TestStalledConnectionIsHalfOpen(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn := f.conn(t)
	f.proxy.Stall()
	f.proxy.Stall() // once more is the same
	done := make(chan error, 1)
	go func() { // ends with the query; the receive below waits for it
		_, err := conn.Exec(context.Background(), `INSERT INTO t VALUES (1)`)
		done <- err
	}()
	// A new one is taken and gets no answer.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := pgx.Connect(ctx, f.proxy.DSN(f.db.DSN()))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Zero(t, f.rows(t))
	require.Empty(t, done)
	f.proxy.Resume()
	require.NoError(t, pgtest.Receive(t, done, wait, "the held query ends"))
	require.Equal(t, 1, f.rows(t))
}

func TestCutResetsBothSides(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn := f.conn(t)
	run(t, conn, `SET application_name = 'through'`)
	require.Equal(t, 1, f.sessions(t))
	f.proxy.Cut()
	_, err := conn.Exec(t.Context(), `SELECT 1`)
	require.Error(t, err)
	pgtest.Eventually(t, wait, "the server ends the session, which nothing tells", func() bool { return f.sessions(t) == 0 })
	require.NoError(t, f.conn(t).Ping(t.Context()), "new connections are taken")
}

func TestCutEndsAStall(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn := f.conn(t)
	f.proxy.Stall()
	done := make(chan error, 1)
	go func() { // ends with the cut; the receive below waits for it
		_, err := conn.Exec(context.Background(), `SELECT 1`)
		done <- err
	}()
	f.proxy.Cut()
	require.Error(t, pgtest.Receive(t, done, wait, "the query fails"))
}

func TestRefusedIsAsIfTheServerWereDown(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn, addr := f.conn(t), f.proxy.Addr()
	for range 3 {
		f.proxy.Refuse(true)
		f.proxy.Refuse(true) // once more is the same
		_, err := net.Dial("tcp", addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, conn.Ping(t.Context()), "connections that are there stay")
		f.proxy.Refuse(false)
		f.proxy.Refuse(false)
		require.NoError(t, f.conn(t).Ping(t.Context()))
	}
}

// A port that is free for a moment must not go to another listener or connection.
func TestRefusingProxyKeepsItsPort(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.proxy.Refuse(true)
	var listeners []net.Listener
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners = append(listeners, l)
		require.NotEqual(t, f.proxy.Addr(), l.Addr().String())
	}
	for _, l := range listeners {
		require.NoError(t, l.Close())
	}
	f.proxy.Refuse(false)
	require.NoError(t, f.conn(t).Ping(t.Context()))
}

func TestLostAnswerToCommitMeansCommitted(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.proxy.OnClientMessage(at(pgtest.LoseAnswer))
	for i := range 10 {
		require.Error(t, commit(t, f.conn(t)))
		require.Equal(t, i+1, f.rows(t), "no wait: the cut comes after the server is done")
	}
	f.proxy.OnClientMessage(nil)
	require.NoError(t, commit(t, f.conn(t)))
}

func TestCutBeforeCommitMeansRolledBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.proxy.OnClientMessage(at(pgtest.CutBefore))
	conn := f.conn(t)
	run(t, conn, `SET application_name = 'through'`)
	require.Error(t, commit(t, conn))
	pgtest.Eventually(t, wait, "the session ends", func() bool { return f.sessions(t) == 0 })
	require.Zero(t, f.rows(t))
}

func TestCutAfterCommitEndsBothSides(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.proxy.OnClientMessage(at(pgtest.CutAfter))
	conn := f.conn(t)
	run(t, conn, `SET application_name = 'through'`)
	require.Error(t, commit(t, conn))
	pgtest.Eventually(t, wait, "the session ends", func() bool { return f.sessions(t) == 0 && f.proxy.Connections() == 0 })
}

func TestLostAnswerOfAnExtendedCommit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.proxy.OnClientMessage(at(pgtest.LoseAnswer))
	conn := f.conn(t)
	pipeline := conn.PgConn().StartPipeline(t.Context())
	pipeline.SendQueryParams(`BEGIN`, nil, nil, nil, nil)
	pipeline.SendQueryParams(`INSERT INTO t VALUES (1)`, nil, nil, nil, nil)
	require.NoError(t, pipeline.Sync())
	pipeline.SendQueryParams(`COMMIT`, nil, nil, nil, nil)
	require.NoError(t, pipeline.Sync())
	// The answers before the lost one arrive whole, whatever is in flight.
	for range 2 {
		result, err := pipeline.GetResults()
		require.NoError(t, err)
		_, err = result.(*pgconn.ResultReader).Close()
		require.NoError(t, err)
	}
	_, err := pipeline.GetResults()
	require.NoError(t, err, "the first sync")
	for err == nil {
		_, err = pipeline.GetResults()
	}
	require.Error(t, pipeline.Close())
	require.Equal(t, 1, f.rows(t))
}

func TestHoldStopsOneConnectionOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.proxy.OnClientMessage(at(pgtest.Hold))
	held, other := f.conn(t), f.conn(t)
	run(t, held, `SET application_name = 'through'`)
	run(t, held, `BEGIN`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := held.Exec(ctx, `COMMIT`)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, f.sessions(t), "the server knows nothing of it")
	require.NoError(t, other.Ping(t.Context()))
}

func TestDroppedNotification(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var dropped atomic.Int64
	f.proxy.OnServerMessage(func(kind byte, _ []byte) pgtest.Action {
		if kind == 'A' && dropped.Add(1) == 1 {
			return pgtest.Drop
		}
		return pgtest.Forward
	})
	conn := f.conn(t)
	run(t, conn, `LISTEN c`)
	f.db.Exec(t, `NOTIFY c, 'first'`)
	f.db.Exec(t, `NOTIFY c, 'second'`)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	notification, err := conn.WaitForNotification(ctx)
	require.NoError(t, err)
	require.Equal(t, "second", notification.Payload)
}

func TestServerMessageIsTheLastOne(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn := f.conn(t)
	run(t, conn, `SET application_name = 'through'`)
	f.proxy.OnServerMessage(func(kind byte, _ []byte) pgtest.Action {
		if kind == 'D' {
			return pgtest.CutAfter
		}
		return pgtest.Forward
	})
	rows, err := conn.Query(t.Context(), `SELECT generate_series(1, 3)`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	n := 0
	for rows.Next() {
		n++
	}
	require.Equal(t, 1, n)
	require.Error(t, rows.Err())
	pgtest.Eventually(t, wait, "the session ends", func() bool { return f.sessions(t) == 0 && f.proxy.Connections() == 0 })
}

func TestLoseNextAnswerCutsAll(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, b := f.conn(t), f.conn(t)
	f.proxy.LoseNextAnswer()
	_, err := a.Exec(t.Context(), `INSERT INTO t VALUES (1)`)
	require.Error(t, err)
	require.Error(t, b.Ping(t.Context()))
	require.Equal(t, 1, f.rows(t))
	require.NoError(t, f.conn(t).Ping(t.Context()))
}

// fakeServer answers each connection's start with so many bytes of one message and then reads to the end.
func fakeServer(t *testing.T, payload int) (addr string, received func() []byte) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	all := make(chan []byte, 1)
	wg.Go(func() { // ends with its one connection or with the listener
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		start := make([]byte, 8)
		_, _ = io.ReadFull(conn, start)
		message := binary.BigEndian.AppendUint32([]byte{'d'}, uint32(4+payload))
		_, _ = conn.Write(append(message, make([]byte, payload)...))
		rest, _ := io.ReadAll(conn)
		all <- rest
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return listener.Addr().String(), func() []byte { return pgtest.Receive(t, all, wait, "the server reads to the end") }
}

func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = conn.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0})
	require.NoError(t, err)
	return conn
}

func TestCutAfterBytesFromServer(t *testing.T) {
	t.Parallel()
	addr, _ := fakeServer(t, 1000)
	proxy := pgtest.NewProxy(t, addr)
	proxy.CutAfterBytes(pgtest.FromServer, 123)
	conn := dialRaw(t, proxy.Addr())
	got, err := io.ReadAll(conn)
	require.NoError(t, err, "what came before arrives whole")
	require.Len(t, got, 123)
}

func TestCutAfterBytesFromClient(t *testing.T) {
	t.Parallel()
	addr, received := fakeServer(t, 0)
	proxy := pgtest.NewProxy(t, addr)
	conn := dialRaw(t, proxy.Addr())
	answer := make([]byte, 5)
	_, err := io.ReadFull(conn, answer)
	require.NoError(t, err)
	proxy.CutAfterBytes(pgtest.FromClient, 7)
	_, err = conn.Write([]byte{'Q', 0, 0, 0, 9, 'a', 'b', 'c', 'd', 0})
	require.NoError(t, err)
	require.Equal(t, []byte{'Q', 0, 0, 0, 9, 'a', 'b'}, received())
	_, err = io.ReadAll(conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestGarbageEndsTheConnection(t *testing.T) {
	t.Parallel()
	addr, received := fakeServer(t, 0)
	proxy := pgtest.NewProxy(t, addr)
	conn := dialRaw(t, proxy.Addr())
	_, err := conn.Write([]byte{'Q', 0xff, 0xff, 0xff, 0xff})
	require.NoError(t, err)
	require.Empty(t, received())
}

func TestIsCommit(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]bool{
		"commit": true, "COMMIT;": true, " Commit work": true, "end": true, "END;\n": true,
		"select 1": false, "commit prepared 'x'": true, "": false, "commitment": false,
	} {
		require.Equal(t, want, pgtest.IsCommit('Q', []byte(sql+"\x00")), sql)
		require.Equal(t, want, pgtest.IsCommit('P', []byte("name\x00"+sql+"\x00\x00\x00")), sql)
	}
	require.False(t, pgtest.IsCommit('X', nil))
}
