package cli_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func movesConsumers(t *testing.T, server string, env []string) {
	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server+"/api/v1/admin/consumers/moved", strings.NewReader(`{"after":"latest"}`))
	require.NoError(t, err)
	put.Header.Set("Content-Type", "application/json")
	put.SetBasicAuth("admin", "password")
	answer, err := http.DefaultClient.Do(put)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusCreated, answer.StatusCode)
	http.DefaultClient.CloseIdleConnections()

	list := run(t, env, "consumers", "ls", "-o", "jsonl").exits(0).lines()
	require.Len(t, list, 1)
	require.Equal(t, "moved", list[0]["name"])
	require.Contains(t, run(t, env, "consumers", "ls", "-o", "table").exits(0).out, list[0]["cursor"])
	moved := run(t, env, "consumers", "reset", "moved", "--to", "earliest", "--reason", "again", "--user", "admin").exits(0, "moved is at").object()
	require.Regexp(t, `-0$`, moved["cursor"])
	run(t, env, "consumers", "reset", "moved", "--to", "2026-03-01T12:00:00Z", "--user", "admin").exits(0)
	run(t, env, "consumers", "reset", "moved", "--user", "admin").exits(2, "--to")
	run(t, env, "consumers", "reset", "moved", "--to", "soon", "--user", "admin").exits(2, "a cursor")
	run(t, env, "consumers", "reset", "none", "--to", "latest", "--user", "admin").exits(3, "not_found")
	require.Contains(t, run(t, env, "__complete", "consumers", "rm", "").exits(0).out, "moved\n")
	run(t, env, "consumers", "rm", "moved", "--user", "admin").exits(0, "moved is deleted")
	run(t, env, "consumers", "rm", "moved", "--user", "admin").exits(3, "not_found")
}
