package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/migrations"
)

func TestEachTestHasADatabaseWithTheSchema(t *testing.T) {
	t.Parallel()
	a, b := pgtest.NewDB(t), pgtest.NewDB(t)
	require.NotEqual(t, a.Name(), b.Name())
	require.NoError(t, migrations.Check(t.Context(), a.Conn(t)))
	a.Exec(t, `CREATE TABLE mine (n int)`)
	require.EqualValues(t, 2, a.Exec(t, `INSERT INTO mine VALUES ($1), ($2)`, 1, 2))
	require.Equal(t, []int{1, 2}, pgtest.All[int](t, a, `SELECT n FROM mine ORDER BY n`))
	require.Equal(t, a.Name(), pgtest.One[string](t, a, `SELECT current_database()`))
	require.False(t, pgtest.One[bool](t, b, `SELECT to_regclass('mine') IS NOT NULL`))
}

func TestEmptyDatabaseHasNoSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyDB(t)
	require.False(t, pgtest.One[bool](t, db, `SELECT to_regnamespace('mini_asynq') IS NOT NULL`))
}

func TestDatabaseIsDroppedWithItsSessions(t *testing.T) {
	t.Parallel()
	outer := pgtest.NewEmptyDB(t)
	var name string
	t.Run("inner", func(t *testing.T) {
		db := pgtest.NewEmptyDB(t)
		name = db.Name()
		db.Pool(t, func(c *pgxpool.Config) { c.MinConns = 2 })
		// Left open on purpose: an unclean test must not keep its database.
		conn, err := pgx.Connect(context.Background(), db.DSN())
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `BEGIN`)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	})
	require.False(t, pgtest.One[bool](t, outer, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name))
}

func TestTemplateIsBuiltOnce(t *testing.T) {
	t.Parallel()
	var built atomic.Int64
	name := fmt.Sprintf("once_%d", os.Getpid())
	build := func(ctx context.Context, conn *pgx.Conn) error {
		built.Add(1)
		_, err := conn.Exec(ctx, `CREATE TABLE from_template AS SELECT 7 AS n`)
		return err
	}
	t.Cleanup(func() { dropTemplate(t, name) })
	t.Run("clones", func(t *testing.T) {
		for range 4 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				require.Equal(t, 7, pgtest.One[int](t, pgtest.NewFromTemplate(t, name, build), `SELECT n FROM from_template`))
			})
		}
	})
	require.EqualValues(t, 1, built.Load())

	// Gone behind our back, as another checkout may do with what looks old.
	dropTemplate(t, name)
	require.Equal(t, 7, pgtest.One[int](t, pgtest.NewFromTemplate(t, name, build), `SELECT n FROM from_template`))
	require.EqualValues(t, 2, built.Load())
}

func dropTemplate(t *testing.T, name string) {
	t.Helper()
	pgtest.NewEmptyDB(t).Exec(t, `DROP DATABASE IF EXISTS `+pgx.Identifier{"ma_template_" + name}.Sanitize())
}

func TestSQLState(t *testing.T) {
	t.Parallel()
	_, err := pgtest.NewEmptyDB(t).Conn(t).Exec(t.Context(), `SELECT 1/0`)
	require.Equal(t, "22012", pgtest.SQLState(fmt.Errorf("wrapped: %w", err)))
	require.Empty(t, pgtest.SQLState(errors.New("other")))
}

func TestClusterKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	c := pgtest.NewCluster(t, map[string]string{"work_mem": "5MB"})
	require.Equal(t, "on", pgtest.One[string](t, c.DB(), `SHOW fsync`))
	require.Equal(t, "5MB", pgtest.One[string](t, c.DB(), `SHOW work_mem`))
	require.NoError(t, migrations.Check(t.Context(), c.DB().Conn(t)))
	c.DB().Exec(t, `CREATE TABLE kept (n int)`)
	dsn, pid := c.DSN(), c.PID()
	for i, end := range []func(){c.Stop, c.Crash, c.Kill} {
		// A connection of its own: those of the helpers die with the server.
		conn, err := pgx.Connect(t.Context(), c.DSN())
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `INSERT INTO kept VALUES ($1)`, i)
		require.NoError(t, err)
		_ = conn.Close(t.Context())
		end()
		_, err = pgx.Connect(t.Context(), dsn)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		c.Start()
		require.Equal(t, dsn, c.DSN())
		require.NotEqual(t, pid, c.PID())
	}
	pgtest.EventuallyNoError(t, 10*time.Second, "the pool of the helpers drops its dead connections one by one", func() error {
		conn, err := pgx.Connect(t.Context(), c.DSN())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.Background()) }()
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM kept`).Scan(&n); err != nil {
			return err
		}
		if n != 3 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	require.Contains(t, c.ReadLog(t), "automatic recovery in progress")
}

// runOnly makes the test binary run one test.
func runOnly(name string) error {
	for _, set := range [][2]string{{"test.run", "^" + name + "$"}, {"test.v", "false"}} {
		if err := flag.Set(set[0], set[1]); err != nil {
			return err
		}
	}
	return nil
}

// TestChildThatIsKilled is run by the tests below in a process that they kill.
func TestChildThatIsKilled(t *testing.T) {
	if os.Getenv("PGTEST_ACT") == "" {
		t.Skip("only as a child")
	}
	db, cluster := pgtest.NewEmptyDB(t), pgtest.NewCluster(t, nil)
	fmt.Println("child", db.Name(), filepath.Dir(cluster.LogFile()), cluster.PID())
	<-t.Context().Done()
}

func TestWhatAKilledBinaryLeftIsRemoved(t *testing.T) {
	t.Parallel()
	child := func() (database, folder string, pid int) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PGTEST_ACT=TestChildThatIsKilled")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if n, _ := fmt.Sscanf(lines.Text(), "child %s %s %d", &database, &folder, &pid); n == 3 {
				break
			}
		}
		require.NotZero(t, pid, "the child said nothing")
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		return database, folder, pid
	}
	db := pgtest.NewEmptyDB(t)
	first, folder, pid := child()
	require.True(t, strings.HasPrefix(first, pgtest.OwnedPrefix()))
	require.DirExists(t, folder)
	require.NoError(t, syscall.Kill(pid, 0), "the cluster outlives its owner")
	// The server ends the session of a dead client soon, and with it the lock that says that the owner lives.
	there := func(name string) bool {
		return pgtest.One[bool](t, db, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name)
	}
	require.True(t, there(first))
	require.True(t, there(db.Name()))
	pgtest.Eventually(t, 30*time.Second, "the session of the dead child ends", func() bool {
		return pgtest.One[int](t, db, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = $1`, first) == 0 &&
			pgtest.One[int](t, db, `SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND objid::text = $1`,
				strings.Split(first, "_")[2]) == 0
	})

	second, _, _ := child()
	require.False(t, there(first))
	require.True(t, there(second))
	require.True(t, there(db.Name()), "ours lives")
	require.NoDirExists(t, folder)
	// The second child's leavings go with the next run of any test binary; here they go now.
	pgtest.Eventually(t, 30*time.Second, "the session of the dead child ends, which nothing tells", func() bool {
		require.NoError(t, pgtest.Sweep(t.Context()))
		return !there(second)
	})
}

// TestChildOnAnyServer is run by the test below.
func TestChildOnAnyServer(t *testing.T) {
	if os.Getenv("PGTEST_ACT") == "" {
		t.Skip("only as a child")
	}
	fmt.Println("child", pgtest.NewDB(t).Conn(t).Config().Port)
}

func TestEnvironmentNamesAnotherServer(t *testing.T) {
	t.Parallel()
	c := pgtest.NewCluster(t, nil)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PGTEST_ACT=TestChildOnAnyServer", "MINIASYNQ_TEST_DATABASE_URL="+c.DSN())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, port, err := net.SplitHostPort(c.Addr())
	require.NoError(t, err)
	require.Contains(t, string(out), "child "+port+"\n")
	require.Zero(t, pgtest.One[int](t, c.DB(), `SELECT count(*)::int FROM pg_database WHERE starts_with(datname, $1)`, pgtest.OwnedPrefix()))
}

func BenchmarkNewDB(b *testing.B) {
	pgtest.NewDB(b) // makes the template
	for b.Loop() {
		pgtest.NewDB(b)
	}
}
