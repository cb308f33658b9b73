package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// consumerEvents claims the consumer for a reader and gives him what comes behind the acknowledged cursor, or behind the
// one that he states. While it waits it asks the database nothing: the claim is given for the wait, too.
func (s *Server) consumerEvents(c *gin.Context) (err error) {
	if wantsHead(c) {
		c.Header("Allow", http.MethodGet)
		return refuse(methodNotAllowed, "reading claims the consumer, and a HEAD changes nothing")
	}
	ref, err := consumerName(c)
	if err != nil {
		return err
	}
	q := queryOf(c.Request, "reader", "limit", "wait", "after", "include")
	limit := q.whole("limit", defaultLimit, 1, maxEventsLimit)
	wait := q.duration("wait", 0, 0, maxWait)
	name, after := q.values["reader"], q.values["after"]
	if !jobs.ValidName(name) {
		q.refuse("reader", "who reads, one name for each program that does: 1 to 255 letters, digits and _ . : -")
	}
	with, err := includes(q, callOf(c).principal, "payload")
	if err != nil {
		return err
	}
	if after == "earliest" || after == "latest" {
		q.refuse("after", "a cursor that this reader was given")
	}
	if q.fault != nil {
		return q.fault
	}
	claim, err := s.claimConsumer(c, ref, name, after != "", wait)
	if err != nil {
		return err
	}
	settled := false
	defer func() {
		if !settled {
			s.leaveConsumer(c, claim)
		}
	}()
	a := ask{filter: claim.Filter, payload: with.payload}
	if a.after, err = s.placeOfReader(c.Request.Context(), claim, after); err != nil {
		return err
	}
	reader := s.config.Readers.Reader(a.filter)
	found, at, err := s.findEvents(c, reader, a, limit, wait)
	if err != nil {
		return err
	}
	var passed events.Position
	if after == "" { // what the filter held back needs no acknowledgement: else a narrow filter would fall behind
		if passed = at; len(found) > 0 {
			passed = found[0].Position
			passed.Seq--
		}
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	if err := claim.Settle(ctx, s.config.DB, passed); err != nil {
		return err
	}
	settled = true
	return s.replyEvents(c, reader, found, at, a.payload)
}

func (s *Server) claimConsumer(c *gin.Context, ref events.ConsumerRef, reader string, goesOn bool, wait time.Duration) (events.Claimed, error) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	return events.ClaimConsumer(ctx, s.config.DB, ref, reader, goesOn, wait)
}

// leaveConsumer lets a claim that was given for a wait lapse in time, although the call failed or its caller has gone.
func (s *Server) leaveConsumer(c *gin.Context, claim events.Claimed) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), s.config.Deadline)
	defer cancel()
	if err := claim.Leave(ctx, s.config.DB); err != nil {
		s.config.Log.Warn().Err(err).Str("consumer", claim.Name).Msg("a claim lapses later than it could")
	}
}

// placeOfReader is where a read begins. The acknowledged cursor is valid even if this node has not read so far yet, or
// has not heard of its epoch.
func (s *Server) placeOfReader(ctx context.Context, claim events.Claimed, after string) (events.Position, error) {
	if after != "" {
		return s.config.Stream.Resolve(ctx, after)
	}
	at, err := s.config.Stream.Resolve(ctx, claim.Cursor.String())
	var epoch *events.EpochError
	if errors.Is(err, events.ErrCursorInvalid) || errors.As(err, &epoch) && epoch.Head.Epoch < claim.Cursor.Epoch {
		err = events.ErrNotReady
	}
	return at, err
}

func (s *Server) ackConsumer(c *gin.Context) error {
	return withBody(s, c, consumerName, decodeAck, func(ctx context.Context, ref events.ConsumerRef, a ack) error {
		if err := events.AckConsumer(ctx, s.config.DB, ref, a.reader, a.upTo); err != nil {
			return ofField(err, "cursor")
		}
		c.Status(http.StatusNoContent)
		return nil
	})
}

// ack is what a reader acknowledges.
type ack struct {
	reader string
	upTo   events.Position
}

func decodeAck(raw []byte, _ events.ConsumerRef) (a ack, err error) {
	var given bool
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "reader":
			a.reader = named(v)
		case "cursor":
			s, ok := v.text()
			if !ok {
				break
			}
			given = true
			var bad error
			if a.upTo, bad = events.ParseCursor(s); bad != nil {
				v.refuse("invalid_value", "a cursor as 3-918273")
			}
		default:
			return false
		}
		return true
	})
	if err != nil {
		return ack{}, err
	}
	var faults []fieldError
	if a.reader == "" {
		faults = append(faults, fieldError{"/reader", "missing", "who acknowledges"})
	}
	if !given {
		faults = append(faults, fieldError{"/cursor", "missing", "up to where"})
	}
	if len(faults) > 0 {
		return ack{}, refusedFields(faults)
	}
	return a, nil
}
