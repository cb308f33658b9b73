package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Workers in any language: programs that register, claim, and say how it went, over HTTP. docs/worker-protocol.md tells it
// from their side; work.go is the claiming, outcomes.go what they report, this file who they are.

// Work is the part of the engine that remote workers use: *dispatcher.Dispatcher.
type Work interface {
	Poll(ctx context.Context, want dispatcher.Want, most int) []*dispatcher.Work
	Settle(ctx context.Context, outcomes []jobs.Outcome) ([]jobs.Verdict, error)
	Lease() time.Duration
	LeaseDueIn(after time.Duration)
}

// Limits of a registration.
const (
	maxSlots       = 1000
	maxWeight      = 1000
	maxWantedNames = 100 // queues, kinds
	maxWorkerText  = 255 // bytes of name and version
)

type workerBody struct {
	ID             uuid.UUID         `json:"id"`
	Name           string            `json:"name"`
	State          jobs.WorkerState  `json:"state"`
	Queues         map[string]int    `json:"queues"`
	Kinds          []string          `json:"kinds"` // null: all
	Slots          int               `json:"slots"`
	Busy           int               `json:"busy"`
	Version        text              `json:"version"`
	Labels         map[string]string `json:"labels"`
	Asked          text              `json:"asked"` // quiet, drain
	RegisteredAt   stamp             `json:"registered_at"`
	LastSeenAt     stamp             `json:"last_seen_at"`
	Lease          span              `json:"lease,omitempty"`           // in the answer to a registration
	HeartbeatEvery span              `json:"heartbeat_every,omitempty"` // the same
}

func workerOf(w jobs.Worker) workerBody {
	return workerBody{
		ID: w.ID, Name: w.Name, State: w.State, Queues: w.Queues, Kinds: w.Kinds, Slots: w.Slots, Busy: w.Busy,
		Version: text(w.Version), Labels: w.Labels, Asked: text(w.Asked), RegisteredAt: stamp(w.RegisteredAt),
		LastSeenAt: stamp(w.LastSeenAt),
	}
}

// wanted is what a worker takes, in a registration and in a claim.
type wanted struct {
	queues map[string]int
	kinds  []string
}

func (w *wanted) member(key string, v value) bool {
	switch key {
	case "queues":
		w.queues = weightsOf(v)
	case "kinds":
		w.kinds = kindsOf(v)
	default:
		return false
	}
	return true
}

func weightsOf(v value) map[string]int {
	if v.isNull() {
		return nil
	}
	weights := make(map[string]int)
	v.object(func(key string, item value) bool {
		n, ok := item.integer()
		switch {
		case key != "*" && !jobs.ValidName(key):
			item.refuse("invalid_name", "a queue, or * for every other one")
		case !ok || n < 1 || n > maxWeight:
			item.refuse("out_of_range", "a weight from 1 to "+strconv.Itoa(maxWeight))
		}
		weights[key] = n
		return true
	})
	if len(weights) > maxWantedNames || len(weights) == 0 && string(v.raw[:1]) == "{" {
		v.refuse("out_of_range", "1 to "+strconv.Itoa(maxWantedNames)+" queues")
	}
	return weights
}

func kindsOf(v value) (kinds []string) {
	if v.isNull() {
		return nil
	}
	v.array(func(n int, item value) bool {
		if n == maxWantedNames {
			v.refuse("too_many", "at most "+strconv.Itoa(maxWantedNames))
			return false
		}
		if kind := named(item); kind != "" {
			kinds = append(kinds, kind)
		} else if item.isNull() {
			item.wrongType("a string")
		}
		return true
	})
	if len(kinds) == 0 && string(v.raw[:1]) == "[" {
		v.refuse("too_few", "1 to "+strconv.Itoa(maxWantedNames)+"; leave it out for all kinds")
	}
	return kinds
}

// plainText reads a text for people: one line, printable.
func plainText(v value) string {
	s, ok := v.text()
	if ok && (s == "" || len(s) > maxWorkerText || !utf8.ValidString(s) ||
		strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0) {
		v.refuse("invalid_value", "1 to "+strconv.Itoa(maxWorkerText)+" bytes, printable")
	}
	return s
}

// ranged reads a whole number within bounds.
func ranged(v value, lowest, highest int) int {
	n, ok := v.integer()
	if ok && (n < lowest || n > highest) {
		v.refuse("out_of_range", strconv.Itoa(lowest)+" to "+strconv.Itoa(highest))
	}
	return n
}

func decodeWorker(raw []byte) (jobs.Worker, error) {
	w := jobs.Worker{Slots: 1}
	var want wanted
	named := false
	err := decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "name":
			w.Name, named = plainText(v), !v.isNull()
		case "slots":
			if !v.isNull() {
				w.Slots = ranged(v, 1, maxSlots)
			}
		case "version":
			w.Version = plainText(v)
		case "labels":
			w.Labels = metadataOf(v)
		default:
			return want.member(key, v)
		}
		return true
	})
	if err != nil {
		return w, err
	}
	if !named {
		return w, refusedFields([]fieldError{{"/name", "missing", "what people call the worker"}})
	}
	for key, label := range w.Labels {
		if !storable(key) || !storable(label) {
			return w, refusedFields([]fieldError{{"/labels", "invalid_value", "no NUL"}})
		}
	}
	if w.Queues, w.Kinds = want.queues, want.kinds; w.Queues == nil {
		w.Queues = map[string]int{"*": 1}
	}
	return w, nil
}

func (s *Server) registerWorker(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	w, err := decodeWorker(raw)
	if err != nil {
		return err
	}
	if w.Queues, err = callOf(c).principal.ownQueues(w.Queues); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	if w, err = jobs.RegisterWorker(ctx, s.config.DB, w); err != nil {
		return err
	}
	s.presence.learn(w)
	body := workerOf(w)
	body.Lease = span(s.config.Work.Lease())
	body.HeartbeatEvery = min(body.Lease, span(jobs.WorkerSilence)) / heartbeats
	c.Header("Location", s.config.BasePath+prefix+"/workers/"+w.ID.String())
	return reply(c, http.StatusCreated, body)
}

// heartbeats is how many of them a lease has time for, and the time after which a worker counts as silent: two may be lost.
const heartbeats = 3

func (s *Server) listWorkers(c *gin.Context) error {
	who := callOf(c).principal
	return listByID(c, s, jobs.Workers, func(w jobs.Worker) uuid.UUID { return w.ID },
		func(w jobs.Worker) (workerBody, bool) { return workerOf(w), who.seesWorker(w) })
}

func (s *Server) getWorker(c *gin.Context) error {
	return withName(s, c, s.workerID, func(ctx context.Context, id uuid.UUID) error {
		w, err := jobs.GetWorker(ctx, s.config.DB, id)
		if err != nil {
			return err
		}
		return reply(c, http.StatusOK, workerOf(w))
	})
}

func (s *Server) removeWorker(c *gin.Context) error {
	return withName(s, c, s.workerID, func(ctx context.Context, id uuid.UUID) error {
		if err := jobs.RemoveWorker(ctx, s.config.DB, id); err != nil {
			return err
		}
		s.presence.forget(id) // afterwards, or its next call would find the registration and be parked under it
		c.Status(http.StatusNoContent)
		return nil
	})
}

func (s *Server) quietWorker(c *gin.Context) error { return s.askWorker(c, jobs.AskedQuiet) }
func (s *Server) drainWorker(c *gin.Context) error { return s.askWorker(c, jobs.AskedDrain) }

// askWorker is 202: the worker hears of it with its next call.
func (s *Server) askWorker(c *gin.Context, what jobs.Asked) error {
	return s.act(c, s.workerID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		w, err := jobs.AskWorker(ctx, s.config.DB, id, what, act)
		if err != nil {
			return err
		}
		s.presence.asked(id, w.Asked)
		return reply(c, http.StatusAccepted, workerOf(w))
	})
}
