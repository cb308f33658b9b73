package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHeadOfAStreamIsItsHeaderAndNoMore: who asks for the header of a stream gets it, and has his connection for the next
// request at once, not when the stream would have ended.
func TestHeadOfAStreamIsItsHeaderAndNoMore(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.enqueue(`{"queue":"a"}`)
	d.settled(2)
	line := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 10 * time.Second}
	t.Cleanup(line.CloseIdleConnections)
	call := func(method, path, accept string) http.Header {
		r, err := http.NewRequestWithContext(t.Context(), method, d.url+"/api/v1"+path, nil)
		require.NoError(t, err)
		r.Header.Set("Accept", accept)
		response, err := line.Do(r)
		require.NoError(t, err, "%s %s", method, accept)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		return response.Header
	}
	for _, accept := range []string{"text/event-stream", "application/x-ndjson", "application/json"} {
		require.Equal(t, accept, call(http.MethodHead, "/events?after=earliest", accept).Get("Content-Type"))
		call(http.MethodGet, "/events/position", "*/*")
	}
}
