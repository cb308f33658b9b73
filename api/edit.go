package api

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// editable are the fields of a job that an operator may change.
var editable = []string{"priority", "max_retries", "run_at", "delay", "timeout", "tags", "metadata"}

// changes is the body of an edit or of a clone: fields of a job, and why.
type changes struct {
	fields *jobFields
	given  []string // those that are not null
	reason string
}

// decodeChanges reads a body with some of the fields of a job; known tells which.
func decodeChanges(raw []byte, maxPayload int, known func(field string) bool) (*changes, error) {
	ch := &changes{fields: newFields(maxPayload)}
	err := decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch {
		case key == "reason":
			ch.reason = reasonOf(v)
			return true
		case !known(key):
			return false
		}
		if !v.isNull() {
			ch.given = append(ch.given, key)
		}
		return ch.fields.member(key, v)
	})
	if ch.fields.oversize {
		return nil, payloadOver(maxPayload, "/payload")
	}
	return ch, err
}

// reasonOf reads a person's words.
func reasonOf(v value) string {
	s, ok := v.text()
	if ok && (len(s) > maxReason || !storable(s)) {
		v.refuse("too_long", "at most "+strconv.Itoa(maxReason)+" bytes, no NUL")
	}
	return s
}

func (ch *changes) edit() jobs.Edit {
	p := &ch.fields.params
	var e jobs.Edit
	for _, field := range ch.given {
		switch field {
		case "priority":
			e.Priority = &p.Priority
		case "max_retries":
			e.MaxRetries = p.MaxRetries
		case "run_at":
			e.RunAt = &p.RunAt
		case "delay":
			e.Delay = &p.Delay
		case "timeout":
			e.Timeout = &p.Timeout
		case "tags":
			e.Tags = &p.Tags
		case "metadata":
			e.Metadata = &p.Metadata
		}
	}
	return e
}

// replacements are the fields of a clone. What is given and empty has to be told from what is not given.
func (ch *changes) replacements() jobs.Params {
	p := ch.fields.params
	if slices.Contains(ch.given, "tags") {
		p.Tags = emptyNotNull(p.Tags)
	}
	if slices.Contains(ch.given, "delay") && p.Delay == 0 {
		p.RunAt = time.Unix(0, 0) // has passed: now
	}
	return p
}

var etagPattern = regexp.MustCompile(`^"v([1-9][0-9]{0,15})"$`)

// basedOn reads If-Match: the version that an edit is based on. One, since nobody has seen two of the same job at once.
func basedOn(header http.Header) (int64, error) {
	given := header.Values("If-Match")
	if len(given) == 0 {
		return 0, refuse(preconditionRequired, "an edit states the version that it is based on, in If-Match")
	}
	tag := strings.TrimSpace(given[0])
	if len(given) > 1 || strings.Contains(tag, ",") {
		return 0, badParameter("If-Match", "one version")
	}
	if tag == "*" {
		return jobs.AnyVersion, nil
	}
	match := etagPattern.FindStringSubmatch(tag)
	if match == nil {
		return 0, badParameter("If-Match", `the ETag of the job, as in "v7"; or *`)
	}
	return strconv.ParseInt(match[1], 10, 64)
}

// patchJob changes a job that waits.
func (s *Server) patchJob(c *gin.Context) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	based, err := basedOn(c.Request.Header)
	if err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	ch, err := decodeChanges(raw, s.config.MaxPayload, func(field string) bool { return slices.Contains(editable, field) })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	job, err := jobs.EditJob(ctx, s.config.DB, id, based, ch.edit(), s.actOf(c, ch.reason))
	if err != nil {
		return err
	}
	return s.replyJob(c, http.StatusOK, job)
}

// cloneJob makes a new job from a stored one.
func (s *Server) cloneJob(c *gin.Context) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	if c.GetHeader("Idempotency-Key") != "" {
		return badParameter("Idempotency-Key", "a clone takes none: each call makes a copy")
	}
	raw, err := readOptionalBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	ch := &changes{fields: newFields(s.config.MaxPayload)}
	if raw != nil {
		if ch, err = decodeChanges(raw, s.config.MaxPayload, func(field string) bool { return field != "idempotency_key" }); err != nil {
			return err
		}
	}
	params := ch.replacements()
	if params.Queue != "" {
		if err := callOf(c).principal.seesAll([]jobs.Params{params}); err != nil {
			return err
		}
	}
	if err := takeHeaders(c.Request.Header, &params); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	job, err := jobs.CloneJob(ctx, s.config.DB, id, params, s.actOf(c, ch.reason))
	if err != nil {
		return err
	}
	c.Header("Location", s.config.BasePath+prefix+"/jobs/"+job.ID.String())
	return s.replyJob(c, http.StatusCreated, job)
}
