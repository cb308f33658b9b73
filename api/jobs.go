package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// reply writes an answer as JSON.
func reply(c *gin.Context, status int, body any) error {
	c.JSON(status, body)
	return nil
}

// asOf is the stream's position before a read: every event up to it is in the answer.
func (s *Server) asOf() (text, error) {
	head, err := s.config.Stream.Head()
	if err != nil {
		return "", err
	}
	return text(head.String()), nil
}

func etag(version int64) string { return `"v` + strconv.FormatInt(version, 10) + `"` }

// knownVersion is the version that the caller has, by If-None-Match: 0 if there is none.
func knownVersion(c *gin.Context) (version int64) {
	for tag := range strings.SplitSeq(c.GetHeader("If-None-Match"), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if inner, ok := strings.CutPrefix(tag, `"v`); ok && strings.HasSuffix(inner, `"`) {
			n, err := strconv.ParseInt(strings.TrimSuffix(inner, `"`), 10, 64)
			if err == nil && n > version {
				version = n
			}
		}
	}
	return version
}

func matchesAny(c *gin.Context) bool { return strings.TrimSpace(c.GetHeader("If-None-Match")) == "*" }

// filterParameters are those of GET /jobs and GET /jobs/count; "metadata." is a prefix.
var filterParameters = []string{
	"status", "queue", "kind", "priority", "tag", "worker", "id", "fingerprint", "attempt_min", "created_after",
	"created_before", "run_after", "run_before", "finished_after", "finished_before", "metadata.", "payload",
}

// maxFilterText bounds a payload filter; the address bounds it before.
const maxFilterText = 4 << 10

// filterOf reads the filter. A filter on payloads tells what is in them, so it needs the right to read them; and a
// queue or a kind, because no index helps.
func filterOf(q *query, p Principal) (jobs.Filter, error) {
	f := jobs.Filter{
		Within:         p.queues,
		Statuses:       oneOf(q, "status", jobs.Status.Valid),
		Queues:         q.list("queue"),
		Kinds:          q.list("kind"),
		Priorities:     oneOf(q, "priority", jobs.Priority.Valid),
		Tags:           q.list("tag"),
		Workers:        q.list("worker"),
		IDs:            q.ids("id"),
		Fingerprints:   q.list("fingerprint"),
		AttemptMin:     q.whole("attempt_min", 0, 0, 1<<30),
		CreatedAfter:   q.time("created_after"),
		CreatedBefore:  q.time("created_before"),
		RunAfter:       q.time("run_after"),
		RunBefore:      q.time("run_before"),
		FinishedAfter:  q.time("finished_after"),
		FinishedBefore: q.time("finished_before"),
		Payload:        q.json("payload"),
	}
	for name, v := range q.values {
		if key, ok := strings.CutPrefix(name, "metadata."); ok {
			if f.Metadata == nil {
				f.Metadata = make(map[string]string)
			}
			f.Metadata[key] = v
		}
	}
	if len(f.Payload) > 0 {
		if !p.Allows(ScopeReadPayload) {
			return f, refuse(forbidden, "a filter on payloads needs the right to read them").
				with("required_scope", ScopeReadPayload)
		}
		if code, detail := jobs.CheckJSON(f.Payload, maxFilterText); code != "" {
			q.refuse("payload", detail)
		}
		if len(f.Queues) == 0 && len(f.Kinds) == 0 {
			q.refuse("payload", "needs a queue or a kind beside it")
		}
	}
	return f, q.fault
}

func (s *Server) listJobs(c *gin.Context) error {
	q := queryOf(c.Request, slices.Concat(filterParameters, []string{"sort", "limit", "cursor", "include"})...)
	who := callOf(c).principal
	page := jobs.Page{
		Sort:  jobs.Sort(q.values["sort"]),
		Limit: q.whole("limit", defaultLimit, 1, maxLimit),
	}
	if page.Sort != "" && !page.Sort.Valid() {
		q.refuse("sort", "created_at, run_at or finished_at, with - in front for descending")
	}
	with, err := includes(q, who, "payload", "result", "stack")
	if err != nil {
		return err
	}
	page.Payload, page.Result = with.payload, with.result
	f, err := filterOf(q, who)
	if err != nil {
		return err
	}
	if cursor := q.values["cursor"]; cursor != "" {
		var ok bool
		if page.Cursor, ok = openCursor(cursor, who); !ok {
			return jobs.ErrCursor
		}
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	found, next, err := jobs.List(c.Request.Context(), s.config.DB, f, page)
	if err != nil {
		return err
	}
	out := list[jobBody]{Data: make([]jobBody, len(found)), NextCursor: text(sealCursor(next, who)), AsOf: asOf}
	for i, job := range found {
		out.Data[i] = bodyOf(job, with)
	}
	return reply(c, http.StatusOK, out)
}

// includes reads `include` of a list; what it names needs the right to read payloads.
func includes(q *query, p Principal, known ...string) (with show, err error) {
	for _, name := range q.list("include") {
		if !slices.Contains(known, name) {
			q.refuse("include", "not one of its values")
			return show{}, q.fault
		}
		if name != "attempts" && !p.Allows(ScopeReadPayload) {
			return show{}, refuse(forbidden, "include="+name+" needs the right to read payloads").
				with("required_scope", ScopeReadPayload)
		}
		with.payload = with.payload || name == "payload"
		with.result = with.result || name == "result"
		with.stack = with.stack || name == "stack"
	}
	return with, nil
}

func (s *Server) countJobs(c *gin.Context) error {
	f, err := filterOf(queryOf(c.Request, filterParameters...), callOf(c).principal)
	if err != nil {
		return err
	}
	n, capped, err := jobs.Count(c.Request.Context(), s.config.DB, f)
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, struct {
		Count  int  `json:"count"`
		Capped bool `json:"capped"`
	}{n, capped})
}

// seen is what of a single job the caller may see.
func seen(p Principal) show {
	if p.Allows(ScopeReadPayload) {
		return showAll
	}
	return show{}
}

func (s *Server) getJob(c *gin.Context) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	q := queryOf(c.Request, "include", "wait", "until")
	wait := q.duration("wait", 0, 0, maxWait)
	u := untilFinished
	if given, ok := q.values["until"]; ok {
		if u = until(given); !u.valid() {
			q.refuse("until", "finished, started or changed")
		}
	}
	withAttempts := slices.Contains(q.list("include"), "attempts")
	if _, err := includes(q, callOf(c).principal, "attempts"); err != nil {
		return err
	}
	if q.fault != nil {
		return q.fault
	}
	since := knownVersion(c)
	job, err := s.await(c.Request.Context(), id, u, since, wait)
	if err != nil {
		return err
	}
	s.sayDraining(c)
	c.Header("ETag", etag(job.Version))
	if since == job.Version || matchesAny(c) {
		c.Status(http.StatusNotModified)
		return nil
	}
	with := seen(callOf(c).principal)
	body := bodyOf(job, with)
	if withAttempts {
		attempts, err := s.attemptsOf(c.Request.Context(), id, 0, maxLimit)
		if err != nil {
			return err
		}
		body.Attempts = attemptsOf(attempts, with.stack)
	}
	return reply(c, http.StatusOK, body)
}

// sayDraining asks a caller who was parked while the node began to go to use another connection.
func (s *Server) sayDraining(c *gin.Context) {
	if s.isDraining() {
		c.Header("Connection", "close")
	}
}

func (s *Server) attemptsOf(ctx context.Context, id uuid.UUID, after, limit int) ([]jobs.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	return jobs.Attempts(ctx, s.config.DB, id, after, limit)
}

// jobAttempts lists attempts by number; the cursor is the number of the last one.
func (s *Server) jobAttempts(c *gin.Context) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	q := queryOf(c.Request, "after", "limit")
	after := q.whole("after", 0, 0, 1<<30)
	limit := q.whole("limit", defaultLimit, 1, maxLimit)
	if q.fault != nil {
		return q.fault
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	attempts, err := s.attemptsOf(c.Request.Context(), id, after, limit+1)
	if err != nil {
		return err
	}
	if len(attempts) == 0 { // none, or no job: only the job can tell
		if _, err := s.readJob(c.Request.Context(), id); err != nil {
			return err
		}
	}
	out := list[attemptBody]{AsOf: asOf}
	if len(attempts) > limit {
		attempts = attempts[:limit]
		out.NextCursor = text(strconv.Itoa(attempts[limit-1].Number))
	}
	out.Data = attemptsOf(attempts, seen(callOf(c).principal).stack)
	return reply(c, http.StatusOK, out)
}

// jobEvents lists the events of one job by its version; the cursor is the version of the last one.
func (s *Server) jobEvents(c *gin.Context) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	q := queryOf(c.Request, "after", "limit")
	after := q.whole("after", 0, 0, 1<<53-1)
	limit := q.whole("limit", defaultLimit, 1, maxEventsLimit)
	if q.fault != nil {
		return q.fault
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	found, truncated, err := events.History(ctx, s.config.DB, id, int64(after), limit+1)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		// A job whose events are gone has lost them; a job that is gone may have left some, and was found above.
		job, err := s.readJob(ctx, id)
		if err != nil {
			return err
		}
		// The events of a young job may not be published yet; a clock that is off by a minute shows the flag too late.
		truncated = after == 0 && time.Since(job.UpdatedAt) > time.Minute
	}
	out := list[eventBody]{Data: make([]eventBody, 0, len(found)), AsOf: asOf, Truncated: &truncated}
	if len(found) > limit {
		found = found[:limit]
		out.NextCursor = text(strconv.FormatInt(found[limit-1].JobVersion, 10))
	}
	for _, e := range found {
		out.Data = append(out.Data, eventBody(e.JSON()))
	}
	return reply(c, http.StatusOK, out)
}

// eventBody is an event as every transport sends it.
type eventBody []byte

// MarshalJSON gives the bytes as they are.
func (e eventBody) MarshalJSON() ([]byte, error) { return e, nil }

// jobResult gives the bare result: what the worker said, and nothing around it.
func (s *Server) jobResult(c *gin.Context) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	q := queryOf(c.Request, "wait")
	wait := q.duration("wait", 0, 0, maxWait)
	if q.fault != nil {
		return q.fault
	}
	job, err := s.await(c.Request.Context(), id, untilFinished, 0, wait)
	if err != nil {
		return err
	}
	s.sayDraining(c)
	switch {
	case !job.Status.Finished():
		return reply(c, http.StatusAccepted, struct {
			ID     uuid.UUID   `json:"id"`
			Status jobs.Status `json:"status"`
		}{job.ID, job.Status})
	case job.Status != jobs.Completed:
		return refuse(resultUnavailable, "the job ended "+string(job.Status)).with("job_status", job.Status)
	case len(job.Result) == 0:
		c.Status(http.StatusNoContent)
		return nil
	}
	c.Data(http.StatusOK, "application/json", job.Result)
	return nil
}
