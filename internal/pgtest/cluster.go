package pgtest

import (
	"context"
	"maps"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
	"github.com/mini-asynq/mini-asynq/migrations"
)

// clusterDatabase is the one database of a cluster.
const clusterDatabase = "own"

// Cluster is a PostgreSQL of one test, with default durability, that the test may stop, kill and start again. It is used
// by one goroutine at a time.
type Cluster struct {
	t      testing.TB
	config pgembed.Config
	server *pgembed.Server // nil while down
	port   *reservation
	db     *DB
	logs   string
}

// NewCluster starts one with the schema at head. It is removed when the test ends. Settings are those of
// postgresql.conf, beside the defaults of pgembed. It takes a second or two, most of it initdb.
func NewCluster(t testing.TB, settings map[string]string) *Cluster {
	t.Helper()
	needMain(t)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	dir, err := claim.folder(ctx)
	require.NoError(t, err)
	port, err := reservePort()
	require.NoError(t, err)
	t.Cleanup(port.close)
	all := map[string]string{
		"max_connections": "200", "max_prepared_transactions": "50", "shared_buffers": "64MB", "logging_collector": "off",
	}
	maps.Copy(all, settings)
	c := &Cluster{t: t, port: port, config: pgembed.Config{
		DataDir: dir, Mode: pgembed.TCP, Port: port.port, Database: clusterDatabase, Settings: all,
		// Only what initdb wrote may be lost with the machine.
		NoSync: true, StopTimeout: 10 * time.Second,
	}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if c.server != nil {
			_ = c.server.StopBy(ctx, pgembed.Immediate) // it is removed next
		}
		if err := pgembed.Remove(ctx, c.config); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	c.Start()
	conn, err := pgx.Connect(ctx, c.DSN())
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	require.NoError(t, migrations.Up(ctx, conn))
	return c
}

// Start starts it (again), on the same port. After Crash and Kill it recovers first.
func (c *Cluster) Start() {
	c.t.Helper()
	require.Nil(c.t, c.server, "the cluster is up")
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	server, err := pgembed.Start(ctx, c.config)
	require.NoError(c.t, err)
	c.server = server
	if c.db == nil {
		c.db = newDB(c.t, clusterDatabase, server.DSN())
		c.logs = server.LogFile()
		u, err := url.Parse(server.DSN())
		require.NoError(c.t, err)
		require.Equal(c.t, c.port.addr(), u.Host)
	}
	require.Equal(c.t, c.db.dsn, server.DSN(), "the server came back under another address")
}

// Stop ends it in order: sessions are ended, a checkpoint is written.
func (c *Cluster) Stop() { c.t.Helper(); c.stop(pgembed.Fast) }

// Crash ends it at once, as a power failure would: what was not flushed to the log is lost.
func (c *Cluster) Crash() { c.t.Helper(); c.stop(pgembed.Immediate) }

// Kill sends kill -9 to the postmaster; it comes back when all processes have ended.
func (c *Cluster) Kill() { c.t.Helper(); c.stop(pgembed.Kill) }

func (c *Cluster) stop(how pgembed.Shutdown) {
	c.t.Helper()
	require.NotNil(c.t, c.server, "the cluster is down")
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	require.NoError(c.t, c.server.StopBy(ctx, how))
	c.server = nil
}

// DB is its database, with the helpers of one. Their pools connect anew after a restart.
func (c *Cluster) DB() *DB { return c.db }

// DSN is the address of its database, the same after each restart.
func (c *Cluster) DSN() string { return c.db.dsn }

// Addr is host and port.
func (c *Cluster) Addr() string { return c.port.addr() }

// PID is the process id of the postmaster.
func (c *Cluster) PID() int {
	c.t.Helper()
	require.NotNil(c.t, c.server, "the cluster is down")
	return c.server.PID()
}

// LogFile is where its messages are, those of all its lives.
func (c *Cluster) LogFile() string { return c.logs }

// ReadLog gives its messages so far.
func (c *Cluster) ReadLog(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(c.logs)
	require.NoError(t, err)
	return string(text)
}
