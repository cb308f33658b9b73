package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/cli"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestEveryVariableOfTheOriginal: each variable of the original description reaches the node's configuration.
func TestEveryVariableOfTheOriginal(t *testing.T) {
	t.Parallel()
	env, err := cli.ReadEnvironment(nil, "")
	require.NoError(t, err)
	c, err := cli.AppConfig(env)
	require.NoError(t, err)
	require.Empty(t, c.DatabaseURL, "nothing is configured")
	require.Equal(t, "postgres://postgres:postgres@localhost:5432/gosynq_db?sslmode=disable", c.FallbackURL)
	require.Equal(t, "127.0.0.1:8080", c.Address)
	require.Equal(t, "release", c.GinMode)
	require.Equal(t, 5, c.Slots)
	require.Equal(t, 30*time.Second, c.Lease)
	require.Equal(t, jobs.RetryPolicy{Strategy: jobs.Exponential, Interval: 5 * time.Second}, c.Retry)
	require.Equal(t, 3, *c.Settings.MaxRetries)

	for name, check := range map[string]func(*testing.T){
		"DB_HOST=db.example": func(t *testing.T) {
			require.Contains(t, config(t, "DB_HOST=db.example").DatabaseURL, "@db.example:5432/gosynq_db")
		},
		"DB_PORT=6432": func(t *testing.T) { require.Contains(t, config(t, "DB_PORT=6432").DatabaseURL, "localhost:6432") },
		"DB_USER=u":    func(t *testing.T) { require.Contains(t, config(t, "DB_USER=u").DatabaseURL, "//u:postgres@") },
		"DB_PASSWORD=a!b@c$d()e*_": func(t *testing.T) {
			require.Contains(t, config(t, "DB_PASSWORD=a!b@c$d()e*_,/:;=?@ff[]22").DatabaseURL, "postgres:a%21b%40c$d%28%29e%2A_")
		},
		"DB_NAME=n": func(t *testing.T) { require.Contains(t, config(t, "DB_NAME=n").DatabaseURL, "/n?") },
		"DB_SSLMODE=require": func(t *testing.T) {
			require.Contains(t, config(t, "DB_SSLMODE=require").DatabaseURL, "sslmode=require")
		},
		"DATABASE_URL wins": func(t *testing.T) {
			require.Equal(t, "postgres://x/y", config(t, "DATABASE_URL=postgres://x/y", "DB_HOST=z").DatabaseURL)
		},
		"SERVER_PORT=9000":      func(t *testing.T) { require.Equal(t, "127.0.0.1:9000", config(t, "SERVER_PORT=9000").Address) },
		"GIN_MODE=debug":        func(t *testing.T) { require.Equal(t, "debug", config(t, "GIN_MODE=debug").GinMode) },
		"WORKER_POOL_SIZE=7":    func(t *testing.T) { require.Equal(t, 7, config(t, "WORKER_POOL_SIZE=7").Slots) },
		"VISIBILITY_TIMEOUT=1m": func(t *testing.T) { require.Equal(t, time.Minute, config(t, "VISIBILITY_TIMEOUT=1m").Lease) },
		"RETRY_STRATEGY=fixed":  func(t *testing.T) { require.Equal(t, jobs.Fixed, config(t, "RETRY_STRATEGY=fixed").Retry.Strategy) },
		"RETRY_INTERVAL=250ms": func(t *testing.T) {
			require.Equal(t, 250*time.Millisecond, config(t, "RETRY_INTERVAL=250ms").Retry.Interval)
		},
		"RETRY_INTERVAL=0":     func(t *testing.T) { require.Zero(t, config(t, "RETRY_INTERVAL=0").Retry.Next(9)) },
		"MAX_RETRY_ATTEMPTS=0": func(t *testing.T) { require.Zero(t, *config(t, "MAX_RETRY_ATTEMPTS=0").Settings.MaxRetries) },
	} {
		t.Run(name, check)
	}
}

func config(t *testing.T, environ ...string) app.Config {
	t.Helper()
	env, err := cli.ReadEnvironment(environ, "")
	require.NoError(t, err)
	c, err := cli.AppConfig(env)
	require.NoError(t, err)
	return c
}

func TestBadSettingsAreRefusedAllAtOnce(t *testing.T) {
	t.Parallel()
	for setting, says := range map[string]string{
		"SERVER_PORT=x":                        "SERVER_PORT",
		"WORKER_POOL_SIZE=0":                   "WORKER_POOL_SIZE",
		"VISIBILITY_TIMEOUT=soon":              "soon",
		"VISIBILITY_TIMEOUT=1ms":               "VISIBILITY_TIMEOUT",
		"RETRY_STRATEGY=linear":                "RETRY_STRATEGY",
		"RETRY_INTERVAL=25h":                   "RETRY_INTERVAL",
		"RETRY_INTERVAL=-1":                    "-1",
		"MAX_RETRY_ATTEMPTS=1001":              "MAX_RETRY_ATTEMPTS",
		"MINIASYNQ_WORKER_QUEUES=a:0":          "weight",
		"MINIASYNQ_MAX_PAYLOAD=big":            "big",
		"MINIASYNQ_RETAIN_EVENTS_SIZE=1MiB":    "MINIASYNQ_RETAIN_EVENTS_SIZE",
		"MINIASYNQ_JOB_TIMEOUT=10ms":           "MINIASYNQ_JOB_TIMEOUT",
		"MINIASYNQ_LOG_LEVEL=loud":             "MINIASYNQ_LOG_LEVEL",
		"MINIASYNQ_DEMO_HANDLERS=maybe":        "MINIASYNQ_DEMO_HANDLERS",
		"MINIASYNQ_TRUSTED_PROXIES=everywhere": "MINIASYNQ_TRUSTED_PROXIES",
		"MINIASYNQ_WORKER_QUEUE=a":             "did you mean MINIASYNQ_WORKER_QUEUES?",
	} {
		env, err := cli.ReadEnvironment([]string{setting}, "")
		if err == nil {
			_, err = cli.AppConfig(env)
		}
		require.ErrorContains(t, err, says, setting)
	}
	env, err := cli.ReadEnvironment([]string{"WORKER_POOL_SIZE=0", "RETRY_STRATEGY=linear"}, "")
	require.NoError(t, err)
	_, err = cli.AppConfig(env)
	require.ErrorContains(t, err, "WORKER_POOL_SIZE")
	require.ErrorContains(t, err, "RETRY_STRATEGY")
}

func TestEnvironmentWinsOverTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "settings")
	require.NoError(t, os.WriteFile(file, []byte("# a comment\n\nSERVER_PORT=9001\nexport DB_NAME='quoted'\nGIN_MODE=debug\n"), 0o600))
	env, err := cli.ReadEnvironment([]string{"SERVER_PORT=9002", "GIN_MODE="}, file)
	require.NoError(t, err)
	require.Equal(t, 9002, env.ServerPort)
	require.Equal(t, "quoted", env.DBName)
	require.Equal(t, "release", env.GinMode, "set to nothing is not set")
	_, err = cli.ReadEnvironment(nil, filepath.Join(dir, "none"))
	require.Error(t, err)
	require.NoError(t, os.WriteFile(file, []byte("no assignment\n"), 0o600))
	_, err = cli.ReadEnvironment(nil, file)
	require.ErrorContains(t, err, "line 1")
}

func TestSecretsMayComeFromFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("a long password\n"), 0o600))
	require.Equal(t, "a long password", config(t, "MINIASYNQ_ADMIN_PASSWORD_FILE="+file).AdminPassword)
	_, err := cli.ReadEnvironment([]string{"DB_PASSWORD_FILE=" + file, "DB_PASSWORD=x"}, "")
	require.ErrorContains(t, err, "both")
}

func TestListsAndSpansAreRead(t *testing.T) {
	t.Parallel()
	c := config(t, "MINIASYNQ_WORKER_QUEUES=critical:6,default:3,*", "MINIASYNQ_RETAIN_DEAD=1.5d", "MINIASYNQ_MAX_PAYLOAD=1MiB",
		"MINIASYNQ_ANONYMOUS=read, enqueue", "MINIASYNQ_TRUSTED_PROXIES=10.0.0.0/8,::1", "MINIASYNQ_HTTP_ALLOW=a.example,b.example:1")
	require.Equal(t, map[string]int{"critical": 6, "default": 3, "*": 1}, c.Queues)
	require.Equal(t, 36*time.Hour, c.KeepDead)
	require.Equal(t, 1<<20, c.Settings.MaxPayload)
	require.Equal(t, []string{"read", "enqueue"}, c.Anonymous)
	require.Len(t, c.TrustedProxies, 2)
	require.Equal(t, []string{"a.example", "b.example:1"}, c.HTTPAllow)
	require.Empty(t, config(t, "MINIASYNQ_ANONYMOUS=none").Anonymous)
	require.NotNil(t, config(t, "MINIASYNQ_ANONYMOUS=none").Anonymous)
	require.Nil(t, config(t).Anonymous)
}

func TestUsageIsSaid(t *testing.T) {
	t.Parallel()
	require.Equal(t, 2, cli.Run(t.Context(), []string{"--no-such-flag"}))
	require.Equal(t, 2, cli.Run(t.Context(), []string{"no-such-command"}))
	require.Equal(t, 2, cli.Run(t.Context(), []string{"migrate"}))
	require.Equal(t, 0, cli.Run(t.Context(), []string{"version"}))
}

func TestNamesAreTheOnesThatAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/configuration.md")
	require.NoError(t, err)
	for _, name := range cli.Names() {
		require.True(t, strings.Contains(string(page), "`"+name+"`"), name)
	}
}
