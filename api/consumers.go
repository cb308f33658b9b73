package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
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
	known := events.FilterFields() // the fields of a body have a code and a place of their own when they are not
	v.object(func(key string, v value) bool {
		if !slices.Contains(known, key) {
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
	if err == nil && !filter.Confined(within) {
		err = refusedFields([]fieldError{{
			"/filter/queues", "invalid_value", "a key that is held to some queues names those that it means, without a *",
		}})
	}
	return f, err
}

func (s *Server) putConsumer(c *gin.Context) error {
	decode := func(raw []byte, ref events.ConsumerRef) (consumerFields, error) {
		return decodeConsumer(raw, ref.Within)
	}
	return withBody(s, c, consumerName, decode, func(ctx context.Context, ref events.ConsumerRef, f consumerFields) error {
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
	})
}

func (s *Server) deleteConsumer(c *gin.Context) error {
	return actOn(s, c, consumerName, func(ctx context.Context, ref events.ConsumerRef, _ actionBody, act jobs.Act) error {
		if err := events.DeleteConsumer(ctx, s.config.DB, ref, act); err != nil {
			return err
		}
		c.Status(http.StatusNoContent)
		return nil
	})
}

func decodeReset(raw []byte, _ events.ConsumerRef) (f consumerFields, err error) {
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
	return withBody(s, c, consumerName, decodeReset, func(ctx context.Context, ref events.ConsumerRef, f consumerFields) error {
		k, err := events.ResetConsumer(ctx, s.config.DB, ref, f.place, s.actOf(c, f.reason))
		if err != nil {
			return ofField(err, "to")
		}
		return reply(c, http.StatusOK, consumerOf(k))
	})
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
	return withName(s, c, consumerName, func(ctx context.Context, ref events.ConsumerRef) error {
		k, err := events.GetConsumer(ctx, s.config.DB, ref)
		if err != nil {
			return err
		}
		return reply(c, http.StatusOK, consumerOf(k))
	})
}
