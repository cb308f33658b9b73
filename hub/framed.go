package hub

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mini-asynq/mini-asynq/events"
)

// session is framed mode on one socket: up to 16 subscriptions, served in turn by the one goroutine that writes. What
// watch hears is checked there and comes as orders; pages that are not in memory are read beside, one at a time. The bell
// rings for all of that, and for the subscriptions that rest: then everything is looked at.
type session struct {
	*socket
	caller Caller
	bell   chan struct{}  // capacity 1. Senders: watch, load, the fan; never closed
	orders chan order     // capacity 8. Sender: watch; never closed
	pages  chan page      // capacity 1. Sender: load, of which there is one; never closed
	loads  sync.WaitGroup // load
	heard  atomic.Bool    // the client has sent a frame

	views, consumers atomic.Int64 // subscriptions, for the metrics

	// Owned by run.
	born    time.Time // monotonic
	subs    []*subscription
	out     *outbox // while a round lasts
	loading bool
	stats   statsAsk
}

// page is what load has read.
type page struct {
	sub     *subscription
	version int // of its filter
	batch   []*events.Event
	bodies  map[*events.Event][]byte // with payloads; nil: without
	err     error
}

func newSession(h *Hub, conn *websocket.Conn, w *wire, caller Caller) *socket {
	s := newSocket(h, conn, w, caller)
	s.mode = &session{
		socket: s, caller: caller, born: time.Now(), // monotonic
		bell: make(chan struct{}, 1), orders: make(chan order, 8), pages: make(chan page, 1),
	}
	return s
}

// cursor is empty: each subscription has its own, and its frames say it.
func (s *session) cursor() string { return "" }

// farewell says when to come back to a client that has to leave a node that drains.
func (s *session) farewell(e *ending, retryMS int64) []byte {
	if e.code != CloseGoingAway {
		return nil
	}
	var out outbox
	if out.frame(bye{T: "bye", RetryMS: retryMS}) != nil {
		return nil
	}
	return out.bytes
}

// hear takes in a frame of the client.
func (s *session) hear(said []byte) *ending {
	w, detail := readWish(said)
	if detail != "" {
		return &ending{code: CloseBadFrame, detail: detail}
	}
	s.heard.Store(true)
	if w.T == "sub" && s.caller.Reads != nil && !s.caller.Reads() {
		return &ending{code: CloseForbidden}
	}
	select {
	case s.orders <- s.check(w):
		s.ring()
	case <-s.ctx.Done():
	}
	return nil
}

// ring makes run look at everything.
func (s *session) ring() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// serve greets, and sends what the subscriptions have until the socket ends.
func (s *session) serve() {
	s.out = new(outbox)
	s.greet()
	if !s.flushAll() {
		return
	}
	for !s.over() {
		now := time.Now() // monotonic
		if s.round(now) {
			s.tend(nil, closed, time.Time{})
			continue
		}
		if s.ctx.Err() == nil {
			s.hub.signal("rests", s.socket)
		}
		s.tend(s.bell, nil, s.due(now))
	}
}

func (s *session) greet() {
	head, err := s.hub.config.Stream.Head()
	if err != nil {
		s.end(&ending{code: CloseInternal, err: err}) // not ready: later, or at another node
		return
	}
	s.say(hello{
		T: "hello", V: 1, Node: s.hub.config.Node, Epoch: head.Epoch, Head: head.String(),
		Floor: s.hub.config.Stream.Floor().String(), MaxSubs: maxSubs, MaxBatch: maxEvents,
	})
}

// round does all that can be done now, each subscription one step; more: there is something for another one.
func (s *session) round(now time.Time) (more bool) {
	out, _ := outboxes.Get().(*outbox)
	out.reset()
	s.out = out
	defer func() {
		s.out = nil
		if cap(out.bytes) <= maxKept {
			outboxes.Put(out)
		}
	}()
	if !s.heard.Load() && now.Sub(s.born) >= s.hub.config.FirstWithin {
		s.end(&ending{code: CloseSilent})
		return false
	}
	for range cap(s.orders) {
		select {
		case o := <-s.orders:
			s.obey(o, now)
			continue
		default:
		}
		break
	}
	more = len(s.orders) > 0
	select {
	case p := <-s.pages:
		more = s.arrive(p, now) || more
	default:
	}
	for _, sub := range slices.Clone(s.subs) { // a step may end one, or put it behind the others
		if s.ctx.Err() != nil {
			return false
		}
		more = s.advance(sub, now) || more
		if now.Sub(sub.said) >= s.hub.config.MarkEvery && slices.Contains(s.subs, sub) {
			s.remind(sub, now)
		}
		if !s.flushFull() {
			return false
		}
	}
	s.sayStats(now)
	return s.flushAll() && more
}

// remind says where a subscription stands that has not been heard of for a while.
func (s *session) remind(sub *subscription, now time.Time) {
	if sub.parked {
		// Meanwhile the fan looked at events for it.
		s.rouse(sub)
		sub.parked = sub.reader.Park(sub.pos)
		if !sub.parked {
			s.ring()
		}
	}
	s.mark(sub, now)
}

// due is when something is to be done even if nothing happens.
func (s *session) due(now time.Time) time.Time {
	at := now.Add(time.Hour)
	earlier := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if !s.heard.Load() {
		earlier(s.born.Add(s.hub.config.FirstWithin))
	}
	for _, sub := range s.subs {
		earlier(sub.said.Add(s.hub.config.MarkEvery))
		if sub.view && sub.next.After(now) { // one whose time has come rests, or waits for a page
			earlier(sub.next)
		}
	}
	if s.stats.every > 0 {
		earlier(s.stats.next)
	}
	return at
}

// find returns the subscription of an id, nil if there is none.
func (s *session) find(id string) *subscription {
	for _, sub := range s.subs {
		if sub.id == id {
			return sub
		}
	}
	return nil
}

// obey does what the client wants.
func (s *session) obey(o order, now time.Time) {
	sub := s.find(o.ID)
	switch {
	case o.T == "sub" && sub != nil:
		s.end(&ending{code: CloseIDInUse})
	case o.T == "sub" && len(s.subs) >= maxSubs:
		s.end(&ending{code: CloseFlood, detail: "16 subscriptions at most"})
	case o.failed != nil:
		s.say(*o.failed)
	case o.ended != nil:
		s.say(*o.ended)
	case o.T == "sub":
		s.begin(o, now)
	case o.T == "ping":
		s.say(pong{T: "pong", N: o.N})
	case o.T == "stats":
		s.askStats(o, now)
	case sub == nil:
		s.say(fault{T: "err", ID: o.ID, Code: "unknown_id", Detail: "there is no such subscription; it may have ended"})
	case o.T == "unsub":
		s.drop(sub)
	case o.T == "filter":
		s.refilter(sub, o)
	case o.T == "credit" && sub.view:
		s.say(fault{T: "err", ID: o.ID, Code: "invalid_parameter", Detail: "credit: in class consumer"})
	case o.T == "credit" && sub.credit+o.N > maxCredit:
		s.say(fault{T: "err", ID: o.ID, Code: "invalid_parameter", Detail: "n: at most 10000 may be open"})
	case o.T == "credit":
		sub.credit += o.N
	}
}

// begin takes up a subscription.
func (s *session) begin(o order, now time.Time) {
	sub := s.newSubscription(o)
	behind := max(0, o.head.Seq-o.after.Seq)
	s.say(place{T: "subbed", ID: sub.id, Cursor: sub.pos.String(), Behind: &behind})
	sub.spoke(now)
	s.subs = append(s.subs, sub)
	s.count()
}

// drop ends a subscription.
func (s *session) drop(sub *subscription) {
	s.rouse(sub)
	s.subs = slices.DeleteFunc(s.subs, func(other *subscription) bool { return other == sub })
	s.count()
}

// count tells the metrics how many subscriptions there are.
func (s *session) count() {
	views := 0
	for _, sub := range s.subs {
		if sub.view {
			views++
		}
	}
	s.views.Store(int64(views))
	s.consumers.Store(int64(len(s.subs) - views))
}

// load reads a page beside, with the payloads if they are wanted. One at a time for each session: then the others have
// their turn.
func (s *session) load(sub *subscription, limit int) {
	if s.loading {
		return
	}
	s.loading, sub.loading = true, true
	s.subs = append(slices.DeleteFunc(s.subs, func(other *subscription) bool { return other == sub }), sub)
	p := page{sub: sub, version: sub.version}
	after, filter, reader, payload := sub.pos, sub.filter, sub.reader, sub.payload
	if payload {
		limit = min(limit, events.PayloadBatch)
	}
	// Ends with its page, or soon after the socket does; release waits for it.
	s.loads.Go(func() {
		defer s.recoverPanic()
		if p.batch, p.err = reader.Read(s.ctx, after, limit); p.err == nil && payload {
			p.bodies, p.err = s.withPayloads(reader, filter, p.batch)
		}
		s.pages <- p
		s.ring()
	})
}

// withPayloads encodes the events of a batch that a filter lets through with their payloads.
func (s *session) withPayloads(reader *events.Reader, filter *events.Filter, batch []*events.Event) (map[*events.Event][]byte, error) {
	wanted := make([]*events.Event, 0, len(batch))
	for _, e := range batch {
		if filter.Match(e) {
			wanted = append(wanted, e)
		}
	}
	payloads, err := reader.Payloads(s.ctx, wanted)
	if err != nil {
		return nil, err
	}
	bodies := make(map[*events.Event][]byte, len(wanted))
	for _, e := range wanted {
		bodies[e] = e.AppendWithPayload(nil, payloads[e.JobID])
	}
	return bodies, nil
}

// arrive sends what load has read, unless nobody wants it any more.
func (s *session) arrive(p page, now time.Time) (more bool) {
	s.loading, p.sub.loading = false, false
	switch {
	case s.ctx.Err() != nil:
		return false
	case !slices.Contains(s.subs, p.sub), p.version != p.sub.version:
	case p.err != nil:
		s.lose(p.sub, p.err)
	case p.sub.view:
		s.show(p.sub, p.batch, now)
	default:
		s.deliver(p.sub, p.batch, p.bodies, now)
	}
	return true
}

// release lets go of what the session holds; the socket has ended.
func (s *session) release() {
	for _, sub := range slices.Clone(s.subs) {
		s.drop(sub)
	}
	s.loads.Wait()
}

// say puts a frame into the outbox.
func (s *session) say(frame any) {
	if err := s.out.frame(frame); err != nil {
		s.end(&ending{code: CloseInternal, err: err})
	}
}

// flushFull sends what has gathered when it is enough for a write; false: the socket has ended.
func (s *session) flushFull() bool {
	if len(s.out.bytes) < s.hub.config.BatchBytes {
		return s.ctx.Err() == nil
	}
	return s.flushAll()
}

// flushAll sends what has gathered; false: the socket has ended.
func (s *session) flushAll() bool {
	if s.ctx.Err() != nil {
		return false
	}
	if len(s.out.bytes) > 0 {
		_, ok := s.flush(s.out)
		s.out.reset()
		return ok
	}
	return true
}
