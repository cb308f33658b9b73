package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

type consumerBody struct {
	Name       string              `json:"name"`
	Filter     map[string][]string `json:"filter"`
	Cursor     string              `json:"cursor"`
	LagEvents  *int64              `json:"lag_events"`  // null: the cursor is of another history
	LagSeconds *number             `json:"lag_seconds"` // the same
	Problem    text                `json:"problem"`     // what the next read is told
	Reader     text                `json:"reader"`      // null: nobody
	FreeIn     span                `json:"free_in"`     // null: now
	AckedAt    stamp               `json:"acked_at"`
	CreatedBy  string              `json:"created_by"`
	CreatedAt  stamp               `json:"created_at"`
	UpdatedBy  string              `json:"updated_by"`
	UpdatedAt  stamp               `json:"updated_at"`
}

func consumerOf(k events.Consumer) consumerBody {
	b := consumerBody{
		Name: k.Name, Filter: k.Filter, Cursor: k.Cursor.String(), Reader: text(k.Reader), FreeIn: freeIn(k.FreeIn),
		AckedAt: stamp(k.AckedAt), CreatedBy: k.CreatedBy, CreatedAt: stamp(k.CreatedAt), UpdatedBy: k.UpdatedBy,
		UpdatedAt: stamp(k.UpdatedAt),
	}
	if k.LagEvents >= 0 {
		seconds := number(k.Lag.Seconds())
		b.LagEvents, b.LagSeconds = &k.LagEvents, &seconds
	}
	if k.Lost != nil {
		b.Problem = text(problemOf(k.Lost).kind.code())
	}
	return b
}

// freeIn is a rest of a claim in whole seconds, up: who comes back then finds it free.
func freeIn(d time.Duration) span {
	return span(time.Duration(math.Ceil(d.Seconds())) * time.Second)
}

func consumerIsBusy(busy *events.BusyError) *problem {
	p := refuse(consumerBusy, "another reader has it")
	if busy.FreeIn <= 0 {
		p = refuse(consumerBusy, "the claim of this reader is over: read again, without after")
	}
	p.again = max(busy.FreeIn, retryIn)
	return p.with("reader", text(busy.Reader)).with("free_in", formatDuration(time.Duration(freeIn(busy.FreeIn))))
}

// consumerName reads the consumer in the address.
func consumerName(c *gin.Context) (events.ConsumerRef, error) {
	ref := events.ConsumerRef{Name: param(c, "name"), Within: callOf(c).principal.Queues()}
	if !jobs.ValidName(ref.Name) {
		return ref, badParameter("name", "1 to 255 letters, digits and _ . : -, not . or ..")
	}
	return ref, nil
}

// ofField says which field of a body an invalid cursor stood in.
func ofField(err error, name string) error {
	if errors.Is(err, events.ErrCursorInvalid) {
		return refuse(cursorInvalid, name+": the cursor is ahead of the log").with("parameter", name)
	}
	return err
}

// placeOf reads a place in the stream: a cursor, earliest or latest, and where times are taken, a time.
func placeOf(v value, times bool) (to events.Target) {
	s, ok := v.text()
	if !ok {
		return to
	}
	if s == "earliest" || s == "latest" {
		to.Cursor = s
		return to
	}
	if _, err := events.ParseCursor(s); err == nil {
		to.Cursor = s
		return to
	}
	if !times {
		v.refuse("invalid_value", "a cursor as 3-918273, earliest or latest")
		return to
	}
	at, ok := parseTime(s)
	if !ok || at.Year() < 1 || at.IsZero() {
		v.refuse("invalid_value", "a cursor as 3-918273, earliest, latest, or a time as 2026-03-01T12:00:00Z")
		return to
	}
	to.Time = at
	return to
}

// eventFilterOf reads a filter of events as an object: its fields are lists, or one value.
func eventFilterOf(v value) (fields map[string][]string, filter *events.Filter) {
	if v.isNull() {
		return nil, nil
	}
	fields = make(map[string][]string)
	places := make(map[string]value)
	known := make(map[string]bool)
	for _, name := range events.FilterFields() {
		known[name] = true
	}
	v.object(func(key string, v value) bool {
		if !known[key] {
			return false
		}
		if v.isNull() {
			return true
		}
		if places[key] = v; v.raw[0] == '"' {
			if s, ok := v.text(); ok {
				fields[key] = []string{s}
			}
			return true
		}
		fields[key] = []string{}
		v.array(func(_ int, item value) bool {
			if s, ok := item.text(); ok {
				fields[key] = append(fields[key], s)
			} else if item.isNull() {
				item.wrongType("a string")
			}
			return true
		})
		return true
	})
	filter, err := events.ParseFilter(fields)
	var fault *events.FilterError
	if errors.As(err, &fault) {
		places[fault.Field].refuse("invalid_value", fault.Detail)
	}
	return fields, filter
}

// consumerFields is what the bodies of consumers state.
type consumerFields struct {
	place  events.Target
	placed bool
	fields map[string][]string // of the filter
	reason string
}

func decodeConsumer(raw []byte, within []string) (f consumerFields, err error) {
	var filter *events.Filter
	if raw != nil {
		err = decodeObject(raw, jobDepth, func(key string, v value) bool {
			switch key {
			case "after":
				f.place = placeOf(v, false)
			case "filter":
				f.fields, filter = eventFilterOf(v)
			case "reason":
				f.reason = reasonOf(v)
			default:
				return false
			}
			return true
		})
	}
	if err == nil && !filter.Confined(within) {
		err = refusedFields([]fieldError{{
			"/filter/queues", "invalid_value", "a key that is held to some queues names those that it means, without a *",
		}})
	}
	return f, err
}

func (s *Server) putConsumer(c *gin.Context) error {
	ref, err := consumerName(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readOptionalBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	f, err := decodeConsumer(raw, ref.Within)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	k, created, err := events.PutConsumer(ctx, s.config.DB, ref, f.fields, f.place, s.actOf(c, f.reason))
	if err != nil {
		return ofField(err, "after")
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
		c.Header("Location", s.config.BasePath+prefix+"/consumers/"+k.Name)
	}
	return reply(c, status, consumerOf(k))
}

func (s *Server) deleteConsumer(c *gin.Context) error {
	ref, err := consumerName(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	a, err := s.readAction(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	if err := events.DeleteConsumer(ctx, s.config.DB, ref, s.actOf(c, a.reason)); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

func decodeReset(raw []byte) (f consumerFields, err error) {
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "to":
			f.place, f.placed = placeOf(v, true), !v.isNull()
		case "reason":
			f.reason = reasonOf(v)
		default:
			return false
		}
		return true
	})
	if err == nil && !f.placed {
		err = refusedFields([]fieldError{{"/to", "missing", "a cursor, earliest, latest, or a time"}})
	}
	return f, err
}

func (s *Server) resetConsumer(c *gin.Context) error {
	ref, err := consumerName(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	f, err := decodeReset(raw)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	k, err := events.ResetConsumer(ctx, s.config.DB, ref, f.place, s.actOf(c, f.reason))
	if err != nil {
		return ofField(err, "to")
	}
	return reply(c, http.StatusOK, consumerOf(k))
}

func (s *Server) listConsumers(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	found, err := events.Consumers(ctx, s.config.DB, callOf(c).principal.Queues())
	if err != nil {
		return err
	}
	out := list[consumerBody]{Data: make([]consumerBody, 0, len(found)), AsOf: asOf}
	for _, k := range found {
		out.Data = append(out.Data, consumerOf(k))
	}
	return reply(c, http.StatusOK, out)
}

func (s *Server) getConsumer(c *gin.Context) error {
	ref, err := consumerName(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	k, err := events.GetConsumer(ctx, s.config.DB, ref)
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, consumerOf(k))
}

// consumerEvents claims the consumer for a reader and gives him what comes behind the acknowledged cursor, or behind the
// one that he states. While it waits it asks the database nothing: the claim is given for the wait, too.
func (s *Server) consumerEvents(c *gin.Context) (err error) {
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
	if a.after, err = s.placeOfReader(claim, after); err != nil {
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

// placeOfReader is where a read begins. The acknowledged cursor is valid even if this node has not read so far yet.
func (s *Server) placeOfReader(claim events.Claimed, after string) (events.Position, error) {
	if after != "" {
		return s.config.Stream.Resolve(after)
	}
	at, err := s.config.Stream.Resolve(claim.Cursor.String())
	if errors.Is(err, events.ErrCursorInvalid) {
		err = events.ErrNotReady
	}
	return at, err
}

func (s *Server) ackConsumer(c *gin.Context) error {
	ref, err := consumerName(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	reader, upTo, err := decodeAck(raw)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	if err := events.AckConsumer(ctx, s.config.DB, ref, reader, upTo); err != nil {
		return ofField(err, "cursor")
	}
	c.Status(http.StatusNoContent)
	return nil
}

func decodeAck(raw []byte) (reader string, upTo events.Position, err error) {
	var given bool
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "reader":
			reader = named(v)
		case "cursor":
			s, ok := v.text()
			if !ok {
				break
			}
			given = true
			var bad error
			if upTo, bad = events.ParseCursor(s); bad != nil {
				v.refuse("invalid_value", "a cursor as 3-918273")
			}
		default:
			return false
		}
		return true
	})
	if err != nil {
		return "", upTo, err
	}
	var faults []fieldError
	if reader == "" {
		faults = append(faults, fieldError{"/reader", "missing", "who acknowledges"})
	}
	if !given {
		faults = append(faults, fieldError{"/cursor", "missing", "up to where"})
	}
	if len(faults) > 0 {
		return "", upTo, refusedFields(faults)
	}
	return reader, upTo, nil
}
