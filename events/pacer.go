package events

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

// pacerLockKey is the advisory lock of the preferred pacer, one per database.
const pacerLockKey int64 = 0x70616365725f6d71

// epochDeadline bounds the begin of an epoch: it sets the whole outbox aside.
const epochDeadline = time.Hour

// PacerConfig says how a node paces. Zero values mean the defaults.
type PacerConfig struct {
	// Connect opens the pacer's own direct connection: it holds the lock and makes the ticks. Required.
	Connect func(context.Context) (*pgx.Conn, error)
	// Published is called after each tick of this node. It must not block.
	Published func(Tick)
	// Hearing tells whether NOTIFY reaches this node at the moment; while it does not, the pacer sleeps a second at most.
	Hearing func() bool

	Interval time.Duration // between ticks while there is traffic; 0 is 3 ms
	Quiet    time.Duration // without an event before it parks; 0 is 30 ms
	Promise  time.Duration // how long it is believed to be awake; 0 is 150 ms
	Silence  time.Duration // of an awake pacer before this node does its work; 0 is 500 ms
	Answer   time.Duration // from a hint to a tick by the preferred pacer; 0 is 200 ms
	Sweep    time.Duration // longest sleep; 0 is 30 s, negative: no sweep (tests)
	LockPoll time.Duration // how often a follower asks for the lock; 0 is 10 s
	Deadline time.Duration // of one statement; 0 is 5 s

	Log zerolog.Logger
}

func (c PacerConfig) withDefaults() PacerConfig {
	set := func(d *time.Duration, fallback time.Duration) {
		if *d == 0 {
			*d = fallback
		}
	}
	set(&c.Interval, 3*time.Millisecond)
	set(&c.Quiet, 30*time.Millisecond)
	set(&c.Promise, 150*time.Millisecond)
	set(&c.Silence, 500*time.Millisecond)
	set(&c.Answer, 200*time.Millisecond)
	set(&c.Sweep, 30*time.Second)
	set(&c.LockPoll, 10*time.Second)
	set(&c.Deadline, 5*time.Second)
	if c.Published == nil {
		c.Published = func(Tick) {}
	}
	if c.Hearing == nil {
		c.Hearing = func() bool { return true }
	}
	return c
}

// Pacer makes the ticks. Every node runs one; an advisory lock names the preferred one, which answers hints at once.
// The lock is no more than that: a stopped or cut-off holder keeps it, so every other node watches, and does the same
// work when it hears too little. Two at once are harmless (tickSQL).
//
// While there is traffic it ticks every few milliseconds and renews its promise, and no writer needs to NOTIFY. When
// nothing happened for a while it parks:
//
//  1. it withdraws the promise: from now on writers NOTIFY;
//  2. it takes a transaction id F of its own and ends that transaction;
//  3. it ticks, and ticks again for as long as a transaction with an id below F is running;
//  4. it sleeps until a hint, or the safety sweep.
//
// No wake-up is lost: a writer reads the promise after it has got its transaction id. One that skipped its NOTIFY read
// the promise before step 1, so its id is below F and step 3 waits for its end; everyone later sees that the pacer
// sleeps, and notifies.
type Pacer struct {
	config  PacerConfig
	notes   chan Note // capacity 64; what is dropped beside 64 notes finds the pacer awake. Never closed.
	leads   atomic.Bool
	tickedN atomic.Int64
	lastOK  atomic.Int64 // unix nanoseconds of the last statement that succeeded
}

// NewPacer makes a pacer; it works while Run does.
func NewPacer(config PacerConfig) *Pacer {
	return &Pacer{config: config.withDefaults(), notes: make(chan Note, 64)}
}

// Hear passes on what the listener heard. It never blocks.
func (p *Pacer) Hear(n Note) {
	select {
	case p.notes <- n:
	default:
	}
}

// Wake makes this node tick now. It never blocks.
func (p *Pacer) Wake() { p.Hear(Note{Kind: noteWake}) }

// noteWake is a wake-up from inside the process: work is known to be there.
const noteWake NoteKind = -1

// Leads tells whether this node is the preferred pacer.
func (p *Pacer) Leads() bool { return p.leads.Load() }

// Ticks counts the ticks of this node.
func (p *Pacer) Ticks() int64 { return p.tickedN.Load() }

// LastSuccess is when the pacer last reached the database; zero: never.
func (p *Pacer) LastSuccess() time.Time {
	if ns := p.lastOK.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// Run paces until ctx ends, over any number of lost connections. It returns nil.
func (p *Pacer) Run(ctx context.Context) error {
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 50*time.Millisecond, 2*time.Second, 0
	for {
		started := time.Now()
		err := p.session(ctx)
		p.leads.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > 5*time.Second {
			policy.Reset()
		}
		p.config.Log.Warn().Err(err).Msg("pacer lost its connection")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(policy.NextBackOff()):
		}
	}
}

// session paces over one connection, until that breaks or ctx ends.
func (p *Pacer) session(ctx context.Context) error {
	conn, err := p.config.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx) // the connection is given up either way
	}()
	s := &pacerSession{Pacer: p, conn: conn}
	epochCtx, cancelEpoch := context.WithTimeout(ctx, epochDeadline)
	begun, err := beginEpoch(epochCtx, conn)
	cancelEpoch()
	if err != nil {
		return err
	}
	if begun {
		p.config.Log.Info().Msg("a new epoch of the event stream has begun")
	}
	if err := s.askForLock(ctx); err != nil {
		return err
	}
	// What happened while nobody listened is published first.
	if err := s.awake(ctx); err != nil {
		return err
	}
	for {
		asked, err := s.sleep(ctx)
		if err != nil {
			return err
		}
		if !asked {
			// The safety sweep. The promise is withdrawn already, so one look is enough.
			if busy, err := s.tick(ctx, 0); err != nil {
				return err
			} else if !busy {
				continue
			}
		}
		if err := s.awake(ctx); err != nil {
			return err
		}
	}
}

// pacerSession is the state of one connection; owned by the goroutine of Run.
type pacerSession struct {
	*Pacer
	conn       *pgx.Conn
	promised   time.Time // until when, by this node's monotonic clock
	otherAwake time.Time // when another node was last heard awake; zero: it parked
	lockAsked  time.Time
}

// call bounds one step by the deadline.
func (s *pacerSession) call(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	if err := fn(ctx); err != nil {
		return err
	}
	s.lastOK.Store(time.Now().UnixNano())
	return nil
}

// askForLock asks for the lock without waiting: a session that waits for one pins the xmin horizon of the cluster.
func (s *pacerSession) askForLock(ctx context.Context) error {
	s.lockAsked = time.Now()
	if s.leads.Load() {
		return nil
	}
	return s.call(ctx, func(ctx context.Context) error {
		var got bool
		if err := s.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, pacerLockKey).Scan(&got); err != nil {
			return fmt.Errorf("ask for the pacer's lock: %w", err)
		}
		if got {
			s.leads.Store(true)
			s.config.Log.Info().Msg("this node is the pacer now")
		}
		return nil
	})
}

// awake ticks until nothing has happened for a while, and then parks. It returns when this node may sleep.
func (s *pacerSession) awake(ctx context.Context) error {
	quietSince := time.Now()
	for {
		renewed := time.Duration(0)
		if time.Until(s.promised) < s.config.Promise/2 {
			renewed = s.config.Promise
			s.promised = time.Now().Add(renewed)
		}
		busy, err := s.tick(ctx, renewed)
		if err != nil {
			return err
		}
		if busy {
			quietSince = time.Now()
		}
		if time.Since(quietSince) >= s.config.Quiet {
			parked, err := s.park(ctx)
			if err != nil || parked {
				return err
			}
			quietSince = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.config.Interval):
		}
		s.drainNotes()
	}
}

// tick publishes what is there, and promises to be awake for so long from now, if that is not zero. busy: something was
// published, here or elsewhere.
func (s *pacerSession) tick(ctx context.Context, promised time.Duration) (busy bool, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		tick, ok, contended, err := tickOnce(ctx, s.conn, promised)
		if ok {
			s.tickedN.Add(1)
			s.config.Published(tick)
		}
		busy = ok || contended
		return err
	})
	return busy, err
}

// park takes the steps to sleep. It returns false when something was published on the way: then there is traffic.
func (s *pacerSession) park(ctx context.Context) (parked bool, err error) {
	if err := s.call(ctx, func(ctx context.Context) error { return withdrawPromise(ctx, s.conn) }); err != nil {
		return false, err
	}
	s.promised = time.Time{}
	if err := failpoint.Hit("events.pacer.withdrawn"); err != nil {
		return false, err
	}
	var limit uint64
	if err := s.call(ctx, func(ctx context.Context) error {
		return s.conn.QueryRow(ctx, `SELECT pg_current_xact_id()::text::bigint`).Scan(&limit)
	}); err != nil {
		return false, fmt.Errorf("take a transaction id: %w", err)
	}
	if err := failpoint.Hit("events.pacer.fenced"); err != nil {
		return false, err
	}
	pause, pace := 2*time.Millisecond, time.Now()
	for {
		// The order matters: first who is running, then the tick. A transaction that is not running any more in the
		// first answer is visible to the second.
		var oldest uint64
		if err := s.call(ctx, func(ctx context.Context) error {
			return s.conn.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&oldest)
		}); err != nil {
			return false, fmt.Errorf("look for older transactions: %w", err)
		}
		busy, err := s.tick(ctx, 0)
		if err != nil || busy {
			return false, err
		}
		if oldest >= limit {
			break
		}
		if time.Since(pace) > s.config.Silence/2 {
			// A long transaction somewhere: others must not think that this node is gone.
			pace = time.Now()
			if err := s.say(ctx, "pace"); err != nil {
				return false, err
			}
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case n := <-s.notes:
			if s.heard(n) {
				return false, nil
			}
		case <-time.After(pause):
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
	if err := failpoint.Hit("events.pacer.parked"); err != nil {
		return false, err
	}
	return true, s.say(ctx, "park")
}

func (s *pacerSession) say(ctx context.Context, what string) error {
	return s.call(ctx, func(ctx context.Context) error {
		if _, err := s.conn.Exec(ctx, `SELECT pg_notify('`+Channel+`', $1)`, what); err != nil {
			return fmt.Errorf("say %s: %w", what, err)
		}
		return nil
	})
}

// heard takes a note in, and tells whether it asks the preferred pacer to work.
func (s *pacerSession) heard(n Note) bool {
	switch n.Kind {
	case NoteTick, NotePace:
		s.otherAwake = time.Now()
	case NotePark:
		s.otherAwake = time.Time{}
	case NoteHint, noteWake:
		return true
	}
	return false
}

// drainNotes takes in what was heard while this node was ticking: it is awake anyway.
func (s *pacerSession) drainNotes() {
	for {
		select {
		case n := <-s.notes:
			s.heard(n)
		default:
			return
		}
	}
}

// sleep returns when this node has to work. asked: at a hint, if it is the preferred pacer; if it is not, when the hint
// was not followed by a tick, or when an awake pacer falls silent. Not asked: the safety sweep.
func (s *pacerSession) sleep(ctx context.Context) (asked bool, err error) {
	// What was heard since the last tick of the way to sleep still counts: a hint may be among it.
	start := time.Now()
	var hintAt time.Time // of a hint that nobody has answered yet
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		sweepAt := start.Add(s.config.Sweep)
		switch {
		case !s.config.Hearing():
			sweepAt = time.Now().Add(min(time.Second, s.config.Sweep.Abs()))
		case s.config.Sweep < 0:
			sweepAt = start.Add(24 * time.Hour)
		}
		lockAt := start.Add(24 * time.Hour)
		if !s.leads.Load() {
			lockAt = s.lockAsked.Add(s.config.LockPoll)
		}
		suspectAt := start.Add(24 * time.Hour)
		if !s.otherAwake.IsZero() {
			suspectAt = s.otherAwake.Add(s.config.Silence)
		}
		if !hintAt.IsZero() && hintAt.Add(s.config.Answer).Before(suspectAt) {
			suspectAt = hintAt.Add(s.config.Answer)
		}
		timer.Reset(time.Until(earliest(sweepAt, lockAt, suspectAt)))
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case n := <-s.notes:
			hint := s.heard(n)
			switch {
			case n.Kind == noteWake, hint && s.leads.Load():
				return true, nil
			case hint && hintAt.IsZero():
				hintAt = time.Now()
			case n.Kind == NoteTick:
				hintAt = time.Time{}
			}
			continue
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(lockAt) {
			if err := s.askForLock(ctx); err != nil {
				return false, err
			}
		}
		if !now.Before(suspectAt) {
			// Whoever should have worked did not: ask for the lock at once, and do the work in any case.
			s.otherAwake = time.Time{}
			return true, s.askForLock(ctx)
		}
		if !now.Before(sweepAt) {
			return false, nil
		}
	}
}

func earliest(times ...time.Time) time.Time {
	return slices.MinFunc(times, time.Time.Compare)
}
