package pgtest

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/migrations"
)

// cloneStrategy copies a template. FILE_COPY writes two checkpoints, which cost next to nothing without fsync, and then
// copies files; WAL_LOG sends each page through the log. One clone at a time takes 22 ms either way (BenchmarkNewDB, two
// cores, November 2026); 160 of them, four at a time, filled with 20,000 rows and dropped, took 6 s and 9 s.
const cloneStrategy = "FILE_COPY"

// templatePrefix begins the names of templates; what it is for and a hash of how it is made follow.
const templatePrefix = "ma_template_"

// keptTemplates is how many stay in the server; it lives across runs, and each edit of a migration makes a template.
// Eight are enough for a few checkouts side by side. One that is missed is made again.
const keptTemplates = 8

// NewDB makes a database with the schema at head. It is dropped when the test ends.
func NewDB(t testing.TB) *DB {
	t.Helper()
	return newFromTemplate(t, "schema_"+migrations.Hash(), migrations.Up)
}

// newFromTemplate makes a database that is like one that build was applied to. The name says what build does: a template
// of that name, from whichever test binary, is taken as it is.
func newFromTemplate(t testing.TB, name string, build func(context.Context, *pgx.Conn) error) *DB {
	t.Helper()
	needMain(t)
	require.NoError(t, shared.start())
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	template, err := shared.templates.ensure(ctx, shared.dsn, templatePrefix+name, build)
	require.NoError(t, err)
	database, err := shared.create(ctx, template)
	if SQLState(err) == "3D000" {
		// Another checkout took it for an old one.
		shared.templates.forget(template)
		_, err = shared.templates.ensure(ctx, shared.dsn, template, build)
		require.NoError(t, err)
		database, err = shared.create(ctx, template)
	}
	require.NoError(t, err)
	return owned(t, database)
}

// templates knows which ones are there.
type templates struct {
	// mu is held while a template is made, a second once in a while: the other tests of this binary need it too.
	mu   sync.Mutex
	made map[string]bool // guarded by mu
}

func (s *templates) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.made, name)
}

// ensure gives the name of a complete template, of which there is one for all test binaries.
func (s *templates) ensure(ctx context.Context, dsn, name string, build func(context.Context, *pgx.Conn) error) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made[name] {
		return name, nil
	}
	if err := makeTemplate(ctx, dsn, name, build); err != nil {
		return "", fmt.Errorf("make template database %s: %w", name, err)
	}
	if s.made == nil {
		s.made = make(map[string]bool)
	}
	s.made[name] = true
	return name, nil
}

// makeTemplate lets one test binary at a time make a template. It is built under another name and renamed at the end, so
// that a template is complete whatever was killed.
func makeTemplate(ctx context.Context, dsn, name string, build func(context.Context, *pgx.Conn) error) error {
	// A connection of its own: its end gives the lock back on every way out.
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, templateClass, int32(hash.Sum32())); err != nil {
		return err
	}
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&there); err != nil || there {
		return err
	}
	half := name + "_half"
	if _, err := conn.Exec(ctx, `DROP DATABASE IF EXISTS `+quote(half)+` WITH (FORCE)`); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+quote(half)); err != nil {
		return err
	}
	if err := buildIn(ctx, withDatabase(dsn, half), build); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `ALTER DATABASE `+quote(half)+` RENAME TO `+quote(name)); err != nil {
		return err
	}
	// A session in it would make cloning fail.
	if _, err := conn.Exec(ctx, `ALTER DATABASE `+quote(name)+` ALLOW_CONNECTIONS false`); err != nil {
		return err
	}
	return dropOldTemplates(ctx, conn)
}

func buildIn(ctx context.Context, dsn string, build func(context.Context, *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return build(ctx, conn)
}

// dropOldTemplates keeps the newest; oids grow with time. Those that are being made are left alone.
func dropOldTemplates(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT datname FROM pg_database
		WHERE starts_with(datname, $1) AND NOT datallowconn
		ORDER BY oid DESC OFFSET $2`, templatePrefix, keptTemplates)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		// 55006: being cloned at this moment, so not that old after all.
		if _, err := conn.Exec(ctx, `DROP DATABASE IF EXISTS `+quote(name)); err != nil && SQLState(err) != "55006" {
			return err
		}
	}
	return nil
}
