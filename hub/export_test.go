package hub

import (
	"fmt"

	"github.com/mini-asynq/mini-asynq/events"
)

// OnSignal tells a test of moments in the life of clients: parked, blocked, slow, ended. Before the hub is used.
func (h *Hub) OnSignal(fn func(moment, principal, cursor string)) {
	h.signal = func(moment string, s *socket) { fn(moment, s.principal, s.mode.cursor()) }
}

// CutOutbox puts events into an outbox and says what is left to send when n bytes are out: the rest of the frame that was
// cut, and how many frames are whole.
func CutOutbox(batch []*events.Event, n int) (all []byte, whole int, rest []byte) {
	var o outbox
	for _, e := range batch {
		o.event(e, e.JSON())
	}
	whole, rest = o.sent(n)
	return o.bytes, whole, rest
}

// Goodbye is the close frame of a code, at its longest.
func Goodbye(code CloseCode) []byte {
	far := events.Position{Epoch: 1<<53 - 1, Seq: 1<<53 - 1}
	s := &socket{wire: &wire{}}
	s.mode = &plain{socket: s, pos: far}
	return s.goodbye(&ending{code: code, floor: far})
}

// ReadWish tells what is wrong with a frame of a client; empty: nothing. A frame that is well is checked further.
func ReadWish(said []byte) (detail string) {
	w, detail := readWish(said)
	if detail == "" {
		_, _ = filterOf(w.Filter)
	}
	return detail
}

// PaneOf is what a view sees of a batch: the list of an ev frame, how many events, up to where, or that it skips.
func PaneOf(batch []*events.Event, filter *events.Filter) (list []byte, n int, upTo events.Position, skip bool) {
	p := paneOf(batch, filter)
	return p.list, p.n, p.upTo, p.skip
}

// AppendFrame is appendFrame.
func AppendFrame(b []byte, opcode int, payload []byte) []byte { return appendFrame(b, opcode, payload) }

// State says where the hub stands.
func (h *Hub) State() string {
	parked, at := h.config.Readers.Parked()
	return fmt.Sprintf("fan at %s, %d sockets, %d readers parked", at, h.Sockets(), parked)
}

// SamePane tells whether two views that stand at one place, with filters of these fields, share what they see of a batch.
func SamePane(batch []*events.Event, one, other map[string][]string) bool {
	var ps panes
	of := func(fields map[string][]string) *pane {
		filter, err := filterOf(fields)
		if err != nil {
			panic(err)
		}
		return ps.of(&subscription{filter: filter, key: keyOf(fields, nil)}, batch)
	}
	return of(one) == of(other)
}

// HeldPanes is what is kept after n different panes of a batch: how many, and their bytes.
func HeldPanes(batch []*events.Event, n int) (held, bytes int) {
	var ps panes
	for i := range n {
		ps.of(&subscription{pos: events.Position{Seq: int64(i)}}, batch)
	}
	return len(ps.held), ps.bytes
}

// Unsaid is how many sockets are open whose goodbye is not out.
func (h *Hub) Unsaid() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sockets {
		select {
		case <-s.parted:
		default:
			n++
		}
	}
	return n
}
