package hub

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

// client is one socket. Two goroutines serve it: run, which owns everything here and is the only one that writes, and
// watch, which reads what comes in. A client at rest holds its two stacks and the library's read buffer.
type client struct {
	hub       *Hub
	conn      *websocket.Conn // read by watch alone
	wire      *wire
	principal string
	revoked   <-chan struct{} // closed when the caller's credential ends; nil: it never does
	reader    *events.Reader
	filter    *events.Filter
	payload   bool            // add the payloads
	pos       events.Position // the client has everything up to here

	ctx  context.Context // of this client; its cause is the *ending
	stop context.CancelCauseFunc

	pings chan []byte   // capacity 1, the newest counts: pings to answer. Sender: watch; never closed
	pongs chan struct{} // capacity 1. Sender: watch; never closed
	read  chan struct{} // closed by watch at its end

	rest     []byte      // of a frame that is out in part when the client ends
	timer    *time.Timer // the next ping, or the end of the wait for a pong
	awaiting bool        // a pong
	written  int64       // bytes
	pingMark int64       // written when the ping was sent
}

func newClient(h *Hub, conn *websocket.Conn, w *wire, caller Caller, ask request) *client {
	c := &client{
		hub: h, conn: conn, wire: w, principal: caller.Name, revoked: caller.Ended,
		reader: h.config.Readers.Reader(ask.filter), filter: ask.filter, payload: ask.payload, pos: ask.after,
		pings: make(chan []byte, 1), pongs: make(chan struct{}, 1), read: make(chan struct{}),
	}
	c.ctx, c.stop = context.WithCancelCause(h.base)
	return c
}

func (e *ending) Error() string { return fmt.Sprintf("close with %s", e.code) }

// end ends the client, whatever it does; the first reason counts.
func (c *client) end(e *ending) { c.stop(e) }

// cause is why the client ends.
func (c *client) cause() *ending {
	var e *ending
	if errors.As(context.Cause(c.ctx), &e) {
		return e
	}
	return &ending{code: CloseGoingAway} // the hub is over
}

// run serves the client until its end.
func (c *client) run() {
	// The end of the hub ends every read and write.
	release := context.AfterFunc(c.hub.base, func() { _ = c.wire.Conn.Close() })
	defer release()
	defer c.stop(nil)
	if conn, ok := c.wire.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		// What a stalled client keeps in the kernel is bounded, and a pong cannot be behind megabytes.
		_ = conn.SetWriteBuffer(c.hub.config.SendBuffer)
	}
	// Ends when the connection is closed; run waits for it.
	go c.watch()
	func() {
		defer c.recoverPanic()
		c.pump()
	}()
	e := c.cause()
	c.finish(e)
	c.hub.metrics.ended(e.code)
	log := c.hub.config.Log.Debug()
	if e.code == CloseInternal {
		log = c.hub.config.Log.Error().Err(e.err)
	}
	log.Int("code", int(e.code)).Str("principal", c.principal).Str("cursor", c.pos.String()).Msg("socket ended")
	c.hub.signal("ended", c)
}

// recoverPanic turns a bug into the end of this client alone.
func (c *client) recoverPanic() {
	if p := recover(); p != nil {
		c.end(&ending{code: CloseInternal, err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())})
	}
}

// pump sends events until the client ends.
func (c *client) pump() {
	c.timer = time.NewTimer(c.hub.config.PingEvery)
	defer c.timer.Stop()
	for !c.over() {
		batch, err := c.reader.Read(c.ctx, c.pos, c.hub.config.BatchEvents)
		switch {
		case err != nil:
			c.end(endingOf(err))
		case len(batch) > 0:
			c.send(batch)
			c.tend(closed)
		default:
			if !c.reader.Park(c.pos) {
				continue
			}
			c.hub.signal("parked", c)
			c.tend(nil)
			c.pos = c.reader.Unpark()
		}
	}
}

// over tells whether the client has ended; its credential may have, meanwhile.
func (c *client) over() bool {
	select {
	case <-c.revoked:
		c.end(&ending{code: CloseUnauthorized})
	default:
	}
	return c.ctx.Err() != nil
}

// endingOf maps what the stream says while a socket is open.
func endingOf(err error) *ending {
	var epoch *events.EpochError
	var expired *events.ExpiredError
	switch {
	case errors.As(err, &epoch):
		return &ending{code: CloseEpoch}
	case errors.As(err, &expired):
		return &ending{code: CloseExpired, floor: expired.Floor}
	}
	return &ending{code: CloseInternal, err: err}
}

// outboxes are shared: only a client that is sending holds one.
var outboxes = sync.Pool{New: func() any { return new(outbox) }}

// maxKept is the largest outbox that is kept for the next client.
const maxKept = 256 << 10

// send writes the events of a batch that the filter lets through. It stops when the client ends; pos is the last event
// that is out then, or will be with rest.
func (c *client) send(batch []*events.Event) {
	out, _ := outboxes.Get().(*outbox)
	defer func() {
		if cap(out.bytes) <= maxKept {
			outboxes.Put(out)
		}
	}()
	out.reset()
	var window payloadWindow
	for i, e := range batch {
		if c.filter.Match(e) {
			body := e.JSON()
			if c.payload {
				var err error
				if body, err = window.body(c, batch[i:]); err != nil {
					c.end(endingOf(err))
					return
				}
			}
			out.event(e, body)
		}
		if len(out.bytes) < c.hub.config.BatchBytes && i < len(batch)-1 {
			continue
		}
		if len(out.bytes) > 0 && !c.flush(out) {
			return
		}
		c.pos = e.Position // what the filter held back is behind it, too
		out.reset()
	}
}

// payloadWindow holds the payloads of the next events of a batch.
type payloadWindow struct {
	of   map[uuid.UUID]json.RawMessage
	upTo events.Position
}

// body is the first event of rest with its payload; those of the next ones are read along with it.
func (w *payloadWindow) body(c *client, rest []*events.Event) ([]byte, error) {
	if w.upTo.Before(rest[0].Position) {
		ahead := make([]*events.Event, 0, events.PayloadBatch)
		for _, e := range rest {
			if len(ahead) < events.PayloadBatch && c.filter.Match(e) {
				ahead = append(ahead, e)
			}
		}
		var err error
		if w.of, err = c.reader.Payloads(c.ctx, ahead); err != nil {
			return nil, err
		}
		w.upTo = ahead[len(ahead)-1].Position
	}
	return rest[0].AppendWithPayload(nil, w.of[rest[0].JobID]), nil
}

func (c *client) flush(out *outbox) bool {
	if err := failpoint.Hit("hub.before_send"); err != nil {
		c.end(&ending{code: CloseInternal, err: err})
		return false
	}
	n, ok := c.write(out.bytes)
	if ok {
		c.hub.metrics.sent.Add(int64(len(out.marks)))
		return true
	}
	whole, rest := out.sent(n)
	if len(rest) > 0 {
		whole++
		c.rest = append(c.rest, rest...) // the outbox goes to another client
	}
	c.hub.metrics.sent.Add(int64(whole))
	if whole > 0 {
		c.pos = out.marks[whole-1].at
	}
	return false
}

// control writes a ping or a pong.
func (c *client) control(opcode int, payload []byte) bool {
	frame := appendFrame(nil, opcode, payload)
	n, ok := c.write(frame)
	if !ok && n > 0 {
		c.rest = frame[n:]
	}
	return ok
}

// write writes in slices, so that the end of the client does not have to wait for one that does not read. It ends the
// client when nothing at all went out for config.SlowAfter; one that moves, however slowly, goes on. n is what went out.
func (c *client) write(b []byte) (n int, ok bool) {
	slice := min(c.hub.config.SlowAfter/4, 250*time.Millisecond)
	if _, isTLS := c.wire.Conn.(*tls.Conn); isTLS {
		slice = c.hub.config.SlowAfter // a write that timed out breaks a TLS connection
	}
	moved := time.Now() // monotonic
	for n < len(b) {
		if err := c.wire.Conn.SetWriteDeadline(time.Now().Add(slice)); err != nil { // monotonic
			c.end(&ending{code: CloseBroken})
			return n, false
		}
		m, err := c.wire.Conn.Write(b[n:])
		n += m
		c.written += int64(m)
		if m > 0 {
			moved = time.Now() // monotonic
		}
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.end(&ending{code: CloseBroken})
			return n, false
		case c.over():
			return n, false
		case time.Since(moved) >= c.hub.config.SlowAfter:
			c.end(&ending{code: CloseSlow})
			c.hub.signal("slow", c)
			return n, false
		default:
			c.hub.signal("blocked", c)
		}
	}
	return n, true
}

// closed is a channel that is always ready.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// tend does what a connection needs beside events, until enough is ready, there is something to read, or the client has
// ended: it answers pings, pings, and ends the client when no pong comes.
func (c *client) tend(enough <-chan struct{}) {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.revoked:
			c.end(&ending{code: CloseUnauthorized})
			return
		case <-c.reader.Woken():
			return
		case payload := <-c.pings:
			if !c.control(websocket.PongMessage, payload) {
				return
			}
		case <-c.pongs:
			c.answered()
		case <-c.timer.C:
			if !c.beat() {
				return
			}
		case <-enough:
			return
		}
	}
}

func (c *client) answered() {
	c.awaiting = false
	c.timer.Reset(c.hub.config.PingEvery)
}

// beat pings, or ends a client whose pong is overdue. false: it has ended.
func (c *client) beat() bool {
	select {
	case <-c.pongs: // it came together with the end of the wait
		c.answered()
		return true
	default:
	}
	if c.awaiting {
		// Through a full send buffer the ping has not got yet; but bytes beyond that buffer were acknowledged by the other
		// side, so it lives.
		if c.written-c.pingMark <= 2*int64(c.hub.config.SendBuffer) {
			c.end(&ending{code: CloseSilent})
			return false
		}
		c.pingMark = c.written
		c.timer.Reset(c.hub.config.PongWithin)
		return true
	}
	if !c.control(websocket.PingMessage, nil) {
		return false
	}
	c.awaiting, c.pingMark = true, c.written
	c.timer.Reset(c.hub.config.PongWithin)
	return true
}

// finish says goodbye and closes the connection.
func (c *client) finish(e *ending) {
	limit := c.hub.config.CloseWithin
	if e.code == CloseSlow {
		// Its buffers are full: it reads the rest of the frame and the reason when it reads again, if it does soon.
		limit = c.hub.config.SlowLinger
	}
	if frame := c.goodbye(e); frame != nil && c.hub.base.Err() == nil {
		deadline := time.Now().Add(limit) // monotonic
		_ = c.wire.Conn.SetWriteDeadline(deadline)
		if _, err := c.wire.Conn.Write(append(c.rest, frame...)); err == nil {
			if half, ok := c.wire.Conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // what follows is its half
			}
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			select {
			case <-c.read:
			case <-timer.C:
			case <-c.hub.base.Done():
			}
		}
	}
	_ = c.wire.Conn.Close()
	<-c.read
}

// goodbye is the close frame, nil for none: the line is broken.
func (c *client) goodbye(e *ending) []byte {
	switch e.code {
	case CloseBroken:
		return nil
	case CloseNormal:
		// The client closes: its own code comes back, or none if it gave none.
		if code := c.wire.wanted.Load(); code != 0 {
			return appendClose(nil, CloseCode(code), nil)
		}
		return appendFrame(nil, websocket.CloseMessage, nil)
	}
	reason := closeReason{Code: closeNames[e.code]}
	switch e.code {
	case CloseSlow, CloseGoingAway, CloseInternal, CloseSilent:
		reason.Cursor = c.pos.String()
		// Spread, so that the clients of a node do not come back all at once.
		reason.RetryMS = 200 + rand.Int64N(1800) //nolint:gosec // no secret
	case CloseFlood:
		reason.Cursor, reason.RetryMS = c.pos.String(), 30_000
	case CloseExpired:
		reason.Cursor, reason.Floor = c.pos.String(), e.floor.String()
	case CloseEpoch, CloseUnauthorized:
		reason.Cursor = c.pos.String()
	}
	return appendClose(nil, e.code, reason.encode())
}

// watch reads what comes in until the connection ends. In plain mode nothing that a client says has a meaning, but there
// are limits.
func (c *client) watch() {
	defer close(c.read)
	var e *ending
	func() {
		defer c.recoverPanic()
		e = c.listen()
		c.end(e)
	}()
	if e != nil && (e.code == CloseNormal || e.code == CloseBroken) {
		return // nothing more comes
	}
	// Closing with unread bytes would reset the connection, and take the close frame away from the client: what still
	// comes is thrown away until the other side or finish closes.
	_, _ = io.Copy(io.Discard, c.wire.Conn)
}

var errFlood = errors.New("too many messages")

// listen takes frames in until there is a reason to stop.
func (c *client) listen() *ending {
	budget := bucket{rate: float64(c.hub.config.MaxMessages), tokens: float64(c.hub.config.MaxMessages), last: time.Now()} // monotonic
	c.conn.SetReadLimit(c.hub.config.MaxMessage)
	c.conn.SetPingHandler(func(payload string) error {
		if !budget.take() {
			return errFlood
		}
		newest(c.pings, []byte(payload))
		return nil
	})
	c.conn.SetPongHandler(func(string) error {
		if !budget.take() {
			return errFlood
		}
		newest(c.pongs, struct{}{})
		return nil
	})
	for {
		kind, reader, err := c.conn.NextReader()
		if err != nil {
			return c.readEnding(err)
		}
		if !budget.take() {
			return &ending{code: CloseFlood}
		}
		if kind != websocket.TextMessage {
			return &ending{code: CloseBinary}
		}
		message, err := io.ReadAll(reader) // at most MaxMessage
		if err != nil {
			return c.readEnding(err)
		}
		if !utf8.Valid(message) {
			return &ending{code: CloseBadText}
		}
	}
}

// readEnding maps the end of the library's reading. Its protocol errors have no type; what it wanted to close with tells.
func (c *client) readEnding(err error) *ending {
	var closed *websocket.CloseError
	var broken net.Error
	switch code := c.wire.wanted.Load(); {
	case errors.Is(err, errFlood):
		return &ending{code: CloseFlood}
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return &ending{code: CloseNormal}
	case code != 0:
		return &ending{code: CloseCode(code)}
	case errors.Is(err, websocket.ErrReadLimit):
		return &ending{code: CloseTooBig}
	case errors.As(err, &broken):
		return &ending{code: CloseBroken}
	}
	return &ending{code: CloseBroken}
}

// newest puts a value into a channel of capacity 1, in place of an older one.
func newest[T any](c chan T, value T) {
	for {
		select {
		case c <- value:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

// bucket is a token bucket: a second's worth at once, and as much each second. Owned by watch.
type bucket struct {
	rate, tokens float64
	last         time.Time
}

func (b *bucket) take() bool {
	now := time.Now() // monotonic
	b.tokens = min(b.rate, b.tokens+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
