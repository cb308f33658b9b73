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
		reader:  w.config.Readers.Reader(filter),
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
		return p.send(ctx, w.client, w.config.Timeout)
	}
	for _, row := range hold.Rows {
		at := Position{row.Epoch, row.Seq}
		if row.State == "failed" {
			s.book.given[at] = true
			continue
		}
		it := &item{at: at, line: row.Line, attempts: row.Attempts}
		if row.State == "parked" && row.Due > 0 {
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
	drain, draining := s.drain, false
	for !s.over {
		now := time.Now()
		if !s.nextDue.IsZero() && !now.Before(s.nextDue) {
			s.nextDue = s.book.rouse(now)
		}
		if !draining && s.disable == "" {
			s.fill(ctx)
			for s.startOne(calls) {
			}
		}
		if s.book.sending > 0 || len(s.book.ready) > 0 {
			s.busyAt = time.Now()
		}
		switch {
		case (s.disable != "" || draining) && s.book.sending == 0:
			s.write(ctx, true)
		case s.idle():
			s.write(ctx, true)
		case s.mustWrite():
			s.write(ctx, false)
		}
		if s.over {
			break
		}
		wait := time.Until(s.lookAgain())
		if !draining && s.disable == "" && s.readable() {
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
			draining, drain = true, nil
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
	if !s.parked {
		s.read(ctx, &s.live)
	}
}

// room is how many more events may be on their way.
func (s *sender) room() int {
	onWay := len(s.book.known) - s.book.rows
	return min(maxParkedRows-s.book.rows-onWay, aheadOfCursor-onWay)
}

// readable tells whether a source may hold more, and there is room for it.
func (s *sender) readable() bool {
	replaying := s.replay != nil && s.replay.read.Seq < s.replay.until
	return (!s.parked || replaying) && s.room() > 0 && !time.Now().Before(s.readAt)
}

// read takes in the next page of a source.
func (s *sender) read(ctx context.Context, from *source) {
	room := s.room()
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
	case len(batch) == 0:
		s.parked = from == &s.live && s.reader.Park(from.read)
	}
	for _, e := range batch {
		if room == 0 || from.until > 0 && e.Seq > from.until {
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
	body, job, err := s.bodyOf(ctx, at, event)
	if errors.Is(err, jobs.ErrNotFound) {
		return verdict{delivered: true} // somebody removed the row
	}
	if err == nil && s.hold.IncludePayload {
		var payload json.RawMessage
		if payload, err = s.payloadOf(ctx, job); err == nil {
			body = webhookBody(body, payload)
		}
	}
	if err != nil {
		return verdict{untried: true, detail: "the database could not be read"}
	}
	return s.post(ctx, "evt_"+at.String(), body)
}

func (s *sender) bodyOf(ctx context.Context, at Position, event *Event) ([]byte, uuid.UUID, error) {
	if event != nil {
		return event.JSON(), event.JobID, nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeDeadline)
	defer cancel()
	return s.hold.Body(ctx, s.config.DB, at.Epoch, at.Seq)
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

// unwritten tells whether something has happened since the last write.
func (s *sender) unwritten() bool {
	return s.arrived+s.given > 0 || s.troubled || s.live.cursor() != s.written ||
		s.replay != nil && s.replay.cursor() != s.replayed
}

// mustWrite tells whether the time for a write has come: rows at once, the rest now and then, and before the lease is short.
func (s *sender) mustWrite() bool {
	now := time.Now()
	return !now.Before(s.retryAt) && (len(s.book.changed)+len(s.book.gone) > 0 || s.replay != nil && s.replay.over() ||
		s.unwritten() && now.Sub(s.wroteAt) >= writeEvery || now.Sub(s.wroteAt) >= s.config.Lease/3)
}

// idle tells whether nothing has to be done for so long that the hold is not worth renewing.
func (s *sender) idle() bool {
	now := time.Now()
	rest := s.config.Lease / 3
	return s.parked && s.replay == nil && s.book.sending == 0 && len(s.book.ready) == 0 && now.Sub(s.busyAt) >= rest &&
		(s.nextDue.IsZero() || s.nextDue.Sub(now) > rest) && !now.Before(s.retryAt)
}

// lookAgain is when the loop has to go round once more, if nothing else happens.
func (s *sender) lookAgain() time.Time {
	next := s.wroteAt.Add(s.config.Lease / 3)
	if s.unwritten() {
		next = s.wroteAt.Add(writeEvery)
	}
	if next.Before(s.retryAt) {
		next = s.retryAt
	}
	if !s.nextDue.IsZero() && s.nextDue.Before(next) {
		next = s.nextDue
	}
	if s.readAt.After(time.Now()) && s.readAt.Before(next) {
		next = s.readAt
	}
	return next
}

// progress is what is to be written.
func (s *sender) progress(release bool) jobs.WebhookProgress {
	p := jobs.WebhookProgress{
		Seq: s.live.cursor().Seq, Delivered: s.arrived, Failed: s.given, Troubled: s.troubled, Disable: s.disable,
		Release: release, GiveUpAfter: s.config.GiveUpAfter,
	}
	if s.replay != nil {
		p.ReplaySeq = s.replay.cursor().Seq
	}
	for it, state := range s.book.changed {
		row := jobs.DeliveryRow{
			Epoch: it.at.Epoch, Seq: it.at.Seq, State: state, Line: it.line, Attempts: it.attempts,
			Due: max(time.Until(it.due), 0), LastStatus: it.status, LastError: jobs.Storable(it.detail, 512),
		}
		if it.event != nil {
			row.JobID, row.EventType, row.Body = it.event.JobID, it.event.Type, it.event.JSON()
		}
		p.Rows = append(p.Rows, row)
	}
	for _, at := range s.book.gone {
		p.Gone = append(p.Gone, [2]int64{at.Epoch, at.Seq})
	}
	return p
}

// write stores the progress. A hold that is lost ends the sender, and so does a database that is away for a lease.
func (s *sender) write(ctx context.Context, release bool) {
	if time.Now().Before(s.retryAt) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, min(writeDeadline, s.config.Lease))
	defer cancel()
	began, cursor := time.Now(), s.live.cursor()
	state, err := s.hold.Write(ctx, s.config.DB, s.config.Lease, s.progress(release))
	switch {
	case errors.Is(err, jobs.ErrLeaseLost):
		s.log.Info().Msg("another node sends for this webhook, or it is gone")
		s.over = true
		return
	case err != nil:
		s.log.Warn().Err(err).Msg("the progress of a webhook could not be stored, trying again")
		s.retryAt = time.Now().Add(min(writeRetry, s.config.Lease/3))
		s.over = time.Now().After(s.leaseUntil)
		return
	}
	s.wroteAt, s.leaseUntil, s.written = began, began.Add(s.config.Lease), cursor
	s.counts.cursor.Store(cursor.Seq)
	s.arrived, s.given, s.troubled = 0, 0, false
	for it := range s.book.changed {
		it.stored = true
	}
	clear(s.book.changed)
	s.book.gone = s.book.gone[:0]
	if s.replay != nil {
		if s.replayed = s.replay.cursor(); s.replay.over() {
			s.replay = nil
		}
	}
	if state.Disabled != "" {
		s.log.Error().Str("reason", state.Disabled).Msg("a webhook was disabled")
	}
	// Other settings, or a replay, begin with a new hold: the manager hears of them, too.
	s.over = release || !state.Enabled || state.Disabled != ""
}

// last stores what there is when the node stops, and lets other nodes have the webhook.
func (s *sender) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, senderLastCall)
	defer cancel()
	for range sendersAtOnce { // what has arrived by now
		select {
		case r := <-s.results:
			if r.delivered {
				s.take(r)
			} else {
				s.book.sending--
			}
		default:
		}
	}
	if _, err := s.hold.Write(ctx, s.config.DB, s.config.Lease, s.progress(true)); err != nil && !errors.Is(err, jobs.ErrLeaseLost) {
		s.log.Warn().Err(err).Msg("a webhook could not be released: other nodes wait for its lease to run out")
	}
}

const senderLastCall = 100 * time.Millisecond
