package events_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// The receiver that docs/webhooks.md shows, word for word; a test in the root compares them.

// signed tells whether a call comes from who knows the key, and is no older than five minutes.
func signed(key []byte, head http.Header, body []byte) bool {
	at, err := strconv.ParseInt(head.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", head.Get("webhook-id"), at, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for got := range strings.FieldsSeq(head.Get("webhook-signature")) {
		if hmac.Equal([]byte(got), []byte(want)) {
			return true
		}
	}
	return false
}

// hook hands events on. take drops an id that it has stored before, and returns when the event is stored.
func hook(secret string, take func(id string, event []byte) error) (http.HandlerFunc, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		switch {
		case err != nil:
			w.WriteHeader(http.StatusBadRequest)
		case !signed(key, r.Header, body):
			w.WriteHeader(http.StatusUnauthorized)
		case take(r.Header.Get("webhook-id"), body) != nil:
			w.WriteHeader(http.StatusServiceUnavailable) // it comes again
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}, err
}

func TestReceiverOfTheGuideTakesEachEventOnceAndNothingElse(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	var mu sync.Mutex
	taken, calls := make(map[string][]byte), 0
	take, err := hook(events.WebhookSecretText(h.secret), func(id string, event []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == 1 {
			return io.ErrUnexpectedEOF // a database that is away
		}
		taken[id] = event
		return nil
	})
	require.NoError(t, err)
	receiver := httptest.NewServer(take)
	defer receiver.Close()
	id := h.hook(n, receiver.URL, ofJobs)
	h.work("q", 3)
	pgtest.Eventually(t, 10*time.Second, "all arrive", func() bool { return h.get(id).Delivered == 9 })
	w := h.get(id)
	_, err = jobs.ReplayWebhook(t.Context(), h.pool, id, w.Epoch, 0, w.Seq, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "all arrive again", func() bool { return h.get(id).Delivered == 18 })
	_, err = jobs.RotateWebhookSecret(t.Context(), h.pool, id, events.NewWebhookSecret(), act)
	require.NoError(t, err)
	h.work("q", 1) // its events have two signatures
	pgtest.Eventually(t, 10*time.Second, "the one before is still good", func() bool { return h.get(id).Delivered == 21 })
	require.Len(t, taken, 12)
	require.Equal(t, 22, calls)

	body := []byte(`{"type":"job.dead"}`)
	call := func(at time.Time, secret, sent []byte) int {
		signature, err := events.SignWebhook("evt_3-7", at, body, secret, nil)
		require.NoError(t, err)
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(sent))
		request.Header.Set("webhook-id", "evt_3-7")
		request.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		request.Header.Set("webhook-signature", signature)
		answer := httptest.NewRecorder()
		take(answer, request)
		return answer.Code
	}
	now := time.Now()
	require.Equal(t, http.StatusNoContent, call(now, h.secret, body))
	require.Equal(t, http.StatusUnauthorized, call(now, h.secret, append(body, ' ')), "another body")
	require.Equal(t, http.StatusUnauthorized, call(now, events.NewWebhookSecret(), body), "another secret")
	require.Equal(t, http.StatusUnauthorized, call(now.Add(-6*time.Minute), h.secret, body), "an old call")
	require.Equal(t, http.StatusUnauthorized, call(now.Add(6*time.Minute), h.secret, body), "a call of the future")
	require.Equal(t, http.StatusBadRequest, call(now, h.secret, make([]byte, 2<<20)), "too large")
	unsigned := httptest.NewRecorder()
	take(unsigned, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body)))
	require.Equal(t, http.StatusUnauthorized, unsigned.Code)
	require.Equal(t, 23, calls, "nothing of that is handed on")
}
