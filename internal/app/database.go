package app

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

const (
	fallbackPatience = time.Second      // how long the quick start's database may take to answer
	configuredWait   = 60 * time.Second // how long a configured database may take to come up
	privateStop      = time.Second      // for the private PostgreSQL to end in order, before it is ended at once
)

// database is where the node's data lives.
type database struct {
	url     string
	private bool                        // our own PostgreSQL
	watch   func(context.Context) error // keeps that up until its context ends; nil: it is not ours to keep
	close   func(context.Context) error
}

// watchEvery is how long a private PostgreSQL may be dead before it is started again.
const watchEvery = time.Second

// watched starts a private PostgreSQL again whenever it has died: it is this node's, so nobody else will.
func watched(server *pgembed.Server, c Config) func(context.Context) error {
	return func(ctx context.Context) error {
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			if server.Alive() {
				continue
			}
			switch revived, err := server.Revive(ctx); {
			case err != nil && ctx.Err() == nil:
				c.Log.Error().Err(err).Msg("the private PostgreSQL has died, and could not be started again yet")
			case revived:
				c.Log.Warn().Msg("the private PostgreSQL had died and was started again")
			}
		}
	}
}

// openDatabase settles which database is used. A configured one is waited for. Without one: what was chosen at an
// earlier start, else the quick start's address if it answers within a second, else a private PostgreSQL.
func openDatabase(ctx context.Context, c Config) (database, error) {
	if c.DatabaseURL != "" {
		return database{url: c.DatabaseURL, close: func(context.Context) error { return nil }}, awaitDatabase(ctx, c)
	}
	dir := c.StateDir
	if dir == "" {
		var err error
		if dir, err = pgembed.DefaultDataDir(); err != nil {
			return database{}, err
		}
	}
	choice := filepath.Join(dir, "choice")
	remembered, err := os.ReadFile(choice)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return database{}, fmt.Errorf("read which database was used before: %w", err)
	}
	if string(remembered) != chosePrivate && answers(ctx, c.FallbackURL) {
		c.Log.Info().Msg("database: the one of the quick start, on localhost:5432")
		remember(c, choice, choseFallback)
		return database{url: c.FallbackURL, close: func(context.Context) error { return nil }}, nil
	}
	if string(remembered) == choseFallback {
		// Its jobs are there: to begin an empty database beside it would look like a loss.
		return database{}, fmt.Errorf("the database on localhost:5432 that this server used before does not answer: "+
			"start it, or set DATABASE_URL, or delete %s to begin with a private PostgreSQL", choice)
	}
	server, err := pgembed.Start(ctx, pgembed.Config{DataDir: dir, Mode: pgembed.Socket, StopTimeout: privateStop, Log: c.Log})
	if err != nil {
		return database{}, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	c.Log.Info().Str("folder", dir).Msg("database: a private PostgreSQL, because none is configured")
	remember(c, choice, chosePrivate)
	return database{url: server.DSN(), private: true, watch: watched(server, c), close: server.Stop}, nil
}

// What an earlier start chose, as stored.
const (
	chosePrivate  = "private\n"
	choseFallback = "localhost\n"
)

// remember stores the choice. Not being able to is no reason not to serve.
func remember(c Config, path, choice string) {
	err := os.MkdirAll(filepath.Dir(path), 0o711) //nolint:gosec // as pgembed makes it: the database's account must pass
	if err == nil {
		err = os.WriteFile(path, []byte(choice), 0o600)
	}
	if err != nil {
		c.Log.Warn().Err(err).Msg("the choice of the database could not be stored")
	}
}

// answers tells whether a database is there; one that lacks only its database is, once that is made.
func answers(ctx context.Context, url string) bool {
	if url == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, fallbackPatience)
	defer cancel()
	return reach(ctx, url) == nil
}

// reach connects once, and creates the database if the server has none of that name.
func reach(ctx context.Context, address string) error {
	conn, err := pgx.Connect(ctx, address)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "3D000" { // invalid_catalog_name
		if err := createDatabase(ctx, address); err != nil {
			return err
		}
		conn, err = pgx.Connect(ctx, address)
	}
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func createDatabase(ctx context.Context, address string) error {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return err
	}
	name := config.Database
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P04" { // duplicate_database: another node was faster
		return nil
	}
	return err
}

// awaitDatabase waits until the configured database answers: it may be starting beside this node.
func awaitDatabase(ctx context.Context, c Config) error {
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 100*time.Millisecond, 2*time.Second, configuredWait
	said := false
	err := backoff.Retry(func() error {
		callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := reach(callCtx, c.DatabaseURL)
		var pg *pgconn.PgError
		var parse *pgconn.ParseConfigError
		if errors.As(err, &parse) || errors.As(err, &pg) && (pg.Code[:2] == "28" || pg.Code[:2] == "3D" || pg.Code[:2] == "42") {
			return backoff.Permanent(err) // credentials or rights: waiting does not mend them
		}
		if err != nil && !said {
			said = true
			c.Log.Warn().Err(err).Str("database", masked(c.DatabaseURL)).Msg("the database does not answer yet, waiting for it")
		}
		return err
	}, backoff.WithContext(policy, ctx))
	if ctx.Err() != nil {
		return fmt.Errorf("stopped while waiting for the database %s", masked(c.DatabaseURL))
	}
	if err != nil {
		return fmt.Errorf("connect to the database %s: %w", masked(c.DatabaseURL), err)
	}
	return nil
}

// masked is a database address without its password.
func masked(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "(address)"
	}
	u.RawQuery = "" // a password may stand there, too
	return u.Redacted()
}

// DatabaseAddress is the address of the database that a node with this configuration would use, secrets included.
func DatabaseAddress(ctx context.Context, c Config) (address string, err error) {
	db, err := openDatabase(ctx, c)
	if err != nil {
		return "", err
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*privateStop)
	defer cancel()
	return db.url, db.close(stopCtx)
}

// WithDatabase runs fn on a connection to the database that a node with this configuration would use.
func WithDatabase(ctx context.Context, c Config, fn func(*pgx.Conn) error) (err error) {
	db, err := openDatabase(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*privateStop)
		defer cancel()
		err = errors.Join(err, db.close(stopCtx))
	}()
	conn, err := pgx.Connect(ctx, db.url)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return fn(conn)
}
