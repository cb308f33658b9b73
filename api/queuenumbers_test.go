package api_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// A queue is shown without a query as GET /queues/:queue shows it; what only the row knows is null.
func TestQueueBodyHasTheMembersOfAQueue(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(api.QueueBody(events.QueueNumbers{
		Name: "mail", Paused: true, Counts: map[jobs.Status]int64{jobs.Pending: 3}, OldestPendingAt: time.Unix(1, 0), WaitP50: 0.5,
	}))
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"mail","paused":true,"pause":null,"version":null,"limits":null,"slots":0,"busy":0,
		"counts":{"scheduled":0,"pending":3,"running":0,"retrying":0,"blocked":0,"dead":0},
		"oldest_pending_at":"1970-01-01T00:00:01.000000Z",
		"rates_1m":{"enqueued":0,"started":0,"completed":0,"failed":0},
		"wait_seconds":{"p50":0.5,"p95":0,"p99":0},"run_seconds":{"p50":0,"p95":0,"p99":0}}`, string(raw))
}
