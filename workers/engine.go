package workers

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/migrations"
)

// Config is everything a node needs. Zero values mean the defaults.
type Config struct {
	// DatabaseURL names the database, in any form that pgx reads. It or Pool is required.
	DatabaseURL string
	// Pool is the program's own. The node enqueues through it, opens the connections that it needs besides in the same
	// way (address, TLS, BeforeConnect, AfterConnect), and leaves it open at the end.
	Pool *pgxpool.Pool
	// ListenURL is a direct connection, for LISTEN and the pacer, when the others go through a pooler.
	ListenURL string
	Registry  *Registry // nil: this node runs no handlers

	Node     string           // "" is host name and a random part; unique for each start of a process
	Slots    int              // handlers at once; 0 is 5
	Queues   map[string]int   // queues and weights, "*" for every other; empty: all
	Lease    time.Duration    // visibility timeout; 0 is 30 s
	Timeout  time.Duration    // of an attempt whose job names none; 0 is 30 min
	Retry    jobs.RetryPolicy // delay of failed jobs
	Grace    time.Duration    // for handlers at the stop; 0 is 30 s
	Settings jobs.Settings    // defaults of jobs; zero fields are the built-in ones

	KeepDone   time.Duration // completed and cancelled jobs; 0 is 3 days
	KeepDead   time.Duration // dead jobs; 0 is 90 days
	KeepEvents time.Duration // events; 0 is 3 days
	// KeepEventBytes is how much room the events may take on disk: the oldest days go first, the present one never. 0: no limit.
	KeepEventBytes int64

	// DoorConns is how many connections enqueues and other calls of this process may use; 0 is 12. Pool has its own number.
	DoorConns int
	Migrate   bool // bring the schema to head at the start; else an old one is refused

	// Ticked is called with each tick that this node makes, Heard with each note of another or this one. They must not
	// block. For what counts events once in all nodes (events.Metrics).
	Ticked func(events.Tick)
	Heard  func(events.Note)

	// NoSweeps switches the safety sweeps off, so that tests see what works without them.
	NoSweeps bool

	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.Node == "" {
		c.Node = nodeName()
	}
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.Grace == 0 {
		c.Grace = 30 * time.Second
	}
	if c.Settings.MaxPayload == 0 {
		c.Settings.MaxPayload = jobs.MaxPayload
	}
	if c.Settings.IdempotencyTTL == 0 {
		c.Settings.IdempotencyTTL = 24 * time.Hour
	}
	if c.KeepDone == 0 {
		c.KeepDone = 3 * 24 * time.Hour
	}
	if c.KeepDead == 0 {
		c.KeepDead = 90 * 24 * time.Hour
	}
	if c.KeepEvents == 0 {
		c.KeepEvents = 3 * 24 * time.Hour
	}
	if c.DoorConns == 0 {
		c.DoorConns = doorConns
	}
	if c.Ticked == nil {
		c.Ticked = func(events.Tick) {}
	}
	if c.Heard == nil {
		c.Heard = func(events.Note) {}
	}
	return c
}

// nodeName is unique for each start: a fence of an earlier life must never look like one of this.
func nodeName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "node"
	}
	return jobs.Storable(host, 200) + "-" + strings.ToLower(rand.Text()[:8])
}

// Connections of an engine besides the door's: claims and outcomes; leases, deadlines and the stream; LISTEN; the pacer.
const (
	turnConns   = 3
	keeperConns = 4
	directConns = 2
)

// doorConns is the default of Config.DoorConns.
const doorConns = 12

// ConnectionBudget is how many connections an engine with the defaults holds at most.
const ConnectionBudget = turnConns + keeperConns + directConns + doorConns

// Engine is a node without its doors: it follows the stream, paces it if it should, claims, runs handlers, and keeps
// leases, deadlines and partitions, and takes its part in bulk operations. The fields may be used while Run does.
type Engine struct {
	Stream     *events.Stream
	Pacer      *events.Pacer
	Listener   *events.Listener
	Dispatcher *dispatcher.Dispatcher
	Inserter   *jobs.Inserter
	Pool       *Pool         // nil: no handlers
	Door       *pgxpool.Pool // for enqueues and reads of this process
	Node       string

	config Config
	turns  *pgxpool.Pool
	keeper *pgxpool.Pool
	queues chan []string // capacity 16: names of new queues, from whoever saw them
	bulk   *operations
}

// prepare looks after the schema, over a connection of its own.
func (e *Engine) prepare(ctx context.Context) error {
	conn, err := e.connectDirect(ctx)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if e.config.Migrate {
		return migrations.Up(ctx, conn)
	}
	return migrations.Check(ctx, conn)
}

func (e *Engine) open(ctx context.Context) (err error) {
	pinned := jobs.PlanSettings()
	if e.turns, err = e.openPool(ctx, jobs.ClaimApplicationName, turnConns, pinned); err != nil {
		return err
	}
	if e.keeper, err = e.openPool(ctx, "mini-asynq/keeper", keeperConns, pinned); err != nil {
		return err
	}
	if e.config.Pool != nil {
		e.Door = e.config.Pool
		return nil
	}
	e.Door, err = e.openPool(ctx, "mini-asynq/door", e.config.DoorConns, map[string]string{
		// A table that is locked is an answer of 503, not a line of callers.
		"jit": "off", "lock_timeout": "2000",
		// Plan trap, measured: a plan that was cached while the tables were empty reads them whole until the next ANALYZE
		// (the answer to an outcome took 190 us instead of 20).
		"enable_seqscan": "off",
	})
	return err
}

// pingAfter is how long a connection must have been idle to be tested before use. Longer than the safety sweeps, so that
// an idle node sends no statement for it.
const pingAfter = time.Minute

func (e *Engine) openPool(ctx context.Context, name string, conns int, params map[string]string) (*pgxpool.Pool, error) {
	config, err := e.config.connections()
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(conns) //nolint:gosec // a small number
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	config.ConnConfig.RuntimeParams["application_name"] = name
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "60s"
	maps.Copy(config.ConnConfig.RuntimeParams, params)
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open a pool: %w", err)
	}
	return pool, nil
}

// connectDirect opens a connection that is not pooled, with tight limits on how long a dead peer goes unnoticed: it may
// hold the pacer's lock.
func (e *Engine) connectDirect(ctx context.Context) (*pgx.Conn, error) {
	pooled, err := e.config.connections()
	if err != nil {
		return nil, err
	}
	config := pooled.ConnConfig
	if e.config.ListenURL != "" {
		if config, err = pgx.ParseConfig(e.config.ListenURL); err != nil {
			return nil, fmt.Errorf("read the address for LISTEN: %w", err)
		}
	}
	config.ConnectTimeout = 5 * time.Second
	maps.Copy(config.RuntimeParams, jobs.PlanSettings())
	maps.Copy(config.RuntimeParams, map[string]string{
		"application_name": "mini-asynq/direct", "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2",
		"tcp_keepalives_count": "3", "tcp_user_timeout": "10000",
	})
	if pooled.BeforeConnect != nil {
		if err := pooled.BeforeConnect(ctx, config); err != nil {
			return nil, fmt.Errorf("prepare a connection: %w", err)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil || pooled.AfterConnect == nil {
		return conn, err
	}
	if err := pooled.AfterConnect(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("prepare a connection: %w", err)
	}
	return conn, nil
}

// wire connects the parts: what is heard and what is read becomes wake-ups.
func (e *Engine) wire() (err error) {
	c := e.config
	sweep := time.Duration(0)
	if c.NoSweeps {
		sweep = -1
	}
	component := func(name string) zerolog.Logger {
		return c.Log.With().Str("component", name).Str("node", e.Node).Logger()
	}
	e.Dispatcher, err = dispatcher.New(dispatcher.Config{
		Store: dispatcher.Database{Engine: e.turns, Keeper: e.keeper},
		Node:  e.Node, Lease: c.Lease, Retry: c.Retry, Timeout: c.Timeout, Sweep: sweep, Log: component("dispatcher"),
		Leads: func() bool { return e.Pacer.Leads() },
	})
	if err != nil {
		return err
	}
	e.Stream = events.NewStream(events.StreamConfig{
		DB: e.keeper, Sweep: sweep, Log: component("tailer"), Taps: []func([]*events.Event){e.follow},
		Began: func() {
			e.Dispatcher.Missed()
			e.bulk.Wake()
		},
	})
	e.Listener = events.NewListener(events.ListenerConfig{
		Connect: e.connectDirect, DB: e.keeper, Log: component("listener"),
		Heard: func(n events.Note) {
			c.Heard(n)
			if n.Kind == events.NoteHint {
				e.Dispatcher.Hint() // first: somebody waits for the claim
			}
			e.Pacer.Hear(n)
			e.Stream.Heard(n)
		},
		Missed: func() {
			e.Pacer.Wake()
			e.Stream.Missed()
			e.Dispatcher.Missed()
		},
	})
	e.Pacer = events.NewPacer(events.PacerConfig{
		Connect: e.connectDirect, Sweep: sweep, Log: component("pacer"),
		Hearing: e.Listener.Hears,
		Published: func(t events.Tick) {
			c.Ticked(t)
			e.Stream.WakeFor(t.Last())
		},
	})
	e.bulk = newOperations(e.keeper, e.Node, e.config.Lease, component("operations"))
	e.Inserter = jobs.NewInserter(e.Door, jobs.InserterConfig{Stored: e.stored})
	if c.Registry != nil {
		e.Pool, err = NewPool(c.Registry, e.Dispatcher, c.pool(e.keeper))
	}
	return err
}

// stored wakes this node's own idle workers right after a commit of its inserter.
func (e *Engine) stored(stored []jobs.Enqueued) {
	for i := range stored {
		switch j := &stored[i]; {
		case stored[i].Replayed:
		case j.Status == jobs.Pending:
			e.Dispatcher.WakeQueue(j.Queue, j.Kind, j.Priority, jobs.Key{RunAt: j.RunAt, ID: j.ID})
		case j.Status == jobs.Scheduled:
			e.Dispatcher.JobDueIn(j.RunAt.Sub(j.CreatedAt))
		}
	}
}

// place is where work appeared.
type place struct {
	queue    string
	kind     string
	priority jobs.Priority
}

// follow turns events into wake-ups and deadlines: one call for each place, however many events.
func (e *Engine) follow(batch []*events.Event) {
	var ready map[place]jobs.Key
	due := time.Duration(-1)
	started := false
	for _, ev := range batch {
		switch ev.Status {
		case jobs.Pending:
			// Also when it was pending before: an edit may have given it another place in line.
			if ready == nil {
				ready = make(map[place]jobs.Key)
			}
			at, key := place{ev.Queue, ev.Kind, ev.Priority}, jobs.Key{RunAt: ev.RunAt, ID: ev.JobID}
			if first, ok := ready[at]; !ok || key.Less(first) {
				ready[at] = key
			}
		case jobs.Scheduled, jobs.Retrying:
			// Both times are the database's; that the event is a little old already only makes the timer a little late.
			if d := max(ev.RunAt.Sub(ev.At), 0); due < 0 || d < due {
				due = d
			}
		case jobs.Running:
			started = started || ev.From == jobs.Pending
			if ev.Type == "job.cancel_requested" {
				e.Dispatcher.CancelRequested(ev.JobID)
			}
		}
		switch ev.Type {
		case "queue.resumed":
			e.Dispatcher.WakeWhole(ev.Queue)
		case "operation.progress":
			e.bulk.Wake()
		case "queue.paused":
			if !ev.RunAt.IsZero() {
				e.Dispatcher.ResumeDueIn(ev.RunAt.Sub(ev.At))
			}
		}
	}
	for at, key := range ready {
		e.Dispatcher.WakeQueue(at.queue, at.kind, at.priority, key)
	}
	if due >= 0 {
		e.Dispatcher.JobDueIn(due)
	}
	if started {
		e.Dispatcher.LeaseDueIn(e.config.Lease)
	}
}

// NewQueues takes the names of queues that appeared in the stream: the preferred pacer's node makes their rows. It never
// blocks; a name that is dropped comes again.
func (e *Engine) NewQueues(names []string) {
	select {
	case e.queues <- names:
	default:
	}
}

// Connections is how many connections this engine uses at most.
func (e *Engine) Connections() int { return turnConns + keeperConns + directConns + e.config.DoorConns }

// Beyond the grace and the last call, a stop may take this long: to store the last outcomes, to end the services, and to
// close the connections.
const (
	flushLimit    = 400 * time.Millisecond
	servicesLimit = 300 * time.Millisecond
	closeLimit    = 200 * time.Millisecond
	stopLimit     = lastCall + flushLimit + servicesLimit + closeLimit
)

// StopLimit is how long Run may take to return after its context has ended.
func (e *Engine) StopLimit() time.Duration { return e.config.Grace + stopLimit }

// Run works until ctx ends and then stops in order: no new claims, the handlers get their grace, what they report is
// stored, what is unfinished is given back without spending an attempt, and the rest ends. It takes the grace and two
// seconds at most, whatever hangs.
func (e *Engine) Run(ctx context.Context) error {
	defer e.Close()
	// The services outlive ctx: the handlers still need their leases, and their outcomes the dispatcher.
	services, endServices := context.WithCancel(context.WithoutCancel(ctx))
	defer endServices()
	var wg sync.WaitGroup
	failed := make(chan error, 8) // capacity: one for each service
	start := func(run func(context.Context) error) {
		// Ends when endServices is called; Run waits for it, bounded.
		wg.Go(func() {
			if err := run(services); err != nil {
				failed <- err
			}
		})
	}
	start(e.Stream.Run)
	start(e.Listener.Run)
	start(e.Pacer.Run)
	start(e.Inserter.Run)
	start(e.Dispatcher.Run)
	start(e.keepHouse)
	start(e.bulk.Run)

	var poolDone chan struct{}
	if e.Pool != nil {
		poolDone = make(chan struct{})
		// Ends with ctx and the grace; Run waits for it below.
		go func() {
			defer close(poolDone)
			_ = e.Pool.Run(ctx, e.config.Grace)
		}()
	}
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	}
	e.Dispatcher.StopClaiming()
	if poolDone != nil && cause == nil {
		<-poolDone
	}
	flush, cancel := context.WithTimeout(services, flushLimit)
	defer cancel()
	if err := e.Dispatcher.Flush(flush); err != nil {
		e.config.Log.Warn().Int("jobs", e.Dispatcher.Running()).
			Msg("outcomes could not be stored before the stop: their leases will run out")
	}
	endServices()
	ended := make(chan struct{})
	// Ends with the last service; one that hangs is left behind.
	go func() {
		wg.Wait()
		close(ended)
	}()
	waitFor(ended, servicesLimit)
	return cause
}

// Close gives the connections back that the engine opened. Run does it at its end; only who never runs the engine calls it.
func (e *Engine) Close() {
	closed := make(chan struct{})
	// pgxpool waits for connections that are in use; one that hangs must not hold up the stop.
	go func() {
		defer close(closed)
		for _, pool := range []*pgxpool.Pool{e.turns, e.keeper, e.Door} {
			if pool != nil && pool != e.config.Pool {
				pool.Close()
			}
		}
	}()
	waitFor(closed, closeLimit)
}
