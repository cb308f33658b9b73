package api_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
)

// What the document says is held against the socket by the tests of hub.
func TestSocketsDocumentIsServed(t *testing.T) {
	t.Parallel()
	d := setup(t, whole)
	as := d.get("/asyncapi.yaml").is(http.StatusOK)
	require.Equal(t, string(api.SocketDescription()), string(as.raw))
	require.Contains(t, string(as.raw), "pathname: /api/v1\n")
	require.Empty(t, d.send(http.MethodGet, "/api/v1/asyncapi.yaml", "", header("If-None-Match", as.header.Get("ETag"))).is(http.StatusNotModified).raw)
	d.get("/asyncapi.yaml?x=1").problem(http.StatusBadRequest, "invalid-parameter")

	below := setup(t, whole, func(c *api.Config) { c.BasePath = "/a,b/queue" })
	text := string(below.send(http.MethodGet, "/a,b/queue/api/v1/asyncapi.yaml", "").is(http.StatusOK).raw)
	require.Contains(t, text, "pathname: \"/a,b/queue/api/v1\"\n")
	require.NotContains(t, text, "pathname: /api/v1\n")
}
