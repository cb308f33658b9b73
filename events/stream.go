package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// StreamConfig says how a node follows the stream. Zero values mean the defaults.
type StreamConfig struct {
	DB jobs.DB // Required.
	// Taps are called with every event, in order and once, by the goroutine that follows the ticks: what a node folds
	// or wakes from the stream. They see all events after Head at the start. They must not block.
	Taps []func([]*Event)

	// Began is called when the stream takes up a position without having told what came before it: at the start, and in
	// a new epoch. Whoever is woken by a tap must look at everything then. It must not block.
	Began func()

	Ring     int           // events in memory; 0 is 16384
	Sweep    time.Duration // look at the ticks without being told; 0 is 30 s, negative: never (tests)
	Deadline time.Duration // of one page; 0 is 30 s
	Log      zerolog.Logger
}

func (c StreamConfig) withDefaults() StreamConfig {
	if c.Ring == 0 {
		c.Ring = 16384
	}
	if c.Sweep == 0 {
		c.Sweep = 30 * time.Second
	}
	if c.Deadline == 0 {
		c.Deadline = 30 * time.Second
	}
	if c.Began == nil {
		c.Began = func() {}
	}
	return c
}

// Stream is the log of events as a node sees it: the newest in a ring in memory, the others in the table. Its tailer
// (Run) follows the ticks; readers ask with a cursor and never touch the database while they are near the head.
// Safe for concurrent use.
type Stream struct {
	config StreamConfig
	ring   *ring
	wake   chan struct{} // capacity 1: look whether there is something to do. Never closed.
	wanted atomic.Int64  // the newest position of the ring's epoch that somebody has spoken of
	look   atomic.Bool   // look at the ticks whatever is wanted
	missed atomic.Bool   // the epoch may have changed, too
	ready  chan struct{} // closed when head and floor are known
	codes  atomic.Pointer[codebook]
	lastOK atomic.Int64 // unix nanoseconds of the last successful look

	mu    sync.RWMutex // guards floor
	floor Position

	ringReads, tableReads atomic.Int64
}

// NewStream makes a stream; it is ready soon after Run has started.
func NewStream(config StreamConfig) *Stream {
	config = config.withDefaults()
	s := &Stream{
		config: config,
		ring:   newRing(config.Ring),
		wake:   make(chan struct{}, 1),
		ready:  make(chan struct{}),
	}
	s.codes.Store(&builtin)
	return s
}

// Tap adds a tap. Only before Run.
func (s *Stream) Tap(fn func([]*Event)) { s.config.Taps = append(s.config.Taps, fn) }

// Wake makes the tailer look for new ticks. It never blocks.
func (s *Stream) Wake() {
	s.look.Store(true)
	s.signal()
}

// WakeFor makes the tailer look for new ticks unless it has read up to last already: each tick is spoken of twice, by
// the pacer and by its NOTIFY. It never blocks.
func (s *Stream) WakeFor(last Position) {
	head, _ := s.ring.state()
	switch {
	case last.Epoch != head.Epoch:
		s.Missed()
	case head.Before(last):
		for wanted := s.wanted.Load(); wanted < last.Seq; wanted = s.wanted.Load() {
			if s.wanted.CompareAndSwap(wanted, last.Seq) {
				break
			}
		}
		s.signal()
	}
}

// Missed is Wake when anything may have happened, a new epoch included: after a reconnect.
func (s *Stream) Missed() {
	s.missed.Store(true)
	s.signal()
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// due tells whether a signal still asks for something.
func (s *Stream) due() bool {
	head, _ := s.ring.state()
	return s.look.Swap(false) || s.missed.Load() || head.Seq < s.wanted.Load()
}

// Heard is what the listener tells.
func (s *Stream) Heard(n Note) {
	if n.Kind == NoteTick {
		s.WakeFor(n.Last)
	}
}

// Ready is closed when the stream knows its head.
func (s *Stream) Ready() <-chan struct{} { return s.ready }

// Head is the position of the last event that this node has read: everything up to it was committed before, so any
// answer read after this call contains it. ErrNotReady.
func (s *Stream) Head() (Position, error) {
	select {
	case <-s.ready:
		head, _ := s.ring.state()
		return head, nil
	default:
		return Position{}, ErrNotReady
	}
}

// Floor is the oldest cursor that can still be read after.
func (s *Stream) Floor() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.floor
}

// LastSuccess is when the tailer last looked at the ticks; zero: never.
func (s *Stream) LastSuccess() time.Time {
	if ns := s.lastOK.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// Reads counts pages served from the ring and from the table.
func (s *Stream) Reads() (ring, table int64) { return s.ringReads.Load(), s.tableReads.Load() }

// Resolve turns what a client states as a cursor into a position: "earliest", "latest", "" (latest), or a cursor, which
// is checked: ErrCursorInvalid (malformed, or ahead of the log), *EpochError, *ExpiredError, ErrNotReady. A cursor that is
// ahead of what this node has read may come from a node that has read more: it is waited for, a second at most, and not
// longer than ctx, whose cause is returned then.
func (s *Stream) Resolve(ctx context.Context, cursor string) (Position, error) {
	head, err := s.Head()
	if err != nil {
		return Position{}, err
	}
	switch cursor {
	case "", "latest":
		return head, nil
	case "earliest":
		return s.Floor(), nil
	}
	p, err := ParseCursor(cursor)
	if err != nil {
		return Position{}, err
	}
	if p.Epoch == head.Epoch && p.Seq > head.Seq {
		if head, err = s.await(ctx, p); err != nil {
			return Position{}, err
		}
	}
	return p, s.check(p, head)
}

// aheadWait is how long a cursor may be ahead of what this node has read: another node has read more, and gave it out.
const aheadWait = time.Second

// await waits a little for the head to reach a position.
func (s *Stream) await(ctx context.Context, p Position) (Position, error) {
	s.Wake()
	timer := time.NewTimer(aheadWait)
	defer timer.Stop()
	for {
		head, changed := s.ring.state()
		if head.Epoch != p.Epoch || head.Seq >= p.Seq {
			return head, nil
		}
		select {
		case <-ctx.Done():
			return Position{}, context.Cause(ctx)
		case <-timer.C:
			return head, nil
		case <-changed:
		}
	}
}

func (s *Stream) check(p, head Position) error {
	return Epoch{Number: head.Epoch, Floor: s.Floor(), Head: head}.check(p)
}

// Read returns up to limit events after a position, oldest first; none means that the position is the head. The events
// are shared: readers must not change them. Errors as for Resolve, and those of the database.
func (s *Stream) Read(ctx context.Context, after Position, limit int) ([]*Event, error) {
	head, err := s.Head()
	if err != nil {
		return nil, err
	}
	if err := s.check(after, head); err != nil {
		return nil, err
	}
	if batch, ok := s.ring.after(after, limit); ok {
		s.ringReads.Add(1)
		return batch, nil
	}
	s.tableReads.Add(1)
	// The table may hold more than the tailer has read; the reader would be ahead of its node, which knows no such cursor.
	limit = int(min(int64(limit), head.Seq-after.Seq))
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	batch := make([]*Event, 0, min(limit, 1000))
	_, _, err = s.page(ctx, after, limit, ticksFor(limit), func(e *Event) { batch = append(batch, e) })
	if errors.Is(err, errUnknownCode) {
		batch = batch[:0]
		_, _, err = s.page(ctx, after, limit, ticksFor(limit), func(e *Event) { batch = append(batch, e) })
	}
	if err != nil && !errors.Is(err, errHole) {
		return nil, err
	}
	if len(batch) == 0 || err != nil {
		// Below the head something must follow: retention took it, and the floor has moved, or a new epoch did.
		if err := s.refreshFloor(ctx, head.Epoch); err != nil {
			return nil, err
		}
		if err := s.check(after, head); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("read events: %w: nothing after %s", errHole, after)
	}
	return batch, nil
}

// recent is Read from the ring alone; false when it does not reach back so far.
func (s *Stream) recent(after Position, limit int) ([]*Event, bool, error) {
	head, err := s.Head()
	if err != nil {
		return nil, false, err
	}
	if err := s.check(after, head); err != nil {
		return nil, false, err
	}
	batch, ok := s.ring.after(after, limit)
	if ok {
		s.ringReads.Add(1)
	}
	return batch, ok, nil
}

// ticksFor is how many ticks a page needs at most: each holds an event or more.
func ticksFor(limit int) int { return limit + 1 }

// Wait returns when there is an event after a position, or the epoch is another one; or with the cause of ctx.
func (s *Stream) Wait(ctx context.Context, after Position) error {
	for {
		head, changed := s.ring.state()
		if head.Epoch != 0 && (head.Epoch != after.Epoch || head.Seq > after.Seq) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// tailPage is how many events the tailer asks for at once: a tick cannot be split, and one transaction may write a
// million events, so they pass through in chunks.
const (
	tailPage  = 20_000
	tailTicks = 512
	tailChunk = 500
)

// Run follows the ticks until ctx ends. It returns nil.
func (s *Stream) Run(ctx context.Context) error {
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 20*time.Millisecond, time.Second, 0
	s.missed.Store(true)
	sweep := time.NewTimer(time.Hour)
	defer sweep.Stop()
	for {
		err := s.catchUp(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrNotReady):
			// No pacer has begun the first epoch yet.
		case err != nil:
			s.missed.Store(true)
			s.config.Log.Warn().Err(err).Msg("tailer could not read the stream")
		default:
			policy.Reset()
			s.lastOK.Store(time.Now().UnixNano())
			if s.config.Sweep > 0 {
				sweep.Reset(s.config.Sweep)
			}
			for idle := true; idle; {
				select {
				case <-ctx.Done():
					return nil
				case <-s.wake:
				case <-sweep.C:
					s.missed.Store(true) // the floor moves with retention, of which nobody tells
				}
				idle = !s.due()
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(policy.NextBackOff()):
		}
	}
}

// catchUp reads everything up to the present.
func (s *Stream) catchUp(ctx context.Context) error {
	if s.missed.Swap(false) {
		if err := s.lookAtEpoch(ctx); err != nil {
			s.missed.Store(true)
			return err
		}
	}
	learned := false
	for {
		head, _ := s.ring.state()
		pageCtx, cancel := context.WithTimeout(ctx, s.config.Deadline)
		more, err := s.tail(pageCtx, head)
		cancel()
		if errors.Is(err, errUnknownCode) && !learned {
			learned = true // by page: read on behind what was pushed
			continue
		}
		if err != nil || !more {
			return err
		}
	}
}

// page is readPage with the codes that this node knows. After errUnknownCode it knows all that the database does.
func (s *Stream) page(ctx context.Context, after Position, limit, maxTicks int, visit func(*Event)) (n, ticks int, err error) {
	n, ticks, err = readPage(ctx, s.config.DB, *s.codes.Load(), after, limit, maxTicks, visit)
	if errors.Is(err, errUnknownCode) {
		codes, codesErr := readCodes(ctx, s.config.DB)
		if codesErr != nil {
			return n, ticks, codesErr
		}
		s.codes.Store(&codes)
	}
	return n, ticks, err
}

// tail reads one page behind the head into ring and taps, as it streams in. more: the page was full.
func (s *Stream) tail(ctx context.Context, head Position) (more bool, err error) {
	chunk := make([]*Event, 0, tailChunk)
	flush := func() {
		if len(chunk) == 0 {
			return
		}
		for _, tap := range s.config.Taps {
			tap(chunk)
		}
		s.ring.push(chunk)
		chunk = make([]*Event, 0, tailChunk)
	}
	n, ticks, err := s.page(ctx, head, tailPage, tailTicks, func(e *Event) {
		if chunk = append(chunk, e); len(chunk) == tailChunk {
			flush()
		}
	})
	if err == nil || errors.Is(err, errHole) {
		flush() // what was read is true even if the rest could not be
	}
	// The first tick of a page may be one that was read in part.
	return n == tailPage || ticks >= tailTicks-1, err
}

// lookAtEpoch takes over the present epoch: at the start, when it has changed, and when this node was away for so long
// that retention has passed it.
func (s *Stream) lookAtEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	epoch, ok, err := readEpoch(ctx, s.config.DB)
	if err != nil {
		return err
	}
	if !ok {
		return ErrNotReady
	}
	head, _ := s.ring.state()
	if head.Epoch == epoch.Number && head.Seq >= epoch.Floor.Seq {
		s.setFloor(epoch.Floor)
		return nil
	}
	s.wanted.Store(0) // positions of another epoch; who speaks of this one from now on finds it in the ring
	// The head goes first: between the two a cursor of the old epoch is told of the new one, and not of its floor.
	s.ring.reset(epoch.Head)
	s.setFloor(epoch.Floor)
	s.config.Began()
	select {
	case <-s.ready:
		s.config.Log.Warn().Int64("epoch", epoch.Number).Msg("the stream was taken up anew")
	default:
		close(s.ready)
	}
	return nil
}

// refreshFloor reads the floor of the epoch that this node is in. When the present one is another, the tailer is told, and
// the error is an *EpochError: the floor is for it to set, with the head.
func (s *Stream) refreshFloor(ctx context.Context, number int64) error {
	epoch, ok, err := readEpoch(ctx, s.config.DB)
	if err != nil || !ok {
		return err
	}
	if epoch.Number != number {
		s.Missed()
		return &EpochError{Head: epoch.Head}
	}
	s.setFloor(epoch.Floor)
	return nil
}

// setFloor moves the floor, which only rises: what was read before somebody else moved it says nothing.
func (s *Stream) setFloor(p Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.floor.Before(p) {
		s.floor = p
	}
}
