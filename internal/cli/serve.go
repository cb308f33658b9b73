package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// newServe is the command that runs a node.
func newServe(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a server node: API, workers, event stream, dashboard", Args: noArgs,
	}
	given := addSettingFlags(cmd.Flags())
	migrate := cmd.Flags().Bool("migrate", true, "bring the database schema up to date at the start")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		read, err := readSettings(g.around.Environ, g.envFile, given())
		if err != nil {
			return err
		}
		env, err := read.environment()
		if err != nil {
			return err
		}
		config, err := AppConfig(env)
		if err != nil {
			return err
		}
		config.Migrate = *migrate
		tuneGarbageCollector()
		return app.Run(cmd.Context(), config)
	}
	return cmd
}

// gcPercent lets the heap of a server grow to five times what is live before it is collected. What is live is small, a few
// MB, so that the default collects many times a second at full load: a fifth of the throughput (measured).
const gcPercent = 400

// tuneGarbageCollector sets gcPercent, unless the operator has chosen another value (GOGC).
func tuneGarbageCollector() {
	const untouched = 100
	if before := debug.SetGCPercent(gcPercent); before != untouched {
		debug.SetGCPercent(before)
	}
}

// AppConfig turns settings into the configuration of a node, whose log goes to stderr. It names all faults at once.
func AppConfig(env Environment) (app.Config, error) {
	var faults []error
	refuse := func(name, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	}
	between := func(name string, value, low, high int) {
		if value < low || value > high {
			refuse(name, "%d is not from %d to %d", value, low, high)
		}
	}
	level, err := zerolog.ParseLevel(env.LogLevel)
	if err != nil {
		refuse("MINIASYNQ_LOG_LEVEL", "%q: debug, info, warn or error", env.LogLevel)
	}
	between("SERVER_PORT", env.ServerPort, 0, 65535)
	between("WORKER_POOL_SIZE", env.WorkerPoolSize, 1, 10_000)
	between("MAX_RETRY_ATTEMPTS", env.MaxRetryAttempts, 0, jobs.MaxRetriesLimit)
	retry := jobs.RetryPolicy{
		Strategy: jobs.Strategy(env.RetryStrategy), Interval: time.Duration(env.RetryInterval),
		Immediate: env.RetryInterval == 0,
	}
	if env.RetryStrategy != string(jobs.Fixed) && env.RetryStrategy != string(jobs.Exponential) {
		refuse("RETRY_STRATEGY", "%q: fixed or exponential", env.RetryStrategy)
	} else if err := retry.Validate(); err != nil {
		refuse("RETRY_INTERVAL", "%s is not from 0 to 24h", time.Duration(env.RetryInterval))
	}
	span := func(name string, value Duration, low, high time.Duration) time.Duration {
		if d := time.Duration(value); d < low || d > high {
			refuse(name, "%s is not from %s to %s", d, low, high)
		}
		return time.Duration(value)
	}
	demo := env.DemoHandlers
	if demo != "" && demo != "true" && demo != "false" {
		refuse("MINIASYNQ_DEMO_HANDLERS", "%q: true or false", demo)
	}
	var proxies []netip.Prefix
	for _, text := range env.TrustedProxies {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(text); err == nil {
				prefix = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		if err != nil {
			refuse("MINIASYNQ_TRUSTED_PROXIES", "%q is no address or network", text)
		}
		proxies = append(proxies, prefix)
	}
	if n := env.RetainBytes; n != 0 && n < 16<<20 {
		refuse("MINIASYNQ_RETAIN_EVENTS_SIZE", "%d is less than 16MiB", n)
	}
	config := app.Config{
		DatabaseURL: env.Database(), ListenURL: env.ListenDatabaseURL, FallbackURL: DefaultDatabaseURL, StateDir: env.StateDir,
		Bind: env.Bind, Address: env.Address(), BasePath: strings.TrimSuffix(env.BasePath, "/"), PublicURL: env.PublicURL,
		GinMode: env.GinMode, AdminUser: env.AdminUser, AdminPassword: env.AdminPassword, Dev: env.Dev,
		Anonymous: anonymous(env.Anonymous), AllowedHosts: env.AllowedHosts, CORSOrigins: env.CORSOrigins,
		TrustedProxies: proxies, Environment: env.EnvironmentName,
		Slots: env.WorkerPoolSize, Queues: env.WorkerQueues, Retry: retry, HTTPAllow: env.HTTPAllow, WebhookAllow: env.WebhookAllow, DemoHandlers: demo,
		Lease:          span("VISIBILITY_TIMEOUT", env.VisibilityTimeout, 300*time.Millisecond, 24*time.Hour),
		JobTimeout:     span("MINIASYNQ_JOB_TIMEOUT", env.JobTimeout, jobs.MinTimeout, jobs.MaxTimeout),
		Grace:          span("MINIASYNQ_SHUTDOWN_GRACE", env.ShutdownGrace, 0, time.Hour),
		KeepDone:       span("MINIASYNQ_RETAIN_COMPLETED", env.RetainCompleted, time.Hour, 3650*24*time.Hour),
		KeepDead:       span("MINIASYNQ_RETAIN_DEAD", env.RetainDead, time.Hour, 3650*24*time.Hour),
		KeepEvents:     span("MINIASYNQ_RETAIN_EVENTS", env.RetainEvents, time.Hour, 3650*24*time.Hour),
		KeepEventBytes: int64(env.RetainBytes),
		Settings: jobs.Settings{
			MaxRetries: jobs.Retries(env.MaxRetryAttempts), MaxPayload: int(env.MaxPayload),
			IdempotencyTTL: span("MINIASYNQ_IDEMPOTENCY_TTL", env.IdempotencyTTL, time.Minute, 365*24*time.Hour),
		},
		MaxSockets: env.MaxSockets, MaxSocketsEach: env.MaxSocketsEach,
		Version: version, Commit: commit,
		Log: zerolog.New(os.Stderr).Level(level).With().Timestamp().Logger(),
	}
	if len(faults) > 0 {
		return app.Config{}, fmt.Errorf("settings refused: %w", errors.Join(faults...))
	}
	return config, nil
}

// anonymous is the list of scopes without a credential: nil if none is named, empty for "none".
func anonymous(list string) []string {
	switch list {
	case "":
		return nil
	case "none":
		return []string{}
	}
	scopes := strings.Split(list, ",")
	for i := range scopes {
		scopes[i] = strings.TrimSpace(scopes[i])
	}
	return scopes
}
