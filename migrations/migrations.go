package migrations

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

//go:embed *.sql
var files embed.FS

// ServerLevel is the level of this server: a schema whose min_server is above it is not for us. It rises with each
// release that changes how servers read or write the schema, and a migration raises min_server when servers below can
// no longer do so safely.
const ServerLevel = 1

// lockKey is the advisory lock that lets one node migrate at a time ("mini_asynq" in ASCII, cut to 63 bits).
const lockKey int64 = 0x6d696e695f617379

// lockDeadline bounds the wait for a node that is migrating. Longer than any migration may hold its locks.
const lockDeadline = 2 * time.Minute

var (
	// ErrNewerSchema means that the schema needs a newer server than this one.
	ErrNewerSchema = errors.New("migrations: the schema is too new for this server")
	// ErrNotMigrated means that the schema is missing or older than this server needs.
	ErrNotMigrated = errors.New("migrations: the schema is not up to date")
	// ErrLocked means that another node held the migration lock for longer than the deadline.
	ErrLocked = errors.New("migrations: another node is migrating")
)

// State is one migration and whether it is applied.
type State struct {
	Version   int64
	File      string
	AppliedAt time.Time // zero: pending
}

// Hash identifies the set of migrations: it names template databases in tests.
func Hash() string {
	sum := sha256.New()
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for _, name := range names {
		body, err := files.ReadFile(name)
		if err != nil {
			panic(err) // embedded
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(body), body)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// Up brings the schema to head. It is safe when several nodes start at once: one migrates, the others wait for it
// (at most two minutes, then ErrLocked) and find nothing to do. Nothing is locked when the schema is current.
// A schema that needs a newer server is refused with ErrNewerSchema and not touched.
func Up(ctx context.Context, conn *pgx.Conn) error {
	return To(ctx, conn, head())
}

// To brings the schema up to a version, as Up does to head.
func To(ctx context.Context, conn *pgx.Conn, version int64) error {
	switch err := check(ctx, conn, version); {
	case err == nil:
		return nil
	case !errors.Is(err, ErrNotMigrated):
		return err
	}
	return locked(ctx, conn, func(p *goose.Provider) error {
		if err := check(ctx, conn, version); !errors.Is(err, ErrNotMigrated) {
			return err // another node was faster, or the schema is too new
		}
		return upTo(ctx, p, version)
	})
}

// upTo applies one file after the other, each in a transaction of its own: a node that dies in between leaves a version
// that the next one goes on from.
func upTo(ctx context.Context, p *goose.Provider, version int64) error {
	for {
		current, err := p.GetDBVersion(ctx)
		if err != nil || current >= version {
			return err
		}
		if _, err := p.UpByOne(ctx); err != nil {
			return err
		}
		if err := failpoint.Hit("migrations.between"); err != nil {
			return err
		}
	}
}

// Down takes the schema back to a version (0: nothing is left). It loses what the later versions stored.
func Down(ctx context.Context, conn *pgx.Conn, version int64) error {
	return locked(ctx, conn, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, version)
		return err
	})
}

// Check tells whether this server may use the schema as it is: nil, ErrNotMigrated or ErrNewerSchema.
// A schema with newer migrations than ours is fine as long as its min_server is not above ServerLevel, so that nodes of
// the version before keep running during a rolling upgrade.
func Check(ctx context.Context, conn *pgx.Conn) error {
	return check(ctx, conn, head())
}

func check(ctx context.Context, conn *pgx.Conn, want int64) error {
	var there bool
	err := conn.QueryRow(ctx, `SELECT to_regclass('mini_asynq.migrations') IS NOT NULL
	                              AND to_regclass('mini_asynq.compatibility') IS NOT NULL`).Scan(&there)
	if err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	if !there {
		return ErrNotMigrated
	}
	var version int64
	var minServer int
	err = conn.QueryRow(ctx, `SELECT (SELECT coalesce(max(version_id), 0) FROM mini_asynq.migrations WHERE is_applied),
	                                 (SELECT min_server FROM mini_asynq.compatibility)`).Scan(&version, &minServer)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if minServer > ServerLevel {
		return fmt.Errorf("%w: it asks for level %d, this server has %d", ErrNewerSchema, minServer, ServerLevel)
	}
	if version < want {
		return fmt.Errorf("%w: version %d, this server needs %d", ErrNotMigrated, version, want)
	}
	return nil
}

// Status lists every migration of this server with the time it was applied.
func Status(ctx context.Context, conn *pgx.Conn) ([]State, error) {
	var states []State
	var there bool
	err := conn.QueryRow(ctx, `SELECT to_regclass('mini_asynq.migrations') IS NOT NULL`).Scan(&there)
	if err != nil {
		return nil, fmt.Errorf("look for the schema: %w", err)
	}
	err = withProvider(ctx, conn, there, func(p *goose.Provider) error {
		if !there {
			for _, s := range p.ListSources() {
				states = append(states, State{Version: s.Version, File: s.Path})
			}
			return nil
		}
		status, err := p.Status(ctx)
		for _, s := range status {
			states = append(states, State{Version: s.Source.Version, File: s.Source.Path, AppliedAt: s.AppliedAt})
		}
		return err
	})
	return states, err
}

// head is the newest version that this server knows.
func head() int64 {
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		panic("migrations: no embedded files")
	}
	version, err := goose.NumericComponent(names[len(names)-1])
	if err != nil {
		panic(err) // the names are ours
	}
	return version
}

// locked runs fn while this session holds the migration lock. It polls a try-lock: a session that waits for an advisory
// lock would hold a snapshot and so keep vacuum from cleaning up behind everybody.
func locked(ctx context.Context, conn *pgx.Conn, fn func(*goose.Provider) error) (err error) {
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval = 50*time.Millisecond, time.Second
	policy.MaxElapsedTime = lockDeadline
	err = backoff.Retry(func() error {
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockKey).Scan(&got); err != nil {
			return backoff.Permanent(fmt.Errorf("ask for the migration lock: %w", err))
		}
		if !got {
			return ErrLocked
		}
		return nil
	}, backoff.WithContext(policy, ctx))
	if err != nil {
		return err
	}
	defer func() {
		// A lost connection has released the lock already.
		unlockCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, unlockErr := conn.Exec(unlockCtx, `SELECT pg_advisory_unlock($1)`, lockKey); unlockErr != nil {
			err = errors.Join(err, fmt.Errorf("give back the migration lock: %w", unlockErr))
		}
	}()
	if _, err := conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS mini_asynq`); err != nil {
		return fmt.Errorf("create the schema: %w", err)
	}
	return withProvider(ctx, conn, true, fn)
}

// withProvider gives goose a connection of its own with the settings of conn: goose wants database/sql, and the lock
// stays with conn.
func withProvider(ctx context.Context, conn *pgx.Conn, withStore bool, fn func(*goose.Provider) error) error {
	db := stdlib.OpenDB(*conn.Config())
	db.SetMaxOpenConns(2)
	defer db.Close()
	options := []goose.ProviderOption{goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true)}
	dialect := goose.DialectPostgres
	if withStore {
		store, err := database.NewStore(database.DialectPostgres, "mini_asynq.migrations")
		if err != nil {
			return fmt.Errorf("name the version table: %w", err)
		}
		options = append(options, goose.WithStore(store))
		dialect = ""
	}
	provider, err := goose.NewProvider(dialect, db, files, options...)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if err := fn(provider); err != nil {
		return describe(err)
	}
	return nil
}

// describe puts the line of SQL that PostgreSQL points at into the error.
func describe(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Where != "" {
		return fmt.Errorf("migrate: %w (%s)", err, pg.Where)
	}
	return fmt.Errorf("migrate: %w", err)
}

// Files are the migrations as text, for those who compare a database with them. One file a version, in their order.
func Files() fs.FS { return files }

// Versions lists the versions that this server knows, in order.
func Versions() ([]int64, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list the migrations: %w", err)
	}
	versions := make([]int64, len(names))
	for i, name := range names {
		if versions[i], err = goose.NumericComponent(name); err != nil {
			return nil, fmt.Errorf("read the version of %s: %w", name, err)
		}
	}
	return versions, nil
}
