package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/web"
	"github.com/mini-asynq/mini-asynq/workers"
)

// closeLimit bounds each of the other steps of a stop: four of them and the engine's own stay below the grace and two
// seconds.
const closeLimit = 130 * time.Millisecond

// Run runs a node until ctx ends, and stops it in order. It returns nil after an ordered stop.
func Run(ctx context.Context, config Config) (err error) {
	config, documentedPassword, err := config.withCredentials()
	if err != nil {
		return err
	}
	down := &stops{log: config.Log}
	defer func() { err = errors.Join(err, down.run()) }()

	db, err := openDatabase(ctx, config)
	if err != nil {
		return err
	}
	down.push("database", privateStop+500*time.Millisecond, db.close)

	node := &node{config: config, db: db}
	engine, err := node.newEngine(ctx)
	if err != nil {
		return err
	}
	node.engine = engine
	if err := node.wire(documentedPassword); err != nil {
		engine.Close()
		return err
	}
	return node.run(ctx, down)
}

// newEngine makes the part that works.
func (n *node) newEngine(ctx context.Context) (*workers.Engine, error) {
	c, db := n.config, n.db
	registry := workers.NewRegistry()
	calls, err := workers.NewHTTPHandler(c.HTTPAllow)
	if err != nil {
		return nil, err
	}
	registry.Add(workers.HTTPKind, calls)
	if c.DemoHandlers == "true" || c.DemoHandlers == "" && (c.Dev || db.private) {
		registry.Fallback(workers.HandlerFunc(workers.Demo))
		n.demo = true
	}
	return workers.New(ctx, workers.Config{
		DatabaseURL: db.url, ListenURL: c.ListenURL, Migrate: c.Migrate, Registry: registry,
		Slots: c.Slots, Queues: c.Queues, Lease: c.Lease, Timeout: c.JobTimeout, Retry: c.Retry, Grace: c.Grace,
		// The metrics are made from the engine; before it runs they are there.
		Ticked: func(t events.Tick) { n.metrics.Published(t) }, Heard: func(note events.Note) { n.metrics.Heard(note) },
		Settings: c.Settings, KeepDone: c.KeepDone, KeepDead: c.KeepDead, KeepEvents: c.KeepEvents, KeepEventBytes: c.KeepEventBytes,
		Log: c.Log,
	})
}

// node is the wired whole.
type node struct {
	config   Config
	db       database
	engine   *workers.Engine
	overview *events.Overview
	metrics  *events.Metrics
	demo     bool
	readers  *events.Readers
	webhooks *events.Webhooks
	hub      *hub.Hub
	api      *api.Server
}

// wire makes the doors.
func (n *node) wire(documentedPassword bool) (err error) {
	c := n.config
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	n.overview = events.NewOverview(events.OverviewConfig{
		DB: n.engine.Door, Stream: n.engine.Stream, NewQueues: n.engine.NewQueues, Slots: n.slots, Log: c.Log,
	})
	n.engine.Stream.Tap(n.overview.Fold)
	e := n.engine
	n.metrics = events.NewMetrics(events.MetricsConfig{
		Overview: n.overview, Leads: e.Pacer.Leads, Stream: e.Stream, Pacer: e.Pacer, Listener: e.Listener,
		DB: e.Door,
		Loops: map[string]func() time.Time{
			"pacer": e.Pacer.LastSuccess, "tailer": e.Stream.LastSuccess, "reaper": e.Dispatcher.LastSuccess,
		},
	})
	e.Stream.Tap(n.metrics.Fold)
	if err := n.metrics.Register(metrics); err != nil {
		return err
	}
	metrics.MustRegister(newNodeMetrics(n))
	hosts, err := c.allowedHosts()
	if err != nil {
		return err
	}
	n.readers, err = events.NewReaders(events.ReadersConfig{
		Stream: n.engine.Stream, Max: c.MaxSockets, MaxEach: c.MaxSocketsEach,
		Log: c.Log.With().Str("component", "readers").Logger(),
	})
	if err != nil {
		return err
	}
	if err := n.wireWebhooks(metrics); err != nil {
		return err
	}
	n.hub, err = hub.New(hub.Config{
		Principal: func(r *http.Request) hub.Caller {
			caller, _ := api.PrincipalOf(r)
			return hub.Caller{
				Name: caller.Name, Unlimited: caller.Anonymous() && c.loopback(), Queues: caller.Queues(),
				Payloads: caller.Allows(api.ScopeReadPayload), Ended: caller.Ended(), Hold: caller.Hold,
				Reads: func() bool { return caller.Allows(api.ScopeRead) },
			}
		},
		// The API is made from the hub; by the time of a request it is there.
		Scheme: func(r *http.Request) string { return n.api.Scheme(r) },
		Problem: func(w http.ResponseWriter, r *http.Request, name, detail string, extra map[string]any) {
			n.api.Refuse(w, r, name, detail, extra)
		},
		Stream: n.engine.Stream, Readers: n.readers, AllowedHosts: hosts,
		Node: n.engine.Node, Numbers: n.overview, QueueBody: api.QueueBody,
		Registerer: metrics, Log: c.Log.With().Str("component", "hub").Logger(),
	})
	if err != nil {
		return err
	}
	scopes := make([]api.Scope, len(c.Anonymous))
	for i, s := range c.Anonymous {
		scopes[i] = api.Scope(s)
	}
	if c.Anonymous == nil && c.PublicURL == "" {
		scopes = nil // by where the node is bound; with a public address nobody is trusted for being local
	}
	n.api, err = api.New(api.Config{
		DB: n.engine.Door, Inserter: n.engine.Inserter, Stream: n.engine.Stream, Overview: n.overview,
		Readers: n.readers, Webhooks: n.webhooks, Work: n.engine.Dispatcher, Retry: c.Retry, Timeout: c.JobTimeout,
		Hub: n.hub, Web: web.Handler(c.BasePath, c.Dev), Gatherer: metrics, Registerer: metrics,
		Health: n.health, Log: c.Log.With().Str("component", "api").Logger(),
		BasePath: c.BasePath, GinMode: c.GinMode, Bind: c.Bind, BindIsLoopback: c.loopback(),
		AdminUser: c.AdminUser, AdminPassword: c.AdminPassword, DefaultPassword: documentedPassword, Dev: c.Dev,
		Anonymous: scopes, AllowedHosts: hosts, CORSOrigins: c.CORSOrigins, TrustedProxies: c.TrustedProxies,
		MaxPayload: c.Settings.MaxPayload, IdempotencyTTL: c.Settings.IdempotencyTTL,
		Version: c.Version, Commit: c.Commit, Node: n.engine.Node, Environment: c.Environment,
	})
	return err
}

// wireWebhooks makes what sends events to webhooks.
func (n *node) wireWebhooks(metrics prometheus.Registerer) error {
	guard, err := events.NewGuard(n.config.WebhookAllow, true)
	if err != nil {
		return fmt.Errorf("MINIASYNQ_WEBHOOK_ALLOW: %w", err)
	}
	n.webhooks, err = events.NewWebhooks(events.WebhooksConfig{
		DB: n.engine.Door, Readers: n.readers, Guard: guard, Node: n.engine.Node, Overflow: n.metrics.Overflow("name"),
		Log: n.config.Log.With().Str("component", "webhooks").Str("node", n.engine.Node).Logger(),
	})
	if err != nil {
		return err
	}
	n.engine.Stream.Tap(n.webhooks.Fold)
	return metrics.Register(n.webhooks)
}

// slots tells how many slots of this node serve a queue.
func (n *node) slots(queue string) int {
	if n.engine.Pool == nil {
		return 0
	}
	_, named := n.config.Queues[queue]
	_, all := n.config.Queues["*"]
	if !named && !all && len(n.config.Queues) > 0 {
		return 0
	}
	return n.engine.Pool.Slots()
}

// allowedHosts are the values of Host that this node answers to, beside the local ones.
func (c Config) allowedHosts() ([]string, error) {
	hosts := slices.Clone(c.AllowedHosts)
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("public URL %q: a scheme and a host, as in https://jobs.example.com", c.PublicURL)
		}
		hosts = append(hosts, u.Host)
	}
	return hosts, nil
}

// run serves until ctx ends or a part fails.
func (n *node) run(ctx context.Context, down *stops) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", n.config.Address)
	if err != nil {
		n.engine.Close()
		return fmt.Errorf("listen: %w", err)
	}
	// The parts outlive ctx: they are stopped in order.
	parts, endParts := context.WithCancelCause(context.WithoutCancel(ctx))
	working, endWork := context.WithCancel(parts)
	var wg sync.WaitGroup
	failed := make(chan error, 8) // capacity: one for each part
	start := func(ctx context.Context, name string, run func(context.Context) error) {
		// Ends when its context does; the step "parts" or "engine" waits for it.
		wg.Go(func() {
			if err := run(ctx); err != nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	engineDone := make(chan struct{})
	start(working, "engine", func(ctx context.Context) error {
		defer close(engineDone)
		return n.engine.Run(ctx)
	})
	if n.db.watch != nil {
		start(working, "database", n.db.watch) // no longer than the engine, or it would undo its stop
	}
	start(parts, "overview", n.overview.Run)
	start(parts, "readers", n.readers.Run)
	hooks, endHooks := context.WithCancel(parts)
	hooksDone := make(chan struct{})
	start(hooks, "webhooks", func(ctx context.Context) error {
		defer close(hooksDone)
		return n.webhooks.Run(ctx)
	})
	start(parts, "hub", n.hub.Run)
	start(parts, "api", n.api.Run)
	server := n.api.HTTPServer()
	server.BaseContext = func(net.Listener) context.Context { return parts }
	start(parts, "http", func(context.Context) error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})

	down.push("parts", closeLimit, func(context.Context) error {
		endParts(errStopped)
		wg.Wait()
		return nil
	})
	down.push("http server", closeLimit, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, closeLimit/2)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			return server.Close() // whoever has not got an answer by now is cut off
		}
		return nil
	})
	down.push("engine", n.engine.StopLimit()+50*time.Millisecond, func(context.Context) error {
		endWork()
		<-engineDone
		return nil
	})
	down.push("webhooks", closeLimit, func(context.Context) error {
		endHooks() // while the database can still be told that other nodes may have them
		<-hooksDone
		return nil
	})
	down.push("doors", closeLimit, func(ctx context.Context) error {
		// First the node says that it is leaving: probes, parked calls, sockets. Who does not read is not waited for.
		ctx, cancel := context.WithTimeout(ctx, closeLimit/2)
		defer cancel()
		n.api.Drain()
		n.hub.Drain(ctx)
		return nil
	})

	n.config.Log.Info().Str("address", listener.Addr().String()).Str("node", n.engine.Node).
		Int("connections", n.engine.Connections()).Str("version", n.config.Version).
		Msgf("serving on http://%s%s/", listener.Addr(), n.config.BasePath)
	if n.demo {
		n.config.Log.Info().Msg("demo handlers are on: this node completes jobs of every kind that it has no handler for " +
			"(MINIASYNQ_DEMO_HANDLERS=false ends that)")
	}
	if n.config.Dev && !n.config.loopback() {
		n.config.Log.Warn().Msg("development mode: admin/password is valid from every address")
	}
	if n.config.Ready != nil {
		n.config.Ready(listener.Addr())
	}
	select {
	case <-ctx.Done():
		n.config.Log.Info().Str("node", n.engine.Node).Msg("stopping")
		return nil
	case err := <-failed:
		return err
	}
}

var errStopped = errors.New("the node has stopped")
