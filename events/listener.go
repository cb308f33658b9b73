package events

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// ListenerConfig says how a node hears NOTIFY. Zero values mean the defaults.
type ListenerConfig struct {
	// Connect opens the direct connection that listens. Required.
	Connect func(context.Context) (*pgx.Conn, error)
	// DB sends the echo: another connection than the one that is in doubt. Required.
	DB jobs.DB
	// Heard is called with every note, from one goroutine. It must not block.
	Heard func(Note)
	// Missed is called after each (re)connect, once LISTEN is in force: everything may have been missed. It must not
	// block.
	Missed func()

	Quiet time.Duration // without a note before the line is tested; 0 is 8 s
	Echo  time.Duration // how long the test may take; 0 is 3 s

	Log zerolog.Logger
}

func (c ListenerConfig) withDefaults() ListenerConfig {
	if c.Quiet == 0 {
		c.Quiet = 8 * time.Second
	}
	if c.Echo == 0 {
		c.Echo = 3 * time.Second
	}
	if c.Heard == nil {
		c.Heard = func(Note) {}
	}
	if c.Missed == nil {
		c.Missed = func() {}
	}
	return c
}

// Listener keeps one connection that listens, and knows whether it hears. A connection that is half open, or one whose
// LISTEN got lost behind a pooler, stays silent without an error: when nothing was heard for a while the listener has a
// note sent to itself over another connection, and gives the line up if that does not come back.
type Listener struct {
	config     ListenerConfig
	hears      atomic.Bool
	reconnects atomic.Int64
	heard      chan struct{} // capacity 1: something was heard. Never closed.

	mu   sync.Mutex // guards conn and echo; nothing blocks under it
	conn *pgx.Conn  // the one that listens; nil: none
	echo string     // the note that is awaited
}

// NewListener makes a listener; it works while Run does.
func NewListener(config ListenerConfig) *Listener {
	return &Listener{config: config.withDefaults(), heard: make(chan struct{}, 1)}
}

// Hears tells whether the line is believed to work.
func (l *Listener) Hears() bool { return l.hears.Load() }

// Reconnects counts the connections after the first.
func (l *Listener) Reconnects() int64 { return max(0, l.reconnects.Load()-1) }

// Run listens until ctx ends, over any number of connections. It returns nil.
func (l *Listener) Run(ctx context.Context) error {
	watchDone := make(chan struct{})
	// Ends with ctx; Run waits for it.
	go func() {
		defer close(watchDone)
		l.watch(ctx)
	}()
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 50*time.Millisecond, 2*time.Second, 0
	listener := pgxlisten.Listener{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return l.dial(ctx, policy) },
		// The delay of the library is fixed and begins after the loss; dial waits instead, with jitter.
		ReconnectDelay: -1,
		LogError: func(ctx context.Context, err error) {
			if ctx.Err() == nil {
				l.setConn(nil)
				l.config.Log.Warn().Err(err).Msg("listener lost its connection")
			}
		},
	}
	listener.Handle(Channel, &noteHandler{listener: l, connected: policy.Reset})
	err := listener.Listen(ctx)
	l.setConn(nil)
	<-watchDone
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listen: %w", err)
}

// dial opens the connection, after a pause that grows while it fails.
func (l *Listener) dial(ctx context.Context, policy backoff.BackOff) (*pgx.Conn, error) {
	if l.reconnects.Load() > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(policy.NextBackOff()):
		}
	}
	if err := failpoint.Hit("events.listener.before_listen"); err != nil {
		return nil, err
	}
	dialCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := l.config.Connect(dialCtx)
	l.reconnects.Add(1)
	if err != nil {
		return nil, err
	}
	l.setConn(conn)
	return conn, nil
}

func (l *Listener) setConn(conn *pgx.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	if conn == nil {
		l.hears.Store(false)
	}
}

// noteHandler is pgxlisten's view of the listener: LISTEN first, then the backlog, so nothing falls between.
type noteHandler struct {
	listener  *Listener
	connected func()
}

func (h *noteHandler) HandleBacklog(context.Context, string, *pgx.Conn) error {
	if err := failpoint.Hit("events.listener.connected"); err != nil {
		return err
	}
	h.connected()
	h.listener.hears.Store(true)
	h.listener.poke()
	h.listener.config.Missed()
	return nil
}

func (h *noteHandler) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	note := parseNote(n.Payload)
	h.listener.poke()
	if note.Kind == NoteEcho {
		h.listener.answered(note.Text)
		return nil
	}
	h.listener.config.Heard(note)
	return nil
}

func (l *Listener) poke() {
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

func (l *Listener) answered(nonce string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.echo == nonce {
		l.echo = ""
	}
}

// watch tests the line when it is quiet. It ends with ctx.
func (l *Listener) watch(ctx context.Context) {
	timer := time.NewTimer(l.config.Quiet)
	defer timer.Stop()
	for {
		timer.Reset(l.config.Quiet)
		select {
		case <-ctx.Done():
			return
		case <-l.heard:
			continue
		case <-timer.C:
		}
		if l.Hears() {
			l.test(ctx)
		}
	}
}

// test sends an echo and closes the connection when it does not come back. Not being able to send says nothing about
// the line.
func (l *Listener) test(ctx context.Context) {
	nonce := rand.Text()
	l.mu.Lock()
	l.echo = nonce
	conn := l.conn
	l.mu.Unlock()
	if conn == nil {
		return
	}
	sendCtx, cancel := context.WithTimeout(ctx, l.config.Echo)
	defer cancel()
	if _, err := l.config.DB.Exec(sendCtx, `SELECT pg_notify('`+Channel+`', $1)`, "echo:"+nonce); err != nil {
		if !errors.Is(err, context.DeadlineExceeded) {
			l.config.Log.Debug().Err(err).Msg("listener could not test its line")
		}
		return
	}
	deadline := time.NewTimer(l.config.Echo)
	defer deadline.Stop()
	for {
		l.mu.Lock()
		back := l.echo != nonce
		l.mu.Unlock()
		if back {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-l.heard:
		case <-deadline.C:
			l.mu.Lock()
			same := l.conn == conn
			l.mu.Unlock()
			if !same {
				return // it has been replaced already
			}
			l.config.Log.Warn().Msg("listener does not hear: no echo came back, connecting anew")
			l.hears.Store(false)
			// Breaks the read that pgxlisten waits in; it closes the connection and dials again.
			_ = conn.PgConn().Conn().Close()
			return
		}
	}
}
