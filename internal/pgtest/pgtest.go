package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
	"github.com/mini-asynq/mini-asynq/migrations"
)

// deadline bounds each thing that this package does with the server.
const deadline = time.Minute

// shared is the server of this test binary, started when the first test asks for a database.
var shared struct {
	once   sync.Once
	server *pgembed.Server // nil: the one of the environment
	dsn    string
	err    error
}

// Main runs the tests of a package: call it from TestMain. It fails when a goroutine is left over.
func Main(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		if err := shared.server.Stop(ctx); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, "pgtest: stop the server:", err)
			code = 1
		}
		cancel()
	}
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("testing.(*M).startAlarm")); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: goroutines are left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// server returns the address of the shared server's maintenance database.
func server() (string, error) {
	shared.once.Do(func() {
		if shared.dsn = os.Getenv("MINIASYNQ_TEST_DATABASE_URL"); shared.dsn != "" {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
		defer cancel()
		cache, err := cacheDir()
		if err != nil {
			shared.err = err
			return
		}
		shared.server, shared.err = pgembed.Start(ctx, pgembed.Config{
			DataDir: filepath.Join(cache, "shared"), Mode: pgembed.TCP, Database: "postgres", NoSync: true,
			// What a test proves about crashes it proves on a cluster of its own; here speed counts.
			Settings: map[string]string{
				"fsync": "off", "full_page_writes": "off", "max_connections": "400", "max_prepared_transactions": "50",
				"autovacuum": "off", "max_wal_size": "2GB",
			},
		})
		if shared.err == nil {
			shared.dsn = shared.server.DSN()
			shared.err = sweep(ctx)
		}
	})
	return shared.dsn, shared.err
}

// cacheDir is where the servers of tests live: the user's own cache, or the state folder that the environment names.
func cacheDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "mini-asynq-test"), nil
	}
	if os.Geteuid() == 0 {
		// The account that PostgreSQL runs under must be able to pass.
		return "/var/cache/mini-asynq-test", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "mini-asynq-test"), nil
}

// sweep drops the databases of test binaries that were killed: their names say which process made them.
func sweep(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, shared.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'test\_%'`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		parts := strings.Split(name, "_")
		pid, err := strconv.Atoi(parts[1])
		if err != nil || alive(pid) {
			continue
		}
		if _, err := conn.Exec(ctx, `DROP DATABASE IF EXISTS `+pgx.Identifier{name}.Sanitize()+` WITH (FORCE)`); err != nil {
			return err
		}
	}
	return nil
}

// alive tells whether a process exists, whoever owns it.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// DB is a database of a test.
type DB struct {
	name  string
	admin string // address of the server's maintenance database
}

// NewDB makes a database with the schema at head. It is dropped when the test ends.
func NewDB(t testing.TB) *DB {
	t.Helper()
	template, err := ensureTemplate(t)
	require.NoError(t, err)
	return newDB(t, template)
}

// NewEmptyDB makes a database without the schema.
func NewEmptyDB(t testing.TB) *DB {
	t.Helper()
	return newDB(t, "template1")
}

func newDB(t testing.TB, template string) *DB {
	t.Helper()
	admin, err := server()
	require.NoError(t, err)
	db := &DB{name: fmt.Sprintf("test_%d_%s", os.Getpid(), strings.ToLower(rand.Text()[:12])), admin: admin}
	exec := func(sql string) {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		conn, err := pgx.Connect(ctx, admin)
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	exec(`CREATE DATABASE ` + pgx.Identifier{db.name}.Sanitize() + ` TEMPLATE ` + pgx.Identifier{template}.Sanitize() +
		` STRATEGY FILE_COPY`)
	t.Cleanup(func() { exec(`DROP DATABASE IF EXISTS ` + pgx.Identifier{db.name}.Sanitize() + ` WITH (FORCE)`) })
	return db
}

// templateLock lets one test binary at a time make the template.
const templateLock = 0x7465737474706c

var template struct {
	sync.Mutex
	name string
}

// ensureTemplate makes the template once for each set of migrations.
func ensureTemplate(t testing.TB) (string, error) {
	template.Lock()
	defer template.Unlock()
	if template.name != "" {
		return template.name, nil
	}
	admin, err := server()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	// The session's end gives the lock back.
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, templateLock); err != nil {
		return "", err
	}
	name := "template_" + migrations.Hash()
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`, name).Scan(&there); err != nil {
		return "", err
	}
	if !there {
		t.Logf("making the template database %s", name)
		quoted := pgx.Identifier{name}.Sanitize()
		if _, err := conn.Exec(ctx, `DROP DATABASE IF EXISTS `+quoted); err != nil {
			return "", err
		}
		if _, err := conn.Exec(ctx, `CREATE DATABASE `+quoted); err != nil {
			return "", err
		}
		fresh, err := pgx.Connect(ctx, withDatabase(admin, name))
		if err != nil {
			return "", err
		}
		err = migrations.Up(ctx, fresh)
		if closeErr := fresh.Close(ctx); err == nil {
			err = closeErr
		}
		if err != nil {
			return "", err
		}
		if _, err := conn.Exec(ctx, `ALTER DATABASE `+quoted+` IS_TEMPLATE true`); err != nil {
			return "", err
		}
	}
	template.name = name
	return name, nil
}

// withDatabase is an address with another database.
func withDatabase(address, name string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // made by this package, or named by the developer
	}
	u.Path = "/" + name
	return u.String()
}

// DSN is the address of the database.
func (db *DB) DSN() string { return withDatabase(db.admin, db.name) }

// Name is the name of the database.
func (db *DB) Name() string { return db.name }

// Pool opens a pool that is closed when the test ends.
func (db *DB) Pool(t testing.TB, options ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.DSN())
	require.NoError(t, err)
	config.MaxConns = 16
	for _, option := range options {
		option(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Conn opens a connection that is closed when the test ends.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.DSN())
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the test may have broken it
	})
	return conn
}

// SQLState is the SQLSTATE of a server error, "" for any other.
func SQLState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
