package hub

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/mini-asynq/mini-asynq/events"
)

// subscription is one way through the log in a session: a cursor and a filter. What it has not sent lies in the log and
// nowhere else, so one that waits costs nothing. Owned by the session's run.
type subscription struct {
	id      string
	quoted  []byte // the id in JSON
	view    bool   // the class; else consumer
	filter  *events.Filter
	key     filterKey // of the filter; views that ask alike share
	payload bool
	reader  *events.Reader

	pos     events.Position // the client has everything up to here, or does not want it
	credit  int64           // consumer: events that it still takes
	parked  bool
	loading bool      // a page of it is being read
	version int       // of the filter: a page read for an older one lacks payloads, and is thrown away
	scanned int       // events since it last said where it stands
	said    time.Time // when that was; monotonic
	caught  bool      // it said that it is at the head
	next    time.Time // view: the next ev frame may go out; monotonic
}

// order is a wish that was checked: what run has to do. Its errors have been found already.
type order struct {
	wish
	filter *events.Filter
	key    filterKey
	after  events.Position
	head   events.Position // at that time
	every  time.Duration
	failed *fault // said instead
	ended  *place // the subscription is over before it began
}

// check turns a wish into an order. It may wait a second for a cursor that is ahead of this node; so it runs in watch,
// which nobody waits for.
func (s *session) check(w wish) order {
	o := order{wish: w}
	refuse := func(code, detail string) order {
		return order{wish: w, failed: &fault{T: "err", ID: w.ID, Code: code, Detail: detail}}
	}
	var err error
	switch w.T {
	case "sub", "filter":
		if o.filter, err = filterOf(w.Filter); err != nil {
			return refuse("invalid_parameter", err.Error())
		}
		o.filter = o.filter.Within(s.caller.Queues)
		o.key = keyOf(w.Filter, s.caller.Queues)
	case "credit":
		if w.N < 1 || w.N > maxCredit {
			return refuse("invalid_parameter", "n: 1 to 10000")
		}
	case "stats":
		return s.checkStats(o)
	}
	if w.T != "sub" {
		return o
	}
	if code, detail := s.checkSub(w); code != "" {
		return refuse(code, detail)
	}
	stream := s.hub.config.Stream
	if o.after, err = stream.Resolve(s.ctx, w.After); err == nil {
		o.head, err = stream.Head()
	}
	if said := endedBy(err); said != nil {
		said.ID = w.ID
		o.ended = said
		return o
	}
	if err != nil {
		said := refusalOf(err)
		return refuse(strings.ReplaceAll(said.name, "-", "_"), said.detail)
	}
	return o
}

// checkSub looks at what goes with a class and a caller.
func (s *session) checkSub(w wish) (code, detail string) {
	if w.Class != classView && w.Class != classConsumer {
		return "invalid_parameter", "class: view or consumer"
	}
	if w.given["after"] && w.After == "" {
		return "cursor_invalid", "after: a cursor, earliest or latest"
	}
	for _, part := range w.Include {
		switch {
		case part != includePayload:
			return "invalid_parameter", "include: payload is all that can be added"
		case w.Class == classView:
			return "invalid_parameter", "include: not in class view"
		case !s.caller.Payloads:
			return "forbidden", "include: payload needs the right read:payload"
		}
	}
	if w.given["credit"] && (w.Class == classView || w.Credit < 0 || w.Credit > maxCredit) {
		return "invalid_parameter", "credit: 0 to 10000, in class consumer"
	}
	return "", ""
}

// endedBy is what a subscription is told when the log cannot go on for it; nil: the error is none of these.
func endedBy(err error) *place {
	var epoch *events.EpochError
	var expired *events.ExpiredError
	switch {
	case errors.As(err, &epoch):
		return &place{T: "ended", Code: closeNames[CloseEpoch]}
	case errors.As(err, &expired):
		return &place{T: "ended", Code: closeNames[CloseExpired], Floor: expired.Floor.String()}
	}
	return nil
}

// newSubscription takes an order up; it begins where the order says.
func (s *session) newSubscription(o order) *subscription {
	quoted, err := json.Marshal(o.ID)
	if err != nil {
		quoted = []byte(`""`) // a string always marshals
	}
	return &subscription{
		id: o.ID, quoted: quoted, view: o.Class == classView, filter: o.filter, key: o.key, payload: len(o.Include) > 0,
		reader: s.hub.config.Readers.ReaderOn(s.bell, o.filter), pos: o.after, credit: o.Credit,
	}
}

// refilter gives a subscription another filter, from where it stands.
func (s *session) refilter(sub *subscription, o order) {
	s.rouse(sub)
	sub.filter, sub.key, sub.version = o.filter, o.key, sub.version+1
	sub.reader = s.hub.config.Readers.ReaderOn(s.bell, o.filter)
}

// rouse ends the rest of a subscription.
func (s *session) rouse(sub *subscription) {
	if sub.parked {
		sub.pos, sub.parked = sub.reader.Unpark(), false
	}
}

// advance takes a subscription a step further, and tells whether another step may follow at once.
func (s *session) advance(sub *subscription, now time.Time) (more bool) {
	if sub.loading || sub.parked && sub.reader.Parked() {
		return false
	}
	s.rouse(sub)
	if sub.view {
		return s.advanceView(sub, now)
	}
	if sub.credit == 0 {
		return false
	}
	head := s.head(sub)
	// Who takes little at once shall not have much read for it again and again.
	limit := min(maxEvents, int(max(sub.credit, minPage)))
	batch, ok, err := sub.reader.Recent(sub.pos, limit)
	switch {
	case err != nil:
		s.lose(sub, err)
		return false
	case !ok, sub.payload && len(batch) > 0:
		s.load(sub, limit)
		return false
	case len(batch) == 0:
		return s.settle(sub, now)
	}
	more = s.deliver(sub, batch, nil, now)
	s.reached(sub, head, now)
	return more
}

// head is the end of the log at this moment; a subscription that lies far behind it will say when it is there.
func (s *session) head(sub *subscription) events.Position {
	head, err := s.hub.config.Stream.Head()
	if err != nil {
		return sub.pos // the stream has begun before the session did
	}
	if head.Seq-sub.pos.Seq > markScanned {
		sub.caught = false
	}
	return head
}

// reached says that a subscription has got to the head as it was before the step; by now there may be more.
func (s *session) reached(sub *subscription, head events.Position, now time.Time) {
	if sub.caught || sub.pos.Epoch != head.Epoch || sub.pos.Before(head) {
		return
	}
	sub.caught = true
	s.say(place{T: "caught_up", ID: sub.id, Cursor: sub.pos.String()})
	sub.spoke(now)
}

// minPage is how many events are read at least, whatever the credit: the filter may let few through.
const minPage = 64

// deliver sends the events of a page that the filter lets through, as far as the credit goes. bodies are their encodings
// where they are not the events' own.
func (s *session) deliver(sub *subscription, batch []*events.Event, bodies map[*events.Event][]byte, now time.Time) (more bool) {
	for len(batch) > 0 && sub.credit > 0 {
		all, upTo, used := sub.take(batch, bodies)
		batch = batch[used:]
		sub.scanned += used
		if len(all) > 0 {
			s.out.events(sub.quoted, all, len(all), upTo)
			sub.credit -= int64(len(all))
		}
		sub.pos = upTo
		switch {
		case len(all) > 0:
			sub.spoke(now)
		case sub.scanned >= markScanned:
			s.mark(sub, now)
		}
		if !s.flushFull() {
			return false
		}
	}
	return true
}

// take takes events of a batch for one frame: as many as credit, count and bytes allow. used are those that are behind the
// client then, with those that the filter held back.
func (sub *subscription) take(batch []*events.Event, bodies map[*events.Event][]byte) (all [][]byte, upTo events.Position, used int) {
	size := 0
	for _, e := range batch {
		if sub.filter.Match(e) {
			body, ok := bodies[e]
			if !ok {
				body = e.JSON()
			}
			if len(all) > 0 && size+1+len(body) > maxFrame-evEnvelope {
				return all, upTo, used
			}
			size += 1 + len(body)
			all = append(all, body)
		}
		upTo = e.Position
		used++
		if int64(len(all)) == min(sub.credit, maxEvents) {
			break
		}
	}
	return all, upTo, used
}

const markScanned = 1000 // events that were looked at without a word

// settle puts a subscription that has read everything to rest.
func (s *session) settle(sub *subscription, now time.Time) (more bool) {
	s.reached(sub, sub.pos, now)
	if !sub.reader.Park(sub.pos) {
		return true
	}
	sub.parked = true
	return false
}

// mark says up to where everything was sent or held back.
func (s *session) mark(sub *subscription, now time.Time) {
	s.say(place{T: "mark", ID: sub.id, Cursor: sub.pos.String()})
	sub.spoke(now)
}

// spoke notes that the client knows where the subscription stands.
func (sub *subscription) spoke(now time.Time) { sub.said, sub.scanned = now, 0 }

// lose ends a subscription with which the log cannot go on; another fault ends the socket.
func (s *session) lose(sub *subscription, err error) {
	said := endedBy(err)
	if said == nil {
		s.end(endingOf(err))
		return
	}
	said.ID = sub.id
	s.say(*said)
	s.drop(sub)
}
