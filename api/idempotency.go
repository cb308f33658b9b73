package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// idempotencyHeader reads the header Idempotency-Key, "" if there is none.
func idempotencyHeader(header http.Header) (string, error) {
	given := header.Values("Idempotency-Key")
	switch {
	case len(given) == 0:
		return "", nil
	case len(given) > 1 || !jobs.ValidKey(given[0]):
		return "", badParameter("Idempotency-Key", "1 to 255 printable characters, once")
	}
	return given[0], nil
}

// keptAnswer is an answer that can be given again. Body is text, so that a repeat gets the same bytes: jsonb would order
// its members anew.
type keptAnswer struct {
	Status   int      `json:"status"`
	Location string   `json:"location,omitempty"`
	ETag     string   `json:"etag,omitempty"`
	Body     keptBody `json:"body"`
}

// keptBody is bytes that JSON has as a string.
type keptBody []byte

// MarshalText gives the bytes.
func (b keptBody) MarshalText() ([]byte, error) { return b, nil }

// UnmarshalText takes a copy.
func (b *keptBody) UnmarshalText(text []byte) error {
	*b = bytes.Clone(text)
	return nil
}

func (a *keptAnswer) write(c *gin.Context) {
	header := c.Writer.Header()
	header["Content-Type"] = headerJSON
	if a.Location != "" {
		header.Set("Location", a.Location)
	}
	if a.ETag != "" {
		header.Set("Etag", a.ETag) // as net/http spells ETag
	}
	c.Status(a.Status)
	_, _ = c.Writer.Write(a.Body) // a caller who left needs no answer
}

// enqueueOnce stores jobs and their answer under a key, or gives the first answer again.
func (s *Server) enqueueOnce(ctx context.Context, c *gin.Context, key string, request []byte,
	answer func([]jobs.Enqueued) (*keptAnswer, error), params ...jobs.Params,
) error {
	once := jobs.Once{
		Key: key, Request: bytes.TrimSpace(request), TTL: s.config.IdempotencyTTL,
		Answer: func(stored []jobs.Enqueued) (json.RawMessage, error) {
			kept, err := answer(stored)
			if err != nil {
				return nil, err
			}
			return json.Marshal(kept)
		},
	}
	result, err := s.config.Inserter.EnqueueOnce(ctx, once, params...)
	if err != nil {
		return err
	}
	var kept *keptAnswer
	if len(result.Answer) == 0 {
		// Another door took the key, and keeps no answer: the job says it itself.
		if kept, err = s.answerOfOthers(ctx, result.Jobs, answer); err != nil {
			return err
		}
	} else if err := json.Unmarshal(result.Answer, &kept); err != nil {
		return fmt.Errorf("read the kept answer: %w", err)
	}
	if result.Replayed {
		c.Writer.Header().Set("Idempotency-Replayed", "true")
	}
	kept.write(c)
	return nil
}

// answerOfOthers makes the answer for jobs that the Go or the SQL door stored. A job that is gone is said by its id.
func (s *Server) answerOfOthers(ctx context.Context, stored []jobs.Enqueued,
	answer func([]jobs.Enqueued) (*keptAnswer, error),
) (*keptAnswer, error) {
	stored = slices.Clone(stored)
	for i := range stored {
		job, err := jobs.Get(ctx, s.config.DB, stored[i].ID)
		if errors.Is(err, jobs.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		stored[i] = jobs.Enqueued{Job: *job, Replayed: true}
	}
	if len(stored) == 0 || stored[0].ID == uuid.Nil {
		return nil, errors.New("a key without jobs")
	}
	return answer(stored)
}
