package hub

import (
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/mini-asynq/mini-asynq/events"
)

// plain is the mode without a protocol: one event as a JSON object in each text frame, and nothing else.
type plain struct {
	*socket
	reader  *events.Reader
	filter  *events.Filter
	payload bool            // add the payloads
	pos     events.Position // the client has everything up to here
}

func newPlain(h *Hub, conn *websocket.Conn, w *wire, caller Caller, ask request) *socket {
	s := newSocket(h, conn, w, caller)
	s.mode = &plain{
		socket: s, reader: h.config.Readers.Reader(ask.filter), filter: ask.filter, payload: ask.payload, pos: ask.after,
	}
	return s
}

func (p *plain) cursor() string { return p.pos.String() }

// hear ignores what a client says: in this mode nothing of it has a meaning.
func (p *plain) hear([]byte) *ending { return nil }

func (p *plain) farewell(*ending, int64) []byte { return nil }

func (p *plain) release() { p.reader.Unpark() }

// serve sends events until the socket ends.
func (p *plain) serve() {
	for !p.over() {
		batch, err := p.reader.Read(p.ctx, p.pos, p.hub.config.BatchEvents)
		switch {
		case err != nil:
			p.end(endingOf(err))
		case len(batch) > 0:
			p.send(batch)
			p.tend(nil, closed, time.Time{})
		default:
			if !p.reader.Park(p.pos) {
				continue
			}
			p.hub.signal("parked", p.socket)
			p.tend(p.reader.Woken(), nil, time.Time{})
			p.pos = p.reader.Unpark()
		}
	}
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
func (p *plain) send(batch []*events.Event) {
	out, _ := outboxes.Get().(*outbox)
	defer func() {
		if cap(out.bytes) <= maxKept {
			outboxes.Put(out)
		}
	}()
	out.reset()
	var window payloadWindow
	for i, e := range batch {
		if p.filter.Match(e) {
			body := e.JSON()
			if p.payload {
				var err error
				if body, err = window.body(p, batch[i:]); err != nil {
					p.end(endingOf(err))
					return
				}
			}
			out.event(e, body)
		}
		if len(out.bytes) < p.hub.config.BatchBytes && i < len(batch)-1 {
			continue
		}
		if len(out.bytes) > 0 {
			if whole, ok := p.flush(out); !ok {
				if whole > 0 {
					p.pos = out.marks[whole-1].at
				}
				return
			}
		}
		p.pos = e.Position // what the filter held back is behind it, too
		out.reset()
	}
}

// payloadWindow holds the payloads of the next events of a batch.
type payloadWindow struct {
	of   map[uuid.UUID]json.RawMessage
	upTo events.Position
}

// body is the first event of rest with its payload; those of the next ones are read along with it.
func (w *payloadWindow) body(p *plain, rest []*events.Event) ([]byte, error) {
	if w.upTo.Before(rest[0].Position) {
		ahead := make([]*events.Event, 0, events.PayloadBatch)
		for _, e := range rest {
			if len(ahead) < events.PayloadBatch && p.filter.Match(e) {
				ahead = append(ahead, e)
			}
		}
		var err error
		if w.of, err = p.reader.Payloads(p.ctx, ahead); err != nil {
			return nil, err
		}
		w.upTo = ahead[len(ahead)-1].Position
	}
	return rest[0].AppendWithPayload(nil, w.of[rest[0].JobID]), nil
}
