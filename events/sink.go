package events

import (
	"time"
)

// A sink is a reader of the stream that has to bring every event somewhere, outlives its node, and comes to terms with a
// receiver that is away. Its books are kept here, apart from how it delivers and where it stores: which events are on their
// way, which wait behind another one of the same line, and up to where everything is settled. An event is settled when it was
// delivered, when it is not for this sink, or when a row will tell the next holder of it.
//
// Not safe for concurrent use: one goroutine owns a book.

// item is an event on its way.
type item struct {
	at       Position
	line     string
	event    *Event // nil: it is a row from before, which holds it
	attempts int
	due      time.Time // of a parked one
	sending  bool
	row      bool   // it is a row of the deliveries, or will be with the next write
	stored   bool   // the row is there already
	state    string // of the row
	replayed bool   // there may be a row from when it was given up
	settled  bool

	status int // of the last try
	detail string
}

// What a row says of its item.
const (
	stateParked  = "parked"  // until it is due
	stateWaiting = "waiting" // behind another one
	stateFailed  = "failed"  // given up
)

// source is one way through the stream: the sink's cursor, or a replay. Its items are ascending.
type source struct {
	read    Position // every event up to it was looked at
	until   int64    // the last position of a replay; 0: it has no end
	pending []*item  // not settled, or behind one that is not
}

// cursor is the position up to which all is settled. It forgets what it passes.
func (s *source) cursor() Position {
	for len(s.pending) > 0 && s.pending[0].settled {
		s.pending = s.pending[1:]
	}
	if len(s.pending) == 0 {
		return s.read
	}
	first := s.pending[0].at
	return Position{first.Epoch, first.Seq - 1}
}

// over tells whether everything of a replay is settled.
func (s *source) over() bool { return s.until > 0 && s.cursor().Seq >= s.until }

// book is what a sink knows of its events.
type book struct {
	lines map[string][]*item // of each line in their order; the first is sent, the others wait for it
	known map[Position]*item // all items of lines
	given map[Position]bool  // rows that were given up behind the cursor: they are not sent again
	ready []string           // lines whose first item can be sent

	rows    int // items that are rows
	sending int

	changed map[Position]*item    // rows to write
	gone    map[Position]struct{} // rows to delete; none of them is to be written
}

func newBook() *book {
	return &book{
		lines: make(map[string][]*item), known: make(map[Position]*item), given: make(map[Position]bool),
		changed: make(map[Position]*item), gone: make(map[Position]struct{}),
	}
}

// load takes in a row from before.
func (b *book) load(it *item) {
	it.row, it.stored, it.settled = true, true, true
	b.rows++
	b.join(it)
}

// take takes in an event of a source. One that is on its way already is left to that way. (A replay is behind the cursor:
// what was given up there is not in given, and is sent again.)
func (b *book) take(s *source, e *Event) {
	if _, twice := b.known[e.Position]; twice || b.given[e.Position] {
		return
	}
	it := &item{at: e.Position, line: lineOf(e), event: e, replayed: s.until > 0}
	s.pending = append(s.pending, it)
	if before := b.lines[it.line]; len(before) > 0 && before[len(before)-1].row {
		b.park(it, stateWaiting)
	}
	b.join(it)
}

// onWay is how many items are on their way and no row.
func (b *book) onWay() int { return len(b.known) - b.rows }

// written notes that the changes are stored.
func (b *book) written() {
	for _, it := range b.changed {
		it.stored = true
		if it.state == stateFailed {
			b.leave(it)
		}
	}
	clear(b.changed)
	clear(b.gone)
}

func (b *book) join(it *item) {
	b.known[it.at] = it
	line := append(b.lines[it.line], it)
	b.lines[it.line] = line
	if len(line) == 1 && it.due.IsZero() {
		b.ready = append(b.ready, it.line)
	}
}

// park makes an item a row.
func (b *book) park(it *item, state string) {
	if !it.row {
		it.row, it.settled = true, true
		b.rows++
	}
	it.state = state
	b.changed[it.at] = it
	if _, gone := b.gone[it.at]; gone { // it was read once more before its row was deleted
		delete(b.gone, it.at)
		it.stored = true
	}
}

// next is the item to be sent, nil if there is none.
func (b *book) next() *item {
	if len(b.ready) == 0 {
		return nil
	}
	it := b.lines[b.ready[0]][0]
	b.ready = b.ready[1:]
	it.sending = true
	b.sending++
	return it
}

// leave ends the way of the first item of a line; the next one of the line can go.
func (b *book) leave(it *item) {
	delete(b.known, it.at)
	line := b.lines[it.line][1:]
	if len(line) == 0 {
		delete(b.lines, it.line)
	} else {
		b.lines[it.line] = line
		line[0].due = time.Time{}
		b.ready = append(b.ready, it.line)
	}
	it.settled = true
	if it.row {
		b.rows--
	}
}

// delivered ends an item that has arrived.
func (b *book) delivered(it *item) {
	it.sending = false
	b.sending--
	b.leave(it)
	delete(b.changed, it.at)
	if it.stored || it.replayed {
		b.gone[it.at] = struct{}{}
	}
}

// postponed parks an item that has not arrived until due, and all behind it.
func (b *book) postponed(it *item, due time.Time) {
	it.sending, it.due = false, due
	b.sending--
	b.park(it, stateParked)
	for _, behind := range b.lines[it.line][1:] {
		if !behind.row {
			b.park(behind, stateWaiting)
		}
	}
}

// givenUp ends an item that will not arrive. Its row tells of it, and what is behind it goes when that is stored: else a
// holder that came after a crash would try it once more, and it might arrive behind what should follow it.
func (b *book) givenUp(it *item) {
	it.sending = false
	b.sending--
	b.park(it, stateFailed)
}

// back puts an item that was not tried to the front once more, at due.
func (b *book) back(it *item, due time.Time) {
	it.sending, it.due = false, due
	b.sending--
}

// rouse makes lines ready whose first item is due, and says when another one will be; zero: none is parked.
func (b *book) rouse(now time.Time) (next time.Time) {
	for name, line := range b.lines {
		switch due := line[0].due; {
		case line[0].sending || due.IsZero():
		case !now.Before(due):
			line[0].due = time.Time{}
			b.ready = append(b.ready, name)
		case next.IsZero() || due.Before(next):
			next = due
		}
	}
	return next
}

// lineOf says which events arrive in order: those of a job, or of a queue, or of the same sort.
func lineOf(e *Event) string {
	switch {
	case e.AboutJob():
		return e.JobID.String()
	case e.Queue != "":
		return "queue:" + e.Queue
	}
	for i := range len(e.Type) {
		if e.Type[i] == '.' {
			return e.Type[:i]
		}
	}
	return e.Type
}
