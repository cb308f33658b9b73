package machine

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database is one of the cluster's, made for one cell.
type Database struct {
	Name string
	DSN  string

	cluster *Cluster
}

// NewDatabase makes an empty one, or a copy of a template, and starts it behind a checkpoint.
func (c *Cluster) NewDatabase(ctx context.Context, template string) (*Database, error) {
	c.serial++
	db := &Database{Name: fmt.Sprintf("cell_%d", c.serial), cluster: c}
	if template == "" {
		template = "template1"
	}
	statements := []string{
		// A copy of files: going through the log would take minutes for a large template.
		`CREATE DATABASE ` + db.Name + ` TEMPLATE ` + pgx.Identifier{template}.Sanitize() + ` STRATEGY FILE_COPY`,
		`CHECKPOINT`,
	}
	for _, s := range statements {
		if err := c.exec(ctx, 10*time.Minute, s); err != nil {
			return nil, fmt.Errorf("make a database: %w", err)
		}
	}
	u, err := url.Parse(c.server.DSN())
	if err != nil {
		return nil, fmt.Errorf("make a database: %w", err)
	}
	u.Path = "/" + db.Name
	db.DSN = u.String()
	return db, nil
}

// Drop removes it, whoever is still connected.
func (d *Database) Drop(ctx context.Context) error {
	// The cell may have been broken off; its database goes all the same.
	ctx = context.WithoutCancel(ctx)
	if err := d.cluster.exec(ctx, callLimit, `DROP DATABASE IF EXISTS `+d.Name+` WITH (FORCE)`); err != nil {
		return fmt.Errorf("drop a database: %w", err)
	}
	return nil
}

func (c *Cluster) exec(ctx context.Context, limit time.Duration, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := c.admin.Exec(ctx, sql)
	return err
}

// Cost is what a database had done so far. The log is the cluster's, and nobody else writes to it during a cell.
type Cost struct {
	Commits  int64
	WALBytes int64
}

// Since is the difference.
func (c Cost) Since(before Cost) Cost {
	return Cost{Commits: c.Commits - before.Commits, WALBytes: c.WALBytes - before.WALBytes}
}

// Cost reads it from another database, so that asking adds nothing. Sessions hand in their commits once a second, or when
// they end: ask for commits before they begin and after they have ended.
func (d *Database) Cost(ctx context.Context) (cost Cost, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err = d.cluster.admin.QueryRow(ctx, `
		SELECT coalesce((SELECT xact_commit FROM pg_stat_database WHERE datname = $1), 0),
		       (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint`, d.Name).Scan(&cost.Commits, &cost.WALBytes)
	if err != nil {
		err = fmt.Errorf("read what a database has done: %w", err)
	}
	return cost, err
}
