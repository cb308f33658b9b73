package jobs_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/workers"
)

// openPool gives an example a database; a program connects to its own: pgxpool.New(ctx, os.Getenv("DATABASE_URL")).
func openPool(ctx context.Context) *pgxpool.Pool {
	pool, err := pgxpool.New(ctx, pgtest.ExampleDB().DSN())
	if err != nil {
		panic(err)
	}
	return pool
}

// check ends an example that cannot go on.
func check(err error) {
	if err != nil {
		panic(fmt.Sprintf("an example failed: %v", err))
	}
}

// runUntilDone is workers.Run until every job has come to its end; a program would go on.
func runUntilDone(pool *pgxpool.Pool, registry *workers.Registry) {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	done := make(chan error, 1) // capacity 1: the node never waits for its reader
	// Ends when stop is called; received below.
	go func() { done <- workers.Run(ctx, workers.Config{Pool: pool, Registry: registry, Slots: 1}) }()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for left := 1; left > 0; <-look.C {
		check(pool.QueryRow(ctx, `SELECT count(*) FROM mini_asynq.jobs`).Scan(&left))
	}
	stop()
	check(<-done)
}
