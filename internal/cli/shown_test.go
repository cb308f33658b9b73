package cli_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/cli"
)

// fixed is a server that always answers the same, at noon.
func fixed(t *testing.T, answers map[string]string) []string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", "Sun, 01 Mar 2026 12:00:00 GMT")
		body, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return []string{"MINIASYNQ_SERVER=" + server.URL + "/base"}
}

func TestTablesAreTheseTexts(t *testing.T) {
	t.Parallel()
	env := fixed(t, map[string]string{
		"/base/api/v1/queues": `{"data":[{"name":"mail","paused":true,"counts":{"pending":12,"running":1,"dead":3},
			"oldest_pending_at":"2026-03-01T11:56:40Z","rates_1m":{"enqueued":1.25,"completed":0.5}}],"next_cursor":null}`,
		"/base/api/v1/workers": `{"data":[{"id":"w-1","name":"mailer","state":"online","queues":{"mail":3,"*":1},"kinds":null,
			"slots":4,"busy":2,"version":"1.2","last_seen_at":"2026-03-01T11:59:58Z"}],"next_cursor":null}`,
		"/base/api/v1/events": `{"data":[{"cursor":"3-7","epoch":3,"seq":7,"type":"job.retrying","timestamp":"2026-03-01T12:00:00Z",
			"queue":"mail","kind":"send","job_id":"j-1","attempt":2,"data":{"error":{"type":"SMTPError","message":"421"}}}],
			"cursor":"3-7","caught_up":true}`,
		"/base/api/v1/jobs": `{"data":[{"id":"j-1","queue":"mail","kind":"send","status":"dead","attempt":2,
			"created_at":"2026-03-01T10:00:00.123456Z","run_at":"2026-03-01T10:00:00.123456Z",
			"error":{"type":"E","message":"\u001b[2J\u202eboo\nID  forged"}}],"next_cursor":"abc"}`,
	})
	require.Equal(t, strings.Join([]string{
		"QUEUE  STATE   PENDING  RUNNING  RETRYING  SCHEDULED  DEAD  OLDEST  IN     OUT",
		"mail   paused  12       1        0         0          3     3m20s   1.2/s  0.5/s", "",
	}, "\n"), run(t, env, "queues", "ls", "-o", "table").exits(0).out)
	require.Equal(t, strings.Join([]string{
		"ID   NAME    STATE   BUSY  SLOTS  QUEUES    KINDS  SEEN      VERSION",
		"w-1  mailer  online  2     4      *,mail:3  *      2.0s ago  1.2", "",
	}, "\n"), run(t, env, "workers", "ls", "-o", "table").exits(0).out)
	require.Equal(t, strings.Join([]string{
		"CURSOR  TIME                 TYPE          QUEUE  KIND  JOB  DETAIL",
		"3-7     2026-03-01 12:00:00  job.retrying  mail   send  j-1  attempt 2, SMTPError: 421", "",
	}, "\n"), run(t, env, "events", "ls", "-o", "table").exits(0).out)
	hostile := run(t, env, "jobs", "ls", "-o", "table").exits(0, "--cursor abc")
	require.Equal(t, strings.Join([]string{
		"ID   QUEUE  KIND  STATUS  ATTEMPT  RUN AT               CREATED              ERROR",
		`j-1  mail   send  dead    2        2026-03-01 10:00:00  2026-03-01 10:00:00  E: \x1b[2J\u202eboo\nID  forged`, "",
	}, "\n"), hostile.out, "a terminal is not told what to do, and no line is forged")
	// What this program does not know passes.
	require.Contains(t, run(t, env, "queues", "ls").exits(0).out, `"paused": true`)
	require.NotContains(t, run(t, env, "jobs", "ls", "-o", "table").out, "\x1b")
	require.Equal(t, "send\n:4\n", run(t, env, "__complete", "enqueue", "").exits(0).out, "kinds of the newest jobs")
}

func TestTopFitsIntoEightyColumns(t *testing.T) {
	t.Parallel()
	env := fixed(t, map[string]string{
		"/base/api/v1/health": `{"status":"ok"}`,
		"/base/api/v1/queues": `{"data":[{"name":"idle"},{"name":"` + strings.Repeat("long", 20) + `","counts":{"pending":1234567,"running":1},
			"oldest_pending_at":"2026-03-01T11:56:40Z","rates_1m":{"enqueued":12345.6}},
			{"name":"late","paused":true,"counts":{"pending":1},"oldest_pending_at":"2026-03-01T11:00:00Z"}]}`,
		"/base/api/v1/workers": `{"data":[{"id":"w-1","name":"mailer","state":"online","queues":{"mail":3},"slots":4,"busy":2,
			"last_seen_at":"2026-03-01T11:59:58Z"}]}`,
	})
	frame := run(t, env, "top", "--once").exits(0).out
	lines := strings.Split(strings.TrimSpace(frame), "\n")
	require.Equal(t, []string{
		"QUEUE           STATE   PEND     RUN  RETRY  DEAD  OLDEST  IN/S     OUT/S  FAIL",
		"late            paused  1        0    0      0     1h00m   0.0      0.0    0.0",
		"longlonglongl…  active  1234567  1    0      0     3m20s   12345.6  0.0    0.0",
		"idle            active  0        0    0      0     -       0.0      0.0    0.0",
		"",
		"WORKER  STATE   BUSY  QUEUES  SEEN",
		"mailer  online  2/4   mail:3  2.0s",
	}, lines[2:])
	require.Contains(t, lines[0], "12:00:00  http://127.0.0.1:")
	for _, line := range lines {
		require.LessOrEqual(t, len([]rune(line)), 80)
	}
}

func TestTheHealthIsTheExitCode(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]int{"ok": 0, "degraded": 1, "draining": 6, "unavailable": 6} {
		env := fixed(t, map[string]string{"/base/api/v1/health": `{"status":"` + status + `","checks":{"listener":"away"}}`})
		require.Contains(t, run(t, env, "health", "-o", "table").exits(want).out, "listener  away")
	}
}

func TestConfigShowsOriginsAndMasksSecrets(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "settings")
	require.NoError(t, os.WriteFile(file, []byte("SERVER_PORT=9001\nMINIASYNQ_RETAIN_DEAD=10d\n"), 0o600))
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hunter2-hunter2\n"), 0o600))
	env := []string{
		"DATABASE_URL=postgres://me:hunter2@db:5432/x?password=hunter2", "MINIASYNQ_API_KEY=mak_7_hunter2", "MINIASYNQ_RETAIN_DEAD=20d",
		"MINIASYNQ_ADMIN_PASSWORD=from the environment",
	}
	shown := run(t, env, "config", "-o", "jsonl", "--env-file", file, "--workers", "20", "--admin-password-file", secret,
		"--dev").exits(0)
	require.NotContains(t, shown.out+shown.err, "hunter2")
	origins := make(map[any][2]any)
	for _, line := range shown.lines() {
		origins[line["name"]] = [2]any{line["value"], line["origin"]}
	}
	require.Equal(t, [2]any{"20", "flag"}, origins["WORKER_POOL_SIZE"])
	require.Equal(t, [2]any{"true", "flag"}, origins["MINIASYNQ_DEV"])
	require.Equal(t, [2]any{"20d", "environment"}, origins["MINIASYNQ_RETAIN_DEAD"])
	require.Equal(t, [2]any{"9001", "env file " + file}, origins["SERVER_PORT"])
	require.Equal(t, [2]any{"30s", "default"}, origins["VISIBILITY_TIMEOUT"])
	require.Equal(t, [2]any{"postgres://me:******@db:5432/x", "environment"}, origins["DATABASE_URL"])
	require.Equal(t, [2]any{"mak_7_******", "environment"}, origins["MINIASYNQ_API_KEY"])
	require.Equal(t, [2]any{"******", "flag, MINIASYNQ_ADMIN_PASSWORD_FILE"}, origins["MINIASYNQ_ADMIN_PASSWORD"])
	require.Contains(t, run(t, env, "config", "-o", "table", "--port", "x").exits(1, "SERVER_PORT").out, "SERVER_PORT")
}

func TestEverySettingIsAFlagAndNoSecretIs(t *testing.T) {
	t.Parallel()
	help := run(t, nil, "serve", "--help").exits(0).out
	for _, name := range cli.ServerSettings() {
		require.Contains(t, help, "("+name, "the help names the variable")
	}
	require.NotRegexp(t, `--(database-url|db-password|admin-password|listen-database-url) `, help)
	require.Contains(t, run(t, nil, "--help").exits(0).out, "--port")
}
