package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// What a worker says about an attempt. Its fence decides whether it counts; the same said twice is the same answer twice.

// maxWorkerDelay bounds what a worker may ask for before the next attempt.
const maxWorkerDelay = 7 * 24 * time.Hour

// How a worker wants an attempt that failed to go on.
const (
	retryDefault = "default" // by the retry policy
	retryNever   = "never"   // dead, at once
	retryAfter   = "after"   // not before retry_after
	retryCancel  = "cancel"  // the job is not wanted any more
)

// statement is one outcome as a body states it.
type statement struct {
	leaseStated
	kind   jobs.OutcomeKind
	result json.RawMessage
	over   bool // the result is over its limit

	failed     bool // an error was given
	errorType  string
	message    string
	stack      string
	retry      string
	after      time.Duration
	afterGiven bool
	delay      time.Duration
	delayGiven bool
}

// outcomeKinds are the names of outcomes in a batch, which are those of the single calls.
var outcomeKinds = map[string]jobs.OutcomeKind{
	"complete": jobs.OutcomeCompleted, "fail": jobs.OutcomeFailed, "snooze": jobs.OutcomeSnoozed, "release": jobs.OutcomeReleased,
}

// member takes a field of an outcome, whichever kind it is of; check says whether it belongs to that.
func (o *statement) member(key string, v value) bool {
	switch key {
	case "fence":
		o.fence = fenceOf(v)
	case "result":
		switch code, detail := jobs.CheckJSON(v.raw, jobs.MaxResult); code {
		case "":
			o.result = v.raw
		case "too_long":
			o.over = true
		default:
			v.refuse(code, detail)
		}
	case "error":
		o.failed = !v.isNull()
		if o.failed {
			v.object(o.errorMember)
		}
	case "retry":
		if s, ok := v.text(); ok {
			switch o.retry = s; s {
			case retryDefault, retryNever, retryAfter, retryCancel:
			default:
				v.refuse("invalid_value", "default, never, after or cancel")
			}
		}
	case "retry_after":
		if d, ok := spanOf(v); ok {
			if o.after, o.afterGiven = d, true; d < 0 || d > maxWorkerDelay {
				v.refuse("out_of_range", "0 to 7d")
			}
		}
	case "delay":
		if d, ok := spanOf(v); ok {
			if o.delay, o.delayGiven = d, true; d < 0 || d > jobs.MaxSnooze {
				v.refuse("out_of_range", "0 to 365d")
			}
		}
	default:
		return false
	}
	return true
}

// errorMember takes texts as they are: they are cleaned and cut, never refused, or a job could not fail.
func (o *statement) errorMember(key string, v value) bool {
	var into *string
	switch key {
	case "type":
		into = &o.errorType
	case "message":
		into = &o.message
	case "stack":
		into = &o.stack
	default:
		return false
	}
	switch {
	case v.isNull():
	case v.raw[0] != '"' || json.Unmarshal(v.raw, into) != nil:
		v.wrongType("a string")
	}
	return true
}

// fieldsOf names what an outcome may state beside the fence.
var fieldsOf = map[jobs.OutcomeKind][]string{
	jobs.OutcomeCompleted: {"result"}, jobs.OutcomeFailed: {"error", "retry", "retry_after"}, jobs.OutcomeSnoozed: {"delay"},
	jobs.OutcomeReleased: {},
}

func (o *statement) takes(key string) bool {
	if key == "fence" {
		return true
	}
	for _, k := range fieldsOf[o.kind] {
		if k == key {
			return true
		}
	}
	return false
}

// check says what a well-formed statement lacks. at is the pointer to it.
func (o *statement) check(at string) error {
	lacks := func(name, detail string) error {
		return refusedFields([]fieldError{{at + "/" + name, "missing", detail}})
	}
	switch {
	case o.over:
		p := refuse(payloadTooLarge, "the result exceeds "+strconv.Itoa(jobs.MaxResult)+" bytes").with("limit", jobs.MaxResult)
		p.errors = []fieldError{{at + "/result", "too_long", "at most " + strconv.Itoa(jobs.MaxResult) + " bytes"}}
		return p
	case o.fence == 0:
		return lacks("fence", "the fence of the claim")
	case o.kind == jobs.OutcomeFailed && !o.failed:
		return lacks("error", "type and message of the error")
	case o.kind == jobs.OutcomeSnoozed && !o.delayGiven:
		return lacks("delay", "until when")
	case (o.retry == retryAfter) != o.afterGiven:
		return lacks("retry_after", `with retry "after", and only then`)
	}
	return nil
}

// outcome makes the domain's outcome of a claim; job is what is known of it.
func (o *statement) outcome(job *jobs.Job, policy jobs.RetryPolicy) jobs.Outcome {
	j := jobs.Job{ID: o.job, Fence: o.fence}
	if job != nil {
		j = *job
		j.Fence = o.fence
	}
	switch o.kind {
	case jobs.OutcomeCompleted:
		return jobs.Complete(&j, o.result)
	case jobs.OutcomeSnoozed:
		return jobs.SnoozeFor(&j, o.delay)
	case jobs.OutcomeReleased:
		return jobs.Release(&j, "worker")
	}
	errType := o.errorType
	if errType == "" {
		errType = "Error"
	}
	failure := jobs.NewFailure(j.Kind, errType, o.message, o.stack)
	switch o.retry {
	case retryNever:
		return jobs.FailFinally(&j, failure)
	case retryCancel:
		return jobs.CancelByWorker(&j, failure)
	case retryAfter:
		return jobs.Fail(&j, failure, o.after)
	}
	return jobs.Fail(&j, failure, policy.Next(j.BudgetAttempts()))
}

// settled is what became of a statement.
type settled struct {
	status  jobs.Status
	problem *problem // nil: it counts
}

// settle stores outcomes, and tells for each what became of it. Of a failure the job is read first: the delay of its retry
// depends on the attempts before.
func (s *Server) settle(ctx context.Context, all []*statement) ([]settled, error) {
	out := make([]settled, len(all))
	known := make([]*jobs.Job, len(all))
	var failures []int
	for i, o := range all {
		if o.kind == jobs.OutcomeFailed {
			failures = append(failures, i)
		}
	}
	if err := s.lookAt(ctx, all, failures, func(i int, e jobs.Ended) { known[i] = e.Job }); err != nil {
		return nil, err
	}
	outcomes := make([]jobs.Outcome, len(all))
	for i, o := range all {
		outcomes[i] = o.outcome(known[i], s.config.Retry)
	}
	verdicts, err := s.config.Work.Settle(ctx, outcomes)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, refuse(unavailable, "the database has not answered yet: the outcome may be stored; say it again")
		}
		return nil, err
	}
	var stale []int
	for i, v := range verdicts {
		if v.Landed {
			out[i].status = v.Status
		} else {
			stale = append(stale, i)
		}
	}
	err = s.lookAt(ctx, all, stale, func(i int, e jobs.Ended) {
		o := all[i]
		switch {
		case e.Job == nil:
			out[i].problem = refuse(notFound, "there is no such job, or not for this caller")
		case said(outcomes[i].Kind, e.How):
			out[i].status = e.Status // it was said before: the same answer
		default:
			out[i].problem = refuse(leaseLost, "the fence is not the current one").
				with("job_id", o.job).with("fence", o.fence)
		}
	})
	return out, err
}

// said tells whether an attempt that ended in one way may have done so by an outcome. A failure of a job that was asked to
// stop is stored as cancelled.
func said(kind, how jobs.OutcomeKind) bool {
	return kind == how || how == jobs.OutcomeCancelled && kind != jobs.OutcomeCompleted
}

func (s *Server) lookAt(ctx context.Context, all []*statement, places []int, tell func(place int, e jobs.Ended)) error {
	if len(places) == 0 {
		return nil
	}
	leases := make([]jobs.Lease, len(places))
	for n, i := range places {
		leases[n] = jobs.Lease{JobID: all[i].job, Fence: all[i].fence}
	}
	ended, err := jobs.LookAtClaims(ctx, s.config.DB, leases)
	if err != nil {
		return err
	}
	for n, i := range places {
		tell(i, ended[n])
	}
	return nil
}

// cleaned replaces what is not UTF-8: an error's text may hold anything.
func cleaned(raw []byte) []byte {
	if utf8.Valid(raw) {
		return raw
	}
	return bytes.ToValidUTF8(raw, []byte("\uFFFD"))
}

func (s *Server) completeJob(c *gin.Context) error { return s.oneOutcome(c, jobs.OutcomeCompleted) }
func (s *Server) failJob(c *gin.Context) error     { return s.oneOutcome(c, jobs.OutcomeFailed) }
func (s *Server) snoozeJob(c *gin.Context) error   { return s.oneOutcome(c, jobs.OutcomeSnoozed) }
func (s *Server) releaseJob(c *gin.Context) error  { return s.oneOutcome(c, jobs.OutcomeReleased) }

// oneOutcome answers with the job as it is afterwards.
func (s *Server) oneOutcome(c *gin.Context, kind jobs.OutcomeKind) error {
	id, err := s.jobID(c)
	if err != nil {
		return err
	}
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.outcomeLimit())
	if err != nil {
		return err
	}
	if kind == jobs.OutcomeFailed {
		raw = cleaned(raw)
	}
	o := &statement{kind: kind}
	o.job = id
	err = decodeObject(raw, jobDepth, func(key string, v value) bool { return o.takes(key) && o.member(key, v) })
	if err == nil {
		err = o.check("")
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	results, err := s.settle(ctx, []*statement{o})
	if err != nil {
		return err
	}
	if p := results[0].problem; p != nil {
		return p
	}
	job, err := s.reads.get(ctx, id)
	if err != nil {
		return err
	}
	return s.replyJob(c, http.StatusOK, job)
}

// outcomeLimit leaves room for a result, and for an error's text that is longer than what is kept of it.
func (s *Server) outcomeLimit() int64 { return max(s.jobBodyLimit(), 1<<20) }

type outcomeBody struct {
	JobID   text           `json:"job_id"`
	Status  jobs.Status    `json:"status,omitempty"`
	Problem map[string]any `json:"problem,omitempty"`
}

// batchOutcomes stores many outcomes. Each has a verdict of its own: one that is stale or malformed keeps none of the others
// from being stored.
func (s *Server) batchOutcomes(c *gin.Context) error {
	return withName(s, c, s.workerID, func(ctx context.Context, _ uuid.UUID) error {
		raw, err := readBody(c, maxBatch)
		if err != nil {
			return err
		}
		release, err := s.admitBatch(ctx, int64(len(raw)))
		if err != nil {
			return err
		}
		defer release()
		all, faults, err := decodeOutcomes(raw)
		if err != nil {
			return err
		}
		named := make([]uuid.UUID, len(all))
		for i, o := range all {
			named[i] = o.job
		}
		foreign, err := s.foreign(ctx, callOf(c).principal, named)
		if err != nil {
			return err
		}
		var good []*statement
		for i, o := range all {
			if faults[i] == nil && foreign[o.job] {
				faults[i] = jobs.ErrNotFound
			}
			if faults[i] == nil {
				good = append(good, o)
			}
		}
		results, err := s.settle(ctx, good)
		if err != nil {
			return err
		}
		answer := struct {
			Results []outcomeBody `json:"results"`
		}{make([]outcomeBody, len(all))}
		next := 0
		for i, o := range all {
			body := &answer.Results[i]
			if o.job != uuid.Nil {
				body.JobID = text(o.job.String())
			}
			var p *problem
			if faults[i] != nil {
				p = problemOf(faults[i])
			} else {
				p, body.Status = results[next].problem, results[next].status
				next++
			}
			if p != nil {
				body.Problem = problemMembers(s.config.BasePath, p)
			}
		}
		return reply(c, http.StatusOK, answer)
	})
}

// decodeOutcomes reads the body of a batch; faults holds what is wrong with each, nil if nothing.
func decodeOutcomes(raw []byte) (all []*statement, faults []error, err error) {
	torn := !utf8.Valid(raw)
	given := false
	err = decodeObject(cleaned(raw), batchDepth, func(key string, v value) bool {
		if key != "outcomes" {
			return false
		}
		given = true
		v.array(func(n int, item value) bool {
			if n == maxLeases {
				v.refuse("too_many", "1 to "+strconv.Itoa(maxLeases)+" outcomes")
				return false
			}
			o, fault := decodeOutcome(item.raw, item.place, torn)
			all, faults = append(all, o), append(faults, fault)
			return true
		})
		if len(all) == 0 && v.raw[0] == '[' {
			v.refuse("too_few", "1 to "+strconv.Itoa(maxLeases)+" outcomes")
		}
		return true
	})
	if err == nil && !given {
		err = refusedFields([]fieldError{{"/outcomes", "missing", "1 to " + strconv.Itoa(maxLeases) + " outcomes"}})
	}
	return all, faults, err
}

// decodeOutcome reads one outcome of a batch, whose faults are its own. torn: bytes that were no UTF-8 have been replaced
// somewhere in the body, which is right for the text of an error only.
func decodeOutcome(raw []byte, at place, torn bool) (*statement, error) {
	o := &statement{}
	d := &decoder{}
	item := value{d: d, place: at, raw: raw}
	// First what it is and of which job: the other fields depend on that.
	item.object(func(key string, v value) bool {
		switch key {
		case "outcome":
			if s, ok := v.text(); ok {
				if o.kind = outcomeKinds[s]; o.kind == "" {
					v.refuse("invalid_value", "complete, fail, snooze or release")
				}
			}
		case "job_id":
			return o.leaseStated.member(key, v)
		}
		return true
	})
	if err := d.err(); err != nil {
		return o, err
	}
	switch {
	case o.kind == "":
		return o, refusedFields([]fieldError{{at.pointer() + "/outcome", "missing", "complete, fail, snooze or release"}})
	case o.job == uuid.Nil:
		return o, refusedFields([]fieldError{{at.pointer() + "/job_id", "missing", "the job of the claim"}})
	}
	item.object(func(key string, v value) bool {
		return key == "outcome" || key == "job_id" || o.takes(key) && o.member(key, v)
	})
	if torn && bytes.Contains(o.result, []byte("\uFFFD")) {
		d.malformed = append(d.malformed, fieldError{at.pointer() + "/result", "invalid_utf8", "not valid UTF-8"})
	}
	if err := d.err(); err != nil {
		return o, err
	}
	return o, o.check(at.pointer())
}

// progressJob stores what a running job says about itself.
func (s *Server) progressJob(c *gin.Context) error {
	return withName(s, c, s.jobID, func(ctx context.Context, id uuid.UUID) error {
		raw, err := readBody(c, s.jobBodyLimit())
		if err != nil {
			return err
		}
		var p progressStated
		var fence int64
		err = decodeObject(raw, jobDepth, func(key string, v value) bool {
			if key == "fence" {
				fence = fenceOf(v)
				return true
			}
			return p.member(key, v)
		})
		if err != nil {
			return err
		}
		if fence == 0 {
			return refusedFields([]fieldError{{"/fence", "missing", "the fence of the claim"}})
		}
		err = jobs.SetProgress(ctx, s.config.DB, jobs.Lease{JobID: id, Fence: fence}, p.percent, p.message, progressRest)
		if isLost(err) {
			return refuse(leaseLost, "the fence is not the current one").with("job_id", id).with("fence", fence)
		}
		if err != nil {
			return err
		}
		c.Status(http.StatusNoContent)
		return nil
	})
}

func isLost(err error) bool { return errors.Is(err, jobs.ErrLeaseLost) }
