package api

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// failureGroupBody is a line of GET /failures.
type failureGroupBody struct {
	Fingerprint text              `json:"fingerprint"`
	Kind        string            `json:"kind"`
	Queues      []string          `json:"queues"`
	Count       int               `json:"count"` // within the window
	Counts      failureCounts     `json:"counts"`
	Dead        int               `json:"dead"`
	Retrying    int               `json:"retrying"`
	FirstAt     stamp             `json:"first_at"`
	LastAt      stamp             `json:"last_at"`
	Sample      failureSampleBody `json:"sample"`
}

// failureCounts are null where the window does not reach as far.
type failureCounts struct {
	Hour *int `json:"1h"`
	Day  *int `json:"24h"`
	Week *int `json:"7d"`
}

type failureSampleBody struct {
	JobID   uuid.UUID `json:"job_id"`
	Type    text      `json:"type"`
	Message text      `json:"message"`
}

// listFailures groups what failed by fault and kind, the largest group first. There is no second page: a narrower filter
// shows the rest.
func (s *Server) listFailures(c *gin.Context) error {
	q := queryOf(c.Request, "status", "queue", "kind", "fingerprint", "window", "limit")
	f := jobs.Filter{
		Within:       callOf(c).principal.queues,
		Statuses:     oneOf(q, "status", func(s jobs.Status) bool { return s == jobs.Dead || s == jobs.Retrying }),
		Queues:       q.list("queue"),
		Kinds:        q.list("kind"),
		Fingerprints: q.list("fingerprint"),
	}
	window := q.duration("window", jobs.MaxFailureWindow, time.Minute, jobs.MaxFailureWindow)
	limit := q.whole("limit", defaultLimit, 1, maxLimit)
	if q.fault != nil {
		return q.fault
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	found, more, err := jobs.Failures(c.Request.Context(), s.config.DB, f, window, limit)
	if err != nil {
		return err
	}
	within := func(n int, span time.Duration) *int {
		if span > window {
			return nil
		}
		return &n
	}
	out := list[failureGroupBody]{Data: make([]failureGroupBody, len(found)), AsOf: asOf, Truncated: &more}
	for i, g := range found {
		out.Data[i] = failureGroupBody{
			Fingerprint: text(g.Fingerprint), Kind: g.Kind, Queues: g.Queues, Count: g.Count,
			Counts: failureCounts{
				within(g.Hour, time.Hour), within(g.Day, 24*time.Hour), within(g.Count, jobs.MaxFailureWindow),
			},
			Dead: g.Dead, Retrying: g.Count - g.Dead, FirstAt: stamp(g.First), LastAt: stamp(g.Last),
			Sample: failureSampleBody{g.Sample.JobID, text(g.Sample.Type), text(g.Sample.Message)},
		}
	}
	return reply(c, http.StatusOK, out)
}
