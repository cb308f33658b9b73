package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/jobs"
)

var tracePattern = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// takeHeaders fills in what a request says beside its body. A traceparent that is none is passed over, as W3C wants it.
func takeHeaders(header http.Header, p *jobs.Params) error {
	key, err := idempotencyHeader(header)
	if err != nil {
		return err
	}
	if key != "" {
		if p.IdempotencyKey != "" && p.IdempotencyKey != key {
			return badParameter("Idempotency-Key", "the header and the field differ")
		}
		p.IdempotencyKey = key
	}
	if given := header.Get("Traceparent"); p.Traceparent == "" && tracePattern.MatchString(given) {
		p.Traceparent = given
	}
	return nil
}

func (s *Server) enqueueJob(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	params, err := decodeJob(raw, s.config.MaxPayload)
	if err != nil {
		return err
	}
	if err := takeHeaders(c.Request.Header, &params); err != nil {
		return err
	}
	if who := callOf(c).principal; who.queues != nil { // asked here too, so that nobody else pays for the slice
		if err := who.seesAll([]jobs.Params{params}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	if params.IdempotencyKey != "" {
		return s.enqueueOnce(ctx, c, params.IdempotencyKey, raw, func(stored []jobs.Enqueued) (*keptAnswer, error) {
			return s.storedAnswer(&stored[0].Job)
		}, params)
	}
	stored, err := s.config.Inserter.Enqueue(ctx, params)
	if err != nil {
		return err
	}
	kept, err := s.storedAnswer(&stored[0].Job)
	if err != nil {
		return err
	}
	kept.write(c)
	return nil
}

func (s *Server) enqueueBatch(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	key, err := idempotencyHeader(c.Request.Header)
	if err != nil {
		return err
	}
	raw, err := readBody(c, maxBatch)
	if err != nil {
		return err
	}
	release, err := s.admitBatch(c.Request.Context(), int64(len(raw)))
	if err != nil {
		return err
	}
	defer release()
	params, err := decodeBatch(raw, s.config.MaxPayload)
	if err != nil {
		return err
	}
	if err := callOf(c).principal.seesAll(params); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	answer := func(stored []jobs.Enqueued) (*keptAnswer, error) {
		return batchAnswer(params, stored)
	}
	if key != "" {
		err = s.enqueueOnce(ctx, c, key, raw, answer, params...)
		return inBatch(err, len(params))
	}
	stored, err := s.config.Inserter.Enqueue(ctx, params...)
	if err != nil {
		return inBatch(err, len(params))
	}
	kept, err := answer(stored)
	if err != nil {
		return err
	}
	kept.write(c)
	return nil
}

// inBatch points the faults of jobs into the body: the domain counts jobs from /0, and names none when there is one.
func inBatch(err error, n int) error {
	var refused *jobs.ValidationError
	if !errors.As(err, &refused) {
		return err
	}
	if n == 1 {
		return refusedFields(fieldErrors(refused, "/jobs/0"))
	}
	return refusedFields(fieldErrors(refused, "/jobs"))
}

// storedAnswer is what POST /jobs says. No payload: answers to writes have none.
func (s *Server) storedAnswer(job *jobs.Job) (*keptAnswer, error) {
	body := bodyOf(job, show{})
	raw, err := body.MarshalJSON()
	if err == nil && len(job.Metadata) > 0 {
		raw, err = json.Marshal(json.RawMessage(raw)) // compacts what PostgreSQL wrote
	}
	if err != nil {
		return nil, err
	}
	location := append(make([]byte, 0, 128), s.config.BasePath...)
	location = append(location, prefix+"/jobs/"...)
	return &keptAnswer{
		Status:   http.StatusCreated,
		Location: string(appendID(location, job.ID)),
		ETag:     etag(job.Version),
		Body:     raw,
	}, nil
}

func batchAnswer(params []jobs.Params, stored []jobs.Enqueued) (*keptAnswer, error) {
	lines := make([]storedBody, len(stored))
	for i := range stored {
		e := &stored[i]
		lines[i] = storedBody{ID: e.ID, Queue: e.Queue, Status: text(e.Status), RunAt: stamp(e.RunAt)}
		if e.Replayed {
			lines[i].Queue = params[i].Queue // the request is the first one's, or it would have been refused
			if lines[i].Queue == "" {
				lines[i].Queue = jobs.DefaultQueue
			}
		}
	}
	raw, err := json.Marshal(struct {
		Data []storedBody `json:"data"`
	}{lines})
	if err != nil {
		return nil, err
	}
	return &keptAnswer{Status: http.StatusCreated, Body: raw}, nil
}
