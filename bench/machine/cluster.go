package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

// settings are those of the private PostgreSQL, the same for every contender. What decides about durability is not
// among them: fsync, full_page_writes and synchronous_commit keep their default, on.
func settings() map[string]string {
	return map[string]string{
		"max_connections": "300",
		"shared_buffers":  "512MB",
		// No checkpoint falls into one cell and not into another: each begins behind its own.
		"max_wal_size":       "8GB",
		"checkpoint_timeout": "30min",
		// Messages go straight into one file: LogFrom.
		"logging_collector": "off",
		"log_min_messages":  "warning",
	}
}

// shown are the settings that the page names, as the server itself tells them.
var shown = []string{
	"fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_connections", "max_wal_size",
	"checkpoint_timeout", "wal_buffers", "work_mem", "autovacuum", "random_page_cost", "wal_level",
}

// callLimit bounds each call that should take milliseconds.
const callLimit = 60 * time.Second

// Cluster is a PostgreSQL of this process alone, on a free port of 127.0.0.1, removed at Close.
type Cluster struct {
	server *pgembed.Server
	admin  *pgx.Conn // to the database postgres; used by one goroutine
	config pgembed.Config
	folder string
	serial int // names the databases
}

// StartCluster makes one in a new folder below dir ("" is the system's folder for temporary files). Whatever disk that
// is on is what commits wait for.
func StartCluster(ctx context.Context, dir string) (*Cluster, error) {
	folder, err := os.MkdirTemp(dir, "mini-asynq-bench-")
	if err != nil {
		return nil, fmt.Errorf("start a cluster: %w", err)
	}
	// PostgreSQL refuses root: the account that it runs under then must be able to pass.
	if err := os.Chmod(folder, 0o711); err != nil { //nolint:gosec // it sees no names
		return nil, fmt.Errorf("start a cluster: %w", err)
	}
	c := &Cluster{folder: folder, config: pgembed.Config{
		DataDir: filepath.Join(folder, "postgres"), Mode: pgembed.TCP, Database: "postgres", Settings: settings(),
		DownloadURL: "off",
		NoSync:      true, // of initdb only
		StopTimeout: 20 * time.Second,
	}}
	if c.server, err = pgembed.Start(ctx, c.config); err != nil {
		return nil, errors.Join(fmt.Errorf("start a cluster: %w", err), os.RemoveAll(folder))
	}
	if c.admin, err = pgx.Connect(ctx, c.server.DSN()); err != nil {
		return nil, errors.Join(fmt.Errorf("start a cluster: %w", err), c.Close())
	}
	return c, nil
}

// Close stops the server at once and removes its data.
func (c *Cluster) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if c.admin != nil {
		_ = c.admin.Close(ctx)
	}
	stopped := c.server.StopBy(ctx, pgembed.Immediate)
	return errors.Join(stopped, pgembed.Remove(ctx, c.config), os.RemoveAll(c.folder))
}

// PID is the postmaster's.
func (c *Cluster) PID() int { return c.server.PID() }

// Settings are what the page says about the server.
func (c *Cluster) Settings(ctx context.Context) ([]figures.Fact, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	facts := make([]figures.Fact, len(shown))
	for i, name := range shown {
		facts[i].Name = name
		if err := c.admin.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&facts[i].Value); err != nil {
			return nil, fmt.Errorf("read the setting %s: %w", name, err)
		}
	}
	return facts, nil
}

// Version is PostgreSQL's own word.
func (c *Cluster) Version(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err = c.admin.QueryRow(ctx, `SHOW server_version`).Scan(&version)
	return version, err
}

// Set changes settings of the running server; nil resets all that were changed. Sessions that are there follow at
// their next statement.
func (c *Cluster) Set(ctx context.Context, changed map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	statements := []string{`ALTER SYSTEM RESET ALL`}
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		statements = append(statements, fmt.Sprintf(`ALTER SYSTEM SET %s = '%s'`, pgx.Identifier{name}.Sanitize(), changed[name]))
	}
	for _, s := range append(statements, `SELECT pg_reload_conf()`) {
		if _, err := c.admin.Exec(ctx, s); err != nil {
			return fmt.Errorf("change settings: %w", err)
		}
	}
	return nil
}

// LogFrom opens the server's log behind what it holds now: what is read later was written later.
func (c *Cluster) LogFrom() (io.ReadCloser, error) {
	file, err := os.Open(c.server.LogFile())
	if err != nil {
		return nil, fmt.Errorf("open the log of PostgreSQL: %w", err)
	}
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("open the log of PostgreSQL: %w", err), file.Close())
	}
	return file, nil
}
