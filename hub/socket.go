package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

// socket is one connection, whatever is spoken over it. Two goroutines serve it: run, which owns everything here and is
// the only one that writes, and watch, which reads what comes in. A socket at rest holds its two stacks and the library's
// read buffer.
type socket struct {
	hub       *Hub
	conn      *websocket.Conn // read by watch alone
	wire      *wire
	principal string
	revoked   <-chan struct{} // closed when the caller's credential ends; nil: it never does
	mode      mode            // never changes

	ctx  context.Context // of this socket; its cause is the *ending
	stop context.CancelCauseFunc

	pings chan []byte   // capacity 1, the newest counts: pings to answer. Sender: watch; never closed
	pongs chan struct{} // capacity 1. Sender: watch; never closed
	read  chan struct{} // closed by watch at its end

	parted chan struct{} // closed by run when the goodbye has been said, or cannot be

	rest     []byte      // of a frame that is out in part when the socket ends
	writeBy  time.Time   // the connection's deadline for writes; monotonic
	timer    *time.Timer // the next thing that is due, of the socket or of its mode
	beatAt   time.Time   // the next ping, or the end of the wait for a pong; monotonic
	awaiting bool        // a pong
	written  int64       // bytes
	pingMark int64       // written when the ping was sent
}

// mode is what is spoken over a socket.
type mode interface {
	// serve sends until the socket ends. Called by run.
	serve()
	// hear takes in what the client says, valid UTF-8; it says why the socket ends, or nil. Called by watch.
	hear(said []byte) *ending
	// cursor is what a client resumes from, for the close frame; "" where one cursor does not say it. Called by run.
	cursor() string
	// farewell is a frame that goes before the close frame; nil for none. Called by run.
	farewell(e *ending, retryMS int64) []byte
	// release lets go of what it holds; the socket has ended. Called by run.
	release()
}

func newSocket(h *Hub, conn *websocket.Conn, w *wire, caller Caller) *socket {
	s := &socket{
		hub: h, conn: conn, wire: w, principal: caller.Name, revoked: caller.Ended,
		pings: make(chan []byte, 1), pongs: make(chan struct{}, 1), read: make(chan struct{}),
		parted: make(chan struct{}),
	}
	s.ctx, s.stop = context.WithCancelCause(h.base)
	return s
}

func (e *ending) Error() string { return fmt.Sprintf("close with %s", e.code) }

// end ends the socket, whatever it does; the first reason counts.
func (s *socket) end(e *ending) { s.stop(e) }

// cause is why the socket ends.
func (s *socket) cause() *ending {
	var e *ending
	if errors.As(context.Cause(s.ctx), &e) {
		return e
	}
	return &ending{code: CloseGoingAway} // the hub is over
}

// run serves the socket until its end.
func (s *socket) run() {
	// The end of the hub ends every read and write.
	release := context.AfterFunc(s.hub.base, func() { _ = s.wire.Conn.Close() })
	defer release()
	defer s.stop(nil)
	if conn, ok := s.wire.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		// What a stalled client keeps in the kernel is bounded, and a pong cannot be behind megabytes.
		_ = conn.SetWriteBuffer(s.hub.config.SendBuffer)
	}
	// Ends when the connection is closed; run waits for it.
	go s.watch()
	func() {
		defer s.recoverPanic()
		s.timer, s.beatAt = time.NewTimer(s.hub.config.PingEvery), time.Now().Add(s.hub.config.PingEvery) // monotonic
		defer s.timer.Stop()
		s.mode.serve()
	}()
	s.mode.release()
	e := s.cause()
	s.finish(e)
	s.hub.metrics.ended(e.code)
	log := s.hub.config.Log.Debug()
	if e.code == CloseInternal {
		log = s.hub.config.Log.Error().Err(e.err)
	}
	log.Int("code", int(e.code)).Str("principal", s.principal).Str("cursor", s.mode.cursor()).Msg("socket ended")
	s.hub.signal("ended", s)
}

// recoverPanic turns a bug into the end of this socket alone.
func (s *socket) recoverPanic() {
	if p := recover(); p != nil {
		s.end(&ending{code: CloseInternal, err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())})
	}
}

// over tells whether the client has ended; its credential may have, meanwhile.
func (s *socket) over() bool {
	select {
	case <-s.revoked:
		s.end(&ending{code: CloseUnauthorized})
	default:
	}
	return s.ctx.Err() != nil
}

// flush writes an outbox; whole is how many of its frames are out, or will be with rest. It stops when the socket ends.
func (s *socket) flush(out *outbox) (whole int, ok bool) {
	if err := failpoint.Hit("hub.before_send"); err != nil {
		s.end(&ending{code: CloseInternal, err: err})
		return 0, false
	}
	n, ok := s.write(out.bytes)
	whole = len(out.marks)
	if !ok {
		var rest []byte
		if whole, rest = out.sent(n); len(rest) > 0 {
			whole++
			s.rest = append(s.rest, rest...) // the outbox goes to another socket
		}
	}
	for _, m := range out.marks[:whole] {
		s.hub.metrics.sent.Add(int64(m.events))
	}
	return whole, ok
}

// control writes a ping or a pong.
func (s *socket) control(opcode int, payload []byte) bool {
	frame := appendFrame(nil, opcode, payload)
	n, ok := s.write(frame)
	if !ok && n > 0 {
		s.rest = frame[n:]
	}
	return ok
}

// write writes in slices, so that the end of the client does not have to wait for one that does not read. It ends the
// client when nothing at all went out for config.SlowAfter; one that moves, however slowly, goes on. n is what went out.
func (s *socket) write(b []byte) (n int, ok bool) {
	slice := min(s.hub.config.SlowAfter/4, 250*time.Millisecond)
	atLeast := slice / 2 // a new deadline for each write would cost a twentieth of what the write does
	if _, isTLS := s.wire.Conn.(*tls.Conn); isTLS {
		slice = s.hub.config.SlowAfter // a write that timed out breaks a TLS connection
		atLeast = slice
	}
	now := time.Now() // monotonic
	moved := now
	for n < len(b) {
		if s.writeBy.Sub(now) < atLeast {
			s.writeBy = now.Add(slice)
			if err := s.wire.Conn.SetWriteDeadline(s.writeBy); err != nil {
				s.end(&ending{code: CloseBroken})
				return n, false
			}
		}
		m, err := s.wire.Conn.Write(b[n:])
		n += m
		s.written += int64(m)
		if err == nil {
			continue // all of it is out
		}
		if now = time.Now(); m > 0 { // monotonic
			moved = now
		}
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			s.end(&ending{code: CloseBroken})
			return n, false
		case s.over():
			return n, false
		case now.Sub(moved) >= s.hub.config.SlowAfter:
			s.end(&ending{code: CloseSlow})
			s.hub.signal("slow", s)
			return n, false
		default:
			s.hub.signal("blocked", s)
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

// tend does what a connection needs beside events, until woken or enough is ready, due has come (the zero time never does),
// or the socket has ended: it answers pings, pings, and ends the socket when no pong comes.
func (s *socket) tend(woken, enough <-chan struct{}, due time.Time) {
	for {
		now := time.Now() // monotonic
		if !now.Before(s.beatAt) && !s.beat(now) {
			return
		}
		if enough == nil { // it will wait
			next := s.beatAt
			if !due.IsZero() && due.Before(next) {
				next = due
			}
			s.timer.Reset(next.Sub(now))
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.revoked:
			s.end(&ending{code: CloseUnauthorized})
			return
		case payload := <-s.pings:
			if !s.control(websocket.PongMessage, payload) {
				return
			}
		case <-s.pongs:
			s.answered()
		case <-s.timer.C:
			if !due.IsZero() && !time.Now().Before(due) { // monotonic
				return
			}
		case <-woken:
			return
		case <-enough:
			return
		}
	}
}

func (s *socket) answered() {
	s.awaiting, s.beatAt = false, time.Now().Add(s.hub.config.PingEvery) // monotonic
}

// beat pings, or ends a client whose pong is overdue. false: it has ended.
func (s *socket) beat(now time.Time) bool {
	select {
	case <-s.pongs: // it came together with the end of the wait
		s.answered()
		return true
	default:
	}
	if s.awaiting {
		// Through a full send buffer the ping has not got yet; but bytes beyond that buffer were acknowledged by the other
		// side, so it lives.
		if s.written-s.pingMark <= 2*int64(s.hub.config.SendBuffer) {
			s.end(&ending{code: CloseSilent})
			return false
		}
		s.pingMark, s.beatAt = s.written, now.Add(s.hub.config.PongWithin)
		return true
	}
	if !s.control(websocket.PingMessage, nil) {
		return false
	}
	s.awaiting, s.pingMark, s.beatAt = true, s.written, time.Now().Add(s.hub.config.PongWithin) // monotonic
	return true
}

// finish says goodbye and closes the connection.
func (s *socket) finish(e *ending) {
	limit := s.hub.config.CloseWithin
	if e.code == CloseSlow {
		// Its buffers are full: it reads the rest of the frame and the reason when it reads again, if it does soon.
		limit = s.hub.config.SlowLinger
	}
	deadline := time.Now().Add(limit) // monotonic
	said := s.sayGoodbye(e, deadline)
	close(s.parted)
	if said {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		select {
		case <-s.read:
		case <-timer.C:
		case <-s.hub.base.Done():
		}
	}
	_ = s.wire.Conn.Close()
	<-s.read
}

// sayGoodbye tells whether the client can read why.
func (s *socket) sayGoodbye(e *ending, deadline time.Time) bool {
	frame := s.goodbye(e)
	if frame == nil || s.hub.base.Err() != nil {
		return false
	}
	_ = s.wire.Conn.SetWriteDeadline(deadline)
	if _, err := s.wire.Conn.Write(append(s.rest, frame...)); err != nil {
		return false
	}
	if half, ok := s.wire.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // what follows is its half
	}
	return true
}

// goodbye is the close frame, and the farewell before it; nil for none: the line is broken.
func (s *socket) goodbye(e *ending) []byte {
	switch e.code {
	case CloseBroken:
		return nil
	case CloseNormal:
		// The client closes: its own code comes back, or none if it gave none.
		if code := s.wire.wanted.Load(); code != 0 {
			return appendClose(nil, CloseCode(code), nil)
		}
		return appendFrame(nil, websocket.CloseMessage, nil)
	}
	reason := closeReason{Code: closeNames[e.code], Detail: e.detail}
	switch e.code {
	case CloseSlow, CloseGoingAway, CloseInternal, CloseSilent:
		reason.Cursor = s.mode.cursor()
		// Spread, so that the clients of a node do not come back all at once.
		reason.RetryMS = 200 + rand.Int64N(1800) //nolint:gosec // no secret
	case CloseFlood:
		reason.Cursor, reason.RetryMS = s.mode.cursor(), 30_000
	case CloseExpired:
		reason.Cursor, reason.Floor = s.mode.cursor(), e.floor.String()
	case CloseEpoch, CloseUnauthorized:
		reason.Cursor = s.mode.cursor()
	}
	return appendClose(s.mode.farewell(e, reason.RetryMS), e.code, reason.encode())
}
