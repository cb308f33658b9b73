package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// maxReason bounds what an operator says about an action, in bytes.
const maxReason = 1024

// actionBody is what the actions of operators may state; each takes some of it.
type actionBody struct {
	reason string
	delay  time.Duration // retry
	until  time.Time     // pause
	span   time.Duration // pause: for

	overlap      time.Duration // rotation of a key
	overlapGiven bool

	after, untilCursor string // webhooks: positions of the stream
}

// readAction reads the body of an action, if there is one. known names the fields beside reason.
func (s *Server) readAction(c *gin.Context, known ...string) (a actionBody, err error) {
	raw, err := readOptionalBody(c, s.jobBodyLimit())
	if err != nil || raw == nil {
		return a, err
	}
	return decodeAction(raw, known...)
}

func decodeAction(raw []byte, known ...string) (a actionBody, err error) {
	takes := func(key string) bool { return key == "reason" || slices.Contains(known, key) }
	var untilGiven, forGiven bool
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		if !takes(key) {
			return false
		}
		switch key {
		case "reason":
			a.reason = reasonOf(v)
		case "delay":
			if d, ok := spanOf(v); ok {
				if a.delay = d; d < 0 || d > jobs.MaxAhead {
					v.refuse("out_of_range", "from 0 to 10 years")
				}
			}
		case "overlap":
			if d, ok := spanOf(v); ok {
				if a.overlap, a.overlapGiven = d, true; d < 0 || d > maxOverlap {
					v.refuse("out_of_range", "0 to "+formatDuration(maxOverlap))
				}
			}
		case "for":
			if d, ok := spanOf(v); ok {
				if a.span, forGiven = d, true; d <= 0 || d > jobs.MaxAhead {
					v.refuse("out_of_range", "more than 0, up to 10 years")
				}
				if untilGiven {
					v.refuse("conflict", "until or for, not both")
				}
			}
		case "after":
			a.after = cursorText(v)
		case "until":
			if takes("after") {
				a.untilCursor = cursorText(v)
			} else if text, ok := v.text(); ok {
				at, ok := parseTime(text)
				switch {
				case !ok || at.Year() < 1:
					v.refuse("invalid_time", "RFC 3339 with a time zone, as in 2026-03-01T12:00:00Z")
				case time.Until(at) > jobs.MaxAhead+clockSlack:
					v.refuse("out_of_range", "at most 10 years ahead")
				case at.IsZero():
					v.refuse("out_of_range", "has passed already") // to the domain a zero time is none
				}
				if a.until, untilGiven = at, true; forGiven {
					v.refuse("conflict", "until or for, not both")
				}
			}
		}
		return true
	})
	return a, err
}

// cursorText reads what may be a position of the stream; whether it is one, the stream says.
func cursorText(v value) string {
	s, ok := v.text()
	if ok && s == "" {
		v.refuse("invalid_value", "a cursor, earliest or latest")
	}
	return s
}

// act is actOn for what has a UUID.
func (s *Server) act(
	c *gin.Context, find func(*gin.Context) (uuid.UUID, error),
	do func(context.Context, uuid.UUID, actionBody, jobs.Act) error, known ...string,
) error {
	return actOn(s, c, find, do, known...)
}

func (s *Server) replyJob(c *gin.Context, status int, job *jobs.Job) error {
	c.Header("ETag", etag(job.Version))
	return reply(c, status, bodyOf(job, show{}))
}

func (s *Server) retryJob(c *gin.Context) error {
	return s.act(c, s.jobID, func(ctx context.Context, id uuid.UUID, a actionBody, act jobs.Act) error {
		job, err := jobs.RetryJob(ctx, s.config.DB, id, a.delay, act)
		if err != nil {
			return err
		}
		return s.replyJob(c, http.StatusOK, job)
	}, "delay")
}

func (s *Server) runJobNow(c *gin.Context) error {
	return s.act(c, s.jobID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		job, err := jobs.RunJobNow(ctx, s.config.DB, id, act)
		if err != nil {
			return err
		}
		return s.replyJob(c, http.StatusOK, job)
	})
}

// cancelJob is 202 while a worker has still to obey.
func (s *Server) cancelJob(c *gin.Context) error {
	return s.act(c, s.jobID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		job, requested, err := jobs.CancelJob(ctx, s.config.DB, id, act)
		if err != nil {
			return err
		}
		if requested {
			return s.replyJob(c, http.StatusAccepted, job)
		}
		return s.replyJob(c, http.StatusOK, job)
	})
}

func (s *Server) deleteJob(c *gin.Context) error {
	return s.act(c, s.jobID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		if err := jobs.DeleteJob(ctx, s.config.DB, id, act); err != nil {
			return err
		}
		c.Status(http.StatusNoContent)
		return nil
	})
}
