package events

import (
	"context"
	"errors"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// unwritten tells whether something has happened since the last write.
func (s *sender) unwritten() bool {
	return s.arrived+s.given > 0 || s.troubled || s.live.cursor() != s.written ||
		s.replay != nil && s.replay.cursor() != s.replayed
}

// mustWrite tells whether the time for a write has come: rows to be stored at once, the rest now and then, and before the
// lease is short.
func (s *sender) mustWrite() bool {
	now := time.Now()
	return !now.Before(s.retryAt) && (len(s.book.changed) > 0 || s.barred() && !s.ending() || s.replay != nil && s.replay.over() ||
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
	switch {
	case s.ending() && s.book.sending == 0 || s.barred() && !s.ending():
		next = time.Now()
	case s.unwritten():
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

// progress is what is to be written. A webhook is disabled by the last write of its sender, when nothing is under way.
func (s *sender) progress(release bool) jobs.WebhookProgress {
	p := jobs.WebhookProgress{
		Seq: s.live.cursor().Seq, Delivered: s.arrived, Failed: s.given, Troubled: s.troubled, Release: release,
		GiveUpAfter: s.config.GiveUpAfter,
	}
	if release {
		p.Disable = s.disable
	}
	if s.replay != nil {
		p.ReplaySeq = s.replay.cursor().Seq
	}
	for _, it := range s.book.changed {
		row := jobs.DeliveryRow{
			Epoch: it.at.Epoch, Seq: it.at.Seq, State: it.state, Line: it.line, Attempts: it.attempts,
			Due: max(time.Until(it.due), 0), LastStatus: it.status, LastError: jobs.Storable(it.detail, 512),
		}
		if it.event != nil {
			row.JobID, row.EventType, row.Body = it.event.JobID, it.event.Type, it.event.JSON()
		}
		p.Rows = append(p.Rows, row)
	}
	for at := range s.book.gone {
		p.Gone = append(p.Gone, [2]int64{at.Epoch, at.Seq})
	}
	return p
}

// write stores the progress. A hold that is lost ends the sender, and so does a database that is away for a lease.
func (s *sender) write(ctx context.Context, release bool) {
	if time.Now().Before(s.retryAt) {
		return
	}
	s.unpark() // the cursor goes as far as the fan has looked
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
	s.book.written()
	if s.replay != nil {
		if s.replayed = s.replay.cursor(); s.replay.over() {
			s.replay = nil
		}
	}
	if state.Disabled != "" {
		s.log.Error().Str("reason", state.Disabled).Msg("a webhook was disabled")
	}
	// Other settings, or a replay, begin with a new hold. The event about them is a hint, which may have come before this
	// sender could hear it; the version is the truth.
	s.draining = s.draining || state.Version != s.hold.Version || !state.Enabled
	if !s.draining && s.barred() {
		s.passed, s.barrier = s.barrier, Position{}
	}
	s.over = release || state.Disabled != ""
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
