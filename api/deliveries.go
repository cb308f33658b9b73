package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

type deliveryBody struct {
	EventID       string `json:"event_id"` // webhook-id
	Cursor        string `json:"cursor"`
	Type          string `json:"type"`
	JobID         text   `json:"job_id"`
	State         string `json:"state"`
	Attempts      int    `json:"attempts"`
	NextAttemptAt stamp  `json:"next_attempt_at"`
	LastStatus    *int   `json:"last_status"`
	LastError     text   `json:"last_error"`
	CreatedAt     stamp  `json:"created_at"`
	UpdatedAt     stamp  `json:"updated_at"`
}

func deliveryOf(d jobs.Delivery) deliveryBody {
	at := events.Position{Epoch: d.Epoch, Seq: d.Seq}.String()
	b := deliveryBody{
		EventID: "evt_" + at, Cursor: at, Type: d.EventType, State: d.State, Attempts: d.Attempts, NextAttemptAt: stamp(d.DueAt),
		LastError: text(d.LastError), CreatedAt: stamp(d.CreatedAt), UpdatedAt: stamp(d.UpdatedAt),
	}
	if d.JobID != uuid.Nil {
		b.JobID = text(d.JobID.String())
	}
	if d.LastStatus != 0 {
		b.LastStatus = &d.LastStatus
	}
	return b
}

// deliveryStates are those of a delivery that has not succeeded.
var deliveryStates = []string{"parked", "waiting", "failed"}

func (s *Server) listDeliveries(c *gin.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	q := queryOf(c.Request, "state", "limit", "cursor")
	limit := q.whole("limit", defaultLimit, 1, maxLimit)
	state := q.values["state"]
	if state != "" && !slices.Contains(deliveryStates, state) {
		q.refuse("state", "not one of its values")
	}
	who := callOf(c).principal
	var after events.Position
	if cursor, ok := q.values["cursor"]; ok {
		inner, valid := openCursor(cursor, who)
		if after, err = events.ParseCursor(inner); err != nil || !valid {
			return jobs.ErrCursor
		}
	}
	if q.fault != nil {
		return q.fault
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	found, err := jobs.Deliveries(ctx, s.config.DB, id, state, after.Epoch, after.Seq, limit+1)
	if err != nil {
		return err
	}
	out := list[deliveryBody]{Data: []deliveryBody{}, AsOf: asOf}
	if len(found) > limit {
		found = found[:limit]
		last := found[limit-1]
		out.NextCursor = text(sealCursor(strconv.FormatInt(last.Epoch, 10)+"-"+strconv.FormatInt(last.Seq, 10), who))
	}
	for _, d := range found {
		out.Data = append(out.Data, deliveryOf(d))
	}
	return reply(c, http.StatusOK, out)
}
