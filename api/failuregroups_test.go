package api_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFailuresAreGroupedForWhoMaySeeThem(t *testing.T) {
	t.Parallel()
	d := setup(t)
	d.dead("a")
	last := d.dead("a")
	d.dead("b")
	a := d.get("/failures").is(http.StatusOK)
	require.NotEmpty(t, a.text("as_of"))
	require.Equal(t, false, a.object()["truncated"])
	groups := a.data()
	require.Len(t, groups, 2)
	g, ok := groups[0].(map[string]any)
	require.True(t, ok)
	two := json.Number("2")
	require.Equal(t, []any{"a", two, two, json.Number("0"), []any{"a"}}, []any{g["kind"], g["count"], g["dead"], g["retrying"], g["queues"]})
	require.Equal(t, map[string]any{"1h": two, "24h": two, "7d": two}, g["counts"])
	require.Equal(t, map[string]any{"job_id": last, "type": "TestError", "message": "it failed"}, g["sample"])
	require.Len(t, d.get("/jobs?fingerprint="+g["fingerprint"].(string)).data(), 2, "one click to the jobs")

	hour, ok := d.get("/failures?window=1h&queue=b&status=dead").is(http.StatusOK).data()[0].(map[string]any)
	require.True(t, ok)
	require.Equal(t, map[string]any{"1h": json.Number("1"), "24h": nil, "7d": nil}, hour["counts"])
	require.Empty(t, d.get("/failures?status=retrying").data())
	require.Equal(t, true, d.get("/failures?limit=1").object()["truncated"])
	require.Len(t, d.get("/failures", bearer(d.key(`"role":"viewer","queues":["b"]`))).data(), 1)
	require.NotContains(t, string(a.raw), "stack-text")
	for _, bad := range []string{"status=completed", "window=8d", "window=0s", "window=x", "limit=0", "limit=501", "limit=a", "tag=x", "queue=a&queue=b"} {
		d.get("/failures?"+bad).problem(http.StatusBadRequest, "invalid-parameter")
	}
	require.Empty(t, d.get("/failures?kind=%25").is(http.StatusOK).data(), "text is literal")
}
