package api_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// TestAQueueFromMemoryIsTheOneOfREST: what viewers are shown without a query is what GET /queues/:queue says, but for the moment
// in which it has changed.
func TestAQueueFromMemoryIsTheOneOfREST(t *testing.T) {
	t.Parallel()
	var overview api.Overview
	d := setup(t, whole, func(c *api.Config) { overview = c.Overview })
	same := func() {
		t.Helper()
		pgtest.Eventually(t, 20*time.Second, "memory says what REST says", func() bool {
			n, ok := overview.Queue("mail")
			if !ok {
				return false
			}
			shown, err := json.Marshal(api.QueueBody(n))
			require.NoError(t, err)
			var body map[string]any
			require.NoError(t, json.Unmarshal(shown, &body))
			if body["version"] == nil {
				require.Nil(t, body["pause"])
				return false
			}
			var rest map[string]any
			require.NoError(t, json.Unmarshal(d.get("/queues/mail").is(http.StatusOK).raw, &rest))
			return reflect.DeepEqual(rest, body)
		})
	}
	d.post("/jobs", `{"queue":"mail"}`).is(http.StatusCreated)
	same()
	d.post("/admin/queues/mail/pause", `{"reason":"provider down"}`, asAdmin).is(http.StatusOK)
	same()
	d.post("/admin/queues/mail/pause", `{"for":"1h"}`, asAdmin).is(http.StatusOK)
	same()
	d.post("/admin/queues/mail/resume", ``, asAdmin).is(http.StatusOK)
	same()

	unknown, err := json.Marshal(api.QueueBody(events.QueueNumbers{Name: "mail", Paused: true}))
	require.NoError(t, err)
	require.Contains(t, string(unknown), `"paused":true,`)
	require.Contains(t, string(unknown), `"pause":null,"version":null}`)
}
