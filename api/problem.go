package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// problem is what a caller reads when a call is refused (RFC 9457). As an error it travels from where it happens to
// the one place that writes it. Texts in it are made here or by the code that refuses: never an error's own text.
type problem struct {
	kind   problemType
	detail string
	errors []fieldError
	extra  map[string]any
	again  time.Duration // Retry-After; 0: none
}

// fieldError says what is wrong with one part of a body.
type fieldError struct {
	Pointer string `json:"pointer"` // RFC 6901
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

func (p *problem) Error() string { return "api: " + p.kind.name + ": " + p.detail }

func (p *problem) with(key string, value any) *problem {
	if p.extra == nil {
		p.extra = make(map[string]any)
	}
	p.extra[key] = value
	return p
}

// retryIn is what 429 and 503 tell a caller at least; a database that comes back is found within it.
const retryIn = time.Second

func refuse(kind problemType, detail string) *problem {
	p := &problem{kind: kind, detail: detail}
	if kind.status == http.StatusTooManyRequests || kind.status == http.StatusServiceUnavailable {
		p.again = retryIn
	}
	return p
}

func badParameter(name, detail string) *problem {
	return refuse(invalidParameter, name+": "+detail).with("parameter", name)
}

// maxDetail bounds what a problem may repeat of its input.
const maxDetail = 256

// problemOf is the one mapping from errors to answers. What nobody classified is internal and is never shown.
func problemOf(err error) *problem {
	var known *problem
	var refused *jobs.ValidationError
	var transition *jobs.TransitionError
	var version *jobs.VersionError
	var count *jobs.CountChangedError
	var busy *events.BusyError
	var over *jobs.OperationOverError
	var tooLarge *http.MaxBytesError
	if said, ok := events.Refused(err); ok {
		kind, _ := problemNamed(said.Problem) // a test holds that each is registered
		p := refuse(kind, said.Detail)
		p.extra = said.Members
		return p
	}
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refused):
		return refusedFields(fieldErrors(refused, ""))
	case errors.As(err, &transition):
		return refuse(invalidTransition, fmt.Sprintf("%s is not possible for a job that is %s", transition.Action, transition.Status)).
			with("job_status", transition.Status).with("allowed_actions", actionsOf(transition.Status))
	case errors.As(err, &version):
		return refuse(versionConflict, "it was changed since that version").with("version", version.Version)
	case errors.As(err, &count):
		return refuse(countChanged, "more jobs match than expected: nothing was changed").with("matched", count.Matched)
	case errors.As(err, &busy):
		return consumerIsBusy(busy)
	case errors.As(err, &over):
		return refuse(invalidTransition, "the operation has ended").with("operation_status", over.Status)
	case errors.As(err, &tooLarge):
		return bodyTooLarge(tooLarge.Limit)
	case errors.Is(err, jobs.ErrNotFound):
		return refuse(notFound, "there is no such thing, or not for this caller")
	case errors.Is(err, jobs.ErrIdempotencyInFlight):
		p := refuse(idempotencyInFlight, "the first request with this key has not ended yet")
		p.again = retryIn
		return p
	case errors.Is(err, jobs.ErrIdempotencyReused):
		return refuse(idempotencyReused, "the key was used for another request")
	case errors.Is(err, jobs.ErrCursor):
		return refuse(cursorInvalid, "the cursor is damaged, or belongs to another query").with("parameter", "cursor")
	case errors.Is(err, jobs.ErrTooBroad):
		return refuse(queryTooBroad, "the query took more than 3 seconds").
			with("hint", "name a queue, a status or a span of time")
	case errors.Is(err, jobs.ErrCommitUnknown):
		return refuse(commitUnknown, "the connection to the database was lost during the commit: it may have happened; "+
			"repeat with the same Idempotency-Key")
	case errors.Is(err, jobs.ErrPauseUnconfirmed):
		return refuse(unavailable, "the pause is stored, but a claim from before it may still be under way: ask again")
	case errors.Is(err, jobs.ErrClosed):
		return refuse(draining, "this node shuts down")
	case jobs.Unavailable(err):
		return refuse(unavailable, "the database cannot be used at the moment")
	}
	return refuse(internal, "a fault of the server; the request id finds it in the log")
}

func bodyTooLarge(limit int64) *problem {
	return refuse(payloadTooLarge, fmt.Sprintf("the body exceeds %d bytes", limit)).with("limit", limit)
}

// refusedFields is a validation problem.
func refusedFields(faults []fieldError) *problem {
	p := refuse(validationFailed, summary(faults))
	p.errors = faults
	return p
}

// malformedFields is a body that cannot be read as the documented shape.
func malformedFields(faults []fieldError) *problem {
	p := refuse(malformedRequest, summary(faults))
	p.errors = faults
	return p
}

func summary(faults []fieldError) string {
	if len(faults) == 1 {
		if at := strings.TrimPrefix(faults[0].Pointer, "/"); at != "" {
			return at + ": " + faults[0].Detail
		}
		return faults[0].Detail
	}
	return strconv.Itoa(len(faults)) + " faults, see errors"
}

// fieldErrors puts the faults of a job under a prefix.
func fieldErrors(err *jobs.ValidationError, prefix string) []fieldError {
	out := make([]fieldError, 0, min(len(err.Faults), maxFaults))
	for _, f := range err.Faults[:min(len(err.Faults), maxFaults)] {
		out = append(out, fieldError{Pointer: prefix + f.Pointer, Code: f.Code, Detail: f.Detail})
	}
	return out
}

// fail writes an error as its problem, and logs what only a person can mend.
func (s *Server) fail(c *gin.Context, err error) {
	if c.Writer.Written() {
		return // too late: the answer has begun
	}
	var known *problem
	if errors.Is(context.Cause(c.Request.Context()), errCredentialEnded) {
		err = s.challenge(c) // it was revoked while the call lasted
	}
	if !errors.As(err, &known) && !errors.Is(err, jobs.ErrCommitUnknown) && c.Request.Context().Err() != nil {
		// Nobody reads it, and what the caller's leaving broke is nobody's fault. (A body that came too slowly ends the
		// context as well; that refusal is a problem of ours, and is read.)
		c.Status(statusClientGone)
		c.Abort()
		return
	}
	p := problemOf(err)
	switch p.kind.name {
	case internal.name:
		s.config.Log.Error().Err(err).Str("request_id", callOf(c).id).Str("route", routeOf(c)).Msg("request failed")
	case unavailable.name, commitUnknown.name:
		s.config.Log.Warn().Err(err).Str("request_id", callOf(c).id).Str("route", routeOf(c)).Msg("database unavailable")
	}
	s.write(c, p)
}

// statusClientGone is what the log shows for a caller who left; nobody receives it.
const statusClientGone = 499

// write answers with a problem and ends the request.
func (s *Server) write(c *gin.Context, p *problem) {
	c.Abort()
	writeProblem(c.Writer, c.Request, s.config.BasePath, callOf(c).id, p)
}

// problemMembers is a problem wherever it stands: as an answer, or inside one.
func problemMembers(basePath string, p *problem) map[string]any {
	body := map[string]any{
		"type": basePath + "/problems/" + p.kind.name, "title": p.kind.title, "status": p.kind.status,
		"detail": jobs.Storable(p.detail, 2*maxDetail), "code": p.kind.code(),
	}
	maps.Copy(body, p.extra)
	if len(p.errors) > 0 {
		body["errors"] = p.errors
	}
	return body
}

func writeProblem(w http.ResponseWriter, r *http.Request, basePath, requestID string, p *problem) {
	body := problemMembers(basePath, p)
	body["instance"], body["request_id"] = jobs.Storable(r.URL.EscapedPath(), maxDetail), requestID
	header := w.Header()
	header.Set("Content-Type", "application/problem+json")
	if p.again > 0 {
		header.Set("Retry-After", strconv.Itoa(max(1, int((p.again+time.Second-1)/time.Second))))
	}
	raw, err := json.Marshal(body)
	if err != nil {
		raw = []byte(`{"status":500,"code":"internal"}`) // strings and numbers always marshal
	}
	w.WriteHeader(p.kind.status)
	_, _ = w.Write(raw) // a caller who left needs no answer
}

// Refuse answers a request with a registered problem, for handlers that are mounted here and live elsewhere. An unknown
// name is internal.
func (s *Server) Refuse(w http.ResponseWriter, r *http.Request, name, detail string, extra map[string]any) {
	kind, ok := problemNamed(name)
	if !ok {
		kind = internal
	}
	p := refuse(kind, detail)
	p.extra = extra
	writeProblem(w, r, s.config.BasePath, requestIDFrom(r.Context()), p)
}

// bodyReadError tells a body that did not arrive from a fault of ours.
func bodyReadError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return bodyTooLarge(tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(malformedRequest, "the body did not arrive in time")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.Canceled):
		return refuse(malformedRequest, "the body ended early")
	}
	return refuse(malformedRequest, "the body could not be read")
}
