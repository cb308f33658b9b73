package events

import "sync"

// ring holds the newest events of the present epoch, dense and in order. One writer, any number of readers.
type ring struct {
	mu      sync.RWMutex // guards all below; nothing blocks under it
	events  []*Event     // a circle of fixed capacity
	next    int          // where the next event goes
	count   int
	head    Position      // of the last event that the node has seen, in the ring or not
	changed chan struct{} // closed, and replaced, when head moves
}

func newRing(capacity int) *ring {
	return &ring{events: make([]*Event, capacity), changed: make(chan struct{})}
}

// reset empties the ring and puts it at a position: a start, or a new epoch.
func (r *ring) reset(head Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.events)
	r.next, r.count, r.head = 0, 0, head
	close(r.changed)
	r.changed = make(chan struct{})
}

// push appends events that follow the head, and wakes the readers.
func (r *ring) push(batch []*Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range batch {
		r.events[r.next] = e
		r.next = (r.next + 1) % len(r.events)
	}
	r.count = min(r.count+len(batch), len(r.events))
	r.head = batch[len(batch)-1].Position
	close(r.changed)
	r.changed = make(chan struct{})
}

// state returns the head and a channel that is closed when it moves. Taken together, so that nothing falls between a
// read and the wait after it.
func (r *ring) state() (Position, <-chan struct{}) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head, r.changed
}

// after returns up to limit events after a position of the same epoch, and false if the ring does not reach back so
// far.
func (r *ring) after(p Position, limit int) ([]*Event, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	behind := r.head.Seq - p.Seq
	if p.Epoch != r.head.Epoch || behind > int64(r.count) {
		return nil, false
	}
	n := min(int(behind), limit)
	if n <= 0 {
		return nil, true
	}
	out := make([]*Event, n)
	from := r.next - int(behind)
	if from < 0 {
		from += len(r.events)
	}
	copied := copy(out, r.events[from:])
	copy(out[copied:], r.events)
	return out, true
}
