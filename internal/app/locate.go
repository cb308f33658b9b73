package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
	"github.com/mini-asynq/mini-asynq/workers"
)

// errNoDatabase means that nothing is configured and no server has run here yet.
var errNoDatabase = errors.New("no database is configured, none answers on localhost:5432, and no server has made a private PostgreSQL here yet")

// Located is the database of a node, found without changing anything.
type Located struct {
	URL     string
	Private bool
	Dir     string // of the private PostgreSQL
	Close   func(context.Context) error
}

// StateDir is the folder where a node of this configuration keeps its private PostgreSQL and what it chose; "" if a
// database is configured, so that no such folder is used.
func StateDir(c Config) (string, error) {
	switch {
	case c.DatabaseURL != "":
		return "", nil
	case c.StateDir != "":
		return c.StateDir, nil
	}
	return pgembed.DefaultDataDir()
}

// Locate finds the database that a node with this configuration would use. Unlike a start it waits for nothing, creates no
// database, and makes no private PostgreSQL where there is none; one that rests is started until Close.
func Locate(ctx context.Context, c Config) (Located, error) {
	dir, err := StateDir(c)
	if err != nil {
		return Located{}, err
	}
	if dir == "" {
		return Located{URL: c.DatabaseURL}, nil
	}
	remembered, err := os.ReadFile(filepath.Join(dir, "choice"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Located{}, fmt.Errorf("read which database was used before: %w", err)
	}
	choice := string(remembered)
	if choice == choseFallback || choice != chosePrivate && hears(ctx, c.FallbackURL) {
		return Located{URL: c.FallbackURL}, nil
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err != nil {
		return Located{}, fmt.Errorf("%w (%s)", errNoDatabase, dir)
	}
	server, err := pgembed.Start(ctx, pgembed.Config{
		DataDir: dir, Mode: pgembed.Socket, StopTimeout: privateStop, StartTimeout: 9 * time.Second, DownloadURL: "off",
	})
	if err != nil {
		return Located{}, fmt.Errorf("start the private PostgreSQL: %w", err)
	}
	return Located{URL: server.DSN(), Private: true, Dir: dir, Close: server.Stop}, nil
}

// Loopback tells whether a node of this configuration is reachable from this machine only.
func (c Config) Loopback() bool { return c.loopback() }

// ConnectionBudget is how many connections one node may hold.
func ConnectionBudget() int { return workers.ConnectionBudget }

// hears tells whether PostgreSQL answers at an address, whatever it says to the credentials or the name of the database.
func hears(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, fallbackPatience)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err == nil {
		_ = conn.Close(ctx) // it was only tried
		return true
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "3D000" // invalid_catalog_name: a start would create it
}
