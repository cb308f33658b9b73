package doctor_test

import (
	"context"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/doctor"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// idle are the sessions that no client has at the moment.
type idle struct {
	latest bool // the latest used is the next; else they take turns

	mu   sync.Mutex // guards list
	list []*pgproto3.Frontend
}

func (i *idle) put(session *pgproto3.Frontend) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list = append(i.list, session)
}

func (i *idle) take() *pgproto3.Frontend {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.list) == 0 {
		return nil
	}
	at := 0
	if i.latest {
		at = len(i.list) - 1
	}
	session := i.list[at]
	i.list = slices.Delete(i.list, at, at+1)
	return session
}

// newPooler stands before a database as a pooler does that gives out sessions by the transaction: each transaction of each
// client goes to a session that is free, in turn, and what a session says outside of one is lost. It ends with the test.
func newPooler(t *testing.T, dsn string, size int, latest bool) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free := &idle{latest: latest}
	var sessions []net.Conn
	for range size {
		conn, err := pgconn.Connect(t.Context(), dsn)
		require.NoError(t, err)
		hijacked, err := conn.Hijack()
		require.NoError(t, err)
		sessions = append(sessions, hijacked.Conn)
		free.put(hijacked.Frontend)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			// Ends with the client or the test.
			wg.Go(func() {
				defer client.Close()
				stop := context.AfterFunc(ctx, func() { client.Close() })
				defer stop()
				poolFor(client, free)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		for _, s := range sessions {
			s.Close()
		}
		wg.Wait()
	})
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.Host = listener.Addr().String()
	return u.String()
}

// poolFor serves one client until an error.
func poolFor(conn net.Conn, free *idle) {
	client := pgproto3.NewBackend(conn, conn)
	if _, err := client.ReceiveStartupMessage(); err != nil {
		return
	}
	client.Send(&pgproto3.AuthenticationOk{})
	client.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	client.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	client.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if client.Flush() != nil {
		return
	}
	for {
		var session *pgproto3.Frontend
		for inTransaction := true; inTransaction; {
			message, err := client.Receive()
			if _, end := message.(*pgproto3.Terminate); end || err != nil {
				return // a session in the middle of a transaction is lost, which no test comes to
			}
			if session == nil {
				if session = free.take(); session == nil {
					return // tests leave one free
				}
			}
			session.Send(message)
			switch message.(type) {
			case *pgproto3.Query, *pgproto3.Sync:
			default:
				continue
			}
			if session.Flush() != nil {
				return
			}
			for ready := false; !ready; {
				answer, err := session.Receive()
				if err != nil {
					return
				}
				if _, note := answer.(*pgproto3.NotificationResponse); note {
					continue
				}
				client.Send(answer)
				if r, is := answer.(*pgproto3.ReadyForQuery); is {
					ready, inTransaction = true, r.TxStatus != 'I'
				}
			}
			if !inTransaction {
				free.put(session) // before the client knows, so that the order of tests is the order of sessions
			}
			if client.Flush() != nil {
				return
			}
		}
	}
}

// TestPoolerBeforeListenIsFoundByWhatItDoes: whether it gives out sessions in turn or the latest used again; and LISTEN that
// goes past it is well.
func TestPoolerBeforeListenIsFoundByWhatItDoes(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	for _, latest := range []bool{false, true} {
		pooled := newPooler(t, db.DSN(), 2, latest)
		found := examine(t, config(pooled))
		f := requireFinding(t, found, "listen.pooler", doctor.Fail, "a pooler stands before LISTEN")
		require.Contains(t, f.Advice[0], "LISTEN_DATABASE_URL")
		requireFinding(t, found, "listen.notify", doctor.Fail, "no notification arrived")
		requireFinding(t, found, "listen.prepared", doctor.Fail, "prepared statements")
		requireFinding(t, found, "schema.indexes", doctor.OK, "") // all else is looked at through it

		c := config(pooled)
		c.ListenURL = db.DSN()
		found = examine(t, c)
		requireFinding(t, found, "listen.pooler", doctor.OK, "LISTEN goes past it")
		requireFinding(t, found, "listen.address", doctor.OK, "same database")
		requireFinding(t, found, "listen.notify", doctor.OK, "after")
	}
}

func TestListenElsewhereIsFound(t *testing.T) {
	t.Parallel()
	c := config(pgtest.NewDB(t).DSN())
	c.ListenURL = pgtest.NewDB(t).DSN()
	found := examine(t, c)
	requireFinding(t, found, "listen.address", doctor.Fail, "another database")
	requireFinding(t, found, "listen.notify", doctor.Fail, "no notification arrived")
	c.ListenURL = "postgres://postgres:x@127.0.0.1:1/x?sslmode=disable"
	found = examine(t, c)
	requireFinding(t, found, "listen.address", doctor.Fail, "LISTEN_DATABASE_URL: connection refused")
	requireFinding(t, found, "listen.notify", doctor.Fail, "no connection for LISTEN")
}
