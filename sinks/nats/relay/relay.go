package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
)

// rememberEvery is how often the cursor is stored while events flow.
const rememberEvery = time.Second

// Relay copies one stream. Run it once.
type Relay struct {
	config Config
	source *source
	counts counts
	at     Cursor // everything up to here is in JetStream; zero: not known yet
	saved  Cursor // what this relay has stored in the bucket; zero: nothing yet
}

// New refuses a configuration with all its faults.
func New(config Config) (*Relay, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	r := &Relay{config: config, source: newSource(config)}
	if err := r.counts.register(config.Registerer); err != nil {
		return nil, fmt.Errorf("relay: register metrics: %w", err)
	}
	return r, nil
}

// Run copies until ctx ends, and then returns nil. What goes away for a while, the server or JetStream, is waited for. It
// returns an error when going on is no use: *ExpiredError and *EpochError (unless OnLost is GoOn), *HoleError, a cursor or
// a key that the server refuses, a stream that others write to.
func (r *Relay) Run(ctx context.Context) error {
	defer r.source.close()
	pauses := newPauses()
	for {
		before := r.at
		err := r.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case r.final(err):
			return fmt.Errorf("relay: %w", err)
		}
		r.counts.sessions.Inc()
		r.config.Log.Warn().Err(err).Stringer("cursor", r.at).Msg("the relay takes up its place anew")
		if r.at != before {
			pauses.Reset()
		}
		if !wait(ctx, pauses.NextBackOff()) {
			return nil
		}
	}
}

// final tells whether another session would fail in the same way.
func (r *Relay) final(err error) bool {
	expired, epoch, hole := (*ExpiredError)(nil), (*EpochError)(nil), (*HoleError)(nil)
	return errors.As(err, &expired) || errors.As(err, &epoch) || errors.As(err, &hole) || errors.Is(err, errForeign) ||
		errors.Is(err, errCursor) || lasting(err)
}

// session finds its place and copies from there until something fails.
func (r *Relay) session(ctx context.Context) error {
	t, err := openTarget(ctx, r.config)
	if err != nil {
		return err
	}
	defer t.close()
	stored, last, err := t.position(ctx)
	if err != nil {
		return err
	}
	// What was acknowledged is there, even if its message is not.
	if stored.compare(r.at) > 0 {
		r.at = stored
	}
	if r.at == (Cursor{}) {
		begin, err := r.begin(ctx)
		if err != nil {
			return err
		}
		// At once: a second start would find another latest, and another earliest, than the first one.
		if err := r.remember(ctx, t, begin); err != nil {
			return err
		}
		r.at = begin
	}
	r.counts.position.Set(float64(r.at.Seq))
	r.config.Log.Info().Stringer("cursor", r.at).Uint64("sequence", last).Msg("the relay goes on")

	reading, stop := context.WithCancel(ctx)
	pages := make(chan page)                              // sender: read; the receiver leaves with reading
	ended := make(chan error, 1)                          // what read returned; sent to once
	go func() { ended <- r.read(reading, r.at, pages) }() // ends with reading; waited for below
	w := window{relay: r, target: t, last: last}
	err = w.run(ctx, pages, ended)
	stop()
	if !w.readerEnded {
		<-ended //nolint:errcheck // that its context has ended
	}
	// What was acknowledged counts, also for who comes after us.
	if saveErr := r.remember(context.WithoutCancel(ctx), t, r.at); saveErr != nil {
		r.config.Log.Debug().Err(saveErr).Msg("the cursor could not be stored") // the stream says the same
	}
	return err
}

// remember stores a cursor up to which all is in the stream, unless it is stored.
func (r *Relay) remember(ctx context.Context, t *target, at Cursor) error {
	if at == r.saved {
		return nil
	}
	if err := t.remember(ctx, at); err != nil {
		return err
	}
	r.saved = at
	return nil
}

// begin is where a relay without a past begins.
func (r *Relay) begin(ctx context.Context) (Cursor, error) {
	if at, err := ParseCursor(r.config.From); err == nil {
		return at, nil
	}
	begin, end, err := r.source.ends(ctx)
	if r.config.From == "latest" {
		begin = end
	}
	return begin, err
}

// maxBehind is how often nodes that do not know the cursor are asked again before they are believed: for 20 s or more.
const maxBehind = 12

// read sends the pages after a cursor until ctx ends. It asks again when the server does not answer, and goes on behind
// what is lost if it may.
func (r *Relay) read(ctx context.Context, at Cursor, pages chan<- page) error {
	pauses, behind := newPauses(), 0
	for {
		got, err := r.source.next(ctx, at)
		if !errors.Is(err, errBehind) {
			behind = 0
		} else if behind++; behind > maxBehind {
			return err
		}
		expired, epoch := (*ExpiredError)(nil), (*EpochError)(nil)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			pauses.Reset()
			at = got.cursor
			select {
			case pages <- got:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		case r.config.OnLost == GoOn && errors.As(err, &expired):
			at = expired.Floor
		case r.config.OnLost == GoOn && errors.As(err, &epoch):
			at = epoch.Floor
		case !errors.Is(err, errBehind) && r.final(err):
			return err
		}
		r.counts.failures.Inc()
		r.config.Log.Warn().Err(err).Stringer("cursor", at).Msg("the server's stream could not be read, going on")
		if !wait(ctx, pauses.NextBackOff()) {
			return context.Cause(ctx)
		}
	}
}

// window is what is in flight, in the order of the events.
type window struct {
	relay       *Relay
	target      *target
	last        uint64 // the sequence that the stream has once all in flight is stored
	inFlight    []flight
	savedAt     time.Time // monotonic; when the cursor was last stored, or that failed
	readerEnded bool
}

type flight struct {
	at     Cursor
	future jetstream.PubAckFuture
}

// run publishes what comes, at most Window events ahead of their acknowledgements.
func (w *window) run(ctx context.Context, pages <-chan page, ended <-chan error) error {
	settle := time.NewTimer(rememberEvery) // also when nothing follows the last event: it may be taken out of the stream
	defer settle.Stop()
	var todo []event
	var behind Cursor // of the page in todo
	for {
		for len(todo) > 0 && len(w.inFlight) < w.relay.config.Window {
			future, err := w.target.publish(todo[0], w.last)
			if err != nil {
				return err
			}
			w.last++
			w.inFlight = append(w.inFlight, flight{todo[0].at, future})
			todo = todo[1:]
		}
		w.relay.counts.inFlight.Set(float64(len(w.inFlight)))
		// A page is asked for when the one before is on its way, and not before.
		more := pages
		if len(todo) > 0 {
			more = nil
		}
		var acked <-chan *jetstream.PubAck
		var refused <-chan error
		if len(w.inFlight) > 0 {
			acked, refused = w.inFlight[0].future.Ok(), w.inFlight[0].future.Err()
		} else if len(todo) == 0 && behind.compare(w.relay.at) > 0 {
			w.relay.advance(behind) // over what the filter held back
			if err := w.save(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-ended:
			w.readerEnded = true
			return err
		case got := <-more:
			todo, behind = got.events, got.cursor
		case ack := <-acked:
			w.stored(ack)
			if err := w.save(ctx); err != nil {
				return err
			}
		case <-settle.C:
			if err := w.save(ctx); err != nil {
				return err
			}
			settle.Reset(rememberEvery)
		case err := <-refused:
			return fmt.Errorf("publish %s: %w", w.inFlight[0].at, err)
		}
	}
}

// stored moves past the oldest in flight.
func (w *window) stored(ack *jetstream.PubAck) {
	w.relay.advance(w.inFlight[0].at)
	w.inFlight = w.inFlight[1:]
	if ack.Duplicate {
		// It takes no sequence, so what follows is refused, and the next session begins behind what is there.
		w.relay.counts.duplicates.Inc()
	} else {
		w.relay.counts.published.Inc()
	}
}

// save stores the cursor, if that was not done a moment ago.
func (w *window) save(ctx context.Context) error {
	if time.Since(w.savedAt) < rememberEvery { // monotonic
		return nil
	}
	w.savedAt = time.Now() // monotonic
	return w.relay.remember(ctx, w.target, w.relay.at)
}

// advance notes that everything up to a cursor is in JetStream.
func (r *Relay) advance(to Cursor) {
	r.at = to
	r.counts.position.Set(float64(to.Seq))
	r.counts.lastAck.SetToCurrentTime()
}

// newPauses is how long to wait between tries.
func newPauses() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithRandomizationFactor(0.5),
		backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
}

// wait returns false if ctx ends first.
func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
