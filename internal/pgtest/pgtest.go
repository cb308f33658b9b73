package pgtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// DB is a database of a test.
type DB struct {
	name, dsn string
	// helpers serves Exec, One and All; made when first needed, closed with the test.
	helpers func() (*pgxpool.Pool, error)
}

// NewEmptyDB makes a database without the schema. It is dropped when the test ends.
func NewEmptyDB(t testing.TB) *DB {
	t.Helper()
	needMain(t)
	require.NoError(t, shared.start())
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	name, err := shared.create(ctx, "template1")
	require.NoError(t, err)
	return owned(t, name)
}

// owned drops the database with the test.
func owned(t testing.TB, name string) *DB {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := shared.drop(ctx, name); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return newDB(t, name, withDatabase(shared.dsn, name))
}

func newDB(t testing.TB, name, dsn string) *DB {
	db := &DB{name: name, dsn: dsn}
	db.helpers = sync.OnceValues(func() (*pgxpool.Pool, error) {
		config, err := pgxpool.ParseConfig(dsn)
		if err != nil {
			return nil, err
		}
		config.MaxConns = 2
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		if err == nil {
			t.Cleanup(pool.Close)
		}
		return pool, err
	})
	return db
}

// DSN is the address of the database, as superuser.
func (db *DB) DSN() string { return db.dsn }

// Name is the name of the database.
func (db *DB) Name() string { return db.name }

// Pool opens a pool that is closed when the test ends. It has 16 connections unless an option says otherwise.
func (db *DB) Pool(t testing.TB, options ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.dsn)
	require.NoError(t, err)
	config.MaxConns = 16
	for _, option := range options {
		option(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

// closePool fails the test when a connection was never given back; Close alone would wait for it for ever.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	closed := make(chan struct{}) // closed by the goroutine
	// Ends with Close. A connection that is kept makes it a leak, which then is the test's own.
	go func() {
		defer close(closed)
		pool.Close()
	}()
	patience := time.NewTimer(10 * time.Second)
	defer patience.Stop()
	select {
	case <-closed:
	case <-patience.C:
		t.Errorf("pgtest: %d connections of a pool were not given back", pool.Stat().AcquiredConns())
	}
}

// Conn opens a connection that is closed when the test ends.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.dsn)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the test may have broken it
	})
	return conn
}

// Exec runs a statement, or several without arguments, on a connection of the package, and gives the number of rows.
func (db *DB) Exec(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	pool, err := db.helpers()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	tag, err := pool.Exec(ctx, sql, args...)
	require.NoError(t, err)
	return tag.RowsAffected()
}

// One gives the single value of a query that has one row with one column.
func One[T any](t testing.TB, db *DB, sql string, args ...any) T {
	t.Helper()
	values := All[T](t, db, sql, args...)
	require.Len(t, values, 1, "rows of %s", sql)
	return values[0]
}

// All gives the values of a query that has one column.
func All[T any](t testing.TB, db *DB, sql string, args ...any) []T {
	t.Helper()
	pool, err := db.helpers()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	rows, err := pool.Query(ctx, sql, args...)
	require.NoError(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return values
}
