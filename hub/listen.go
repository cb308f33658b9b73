package hub

import (
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// watch reads what comes in until the connection ends, within the limits; what it means is the mode's business.
func (s *socket) watch() {
	defer close(s.read)
	var e *ending
	func() {
		defer s.recoverPanic()
		e = s.listen()
		s.end(e)
	}()
	if e != nil && (e.code == CloseNormal || e.code == CloseBroken) {
		return // nothing more comes
	}
	// Closing with unread bytes would reset the connection, and take the close frame away from the client: what still
	// comes is thrown away until the other side or finish closes.
	_, _ = io.Copy(io.Discard, s.wire.Conn)
}

var errFlood = errors.New("too many messages")

// listen takes frames in until there is a reason to stop.
func (s *socket) listen() *ending {
	budget := bucket{rate: float64(s.hub.config.MaxMessages), tokens: float64(s.hub.config.MaxMessages), last: time.Now()} // monotonic
	s.conn.SetReadLimit(s.hub.config.MaxMessage)
	s.conn.SetPingHandler(func(payload string) error {
		if !budget.take() {
			return errFlood
		}
		newest(s.pings, []byte(payload))
		return nil
	})
	s.conn.SetPongHandler(func(string) error {
		if !budget.take() {
			return errFlood
		}
		newest(s.pongs, struct{}{})
		return nil
	})
	for {
		kind, reader, err := s.conn.NextReader()
		if err != nil {
			return s.readEnding(err)
		}
		if !budget.take() {
			return &ending{code: CloseFlood}
		}
		if kind != websocket.TextMessage {
			return &ending{code: CloseBinary}
		}
		message, err := io.ReadAll(reader) // at most MaxMessage
		if err != nil {
			return s.readEnding(err)
		}
		if !utf8.Valid(message) {
			return &ending{code: CloseBadText}
		}
		if e := s.mode.hear(message); e != nil {
			return e
		}
	}
}

// readEnding maps the end of the library's reading. Its protocol errors have no type; what it wanted to close with tells.
func (s *socket) readEnding(err error) *ending {
	var closed *websocket.CloseError
	switch code := s.wire.wanted.Load(); {
	case errors.Is(err, errFlood):
		return &ending{code: CloseFlood}
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return &ending{code: CloseNormal}
	case code != 0:
		return &ending{code: CloseCode(code)}
	case errors.Is(err, websocket.ErrReadLimit):
		return &ending{code: CloseTooBig}
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
