package workloads

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// sqlSessions is how many programs enqueue in transactions of their own.
const sqlSessions = 16

// The statement of such a program, and the same one for a copy of the table that has its columns, defaults, checks and
// indexes but no triggers. What the triggers would fill in is stated in both.
const (
	sqlInsert = `INSERT INTO mini_asynq.jobs (queue, kind, payload, max_retries, attempt_limit)
		VALUES ('bench', 'bench', '{"n": 1}', 3, 4)`
	bareTable  = `CREATE TABLE bare_jobs (LIKE mini_asynq.jobs INCLUDING ALL)`
	bareInsert = `INSERT INTO bare_jobs (queue, kind, payload, max_retries, attempt_limit)
		VALUES ('bench', 'bench', '{"n": 1}', 3, 4)`
	bareCount = `SELECT count(*) FROM bare_jobs`
)

// bySQL enqueues with plain SQL in the callers' own transactions, one job each, while our server is up. At the contender
// "limit" the same goes into the copy.
func bySQL(ctx context.Context, c *cell) error {
	server, err := peers.StartServer(ctx, c.server(false))
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }() // what it has done is checked below
	insert := sqlInsert
	if c.peer == figures.Limit {
		insert = bareInsert
		if err := c.exec(ctx, bareTable); err != nil {
			return err
		}
	}
	conns := make([]*pgx.Conn, sqlSessions)
	for i := range conns {
		if conns[i], err = pgx.Connect(ctx, c.db.DSN); err != nil {
			return err
		}
		defer func() { _ = conns[i].Close(context.WithoutCancel(ctx)) }()
	}
	n, err := c.load(ctx, sqlSessions, 1, func(ctx context.Context, caller int, _ int64) error {
		tx, err := conns[caller].Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insert); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	if err != nil {
		return err
	}
	if c.peer != figures.Limit {
		return c.checkServer(ctx, server, waiting(n))
	}
	got := peers.Account{Finished: -1, Attempts: -1, Events: -1, Published: -1}
	if err := conns[0].QueryRow(ctx, bareCount).Scan(&got.Waiting); err != nil {
		return err
	}
	c.account = got.String()
	return got.Check(c.peer, waiting(n))
}
