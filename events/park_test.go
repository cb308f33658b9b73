//go:build failpoints

package events_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestHintOnTheWayToSleepCounts: a writer that commits after the pacer's last look, and before it sleeps, is heard; with
// one node, and no sweep to find it later. Not parallel: the failpoint is the process's.
func TestHintOnTheWayToSleepCounts(t *testing.T) {
	db := pgtest.NewDB(t)
	conn, err := pgx.Connect(context.Background(), db.DSN())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var id string
	written := make(chan struct{})
	disarm := failpoint.Arm("events.pacer.parked", func(hit int) error {
		if hit != 2 { // the first is at the start
			return nil
		}
		defer close(written)
		stored, err := jobs.Enqueue(context.Background(), conn, jobs.Params{Queue: "q"})
		if err == nil {
			id = stored[0].ID.String()
		}
		pause(context.Background(), 100*time.Millisecond) // until the hint has arrived
		return err
	})
	defer disarm()
	f := follow(t, db.DSN(), options{noSweeps: true})
	f.ready(t)
	pgtest.Eventually(t, 10*time.Second, "the pacer has parked once", func() bool { return failpoint.Hits("events.pacer.parked") == 1 })
	_, err = jobs.Enqueue(t.Context(), db.Conn(t), jobs.Params{Queue: "q"})
	require.NoError(t, err)
	pgtest.Receive(t, written, 10*time.Second, "the pacer parks")
	pgtest.Eventually(t, 2*time.Second, "the event is published", func() bool { return f.has(id) })
}
