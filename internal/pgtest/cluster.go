package pgtest

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
	"github.com/mini-asynq/mini-asynq/migrations"
)

// Cluster is a PostgreSQL of one test, with default durability, that the test may stop, kill and start again.
type Cluster struct {
	t      testing.TB
	config pgembed.Config
	server *pgembed.Server
	dsn    string
}

// NewCluster starts one with the schema at head. It is removed when the test ends.
func NewCluster(t testing.TB, settings map[string]string) *Cluster {
	t.Helper()
	cache, err := cacheDir()
	require.NoError(t, err)
	all := map[string]string{"max_connections": "200", "max_prepared_transactions": "50"}
	for name, value := range settings {
		all[name] = value
	}
	c := &Cluster{t: t, config: pgembed.Config{
		DataDir: filepath.Join(cache, "own-"+strings.ToLower(rand.Text()[:12])), Mode: pgembed.TCP, Database: "own",
		Settings: all, NoSync: true,
	}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if c.server != nil {
			_ = c.server.StopBy(ctx, pgembed.Immediate) // it is removed next
		}
		require.NoError(t, pgembed.Remove(ctx, c.config))
	})
	c.Start()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.dsn)
	require.NoError(t, err)
	defer conn.Close(ctx)
	require.NoError(t, migrations.Up(ctx, conn))
	return c
}

// Start starts it (again), on the same port.
func (c *Cluster) Start() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	server, err := pgembed.Start(ctx, c.config)
	require.NoError(c.t, err)
	c.server = server
	if c.dsn != "" {
		require.Equal(c.t, c.dsn, server.DSN(), "the server came back under another address")
	}
	c.dsn = server.DSN()
}

// Crash ends it at once, as a power failure would: what was not flushed is lost.
func (c *Cluster) Crash() { c.stop(pgembed.Immediate) }

// Stop ends it in order.
func (c *Cluster) Stop() { c.stop(pgembed.Fast) }

func (c *Cluster) stop(how pgembed.Shutdown) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	require.NoError(c.t, c.server.StopBy(ctx, how))
	c.server = nil
}

// DSN is the address of its database.
func (c *Cluster) DSN() string { return c.dsn }

// LogFile is where its messages are.
func (c *Cluster) LogFile() string { return c.server.LogFile() }
