package events

import (
	"context"
	"fmt"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// The promise is the value of a sequence: the database time, in milliseconds, until which the pacer ticks by itself.
// Writers read it to decide whether they need to NOTIFY. A sequence is no subject of snapshots: setval counts from this
// moment on, for writers in every isolation level. A dead pacer's promise runs out by itself.

// promiseSQL says that the pacer is awake for $1 milliseconds from now.
const promiseSQL = `SELECT setval('mini_asynq.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $1)`

// withdrawPromise says that the pacer is about to sleep.
func withdrawPromise(ctx context.Context, db jobs.DB) error {
	if _, err := db.Exec(ctx, `SELECT setval('mini_asynq.promise', 0)`); err != nil {
		return fmt.Errorf("withdraw the promise: %w", err)
	}
	return nil
}
