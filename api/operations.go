package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// sampleJobs is how many jobs a dry run shows.
const sampleJobs = 10

type stopBody struct {
	FailureRatio float64 `json:"failure_ratio"`
	MinSample    int     `json:"min_sample"`
}

type operationBody struct {
	ID         uuid.UUID             `json:"id"`
	Action     jobs.Action           `json:"action"`
	Status     jobs.OperationStatus  `json:"status"`
	Total      int64                 `json:"total"`
	Done       int64                 `json:"done"`
	Skipped    int64                 `json:"skipped"`
	Failed     int64                 `json:"failed"`
	Errors     []jobs.OperationError `json:"errors"`
	Filter     *jobs.Filter          `json:"filter"` // null: the jobs were named
	Before     stamp                 `json:"before"`
	Rate       *int                  `json:"rate"`
	StopWhen   *stopBody             `json:"stop_when"`
	Actor      string                `json:"actor"`
	Reason     text                  `json:"reason"`
	CreatedAt  stamp                 `json:"created_at"`
	UpdatedAt  stamp                 `json:"updated_at"`
	FinishedAt stamp                 `json:"finished_at"`
}

// operationOf is an operation as the caller may see it: what its filter says of payloads is for who may read them.
func operationOf(op *jobs.Operation, p Principal) operationBody {
	b := operationBody{
		ID: op.ID, Action: op.Action, Status: op.Status, Total: op.Total, Done: op.Done, Skipped: op.Skipped, Failed: op.Failed,
		Errors: emptyNotNull(op.Errors), Filter: op.Filter, Before: stamp(op.Before), Actor: op.Actor, Reason: text(op.Reason),
		CreatedAt: stamp(op.CreatedAt), UpdatedAt: stamp(op.UpdatedAt), FinishedAt: stamp(op.FinishedAt),
	}
	if op.Rate > 0 {
		b.Rate = &op.Rate
	}
	if op.Stop != nil {
		b.StopWhen = &stopBody{op.Stop.Ratio, op.Stop.Sample}
	}
	if f := op.Filter; f != nil && len(f.Payload) > 0 && !p.Allows(ScopeReadPayload) {
		shown := *f
		shown.Payload = nil
		b.Filter = &shown
	}
	return b
}

// operationFields is the body of POST /admin/operations.
type operationFields struct {
	jobs.NewOperation
	filter, dry bool
	before      bool
	reason      string

	caller Principal
	fault  error // of the filter: more than a field that is refused
}

func (s *Server) decodeOperation(raw []byte, p Principal) (*operationFields, error) {
	f := &operationFields{caller: p}
	err := decodeObject(raw, jobDepth, f.member)
	switch {
	case err != nil:
		return nil, err
	case f.fault != nil:
		return nil, f.fault
	}
	f.Filter.Within = p.queues
	if faults := f.missing(); len(faults) > 0 {
		return nil, refusedFields(faults)
	}
	return f, nil
}

// missing is what the fields lack together.
func (f *operationFields) missing() (faults []fieldError) {
	need := func(is bool, pointer, code, detail string) {
		if is {
			faults = append(faults, fieldError{pointer, code, detail})
		}
	}
	need(f.Action == "", "/action", "missing", actionNames)
	need(!f.filter && f.IDs == nil, "/filter", "missing", "ids or a filter")
	need(f.filter && f.IDs != nil, "/ids", "conflict", "ids or a filter, not both")
	if f.filter && !f.dry {
		need(!f.before, "/before", "missing", "the time that a dry run answered with")
		need(f.Expected == nil, "/expected_count", "missing", "the number that a dry run answered with")
	}
	watched := f.Action == jobs.ActionRetry || f.Action == jobs.ActionRunNow || f.Action == ""
	need(f.Stop != nil && !watched, "/stop_when", "conflict", "for retry and run-now only: nothing else starts jobs")
	return faults
}

const actionNames = "retry, run-now, cancel or delete"

func (f *operationFields) member(key string, v value) bool {
	switch key {
	case "action":
		if s, ok := v.text(); ok {
			if f.Action = jobs.Action(s); !f.Action.Bulk() {
				v.refuse("invalid_value", actionNames)
			}
		}
	case "ids":
		f.takeIDs(v)
	case "filter":
		if !v.isNull() {
			f.filter = true
			f.takeFilter(v)
		}
	case "dry_run":
		f.dry = v.truth()
	case "before":
		if s, ok := v.text(); ok {
			at, ok := parseTime(s)
			if !ok || at.Year() < 1 {
				v.refuse("invalid_time", "RFC 3339 with a time zone, as in 2026-03-01T12:00:00Z")
			}
			f.Before, f.before = at, true
		}
	case "expected_count":
		if n, ok := v.integer(); ok {
			if f.Expected = &n; n < 0 {
				v.refuse("out_of_range", "0 or more")
			}
		}
	case "rate":
		if n, ok := v.integer(); ok {
			if f.Rate = n; n < 1 || n > jobs.MaxOperationRate {
				v.refuse("out_of_range", "1 to "+strconv.Itoa(jobs.MaxOperationRate)+" jobs a second")
			}
		}
	case "stop_when":
		f.takeStop(v)
	case "reason":
		f.reason = reasonOf(v)
	default:
		return false
	}
	return true
}

func (f *operationFields) takeIDs(v value) {
	if v.isNull() {
		return
	}
	f.IDs = []uuid.UUID{}
	amount := "1 to " + strconv.Itoa(jobs.MaxOperationJobs)
	v.array(func(n int, item value) bool {
		if n == jobs.MaxOperationJobs {
			v.refuse("too_many", amount)
			return false
		}
		if item.isNull() {
			item.wrongType("a string")
		} else if s, ok := item.text(); ok {
			id, ok := parseID(s)
			if !ok {
				item.refuse("invalid_value", "a UUID")
			}
			f.IDs = append(f.IDs, id)
		}
		return true
	})
	if len(f.IDs) == 0 && string(v.raw[:1]) == "[" {
		v.refuse("too_few", amount)
	}
}

func (f *operationFields) takeStop(v value) {
	if v.isNull() {
		return
	}
	stop := &jobs.StopWhen{Ratio: -1, Sample: jobs.DefaultStopSample}
	v.object(func(key string, v value) bool {
		switch key {
		case "failure_ratio":
			if x, ok := v.decimal(); ok {
				if stop.Ratio = x; x < 0 || x > 1 {
					v.refuse("out_of_range", "0 to 1")
				}
			}
		case "min_sample":
			if n, ok := v.integer(); ok {
				if stop.Sample = n; n < 1 || n > 1<<30 {
					v.refuse("out_of_range", "1 or more")
				}
			}
		default:
			return false
		}
		return true
	})
	if stop.Ratio == -1 && v.raw[0] == '{' {
		v.refuse("missing", "failure_ratio, 0 to 1")
	}
	f.Stop = stop
}

// takeFilter reads the parameters of GET /jobs as members, by the same rules: a string, or a list of strings for OR.
func (f *operationFields) takeFilter(v value) {
	q := &query{values: make(map[string]string)}
	v.object(func(key string, v value) bool {
		prefixed := strings.HasPrefix(key, "metadata.") && key != "metadata."
		switch {
		case v.isNull():
			return prefixed || key == "metadata" || slices.Contains(filterParameters, key)
		case key == "payload":
			q.values[key] = string(v.raw)
		case key == "metadata":
			v.object(func(name string, v value) bool {
				if s, ok := v.text(); ok && name != "" {
					q.values["metadata."+name] = s
				}
				return name != ""
			})
		case key == "attempt_min":
			if n, ok := v.integer(); ok {
				q.values[key] = strconv.Itoa(n)
			}
		case prefixed:
			q.values[key], _ = v.text()
		case key != "metadata." && slices.Contains(filterParameters, key):
			q.values[key] = wordsOf(v)
		default:
			return false
		}
		return true
	})
	if len(v.d.malformed)+len(v.d.refused) > 0 {
		return
	}
	var err error
	f.Filter, err = filterOf(q, f.caller)
	var p *problem
	switch {
	case err == nil:
	case errors.As(err, &p) && p.kind.name == invalidParameter.name:
		name, _ := p.extra["parameter"].(string)
		f.fault = refusedFields([]fieldError{{v.place.pointer() + "/" + escapePointer(name), "invalid_value", strings.TrimPrefix(p.detail, name+": ")}})
	default:
		f.fault = err
	}
}

// wordsOf reads a string, or strings that are ORed, in the way of a query string.
func wordsOf(v value) string {
	if v.raw[0] != '[' {
		s, ok := v.text()
		if ok && s == "" {
			v.refuse("invalid_value", "empty")
		}
		return s
	}
	var words []string
	v.array(func(_ int, item value) bool {
		s, ok := item.text()
		switch {
		case item.isNull():
			item.wrongType("a string")
		case ok && (s == "" || strings.Contains(s, ",")):
			item.refuse("invalid_value", "empty, or with a comma")
		case ok:
			words = append(words, s)
		}
		return true
	})
	if len(words) == 0 {
		v.refuse("too_few", "a list names something")
	}
	return strings.Join(words, ",")
}

// createOperation counts the jobs, or begins to act on them in the background.
func (s *Server) createOperation(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	who := callOf(c).principal
	f, err := s.decodeOperation(raw, who)
	if err != nil {
		return err
	}
	if f.dry {
		return s.dryRun(c, f)
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	op, err := jobs.CreateOperation(ctx, s.config.DB, f.NewOperation, s.actOf(c, f.reason))
	if err != nil {
		return err
	}
	c.Header("Location", s.config.BasePath+prefix+"/operations/"+op.ID.String())
	return reply(c, http.StatusAccepted, operationOf(op, who))
}

func (s *Server) dryRun(c *gin.Context, f *operationFields) error {
	m, err := jobs.MatchJobs(c.Request.Context(), s.config.DB, f.Selection, sampleJobs)
	if err != nil {
		return err
	}
	out := struct {
		Matched int       `json:"matched"`
		Sample  []jobBody `json:"sample"`
		Before  stamp     `json:"before"`
	}{m.Count, make([]jobBody, len(m.Sample)), stamp(m.Before)}
	for i, job := range m.Sample {
		out.Sample[i] = bodyOf(job, show{})
	}
	return reply(c, http.StatusOK, out)
}

// listOperations lists them newest first; the cursor is the id of the last one.
func (s *Server) listOperations(c *gin.Context) error {
	q := queryOf(c.Request, "status", "limit", "cursor")
	limit := q.whole("limit", defaultLimit, 1, maxLimit)
	status := jobs.OperationStatus(q.values["status"])
	if status != "" && !status.Valid() {
		q.refuse("status", "not one of its values")
	}
	who := callOf(c).principal
	var before uuid.UUID
	if cursor, ok := q.values["cursor"]; ok {
		inner, valid := openCursor(cursor, who)
		if before, ok = parseID(inner); !ok || !valid {
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
	found, err := jobs.ListOperations(ctx, s.config.DB, who.queues, status, before, limit+1)
	if err != nil {
		return err
	}
	out := list[operationBody]{Data: []operationBody{}, AsOf: asOf}
	if len(found) > limit {
		found = found[:limit]
		out.NextCursor = text(sealCursor(found[limit-1].ID.String(), who))
	}
	for _, op := range found {
		out.Data = append(out.Data, operationOf(op, who))
	}
	return reply(c, http.StatusOK, out)
}

func (s *Server) getOperation(c *gin.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	who := callOf(c).principal
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	op, err := jobs.GetOperation(ctx, s.config.DB, id, who.queues)
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, operationOf(op, who))
}

func (s *Server) cancelOperation(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		who := callOf(c).principal
		op, err := jobs.CancelOperation(ctx, s.config.DB, id, who.queues, act)
		if err != nil {
			return err
		}
		return reply(c, http.StatusOK, operationOf(op, who))
	})
}
