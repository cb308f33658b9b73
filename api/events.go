package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mini-asynq/mini-asynq/events"
)

// The representations of the log.
const (
	mediaJSON   = "application/json"
	mediaSSE    = "text/event-stream"
	mediaNDJSON = "application/x-ndjson"
)

// Bounds of one call. A poll with a narrow filter looks at scanLimit events at most and answers with how far it came, so
// that it costs what any other costs, and the next one goes on there.
const (
	scanPage  = 1000
	scanLimit = 10_000
	pageBytes = 8 << 20 // a page with payloads ends behind the event that fills it
)

// readers counts who reads the log over HTTP.
type readers struct {
	polls, sse, ndjson            atomic.Int64 // at this moment; of polls those that are parked
	sentPoll, sentSSE, sentNDJSON atomic.Int64 // events
}

// register adds them to what the hub counts for its sockets under the same names.
func (r *readers) register(registerer prometheus.Registerer) error {
	var faults []error
	for transport, count := range map[string][2]*atomic.Int64{
		"http": {&r.polls, &r.sentPoll}, "sse": {&r.sse, &r.sentSSE}, "ndjson": {&r.ndjson, &r.sentNDJSON},
	} {
		faults = append(faults,
			registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "miniasynq_stream_subscribers", Help: "Readers of the event stream on this node.",
				ConstLabels: prometheus.Labels{"transport": transport, "class": "plain"},
			}, func() float64 { return float64(count[0].Load()) })),
			registerer.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "miniasynq_stream_events_sent_total", Help: "Events sent to readers of the stream.",
				ConstLabels: prometheus.Labels{"transport": transport},
			}, func() float64 { return float64(count[1].Load()) })))
	}
	return errors.Join(faults...)
}

// ask is what every reader of the log states.
type ask struct {
	after   events.Position
	filter  *events.Filter // what the caller may not see is not in it
	payload bool
}

// askedOf reads the query; q may hold further parameters. cursor, if there is one, wins over after.
func (s *Server) askedOf(c *gin.Context, q *query, cursor string) (a ask, err error) {
	who := callOf(c).principal
	with, err := includes(q, who, "payload")
	if err != nil {
		return a, err
	}
	if q.fault != nil {
		return a, q.fault
	}
	fields := make(map[string][]string)
	for _, name := range events.FilterFields() {
		if values := q.list(name); values != nil {
			fields[name] = values
		}
	}
	filter, err := events.ParseFilter(fields)
	if err != nil {
		return a, err
	}
	a.payload, a.filter = with.payload, filter.Within(who.Queues())
	if cursor == "" {
		cursor = q.values["after"]
	}
	a.after, err = s.config.Stream.Resolve(c.Request.Context(), cursor)
	return a, err
}

// logParameters are the parameters of every representation, and some more.
func logParameters(more ...string) []string {
	return slices.Concat([]string{"after", "include"}, events.FilterFields(), more)
}

// readEvents is GET /events in the representation that the caller wants.
func (s *Server) readEvents(c *gin.Context) error {
	c.Writer.Header().Set("Vary", "Accept")
	media, ok := accepts(c.Request, mediaJSON, mediaSSE, mediaNDJSON)
	switch {
	case !ok:
		return refuse(notAcceptable, "the log is there as "+strings.Join([]string{mediaJSON, mediaSSE, mediaNDJSON}, ", "))
	case media == mediaSSE:
		return s.eventStream(c)
	case media == mediaNDJSON:
		return s.eventLines(c)
	}
	return s.eventPage(c)
}

// eventPosition says where the log begins and ends.
func (s *Server) eventPosition(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	head, err := s.config.Stream.Head()
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, struct {
		Cursor string `json:"cursor"`
		Floor  string `json:"floor"`
		Epoch  int64  `json:"epoch"`
	}{head.String(), s.config.Stream.Floor().String(), head.Epoch})
}

// eventPage answers with the next events, and while there are none waits for some: without a query, and without a look at
// events that are for others.
func (s *Server) eventPage(c *gin.Context) error {
	q := queryOf(c.Request, logParameters("limit", "wait")...)
	limit := q.whole("limit", defaultLimit, 1, maxEventsLimit)
	wait := q.duration("wait", 0, 0, maxWait)
	a, err := s.askedOf(c, q, "")
	if err != nil {
		return err
	}
	reader := s.config.Readers.Reader(a.filter)
	found, at, err := s.findEvents(c, reader, a, limit, wait)
	if err != nil {
		return err
	}
	return s.replyEvents(c, reader, found, at, a.payload)
}

// findEvents scans, and while there is nothing waits. at is how far it came.
func (s *Server) findEvents(c *gin.Context, reader *events.Reader, a ask, limit int, wait time.Duration) (
	found []*events.Event, at events.Position, err error,
) {
	found, at, whole, err := s.scan(c.Request.Context(), reader, a, limit)
	if err == nil && len(found) == 0 && whole && wait > 0 {
		found, at, err = s.awaitEvents(c, reader, a, at, limit, wait)
	}
	return found, at, err
}

// replyEvents answers with a page of events that were found on the way to at.
func (s *Server) replyEvents(c *gin.Context, reader *events.Reader, found []*events.Event, at events.Position, withPayload bool) error {
	var data []byte
	var n int
	err := encode(c.Request.Context(), reader, found, eventFrame{after: ","}, withPayload, pageBytes, func(out []byte, some int) (bool, error) {
		data, n = out, some
		return false, nil
	})
	if err != nil {
		return err
	}
	if n < len(found) {
		at = found[n-1].Position
	}
	head, err := s.config.Stream.Head()
	if err != nil {
		return err
	}
	s.log.sentPoll.Add(int64(n))
	out := make([]byte, 0, len(data)+80)
	out = append(append(append(out, `{"data":[`...), bytes.TrimSuffix(data, []byte(","))...), `],"cursor":"`...)
	out = append(append(out, at.String()...), `","caught_up":`...)
	if at.Before(head) {
		out = append(out, "false}"...)
	} else {
		out = append(out, "true}"...)
	}
	c.Data(http.StatusOK, mediaJSON, out)
	return nil
}

// scan reads on from a.after until it has limit events that the filter lets through, is at the head (whole), or has looked
// at scanLimit events. at is how far it came.
func (s *Server) scan(ctx context.Context, reader *events.Reader, a ask, limit int) (
	found []*events.Event, at events.Position, whole bool, err error,
) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	at = a.after
	for looked := 0; looked < scanLimit; {
		batch, err := reader.Read(ctx, at, scanPage)
		if err != nil || len(batch) == 0 {
			return found, at, err == nil, err
		}
		looked += len(batch)
		for _, e := range batch {
			at = e.Position
			if !a.filter.Match(e) {
				continue
			}
			if found = append(found, e); len(found) == limit {
				return found, at, false, nil
			}
		}
	}
	return found, at, false, nil
}

// awaitEvents parks a poll at a position until there is something for it, its time is over, or the node goes.
func (s *Server) awaitEvents(
	c *gin.Context, reader *events.Reader, a ask, at events.Position, limit int, wait time.Duration,
) (found []*events.Event, _ events.Position, err error) {
	defer s.log.polls.Add(-1)
	if s.log.polls.Add(1) > maxParked {
		return nil, at, refuse(tooManyStreams, "too many calls wait at this node")
	}
	ctx := c.Request.Context()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := false; len(found) == 0 && !over; {
		if reader.Park(at) {
			select {
			case <-ctx.Done():
				err = context.Cause(ctx)
			case <-reader.Woken():
			case <-timer.C:
				over = true
			case <-s.draining:
				c.Header("Connection", "close")
				over = true
			}
			at = reader.Unpark()
		}
		if err != nil {
			return nil, at, err
		}
		a.after = at
		var whole bool
		if found, at, whole, err = s.scan(ctx, reader, a, limit); err != nil {
			return nil, at, err
		}
		over = over || !whole
	}
	return found, at, nil
}

// eventFrame is how a representation sets an event off from the others.
type eventFrame struct {
	before func(b []byte, e *events.Event) []byte // may be nil
	after  string
	once   bool // a stretch of the past, which hardly anybody else reads: its events are not kept encoded
}

// encode writes events, and hands over what there is, and how many events that is, whenever it is limit bytes or more and at
// the end, until take wants no more. What it hands over is used again. With payloads it reads those of some jobs at a time;
// without it asks nothing.
func encode(ctx context.Context, reader *events.Reader, all []*events.Event, frame eventFrame, withPayload bool, limit int,
	take func(out []byte, n int) (more bool, err error),
) error {
	var payloads map[uuid.UUID]json.RawMessage
	var out []byte
	n := 0
	for i, e := range all {
		if frame.before != nil {
			out = frame.before(out, e)
		}
		if withPayload {
			var err error
			if i%events.PayloadBatch == 0 {
				if payloads, err = reader.Payloads(ctx, all[i:min(i+events.PayloadBatch, len(all))]); err != nil {
					return err
				}
			}
			out = e.AppendWithPayload(out, payloads[e.JobID])
		} else if frame.once {
			out = e.AppendJSON(out)
		} else {
			out = append(out, e.JSON()...)
		}
		out = append(out, frame.after...)
		if n++; len(out) < limit && i < len(all)-1 {
			continue
		}
		if more, err := take(out, n); err != nil || !more {
			return err
		}
		out, n = out[:0], 0
	}
	return nil
}
