package miniasynq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// pace are the spans that tests shorten.
type pace struct {
	firstPause, maxPause time.Duration // of the backoff
	silence              time.Duration // nothing was heard: the line is broken
	grantEvery           time.Duration // the server takes 50 frames a second
}

var defaultPace = pace{
	firstPause: 500 * time.Millisecond, maxPause: 30 * time.Second, silence: 15 * time.Second, grantEvery: 25 * time.Millisecond,
}

// Consume calls handle for every event, one at a time, in order, until ctx ends, whose cause it returns, or handle fails,
// whose error it returns. It comes back by itself after whatever passes, from the last event that was handled; see the
// package for the errors that do not pass.
//
// An event is handled once as long as the program lives. After a crash, events since the last saved cursor come again;
// after an error of handle, the event that failed comes again.
func Consume(ctx context.Context, options Options, handle func(context.Context, Event) error) error {
	return consume(ctx, options, defaultPace, handle)
}

func consume(ctx context.Context, options Options, p pace, handle func(context.Context, Event) error) error {
	options, endpoint, err := options.prepare()
	if err != nil {
		return err
	}
	c := &consumer{o: options, pace: p, endpoint: endpoint, handle: handle}
	c.counts = options.Filter.empty() && !options.Held
	if err := c.load(ctx); err != nil {
		return err
	}
	return c.run(ctx)
}

// consumer is one Consume.
type consumer struct {
	o        Options
	pace     pace
	endpoint string
	handle   func(context.Context, Event) error
	counts   bool // every event of the log comes, so none may be missing

	begun     bool     // at is known
	confirmed bool     // by the server, on this socket
	at        position // everything up to here was handled, or held back by the filter
	saved     string   // what Cursors has
	head      string   // the end and the beginning of the log, as the server's hello said
	floor     string
}

// load finds out where to begin.
func (c *consumer) load(ctx context.Context) error {
	after := c.o.After
	if c.o.Cursors != nil {
		stored, err := c.o.Cursors.Load(ctx)
		if err != nil {
			return fmt.Errorf("miniasynq: load the cursor: %w", err)
		}
		if stored != "" {
			after, c.saved = stored, stored
		}
	}
	if after == Latest || after == Earliest {
		return nil
	}
	at, err := parseCursor(after)
	if err != nil {
		return fmt.Errorf("miniasynq: load the cursor: %w", err)
	}
	c.at, c.begun = at, true
	return nil
}

// run opens sockets until one ends for good.
func (c *consumer) run(ctx context.Context) error {
	failures := 0
	for {
		before := c.at
		err := c.session(ctx)
		var own *ownError
		if errors.As(err, &own) && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
			return own.error
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c.at != before {
			failures = 0
		}
		pause, ok := comesBack(err)
		ok = ok || failures < maxBehind && c.begun && isBehind(err)
		if !ok {
			return err
		}
		if pause == 0 {
			pause = c.backoff(failures)
		}
		failures++
		c.o.Observe(Note{State: Disconnected, Cursor: c.cursor(), Err: err, Pause: pause})
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// maxBehind is how often a consumer comes back to nodes that do not know its cursor, before it believes them.
const maxBehind = 8

// isBehind tells whether a node says that a cursor is ahead of the log. One that another node gave out may be ahead of what
// this node has read, while its database is slow to answer.
func isBehind(err error) bool {
	var problem *ProblemError
	return errors.As(err, &problem) && problem.Status == 0 && problem.Code == codeCursorInvalid
}

// backoff draws from the whole of a bound that doubles, so that the clients of a node that went do not come back together.
func (c *consumer) backoff(failures int) time.Duration {
	bound := c.pace.maxPause
	if failures < 16 {
		bound = min(bound, c.pace.firstPause<<failures)
	}
	return rand.N(bound) + 1 //nolint:gosec // no secret
}

// cursor is where the consumer stands; empty: it has not begun.
func (c *consumer) cursor() string {
	if !c.begun {
		return ""
	}
	return c.at.String()
}

// ownError marks an error of the handler or of Cursors, which ends everything.
type ownError struct{ error }

func (e *ownError) Unwrap() error { return e.error }

// session reads one socket until it ends, and handles what came before the end.
func (c *consumer) session(ctx context.Context) (err error) {
	l, err := dial(ctx, c.endpoint, &c.o, c.pace.silence)
	if err != nil {
		return err
	}
	defer l.close()
	// Handled events are not seen again, however this ends; also when ctx is why.
	defer func() {
		saveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWithin)
		defer cancel()
		if failed := c.save(saveCtx); failed != nil && !errors.As(err, new(*ownError)) {
			err = failed
		}
	}()
	g := grants{line: l, every: c.pace.grantEvery, half: (c.o.Credit + 1) / 2}
	for {
		frames, ended := l.in.take()
		for _, f := range frames {
			if err := c.take(ctx, l, &g, f); err != nil {
				return err
			}
		}
		if ended != nil {
			return ended
		}
		wait, err := g.give()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.in.bell:
		case <-wait:
		}
	}
}

// take does what a frame of the server asks for.
func (c *consumer) take(ctx context.Context, l *line, g *grants, f frame) error {
	switch f.T {
	case "hello":
		if f.V != 1 {
			return fmt.Errorf("%w: version %d", ErrProtocol, f.V)
		}
		c.head, c.floor, c.confirmed = f.Head, f.Floor, false
		return l.send(c.subscribe())
	case "subbed":
		return c.subbed(ctx, f)
	case "ev":
		return c.events(ctx, g, f)
	case "mark", "caught_up":
		if err := c.advance(f.Cursor); err != nil {
			return err
		}
		if f.T == "caught_up" {
			c.o.Observe(Note{State: CaughtUp, Cursor: c.cursor()})
		}
		return c.save(ctx)
	case "ended":
		return c.ended(f)
	case "err":
		return &ProblemError{Code: f.Code, Detail: f.Detail}
	}
	return nil // a frame of a later version
}

// subscribe asks for the log, from where the consumer stands.
func (c *consumer) subscribe() wish {
	w := wish{T: "sub", ID: subscription, Class: "consumer", After: c.o.After, Credit: c.o.Credit}
	if c.begun {
		w.After = c.at.String()
	}
	if !c.o.Filter.empty() {
		w.Filter = &c.o.Filter
	}
	if c.o.Payload {
		w.Include = []string{"payload"}
	}
	return w
}

// subbed takes note of where the subscription begins: from now on means from here on, also if the line breaks before the
// first event.
func (c *consumer) subbed(ctx context.Context, f frame) error {
	at, err := parseCursor(f.Cursor)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	case c.begun && at != c.at:
		return &HoleError{After: c.cursor(), Got: f.Cursor}
	}
	c.at, c.begun, c.confirmed = at, true, true
	c.o.Observe(Note{State: Connected, Cursor: c.cursor(), Behind: f.Behind})
	return c.save(ctx)
}

// ended says why the subscription is over.
func (c *consumer) ended(f frame) error {
	switch f.Code {
	case "cursor_expired":
		return &ExpiredError{Cursor: c.cursor(), Floor: f.Floor}
	case "epoch_changed":
		e := &EpochError{Cursor: c.cursor()}
		switch head, err := parseCursor(c.head); {
		case err == nil && head.epoch < c.at.epoch && !c.confirmed:
			return &ProblemError{Code: codeCursorInvalid, Detail: "this node does not know the history of the cursor yet"}
		case err == nil && head.epoch > c.at.epoch:
			e.Head, e.Floor = c.head, c.floor
		}
		return e
	}
	return &ProblemError{Code: f.Code, Detail: "the subscription has ended"}
}

// events hands the events of a frame to the handler, and pays for them.
func (c *consumer) events(ctx context.Context, g *grants, f frame) error {
	upTo, err := parseCursor(f.Cursor)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	for _, e := range f.Events {
		at := position{e.Epoch, e.Seq}
		switch {
		case at.epoch != c.at.epoch || at.seq > upTo.seq:
			return fmt.Errorf("%w: event %s in a frame that ends at %s", ErrProtocol, at, upTo)
		case at.seq <= c.at.seq:
			continue // sent twice
		case c.counts && at.seq != c.at.seq+1:
			return &HoleError{After: c.cursor(), Got: at.String()}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.handle(ctx, e); err != nil {
			return &ownError{err}
		}
		c.at = at
	}
	g.owed += len(f.Events)
	if err := c.advance(f.Cursor); err != nil {
		return err
	}
	return c.save(ctx)
}

// advance moves over what the filter did not let through. Where nothing is held back, there is nothing to move over.
func (c *consumer) advance(cursor string) error {
	to, err := parseCursor(cursor)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	case to.epoch != c.at.epoch:
		return fmt.Errorf("%w: from %s to %s", ErrProtocol, c.at, to)
	case to.seq <= c.at.seq:
		return nil // said twice
	case c.counts:
		return &HoleError{After: c.cursor(), Got: cursor}
	}
	c.at = to
	return nil
}

// save hands the cursor to Cursors, if it has moved.
func (c *consumer) save(ctx context.Context) error {
	cursor := c.cursor()
	if c.o.Cursors == nil || cursor == c.saved {
		return nil
	}
	if err := c.o.Cursors.Save(ctx, cursor); err != nil {
		return &ownError{fmt.Errorf("miniasynq: save the cursor: %w", err)}
	}
	c.saved = cursor
	return nil
}

// grants pays the server for handled events: when half of the credit is used up, so that the other half is on its way
// meanwhile, and not more often than the server wants to hear.
type grants struct {
	line  *line
	every time.Duration
	half  int
	owed  int // handled, and not paid for
	last  time.Time
}

// give pays, or says when to look again; nil: when there is something new.
func (g *grants) give() (later <-chan time.Time, err error) {
	if g.owed < g.half {
		return nil, nil
	}
	now := time.Now() // monotonic
	if since := now.Sub(g.last); since < g.every {
		return time.After(g.every - since), nil
	}
	if err := g.line.send(wish{T: "credit", ID: subscription, N: g.owed}); err != nil {
		return nil, err
	}
	g.owed, g.last = 0, now
	return nil, nil
}
