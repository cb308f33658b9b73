package events

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

const (
	sendersAtOnce  = 8    // deliveries of a webhook under way
	maxParkedRows  = 1000 // after that the cursor stops
	aheadOfCursor  = 256  // events that may be on their way, sent or not
	maxUnsettled   = 8192 // events behind one that is slow: so many are sent again if the node dies
	writeEvery     = time.Second
	writeDeadline  = 10 * time.Second
	writeRetry     = time.Second
	payloadAgainIn = time.Second // after a database that is away
)

// sender sends the events of one webhook while this node holds it. One goroutine owns it; each delivery is a goroutine that
// ends with its call.
type sender struct {
	config *WebhooksConfig
	hold   *jobs.HeldWebhook
	post   func(ctx context.Context, id string, body []byte) verdict
	counts *deliveryCounts
	log    zerolog.Logger

	reader *Reader
	filter *Filter
	book   *book
	live   source
	replay *source // nil: none is under way

	results chan result   // capacity sendersAtOnce: a delivery never waits. Sender: deliveries; never closed
	drain   chan struct{} // closed by the manager: the settings have changed, end in order
	parked  bool          // the reader rests at the head

	// Other settings hold for the events after the one that tells of them: there the live source stops until a write has
	// shown that this hold has them already.
	barrier Position // zero: it does not stand
	passed  Position // of the last one

	nextDue    time.Time // when a parked item is due; zero: none is
	leaseUntil time.Time
	wroteAt    time.Time
	retryAt    time.Time // no write before, after one that failed
	readAt     time.Time // the same for reading
	written    Position  // the cursor as stored
	replayed   Position  // that of the replay
	busyAt     time.Time // there was something to do

	arrived, given int64
	troubled       bool
	disable        string
	draining       bool // the settings have changed: what is under way ends, and nothing begins
	over           bool // it has ended: released, lost, disabled
}

type result struct {
	item *item
	verdict
}

func newSender(w *Webhooks, hold *jobs.HeldWebhook, claimedAt time.Time, drain chan struct{}) (*sender, error) {
	filter, err := ParseFilter(hold.Filter)
	if err != nil {
		return nil, err
	}
	s := &sender{
		config: &w.config, hold: hold, counts: w.counts.of(hold.ID), filter: filter, book: newBook(),
		log:     w.config.Log.With().Str("webhook", hold.ID.String()).Logger(),
		reader:  w.config.Readers.Reader(filter.withWebhook(hold.ID)),
		results: make(chan result, sendersAtOnce), drain: drain,
		live:       source{read: Position{hold.Epoch, hold.Seq}},
		leaseUntil: claimedAt.Add(w.config.Lease), wroteAt: claimedAt,
	}
	s.counts.cursor.Store(hold.Seq)
	s.written = s.live.read
	if hold.ReplayUntil > 0 {
		s.replayed = Position{hold.Epoch, hold.ReplaySeq}
		s.replay = &source{read: s.replayed, until: hold.ReplayUntil}
	}
	previousUntil := claimedAt.Add(hold.PreviousFor)
	s.post = func(ctx context.Context, id string, body []byte) verdict {
		p := post{url: hold.URL, id: id, body: body, secret: hold.Secret}
		if time.Now().Before(previousUntil) {
			p.previous = hold.Previous
		}
		return w.call(ctx, p)
	}
	for _, row := range hold.Rows {
		at := Position{row.Epoch, row.Seq}
		if row.State == stateFailed {
			s.book.given[at] = true
			continue
		}
		it := &item{at: at, line: row.Line, attempts: row.Attempts}
		if row.State == stateParked && row.Due > 0 {
			it.due = claimedAt.Add(row.Due)
			s.soon(it.due)
		}
		s.book.load(it)
	}
	return s, nil
}

// soon notes that something is due.
func (s *sender) soon(at time.Time) {
	if s.nextDue.IsZero() || at.Before(s.nextDue) {
		s.nextDue = at
	}
}

// run sends until ctx ends, the hold is lost, or there is nothing to do for a while; then another node may have it, or this
// one again. It returns when all deliveries have ended, with the position up to which all is settled.
func (s *sender) run(ctx context.Context) Position {
	calls, hangUp := context.WithCancel(ctx)
	defer hangUp()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	drain := s.drain
	for !s.over {
		now := time.Now()
		if !s.nextDue.IsZero() && !now.Before(s.nextDue) {
			s.nextDue = s.book.rouse(now)
		}
		if !s.ending() {
			s.fill(ctx)
			for s.startOne(calls) {
			}
		}
		if s.book.sending > 0 || len(s.book.ready) > 0 {
			s.busyAt = time.Now()
		}
		switch {
		case s.ending() && s.book.sending == 0 || s.idle():
			s.write(ctx, true)
		case s.mustWrite():
			s.write(ctx, false)
		}
		if s.over {
			break
		}
		wait := time.Until(s.lookAgain())
		if !s.ending() && s.readable() {
			wait = 0 // there may be more
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			s.last(context.WithoutCancel(ctx))
			s.over = true
		case r := <-s.results:
			s.take(r)
		case <-s.woken():
			s.unpark()
		case <-drain:
			drain = nil // ending knows it from now on
		case <-timer.C:
		}
	}
	s.unpark()
	hangUp()
	for s.book.sending > 0 {
		<-s.results
		s.book.sending--
	}
	return s.live.cursor()
}

// ending tells whether nothing new begins: the settings are others, or the webhook is to be disabled. What is under way may
// still arrive, and that is worth knowing: else it would be sent twice.
func (s *sender) ending() bool {
	select {
	case <-s.drain:
		s.draining = true
	default:
	}
	return s.draining || s.disable != ""
}

// barred tells whether the live source waits for a write.
func (s *sender) barred() bool { return s.barrier != Position{} }

// woken is ready when the reader has rested long enough.
func (s *sender) woken() <-chan struct{} {
	if !s.parked {
		return nil
	}
	return s.reader.Woken()
}

func (s *sender) unpark() {
	if s.parked {
		s.parked = false
		s.live.read = s.reader.Unpark() // everything up to there is for others
	}
}

// fill reads on while there is room.
func (s *sender) fill(ctx context.Context) {
	if s.replay != nil {
		s.read(ctx, s.replay)
	}
	if !s.parked && !s.barred() {
		s.read(ctx, &s.live)
	}
}

// room is how many more events of a source may be on their way. A replay leaves half of it to what is new.
func (s *sender) room(of *source) int {
	of.cursor()
	onWay := s.book.onWay()
	room := min(maxParkedRows-s.book.rows-onWay, aheadOfCursor-onWay, maxUnsettled-len(of.pending))
	if of.until > 0 {
		room = min(room, aheadOfCursor/2-len(of.pending))
	}
	return room
}

// readable tells whether a source may hold more, and there is room for it.
func (s *sender) readable() bool {
	if time.Now().Before(s.readAt) {
		return false
	}
	return !s.parked && !s.barred() && s.room(&s.live) > 0 ||
		s.replay != nil && s.replay.read.Seq < s.replay.until && s.room(s.replay) > 0
}

// read takes in the next page of a source.
func (s *sender) read(ctx context.Context, from *source) {
	room := s.room(from)
	if room <= 0 || from.until > 0 && from.read.Seq >= from.until || time.Now().Before(s.readAt) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Lease/3)
	defer cancel()
	batch, err := s.reader.Read(ctx, from.read, fanBatch)
	var epoch *EpochError
	var expired *ExpiredError
	switch {
	case errors.As(err, &epoch):
		s.disable = jobs.WebhookEpochChanged
	case errors.As(err, &expired) && from == s.replay:
		s.log.Warn().Msg("the rest of a replay is no longer kept")
		from.read.Seq = min(expired.Floor.Seq, from.until)
	case errors.As(err, &expired):
		s.disable = jobs.WebhookExpired
	case err != nil:
		s.readAt = time.Now().Add(writeRetry)
		s.log.Debug().Err(err).Msg("the stream could not be read")
	case len(batch) == 0 && from == s.replay:
		s.readAt = time.Now().Add(writeRetry) // this node has not read what the webhook has come to
	case len(batch) == 0:
		s.parked = s.reader.Park(from.read)
	}
	for _, e := range batch {
		if room == 0 || from.until > 0 && e.Seq > from.until {
			break
		}
		if from == &s.live && s.passed.Before(e.Position) && webhookOf(e) == s.hold.ID {
			s.barrier = e.Position
			break
		}
		from.read = e.Position
		if s.filter.Match(e) {
			s.book.take(from, e)
			room--
		}
	}
}

// startOne begins a delivery, if one is ready, there is a hand free, and the lease is long enough for it.
func (s *sender) startOne(ctx context.Context) bool {
	if s.book.sending >= sendersAtOnce || time.Until(s.leaseUntil) < s.config.Timeout {
		return false
	}
	it := s.book.next()
	if it == nil {
		return false
	}
	// Ends with its call, which has a deadline; run waits for it.
	go func() { s.results <- result{it, s.deliver(ctx, it.at, it.event)} }()
	return true
}

// deliver makes one call.
func (s *sender) deliver(ctx context.Context, at Position, event *Event) verdict {
	body, err := s.bodyOf(ctx, at, event)
	switch {
	case errors.Is(err, jobs.ErrNotFound):
		return verdict{delivered: true} // somebody removed the row
	case err != nil:
		return verdict{untried: true, detail: "the database could not be read"}
	}
	return s.post(ctx, "evt_"+at.String(), body)
}

// bodyOf is the event as it is sent. One that is a row from before is read, and so is a payload.
func (s *sender) bodyOf(ctx context.Context, at Position, event *Event) (body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeDeadline)
	defer cancel()
	var job uuid.UUID
	if event != nil {
		body, job = event.JSON(), event.JobID
	} else if body, job, err = s.hold.Body(ctx, s.config.DB, at.Epoch, at.Seq); err != nil {
		return nil, err
	}
	if !s.hold.IncludePayload {
		return body, nil
	}
	payload, err := s.payloadOf(ctx, job)
	return webhookBody(body, payload), err
}

func (s *sender) payloadOf(ctx context.Context, job uuid.UUID) (json.RawMessage, error) {
	payloads, err := s.config.Readers.Reader(nil).Payloads(ctx, []*Event{{JobID: job}})
	return payloads[job], err
}

// take draws the conclusion from a try.
func (s *sender) take(r result) {
	it := r.item
	switch {
	case r.delivered:
		s.book.delivered(it)
		s.arrived++
		s.counts.delivered.Add(1)
		return
	case r.untried:
		due := time.Now().Add(payloadAgainIn)
		s.book.back(it, due)
		s.soon(due)
		return
	case r.gone:
		s.disable = jobs.WebhookGone
	}
	s.troubled = true
	it.attempts++
	it.status, it.detail = r.status, r.detail
	if it.attempts > len(s.config.Backoff) {
		s.book.givenUp(it)
		s.given++
		s.counts.failed.Add(1)
		s.log.Warn().Str("event", it.at.String()).Int("status", it.status).Msg("a delivery was given up")
		return
	}
	delay := s.config.Backoff[it.attempts-1]
	delay += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(delay)) //nolint:gosec // spreads load, guards nothing
	due := time.Now().Add(max(delay, r.retryAfter))
	s.book.postponed(it, due)
	s.soon(due)
	s.counts.retried.Add(1)
}
