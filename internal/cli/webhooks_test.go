package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func sendsWebhooks(t *testing.T, server string, env []string) {
	var mu sync.Mutex
	ids := make(map[string]int)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		ids[r.Header.Get("webhook-id")]++
	}))
	defer receiver.Close()
	create := func(path string) string {
		body := `{"url":"` + receiver.URL + path + `","filter":{"queues":["hooked"],"types":["job.enqueued"]}}`
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+"/api/v1/admin/webhooks", strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.SetBasicAuth("admin", "password")
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer http.DefaultClient.CloseIdleConnections()
		defer answer.Body.Close()
		raw, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusCreated, answer.StatusCode, string(raw))
		var made struct{ ID string }
		require.NoError(t, json.Unmarshal(raw, &made))
		return made.ID
	}
	id, away := create("/hook?token=planted"), create("/away")
	as := func(args ...string) ran { return run(t, env, append(args, "--user", "admin")...) }

	list := as("webhooks", "ls", "-o", "jsonl").exits(0).lines()
	require.Len(t, list, 2)
	require.Equal(t, []any{id, away}, []any{list[0]["id"], list[1]["id"]}, "oldest first")
	table := as("webhooks", "ls", "-o", "table").exits(0).out
	require.Contains(t, table, id+"  "+strings.TrimPrefix(receiver.URL, "http://")+"  ok")
	require.NotContains(t, table, "planted")
	run(t, env, "webhooks", "ls").exits(5, "Say who you are")

	require.Equal(t, true, as("webhooks", "test", id, "--reason", "new").exits(0).object()["delivered"])
	refused := as("webhooks", "test", away, "-o", "table").exits(1, "not delivered: answered 503")
	require.Regexp(t, `status +503`, refused.out)
	as("webhooks", "test", nowhere).exits(3, "not_found")
	as("webhooks", "test").exits(2, "the id of a webhook")

	run(t, env, "enqueue", "hooked.kind", "--queue", "hooked", "--delay", "0s").exits(0)
	events := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			for name, times := range ids {
				if !strings.HasPrefix(name, "evt_test_") {
					return times == n
				}
			}
			return false
		}
	}
	pgtest.Eventually(t, 15*time.Second, "the event arrives", events(1))
	pgtest.Eventually(t, 15*time.Second, "the webhook has come past it", func() bool {
		return as("webhooks", "ls", "-o", "jsonl").exits(0).lines()[0]["delivered_total"].(float64) == 1
	})
	as("webhooks", "replay", id).exits(2, "needs --after")
	as("webhooks", "replay", id, "--after", "soon").exits(2)
	as("webhooks", "replay", id, "--after", "latest").exits(0, "nothing to send again")
	as("webhooks", "replay", id, "--after", "earliest", "--reason", "lost").exits(0, "is sent again")
	pgtest.Eventually(t, 15*time.Second, "it arrives again, under the same id", events(2))
	as("webhooks", "replay", nowhere, "--after", "earliest").exits(3, "not_found")

	offered := run(t, env, "__complete", "webhooks", "replay", "--user", "admin", "").exits(0).out
	require.Contains(t, offered, id+"\t"+strings.TrimPrefix(receiver.URL, "http://")+", ok\n")
}
