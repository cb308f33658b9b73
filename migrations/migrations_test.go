package migrations_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func versions(t *testing.T) []int64 {
	t.Helper()
	states, err := migrations.Status(t.Context(), pgtest.NewEmptyDB(t).Conn(t))
	require.NoError(t, err)
	out := make([]int64, len(states))
	for i, s := range states {
		require.True(t, s.AppliedAt.IsZero())
		out[i] = s.Version
	}
	require.NotEmpty(t, out)
	return out
}

// TestEveryVersionReachesHead: from each version there is a way up to head, and back down to nothing.
func TestEveryVersionReachesHead(t *testing.T) {
	t.Parallel()
	for _, version := range versions(t) {
		conn := pgtest.NewEmptyDB(t).Conn(t)
		require.NoError(t, migrations.To(t.Context(), conn, version))
		require.NoError(t, migrations.Up(t.Context(), conn))
		require.NoError(t, migrations.Check(t.Context(), conn))
		require.NoError(t, migrations.Up(t.Context(), conn)) // nothing to do
		require.NoError(t, migrations.Down(t.Context(), conn, 0))
		require.ErrorIs(t, migrations.Check(t.Context(), conn), migrations.ErrNotMigrated)
		var left int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'mini_asynq' AND relname NOT LIKE 'migrations%'`).Scan(&left))
		require.Zero(t, left)
		require.NoError(t, migrations.Up(t.Context(), conn))
	}
}

func TestNodesThatStartAtOnceMigrateOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyDB(t)
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		wg.Go(func() {
			conn, err := pgx.Connect(context.Background(), db.DSN())
			if err != nil {
				errs[i] = err
				return
			}
			defer func() { _ = conn.Close(context.Background()) }()
			errs[i] = migrations.Up(context.Background(), conn)
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	conn := db.Conn(t)
	var applied int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.migrations WHERE version_id > 0`).Scan(&applied))
	require.Equal(t, len(versions(t)), applied)
	var partitions, defaults int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.partitions() WHERE begins > clock_timestamp()`).Scan(&partitions))
	require.GreaterOrEqual(t, partitions, 14, "partitions are there ahead of time")
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.missing_partitions('6 days')`).Scan(&defaults))
	require.Zero(t, defaults)
}

// TestNewerSchemaIsRefused: a schema that needs a newer server is refused and left alone; one that only has more
// migrations is used, so that nodes of the version before keep running.
func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	conn := pgtest.NewDB(t).Conn(t)
	_, err := conn.Exec(t.Context(), `INSERT INTO mini_asynq.migrations (version_id, is_applied) VALUES (99, true)`)
	require.NoError(t, err)
	require.NoError(t, migrations.Check(t.Context(), conn))
	require.NoError(t, migrations.Up(t.Context(), conn))
	_, err = conn.Exec(t.Context(), `UPDATE mini_asynq.compatibility SET min_server = 99`)
	require.NoError(t, err)
	require.ErrorIs(t, migrations.Check(t.Context(), conn), migrations.ErrNewerSchema)
	require.ErrorIs(t, migrations.Up(t.Context(), conn), migrations.ErrNewerSchema)
}

// TestMigrationWaitsForTheOneUnderWay: another node's lock is waited for, and the wait ends with the caller's deadline.
func TestMigrationWaitsForTheOneUnderWay(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyDB(t)
	other := db.Conn(t)
	_, err := other.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, int64(0x6d696e695f617379))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Error(t, migrations.Up(ctx, db.Conn(t)))
	_, err = other.Exec(t.Context(), `SELECT pg_advisory_unlock_all()`)
	require.NoError(t, err)
	require.NoError(t, migrations.Up(t.Context(), db.Conn(t)))
}
