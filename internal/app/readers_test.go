package app_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// E14, W8: what a key that is held to queues sees of the log, by socket and by stream; and its end ends both, also when
// nobody tells this node of it.
func TestKeyDecidesWhatIsSeenOfTheLogAndForHowLong(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	s := serve(t, db.DSN(), nil)
	key := func() http.Header {
		status, made := s.call(http.MethodPost, "/api/v1/admin/keys", `{"name":"k","scopes":["read"],"queues":["mail"]}`)
		require.Equal(t, http.StatusCreated, status, made)
		return http.Header{"Authorization": {"Bearer " + made["secret"].(string)}}
	}

	conn, answer, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.base, "http")+"/api/v1/ws", key())
	require.NoError(t, err)
	_ = answer.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/api/v1/events", nil)
	require.NoError(t, err)
	request.Header = key()
	request.Header.Set("Accept", "text/event-stream")
	stream, err := client.Do(request)
	require.NoError(t, err)
	defer stream.Body.Close()
	require.Equal(t, http.StatusOK, stream.StatusCode)

	s.enqueue(`{"queue":"secret"}`)
	s.enqueue(`{"queue":"mail"}`)
	require.Equal(t, "mail", event(t, conn)["queue"])

	// No event says that the key is gone.
	db.Exec(t, `ALTER TABLE mini_asynq.api_keys DISABLE TRIGGER api_keys_changed`)
	db.Exec(t, `DELETE FROM mini_asynq.api_keys`)
	gone := time.Now()
	var closed *websocket.CloseError
	for err = nil; err == nil; {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, _, err = conn.ReadMessage()
	}
	require.True(t, errors.As(err, &closed), err)
	require.Equal(t, 4401, closed.Code)
	text, err := io.ReadAll(bufio.NewReader(stream.Body))
	require.NoError(t, err, "the stream ends")
	require.Contains(t, string(text), `"queue":"mail"`)
	require.NotContains(t, string(text), "secret")
	require.Less(t, time.Since(gone), 5*time.Second)
}
