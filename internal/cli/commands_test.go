package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/cli"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// admin is an environment with the right to do everything.
func admin(server string) []string {
	return []string{"MINIASYNQ_SERVER=" + server, "MINIASYNQ_PASSWORD=password"}
}

const nowhere = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"

// TestCommandsDoWhatTheySay runs the commands against one server on a real database.
func TestCommandsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	env := admin(server)
	for name, test := range map[string]func(*testing.T, string, []string){
		"a job is enqueued, awaited, read and deleted": liveOfAJob,
		"a failed job is found and retried":            failedJob,
		"a batch is stored in chunks of 1000":          storesBatch,
		"a faulty line of a batch is named":            faultyBatch,
		"queues are paused and resumed":                pausesQueue,
		"consumers are listed, moved and deleted":      movesConsumers,
		"webhooks are listed, tested and replayed":     sendsWebhooks,
		"keys are made, used, rotated and revoked":     livesOfKeys,
		"actions are in the audit log":                 readsAudit,
		"every end has its exit code":                  exitCodes,
		"completion offers live names":                 completesNames,
		"a follow survives cut lines":                  followsOverCuts,
		"top draws a frame":                            drawsTop,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, server, env)
		})
	}
}

func liveOfAJob(t *testing.T, _ string, env []string) {
	file := filepath.Join(t.TempDir(), "mail.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"to":"a@example.com","n":9007199254740993}`), 0o600))
	done := run(t, env, "enqueue", "email.send", "--queue", "life", "--data", "@"+file, "--tag", "welcome", "--tag", "de",
		"--priority", "high", "--key", "life-1", "--max-retries", "0", "--wait").exits(0, "enqueued")
	job := done.object()
	require.Equal(t, "completed", job["status"])
	require.Equal(t, "high", job["priority"])
	require.Equal(t, []any{"welcome", "de"}, job["tags"])
	require.Contains(t, done.out, "9007199254740993", "numbers pass unchanged")
	id := job["id"].(string)

	again := run(t, env, "enqueue", "email.send", "--queue", "life", "--data", "@"+file, "--tag", "welcome", "--tag", "de",
		"--priority", "high", "--key", "life-1", "--max-retries", "0").exits(0).object()
	require.Equal(t, id, again["id"], "the key makes it the same request")
	run(t, env, "enqueue", "email.send", "--key", "life-1").exits(4, "idempotency_reused")

	require.Contains(t, run(t, env, "jobs", "get", id, "--attempts", "-o", "table").exits(0).out, "attempt 1")
	found := run(t, env, "jobs", "ls", "--queue", "life", "--status", "completed", "--tag", "welcome", "-o", "jsonl").exits(0).lines()
	require.Len(t, found, 1)
	require.Equal(t, id, found[0]["id"])
	pgtest.Eventually(t, 10*time.Second, "the events are published", func() bool {
		return len(run(t, env, "jobs", "events", id, "-o", "jsonl").exits(0).lines()) == 3
	})
	run(t, env, "jobs", "rm", id, "--user", "admin").exits(0, "deleted")
	run(t, env, "jobs", "get", id).exits(3, "not_found")
}

func failedJob(t *testing.T, _ string, env []string) {
	run(t, env, "enqueue", "fails", "--queue", "failing", "--data", `{"fail":true}`, "--max-retries", "0", "--wait").
		exits(1, "is dead")
	dead := run(t, env, "jobs", "ls", "--queue", "failing", "--status", "dead", "-o", "jsonl").exits(0).lines()
	require.Len(t, dead, 1)
	id := dead[0]["id"].(string)
	run(t, env, "jobs", "cancel", id, "--user", "admin").exits(4, "invalid_transition", "possible: retry")
	run(t, env, "jobs", "retry", id, "--delay", "1h", "--reason", "again", "--user", "admin").exits(0)
	job := run(t, env, "jobs", "get", id).exits(0).object()
	require.Equal(t, "scheduled", job["status"])
	run(t, env, "jobs", "run-now", id, "--user", "admin").exits(0)
	run(t, env, "jobs", "wait", id).exits(1, "is dead")
	// One that does not exist spoils neither the others nor the exit code.
	several := run(t, env, "jobs", "get", nowhere, id, "-o", "jsonl").exits(3, nowhere)
	require.Len(t, several.lines(), 1)
}

func storesBatch(t *testing.T, _ string, env []string) {
	var lines strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&lines, `{"payload":{"n":%d}}`+"\n", i)
	}
	done := runWith(t, t.Context(), env, lines.String(), "enqueue", "many", "--queue", "batch", "--batch", "-", "-o", "jsonl").
		exits(0, "1000 jobs stored", "2000 jobs stored", "2500 jobs stored")
	stored := done.lines()
	require.Len(t, stored, 2500)
	require.Equal(t, "batch", stored[0]["queue"])
	all := run(t, env, "jobs", "ls", "--queue", "batch", "--all", "-o", "jsonl", "--quiet").exits(0)
	require.Len(t, all.lines(), 2500, "all pages")
	require.Empty(t, all.err, "quiet")
	one := run(t, env, "jobs", "ls", "--queue", "batch", "--limit", "2").exits(0).object()
	require.Len(t, one["data"], 2)
	next := run(t, env, "jobs", "ls", "--queue", "batch", "--limit", "2", "--cursor", one["next_cursor"].(string)).exits(0).object()
	require.NotEqual(t, one["data"], next["data"])
}

func faultyBatch(t *testing.T, _ string, env []string) {
	good := strings.Repeat(`{"kind":"x"}`+"\n", 1001)
	stopped := runWith(t, t.Context(), env, good+`{"kind":"x","priority":"urgent"}`, "enqueue", "--queue", "faulty", "--batch", "-", "-o", "jsonl").
		exits(2, "1000 jobs are stored", "line 1002")
	require.Len(t, stopped.lines(), 1000, "what is stored is told")
	runWith(t, t.Context(), env, "{}\n{\"kind\": \"x\",}", "enqueue", "x", "--batch", "-").exits(2, "line 2", "column 14")
	runWith(t, t.Context(), env, "[]", "enqueue", "x", "--batch", "-").exits(2, "line 1 is no JSON object")
}

func pausesQueue(t *testing.T, _ string, env []string) {
	paused := run(t, env, "queues", "pause", "held", "--for", "30m", "--reason", "smtp", "--user", "admin").exits(0).object()
	require.Equal(t, true, paused["paused"])
	id := run(t, env, "enqueue", "x", "--queue", "held").exits(0).object()["id"].(string)
	run(t, env, "jobs", "wait", id, "--timeout", "200ms").exits(124, "the wait ran out")
	pgtest.Eventually(t, 10*time.Second, "the queue is listed", func() bool {
		return strings.Contains(run(t, env, "queues", "ls", "-o", "table").exits(0).out, "held")
	})
	require.Contains(t, run(t, env, "queues", "get", "held", "-o", "table").exits(0).out, "smtp")
	run(t, env, "queues", "resume", "held", "--user", "admin").exits(0)
	run(t, env, "jobs", "wait", id).exits(0)
}

func livesOfKeys(t *testing.T, server string, env []string) {
	made := run(t, env, "keys", "create", "ci", "--scope", "enqueue,read", "--queue", "keyed", "--expires", "90d", "--user", "admin",
		"-o", "table").exits(0, "shown this once", "enqueue,read")
	secret := strings.TrimSpace(made.out)
	require.Regexp(t, `^mak_\S+$`, secret, "nothing but the secret on stdout")
	require.NotContains(t, made.err, secret)
	asKey := []string{"MINIASYNQ_SERVER=" + server, "MINIASYNQ_API_KEY=" + secret}
	run(t, asKey, "enqueue", "x", "--queue", "keyed").exits(0)
	run(t, asKey, "keys", "ls").exits(5, "lacks the scope admin")
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	run(t, []string{"MINIASYNQ_SERVER=" + server}, "enqueue", "x", "--queue", "keyed", "--api-key-file", file).exits(0)
	run(t, []string{"MINIASYNQ_SERVER=" + server, "MINIASYNQ_API_KEY_FILE=" + file}, "enqueue", "x", "--queue", "keyed").exits(0)

	list := run(t, env, "keys", "ls", "--user", "admin", "-o", "jsonl").exits(0)
	require.NotContains(t, list.out, secret)
	var id string
	for _, key := range list.lines() {
		if key["name"] == "ci" {
			id = key["id"].(string)
			require.NotNil(t, key["expires_at"])
		}
	}
	rotated := run(t, env, "keys", "rotate", id, "--overlap", "1h", "--user", "admin").exits(0).object()
	require.NotEqual(t, secret, rotated["secret"])
	require.NotEqual(t, id, rotated["id"])
	run(t, env, "keys", "revoke", id, "--user", "admin").exits(0, "revoked")
	pgtest.Eventually(t, 10*time.Second, "the key has ended", func() bool { return run(t, asKey, "enqueue", "x").code == 5 })
	run(t, env, "keys", "create", "none", "--user", "admin").exits(2, "--scope or --role")
	run(t, env, "keys", "create", "x", "--role", "viewer", "--expires", "soon", "--user", "admin").exits(2, "90d")
}

func readsAudit(t *testing.T, _ string, env []string) {
	run(t, env, "queues", "pause", "audited", "--reason", "why not", "--user", "admin").exits(0)
	entries := run(t, env, "audit", "ls", "--target", "audited", "--user", "admin", "-o", "jsonl").exits(0).lines()
	require.Len(t, entries, 1)
	require.Equal(t, "queue.pause", entries[0]["action"])
	require.Equal(t, "why not", entries[0]["reason"])
	require.Contains(t, run(t, env, "audit", "ls", "--target", "audited", "--user", "admin", "-o", "table").exits(0).out, "basic:admin")
}

func exitCodes(t *testing.T, _ string, env []string) {
	run(t, env, "health").exits(0)
	run(t, env, "enqueue", "x", "--data", "{\n  \"a\": tru}").exits(2, "line 2", "column")
	run(t, env, "jobs", "ls", "--status", "ded").exits(2, "did you mean dead", "scheduled, pending")
	run(t, env, "jobs", "ls", "--quue", "x").exits(2, "did you mean --queue")
	run(t, env, "jbos", "ls").exits(2, "did you mean jobs")
	run(t, env, "jobs").exits(2, "ls, get")
	run(t, env, "jobs", "get", "no-id").exits(2, "a UUID")
	run(t, env, "jobs", "ls", "-o", "xml").exits(2, "table, json or jsonl")
	run(t, env, "enqueue", "x", "--priority", "urgent").exits(2)
	run(t, env, "enqueue", "x", "--at", "2026-03-01T12:00:00Z", "--delay", "1s").exits(2, "not both")
	run(t, env, "--server", "x", "health").exits(2)
	run(t, env, "health", "--server", "localhost:8080").exits(2, "http://host:port")
	run(t, env, "top").exits(2, "--once")
	run(t, nil, "queues", "ls", "--user", "admin").exits(2, "MINIASYNQ_PASSWORD")
	run(t, []string{"MINIASYNQ_SERVR=x"}, "health").exits(1, "did you mean MINIASYNQ_SERVER?")
	run(t, env, "jobs", "get", nowhere).exits(3)
	run(t, env, "queues", "pause", "x").exits(5, "--user admin")
	run(t, []string{env[0], "MINIASYNQ_PASSWORD=wrong"}, "queues", "ls", "--user", "admin").exits(5)
	run(t, nil, "health", "--server", "http://127.0.0.1:1").exits(6, "http://127.0.0.1:1", "--server")
	run(t, env, "events", "follow", "--timeout", "100ms").exits(124)

	ctx, cancel := context.WithCancel(t.Context())
	var out safeBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Execute(ctx, []string{"events", "follow", "--after", "earliest"},
			cli.Surroundings{In: strings.NewReader(""), Out: &out, Err: &out, Environ: env})
	}()
	pgtest.Eventually(t, 10*time.Second, "it follows", func() bool { return out.String() != "" })
	cancel() // as a signal does
	require.Equal(t, 130, pgtest.Receive(t, ended, 10*time.Second, "the follow ends"))
}

func completesNames(t *testing.T, server string, env []string) {
	id := run(t, env, "enqueue", "completed.kind", "--queue", "completing", "--delay", "1h").exits(0).object()["id"].(string)
	pgtest.Eventually(t, 10*time.Second, "the queue is offered", func() bool {
		return strings.Contains(run(t, env, "__complete", "queues", "pause", "").exits(0).out, "completing\n")
	})
	require.Contains(t, run(t, env, "__complete", "jobs", "run-now", "").exits(0).out, id+"\tcompleted.kind, scheduled")
	require.NotContains(t, run(t, env, "__complete", "jobs", "rm", "").exits(0).out, id)
	require.Contains(t, run(t, nil, "__complete", "jobs", "ls", "--server", server, "--queue", "").exits(0).out, "completing\n")
	require.Contains(t, run(t, nil, "__complete", "jobs", "ls", "--status", "").exits(0).out, "retrying\n")
	silent := run(t, nil, "__complete", "queues", "get", "--server", "http://127.0.0.1:1", "").exits(0)
	require.Equal(t, ":4\n", silent.out, "no names, and no files instead")
	require.NotContains(t, silent.err, "refused")
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		require.Contains(t, run(t, nil, "completion", shell).exits(0).out, "mini-asynq")
	}
}

func followsOverCuts(t *testing.T, server string, env []string) {
	line := newRelay(t, server)
	var out, said safeBuffer
	ended := make(chan int, 1)
	const n = 60
	go func() {
		ended <- cli.Execute(t.Context(), []string{
			"events", "follow", "--server", line.address(), "--queues", "followed", "--types", "job.completed",
			"--after", "earliest", "--count", fmt.Sprint(n)},
			cli.Surroundings{In: strings.NewReader(""), Out: &out, Err: &said, Environ: env})
	}()
	var ids []string
	for i := range n {
		ids = append(ids, run(t, env, "enqueue", "x", "--queue", "followed").exits(0).object()["id"].(string))
		if i == 20 || i == 40 {
			pgtest.Eventually(t, 10*time.Second, "a line is cut", func() bool { return line.cut() > 0 })
		}
	}
	require.Zero(t, pgtest.Receive(t, ended, 60*time.Second, "all events are there"), said.String())
	var got []string
	for _, event := range (ran{t: t, out: out.String()}).lines() {
		got = append(got, event["job_id"].(string))
	}
	require.ElementsMatch(t, ids, got, "each once")
	require.Contains(t, said.String(), "coming back")
}

func drawsTop(t *testing.T, _ string, env []string) {
	run(t, env, "enqueue", "x", "--queue", "topped", "--delay", "1h").exits(0)
	pgtest.Eventually(t, 10*time.Second, "the queue is on the screen", func() bool {
		frame := run(t, env, "top", "--once").exits(0).out
		for line := range strings.Lines(frame) {
			require.LessOrEqual(t, len([]rune(line)), 81, "80 columns")
		}
		return strings.Contains(frame, "QUEUE") && strings.Contains(frame, "pending,")
	})
}
