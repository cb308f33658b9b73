package workers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Run makes a node and works until ctx ends: New and Engine.Run in one, for programs that need no more of it.
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	err := workers.Run(ctx, workers.Config{Pool: pool, Registry: registry})
//
// It returns nil after a stop that ctx asked for.
func Run(ctx context.Context, config Config) error {
	engine, err := New(ctx, config)
	if err != nil {
		return err
	}
	return engine.Run(ctx)
}

// New makes a node: it checks the settings, telling everything that is wrong with them at once, connects, brings the schema
// to head or checks it, and publishes the settings of jobs. The caller runs the engine or closes it.
func New(ctx context.Context, config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	e := &Engine{config: config, Node: config.Node, queues: make(chan []string, 16)}
	if err := e.prepare(ctx); err != nil {
		return nil, err
	}
	if err := e.open(ctx); err != nil {
		e.Close()
		return nil, err
	}
	if err := e.wire(); err != nil {
		e.Close()
		return nil, err
	}
	differed, err := jobs.Publish(ctx, e.keeper, e.config.Settings)
	if err != nil {
		e.Close()
		return nil, err
	}
	for _, s := range differed {
		config.Log.Warn().Str("setting", s.Name).RawJSON("before", s.Value).
			Msg("another node published another value: this one's counts now")
	}
	return e, nil
}

// validate tells everything that is wrong with the settings.
func (c Config) validate() error {
	var faults []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	refuse(c.DatabaseURL == "" && c.Pool == nil, "DatabaseURL or Pool is required")
	refuse(c.DatabaseURL != "" && c.Pool != nil, "DatabaseURL or Pool, not both")
	refuse(c.Lease < dispatcher.MinLease, "lease %s: at least %s", c.Lease, dispatcher.MinLease)
	refuse(c.Grace < 0, "grace %s: not negative", c.Grace)
	refuse(c.DoorConns < 1, "door connections %d: at least 1", c.DoorConns)
	for _, keep := range []struct {
		what string
		time.Duration
	}{{"done jobs", c.KeepDone}, {"dead jobs", c.KeepDead}, {"events", c.KeepEvents}} {
		refuse(keep.Duration < 0, "%s are kept for %s: not negative", keep.what, keep.Duration)
	}
	refuse(c.KeepEventBytes < 0, "events may take %d bytes: not negative", c.KeepEventBytes)
	if err := c.Retry.Validate(); err != nil {
		faults = append(faults, err)
	}
	if c.Registry != nil {
		kinds := c.Registry.Kinds()
		refuse(kinds != nil && len(kinds) == 0, "the registry has no handler: leave it out for a node that runs none")
		for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
			refuse(name != "*" && !jobs.ValidName(name), "queue %q: 1 to 255 letters, digits and _ . : -, not . or ..", name)
		}
		if err := c.pool(nil).withDefaults().validate(); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// pool is the part of the settings that concerns handlers.
func (c Config) pool(db jobs.DB) PoolConfig {
	return PoolConfig{
		Slots: c.Slots, Timeout: c.Timeout, Retry: c.Retry, Queues: c.Queues, DB: db,
		Log: c.Log.With().Str("component", "workers").Str("node", c.Node).Logger(),
	}
}

// connections says how connections are opened: as the program's own pool does, or from the address. What such a pool does
// with each connection that it lends is left out.
func (c Config) connections() (*pgxpool.Config, error) {
	if c.Pool == nil {
		config, err := pgxpool.ParseConfig(c.DatabaseURL)
		if err != nil {
			return nil, fmt.Errorf("read the database's address: %w", err)
		}
		return config, nil
	}
	config := c.Pool.Config()
	config.PrepareConn, config.AfterRelease, config.BeforeClose = nil, nil, nil
	config.BeforeAcquire = nil //nolint:staticcheck // whoever still sets it means his own connections
	config.ConnConfig.Tracer = nil
	config.MinConns, config.MinIdleConns = 0, 0
	return config, nil
}
