// Command mini-asynq-nats copies the events of a Mini Asynq server into NATS JetStream. README.md says how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/sinks/nats/relay"
)

// Exit codes, those of mini-asynq.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitUsage)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailed)
	}
}

// errUsage marks settings that were refused.
var errUsage = errors.New("see -h")

// settings are what flags and environment say.
type settings struct {
	relay.Config
	apiKeyFile, natsURL, creds, onLost, types, queues, metrics, level string
}

// read takes the flags over the environment over the defaults.
func read(args []string) (settings, error) {
	s := settings{}
	flags := flag.NewFlagSet("mini-asynq-nats", flag.ContinueOnError)
	text := func(into *string, name, variable, fallback, help string) {
		if value := os.Getenv(variable); value != "" {
			fallback = value
		}
		flags.StringVar(into, name, fallback, help+" ("+variable+")")
	}
	text(&s.Server, "server", "MINIASYNQ_SERVER", "http://localhost:8080", "address of the server, with its base path")
	text(&s.apiKeyFile, "api-key-file", "MINIASYNQ_API_KEY_FILE", "", "file with an API key; or the key itself in MINIASYNQ_API_KEY")
	text(&s.natsURL, "nats", "MINIASYNQ_NATS_URL", nats.DefaultURL, "addresses of NATS, comma-separated")
	text(&s.creds, "creds", "MINIASYNQ_NATS_CREDS", "", "credentials file for NATS")
	text(&s.Prefix, "prefix", "MINIASYNQ_NATS_PREFIX", "miniasynq", "of subjects: <prefix>.job.completed")
	text(&s.Stream, "stream", "MINIASYNQ_NATS_STREAM", "MINIASYNQ", "stream of JetStream; made if it is not there")
	text(&s.Bucket, "bucket", "MINIASYNQ_NATS_BUCKET", "MINIASYNQ_RELAY", "bucket of the cursor; made if it is not there")
	text(&s.From, "from", "MINIASYNQ_NATS_FROM", "earliest", "where the first start begins: earliest, latest or a cursor")
	text(&s.onLost, "on-lost", "MINIASYNQ_NATS_ON_LOST", string(relay.Stop), "when history is lost: stop, or go-on from the oldest event")
	text(&s.types, "types", "MINIASYNQ_NATS_TYPES", "", "only these types: job.dead,job.retrying")
	text(&s.queues, "queues", "MINIASYNQ_NATS_QUEUES", "", "only these queues: mail*")
	text(&s.metrics, "metrics", "MINIASYNQ_NATS_METRICS", "", "address for /metrics: :9464; empty: none")
	text(&s.level, "log-level", "MINIASYNQ_LOG_LEVEL", "info", "debug, info, warn or error")
	flags.IntVar(&s.Replicas, "replicas", 1, "of stream and bucket when they are made")
	flags.IntVar(&s.Window, "window", 256, "publishes in flight")
	flags.DurationVar(&s.MaxAge, "max-age", 0, "of events in the stream when it is made; 0: for ever")
	flags.DurationVar(&s.AckWait, "ack-wait", 5*time.Second, "how long JetStream may take to store an event")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return s, err
		}
		return s, errUsage // the flag set has said what is wrong
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unknown argument %q: %w", flags.Arg(0), errUsage)
	}
	s.OnLost = relay.Lost(s.onLost)
	s.Types, s.Queues = list(s.types), list(s.queues)
	s.APIKey = os.Getenv("MINIASYNQ_API_KEY")
	if s.apiKeyFile != "" {
		raw, err := os.ReadFile(s.apiKeyFile)
		if err != nil {
			return s, fmt.Errorf("read the API key: %w", err)
		}
		s.APIKey = strings.TrimSpace(string(raw))
	}
	level, err := zerolog.ParseLevel(s.level)
	if err != nil {
		return s, fmt.Errorf("log level %q: %w", s.level, errUsage)
	}
	s.Log = zerolog.New(os.Stderr).Level(level).With().Timestamp().Logger()
	return s, nil
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func run(ctx context.Context, args []string) error {
	s, err := read(args)
	if err != nil {
		return err
	}
	options := []nats.Option{
		nats.Name("mini-asynq-nats"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectBufSize(-1), // what was not sent is sent anew, and not behind our back
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.Log.Warn().Err(err).Msg("the connection to NATS broke")
			}
		}),
	}
	if s.creds != "" {
		options = append(options, nats.UserCredentials(s.creds))
	}
	conn, err := nats.Connect(s.natsURL, options...)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer conn.Close()
	registry := prometheus.NewRegistry()
	s.NATS, s.Registerer = conn, registry
	r, err := relay.New(s.Config)
	if err != nil {
		return errors.Join(err, errUsage)
	}
	if s.metrics == "" {
		return r.Run(ctx)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.metrics)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)                    // what Serve returned
	go func() { served <- server.Serve(listener) }() // ends with Close, which is waited for
	err = r.Run(ctx)
	_ = server.Close() // metrics of who is gone
	<-served           //nolint:errcheck // that it is closed
	return err
}
