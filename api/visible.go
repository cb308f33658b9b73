package api

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// A key may be held to some queues. Outside of them nothing exists for it: not found on every verb, missing in lists. What
// is below asks that in one place for each kind of thing; for all other callers it costs nothing. A job never changes its
// queue, so nothing can happen between the question and the act.

// errUnseen is what somebody reads who names a queue that is not his.
func errUnseen() error { return refuse(notFound, "there is no such queue, or not for this caller") }

// pathID reads the id in the address.
func pathID(c *gin.Context) (uuid.UUID, error) {
	id, ok := parseID(param(c, "id"))
	if !ok {
		return uuid.Nil, badParameter("id", "a UUID")
	}
	return id, nil
}

// jobID reads the id in the address, of a job that exists for the caller as far as its queue says.
func (s *Server) jobID(c *gin.Context) (uuid.UUID, error) {
	id, err := pathID(c)
	p := callOf(c).principal
	if err != nil || p.queues == nil {
		return id, err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	job, err := s.reads.get(ctx, id)
	if err == nil && !p.Sees(job.Queue) {
		err = jobs.ErrNotFound
	}
	return id, err
}

// workerID reads the id in the address, of a worker that exists for the caller: one that takes from his queues only.
func (s *Server) workerID(c *gin.Context) (uuid.UUID, error) {
	id, err := pathID(c)
	p := callOf(c).principal
	if err != nil || p.queues == nil {
		return id, err
	}
	_, w, ok := s.presence.heard(id)
	if !ok {
		if _, w, err = s.readWorker(c.Request.Context(), id); err != nil {
			return id, err
		}
	}
	if !p.seesWorker(w) {
		return id, jobs.ErrNotFound
	}
	return id, nil
}

func (p Principal) seesWorker(w jobs.Worker) bool {
	for queue := range w.Queues {
		if !p.Sees(queue) {
			return false // * is no queue's name
		}
	}
	return true
}

// ownQueues is what a worker takes from, for this caller: * is each of his queues.
func (p Principal) ownQueues(queues map[string]int) (map[string]int, error) {
	if p.queues == nil {
		return queues, nil
	}
	own := make(map[string]int, len(queues))
	if weight, ok := queues["*"]; ok {
		for _, queue := range p.queues {
			own[queue] = weight
		}
	}
	for queue, weight := range queues {
		if queue == "*" {
			continue
		}
		if !p.Sees(queue) {
			return nil, errUnseen()
		}
		own[queue] = weight
	}
	return own, nil
}

// foreign tells which of the jobs do not exist for the caller.
func (s *Server) foreign(ctx context.Context, p Principal, ids []uuid.UUID) (map[uuid.UUID]bool, error) {
	if p.queues == nil || len(ids) == 0 {
		return nil, nil
	}
	found, err := jobs.GetMany(ctx, s.config.DB, ids)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(found, func(_ uuid.UUID, j *jobs.Job) bool { return p.Sees(j.Queue) })
	out := make(map[uuid.UUID]bool, len(found))
	for id := range found {
		out[id] = true
	}
	return out, nil
}

// seesAll refuses jobs for queues that are not the caller's.
func (p Principal) seesAll(params []jobs.Params) error {
	if p.queues == nil {
		return nil
	}
	if slices.ContainsFunc(params, func(j jobs.Params) bool { return !p.Sees(cmp.Or(j.Queue, jobs.DefaultQueue)) }) {
		return errUnseen()
	}
	return nil
}
