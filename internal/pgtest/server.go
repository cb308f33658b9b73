package pgtest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

// deadline bounds each thing that this package does with the server. Two cores under the race detector need a part of it.
const deadline = time.Minute

// sharedSettings trade what a crash of the machine would cost for speed; the data is worth nothing then.
var sharedSettings = map[string]string{
	"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "wal_level": "replica",
	"max_connections": "400", "max_prepared_transactions": "50", "max_wal_size": "2GB",
	// A worker of its own in a database or its template makes cloning and dropping wait.
	"autovacuum": "off",
	// All words in one file, which a start empties when it has grown.
	"logging_collector": "off", "log_statement": "none",
}

// Advisory locks in the maintenance database. The first key of a pair keeps them apart from locks of others.
const (
	ownerClass    int32 = 0x6d61746f // "mato": the second key is the owner in a database's name
	templateClass int32 = 0x6d617470 // "matp": the second key is a hash of the template's name
)

// ownedPrefix begins the names of databases of tests; owner and number follow.
const ownedPrefix = "ma_test_"

// shared is the server of this test binary. A variable of the package, as a test and TestMain have nothing else in common.
var shared sharedServer

type sharedServer struct {
	once sync.Once // guards the fields up to err: they are set inside it
	dsn  string    // of the maintenance database
	pool *pgxpool.Pool
	// The connection whose session holds the lock of our databases, and the owner's number in their names.
	lock  *pgx.Conn
	owner int32
	// nil: the server of MINIASYNQ_TEST_DATABASE_URL
	embedded *pgembed.Server
	err      error

	numbers   atomic.Int64 // of databases
	templates templates
}

// start gives the server ready for use; all calls but the first wait for that one or come at once.
func (s *sharedServer) start() error {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*deadline)
		defer cancel()
		if s.err = s.open(ctx); s.err != nil {
			s.err = errors.Join(fmt.Errorf("start the server of the tests: %w", s.err), s.shut(ctx))
		}
	})
	return s.err
}

func (s *sharedServer) open(ctx context.Context) (err error) {
	if s.dsn = os.Getenv("MINIASYNQ_TEST_DATABASE_URL"); s.dsn == "" {
		if s.embedded, err = startShared(ctx); err != nil {
			return err
		}
		s.dsn = s.embedded.DSN()
	}
	config, err := pgxpool.ParseConfig(s.dsn)
	if err != nil {
		return err
	}
	// It creates and drops databases; more of that at once does not get done sooner.
	config.MaxConns = 4
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	if s.lock, err = pgx.Connect(ctx, s.dsn); err != nil {
		return err
	}
	for locked := false; !locked; {
		s.owner = rand.Int32()
		if err := s.lock.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, ownerClass, s.owner).Scan(&locked); err != nil {
			return err
		}
	}
	return s.sweep(ctx)
}

// startShared starts or joins the server. Its folder is named by the boot and the settings: without fsync the data is
// worth nothing after the machine went down, and other settings are another server.
func startShared(ctx context.Context) (*pgembed.Server, error) {
	base, err := baseDir()
	if err != nil {
		return nil, err
	}
	if err := sweepFolders(ctx, base); err != nil {
		return nil, err
	}
	config := pgembed.Config{
		DataDir: filepath.Join(base, sharedFolder()), Mode: pgembed.TCP, Database: "postgres", Settings: sharedSettings, NoSync: true,
		// A stop waits for nobody's data.
		StopTimeout: 2 * time.Second,
	}
	server, err := pgembed.Start(ctx, config)
	if err == nil || ctx.Err() != nil {
		return server, err
	}
	// Nothing in there is worth repairing, such as data of another version of PostgreSQL.
	if removeErr := pgembed.Remove(ctx, config); removeErr != nil {
		return nil, errors.Join(err, removeErr)
	}
	return pgembed.Start(ctx, config)
}

func sharedFolder() string {
	hash := fnv.New32a()
	for _, name := range slices.Sorted(maps.Keys(sharedSettings)) {
		fmt.Fprintf(hash, "%s=%s\n", name, sharedSettings[name])
	}
	return fmt.Sprintf("shared-%s-%08x", bootID(), hash.Sum32())
}

// sweep drops the databases of dead owners. Source: pg_database by its name index, a few rows.
func (s *sharedServer) sweep(ctx context.Context) error {
	rows, err := s.lock.Query(ctx, `SELECT datname FROM pg_database WHERE starts_with(datname, $1)`, ownedPrefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		text, _, _ := strings.Cut(strings.TrimPrefix(name, ownedPrefix), "_")
		owner, err := strconv.ParseInt(text, 10, 32)
		if err != nil || int32(owner) == s.owner {
			continue
		}
		// An owner takes its lock before its first database and lives as long as the session that holds it. Of two sweepers
		// one gets the lock, and the other leaves the work to it.
		var dead bool
		if err := s.lock.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, ownerClass, owner).Scan(&dead); err != nil {
			return err
		}
		if !dead {
			continue
		}
		_, dropErr := s.lock.Exec(ctx, `DROP DATABASE IF EXISTS `+quote(name)+` WITH (FORCE)`)
		if _, err := s.lock.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, ownerClass, owner); err != nil || dropErr != nil {
			return errors.Join(dropErr, err)
		}
	}
	return nil
}

// close gives back what start took, if anything called it. After it the server cannot be started again.
func (s *sharedServer) close(ctx context.Context) error {
	s.once.Do(func() { s.err = errors.New("the tests are over") })
	return s.shut(ctx)
}

func (s *sharedServer) shut(ctx context.Context) error {
	if s.pool != nil {
		s.pool.Close()
	}
	if s.lock != nil {
		_ = s.lock.Close(ctx)
	}
	if s.embedded != nil {
		return s.embedded.Stop(ctx)
	}
	return nil
}

// create makes a database from a template and gives its name.
func (s *sharedServer) create(ctx context.Context, template string) (string, error) {
	name := fmt.Sprintf("%s%d_%d", ownedPrefix, s.owner, s.numbers.Add(1))
	_, err := s.pool.Exec(ctx, `CREATE DATABASE `+quote(name)+` TEMPLATE `+quote(template)+` STRATEGY `+cloneStrategy)
	if err != nil {
		return "", fmt.Errorf("create database from %s: %w", template, err)
	}
	return name, nil
}

// drop ends the sessions in a database and drops it.
func (s *sharedServer) drop(ctx context.Context, name string) error {
	_, err := s.pool.Exec(ctx, `DROP DATABASE IF EXISTS `+quote(name)+` WITH (FORCE)`)
	if err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// withDatabase is an address with another database.
func withDatabase(address, name string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // made by this package, or named by the developer
	}
	u.Path = "/" + name
	return u.String()
}

// SQLState is the SQLSTATE of a server error, "" for any other.
func SQLState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
