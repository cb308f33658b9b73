package events

import "time"

// SinkRow is a row of a sink as its store keeps it.
type SinkRow struct {
	At       Position
	Line     string
	State    string
	Attempts int
	Due      time.Time
	Event    *Event
}

// SinkBook is a book with both of its sources.
type SinkBook struct {
	book   *book
	live   source
	replay *source
}

// OpenSinkBook is what a new holder makes of what is stored.
func OpenSinkBook(cursor Position, rows []SinkRow, replayAt Position, until int64) *SinkBook {
	s := &SinkBook{book: newBook(), live: source{read: cursor}}
	if until > 0 {
		s.replay = &source{read: replayAt, until: until}
	}
	for _, row := range rows {
		if row.State == stateFailed {
			if cursor.Before(row.At) {
				s.book.given[row.At] = true
			}
			continue
		}
		s.book.load(&item{at: row.At, line: row.Line, event: row.Event, attempts: row.Attempts, due: row.Due})
	}
	return s
}

// Reads is how far the live source and the replay have read; ok: there is a replay with something left.
func (s *SinkBook) Reads() (live, replay Position, ok bool) {
	if s.replay == nil {
		return s.live.read, Position{}, false
	}
	return s.live.read, s.replay.read, s.replay.read.Seq < s.replay.until
}

// Take reads one event.
func (s *SinkBook) Take(e *Event, replay bool) {
	from := &s.live
	if replay {
		from = s.replay
	}
	from.read = e.Position
	s.book.take(from, e)
}

// Start begins the delivery that is next.
func (s *SinkBook) Start() (e *Event, attempts int, ok bool) {
	it := s.book.next()
	if it == nil {
		return nil, 0, false
	}
	return it.event, it.attempts, true
}

// Delivered, Postponed, GivenUp and Untried end one.
func (s *SinkBook) Delivered(at Position) { s.book.delivered(s.book.known[at]) }

// Postponed parks it until due.
func (s *SinkBook) Postponed(at Position, due time.Time) {
	s.book.known[at].attempts++
	s.book.postponed(s.book.known[at], due)
}

// GivenUp makes it a failed one.
func (s *SinkBook) GivenUp(at Position) {
	s.book.known[at].attempts++
	s.book.givenUp(s.book.known[at])
}

// Untried has it tried again at due.
func (s *SinkBook) Untried(at Position, due time.Time) { s.book.back(s.book.known[at], due) }

// Rouse says that it is now.
func (s *SinkBook) Rouse(now time.Time) { s.book.rouse(now) }

// Progress is what is to be stored; over: the replay is.
func (s *SinkBook) Progress() (cursor, replay Position, over bool, rows []SinkRow, gone []Position) {
	for _, it := range s.book.changed {
		rows = append(rows, SinkRow{it.at, it.line, it.state, it.attempts, it.due, it.event})
	}
	for at := range s.book.gone {
		gone = append(gone, at)
	}
	if s.replay != nil {
		replay, over = s.replay.cursor(), s.replay.over()
	}
	return s.live.cursor(), replay, over, rows, gone
}

// Written says that it is stored.
func (s *SinkBook) Written() {
	s.book.written()
	if s.replay != nil && s.replay.over() {
		s.replay = nil
	}
}

// Counts are those of the book; they have to agree with what it holds.
func (s *SinkBook) Counts() (known, rows, sending, lines int) {
	for _, line := range s.book.lines {
		lines += len(line)
	}
	return len(s.book.known), s.book.rows, s.book.sending, lines
}
