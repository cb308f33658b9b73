package api_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// slowCount is an overview whose count is not there until counted is closed.
type slowCount struct {
	api.Overview
	asked   chan struct{} // capacity 2: a caller waits
	counted chan struct{}
}

func (o slowCount) Counted(ctx context.Context) error {
	o.asked <- struct{}{}
	select {
	case <-o.counted:
		return o.Overview.Counted(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestQueuesAreNotShownBeforeTheyWereCounted: a node that has just started knows of no job yet. Who asks waits for the
// count, and is not told that his queues are empty; if it takes long, he is told to come back.
func TestQueuesAreNotShownBeforeTheyWereCounted(t *testing.T) {
	t.Parallel()
	first := setup(t)
	for range 3 {
		first.enqueue(`{"queue":"a","delay":"1h"}`)
	}
	first.settled(3)
	o := slowCount{asked: make(chan struct{}, 2), counted: make(chan struct{})}
	d := setupOn(t, first.dsn, func(c *api.Config) {
		o.Overview = c.Overview
		c.Overview = o
	})
	d.get("/queues").problem(http.StatusServiceUnavailable, "unavailable")
	d.get("/queues/a").problem(http.StatusServiceUnavailable, "unavailable")
	<-o.asked
	<-o.asked
	answer := make(chan *answer, 1)
	go func() { answer <- d.get("/queues/a") }()
	pgtest.Receive(t, o.asked, 5*time.Second, "the caller waits")
	close(o.counted)
	counts, ok := pgtest.Receive(t, answer, 5*time.Second, "the answer").is(http.StatusOK).object()["counts"].(map[string]any)
	require.True(t, ok)
	require.EqualValues(t, "3", counts["scheduled"])
}
