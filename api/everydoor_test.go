package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// TestB1B2B3B11OnEveryDoor sends what no door may take to every route that reads a body: the rows of the matrix that do not
// depend on what the body is about.
func TestB1B2B3B11OnEveryDoor(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, nil) // its log is this test's alone
	d := setupOn(t, cluster.DSN())
	d.pgLog = cluster.LogFile()
	const id = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"
	doors := 0
	for _, route := range d.server.Routes() {
		if route.Method != http.MethodPost && route.Method != http.MethodPut && route.Method != http.MethodPatch ||
			strings.HasSuffix(route.Path, "/logout") { // reads none
			continue
		}
		doors++
		path := strings.TrimPrefix(strings.NewReplacer(":id", id, ":queue", "walk").Replace(route.Path), "/api/v1")
		send := func(name, body string, status int, with ...with) row {
			return row{name: name, method: route.Method, path: path, body: body, status: status, with: append(with, asAdmin, header("If-Match", "*"))}
		}
		door := route.Method + " " + route.Path
		rows := []row{
			send("B1 null", `null`, 400), send("B1 array", `[]`, 400), send("B1 string", `"x"`, 400), send("B1 BOM", "\xEF\xBB\xBF{}", 400),
			send("B1 cut off", `{"reason":`, 400), send("B1 comma", `{"reason":"x",}`, 400), send("B1 comment", `{/**/}`, 400),
			send("B1 NaN", `{"reason":NaN}`, 400), send("B1 second value", `{}{}`, 400), send("B1 text after it", `{} x`, 400),
			send("B2 unknown field", `{"`+secretInput+`":1}`, 400), send("B2 other case", `{"Reason":"x"}`, 400),
			send("B2 repeated", `{"reason":"x","reason":"x"}`, 400),
			send("B11 text", `{}`, 415, header("Content-Type", "text/plain")), send("B11 utf-16", `{}`, 415, header("Content-Type", "application/json; charset=utf-16")),
			send("B11 none", `{}`, 415, func(r *http.Request) { r.Header.Del("Content-Type") }),
			send("B11 gzip", `{}`, 415, header("Content-Encoding", "gzip")),
		}
		if !strings.HasSuffix(route.Path, "/fail") && !strings.HasSuffix(route.Path, "/outcomes") { // X4: there it is cleaned
			rows = append(rows, send("B3 bytes", "{\"reason\":\"\xff\"}", 400), send("B3 overlong", "{\"reason\":\"\xc0\x80\"}", 400))
		}
		for i := range rows {
			if rows[i].status == http.StatusBadRequest {
				rows[i].problem = "malformed-request"
			}
		}
		d.refuses(t, door, rows...)
	}
	require.Greater(t, doors, 20)
}
