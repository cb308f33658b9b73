package api

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// maxBatchJobs is how many jobs one batch may have.
const maxBatchJobs = 1000

// Levels of nesting around the payload of a job: the body, and in a batch the list and the body around it.
const (
	jobDepth   = jobs.MaxDepth + 1
	batchDepth = jobs.MaxDepth + 3
)

// jobFields is a job as a body states it: nil is not given.
type jobFields struct {
	params   jobs.Params
	runAt    bool
	delay    bool
	oversize bool // the payload alone is over its limit
}

// decodeJob reads the body of POST /jobs.
func decodeJob(raw []byte, maxPayload int) (jobs.Params, error) {
	f := newFields(maxPayload)
	err := decodeObject(raw, jobDepth, f.member)
	if f.oversize {
		return jobs.Params{}, payloadOver(maxPayload, "/payload")
	}
	return f.params, err
}

func payloadOver(limit int, pointer string) *problem {
	p := refuse(payloadTooLarge, fmt.Sprintf("the payload exceeds %d bytes", limit)).with("limit", limit)
	p.errors = []fieldError{{pointer, "too_long", fmt.Sprintf("at most %d bytes", limit)}}
	return p
}

func newFields(maxPayload int) *jobFields {
	return &jobFields{params: jobs.Params{Source: "api", MaxPayload: maxPayload}}
}

// member takes one field. What jobs.Params cannot tell from "not given" (an empty name, a zero) is refused here;
// everything else is for the domain to judge.
func (f *jobFields) member(key string, v value) bool {
	p := &f.params
	switch key {
	case "queue":
		p.Queue = named(v)
	case "kind":
		p.Kind = named(v)
	case "payload":
		if len(v.raw) > p.MaxPayload {
			f.oversize = true
			break
		}
		p.Payload = json.RawMessage(v.raw)
	case "priority":
		if s, ok := v.text(); ok {
			if p.Priority = jobs.Priority(s); !p.Priority.Valid() {
				v.refuse("invalid_value", "high, normal or low")
			}
		}
	case "max_retries":
		if n, ok := v.integer(); ok {
			p.MaxRetries = &n
		}
	case "run_at":
		f.takeRunAt(v)
	case "delay":
		if d, ok := spanOf(v); ok {
			p.Delay, f.delay = d, true
			f.onlyOne(v)
		}
	case "timeout":
		if d, ok := spanOf(v); ok {
			if p.Timeout = d; d == 0 {
				v.refuse("out_of_range", "1s to 24h")
			}
		}
	case "idempotency_key":
		if s, ok := v.text(); ok {
			if p.IdempotencyKey = s; s == "" {
				v.refuse("invalid_value", "1 to "+strconv.Itoa(jobs.MaxKey)+" printable characters")
			}
		}
	case "tags":
		p.Tags = tagsOf(v)
	case "metadata":
		p.Metadata = metadataOf(v)
	case "traceparent":
		if s, ok := v.text(); ok {
			if p.Traceparent = s; s == "" {
				v.refuse("invalid_value", "a W3C traceparent")
			}
		}
	default:
		return false
	}
	return true
}

// named reads a name that, if it is given, is one.
func named(v value) string {
	s, ok := v.text()
	if ok && !jobs.ValidName(s) {
		v.refuse("invalid_name", "1 to 255 letters, digits and _ . : -, not . or ..")
	}
	return s
}

func spanOf(v value) (time.Duration, bool) {
	s, ok := v.text()
	if !ok {
		return 0, false
	}
	d, err := parseDuration(s)
	if err != nil {
		v.refuse("invalid_duration", "a duration such as 90s, 1h30m or 7d")
		return 0, false
	}
	return d, true
}

// clockSlack is how far this node's clock may be off before it refuses what the database would take. The database
// decides what is too far ahead; what is so by years need not be sent there, to fail a batch that others share.
const clockSlack = 24 * time.Hour

func (f *jobFields) takeRunAt(v value) {
	s, ok := v.text()
	if !ok {
		return
	}
	at, ok := parseTime(s)
	switch {
	case !ok:
		v.refuse("invalid_time", "RFC 3339 with a time zone, as in 2026-03-01T12:00:00Z")
	case at.Year() < 1 || time.Until(at) > jobs.MaxAhead+clockSlack:
		v.refuse("out_of_range", "at most 10 years ahead")
	default:
		f.params.RunAt, f.runAt = at, true
		f.onlyOne(v)
	}
}

func (f *jobFields) onlyOne(v value) {
	if f.runAt && f.delay {
		v.refuse("conflict", "run_at or delay, not both")
	}
}

func tagsOf(v value) (tags []string) {
	if v.isNull() {
		return nil
	}
	v.array(func(n int, item value) bool {
		if n == jobs.MaxTags {
			v.refuse("too_many", "at most "+strconv.Itoa(jobs.MaxTags))
			return false
		}
		if item.isNull() {
			item.wrongType("a string")
		} else if s, ok := item.text(); ok {
			tags = append(tags, s)
		}
		return true
	})
	return tags
}

func metadataOf(v value) map[string]string {
	if v.isNull() {
		return nil
	}
	if len(v.raw) > 4*jobs.MaxMetadata { // escapes may take more than what they stand for
		v.refuse("too_long", "at most "+strconv.Itoa(jobs.MaxMetadata)+" bytes as JSON")
		return nil
	}
	metadata := make(map[string]string)
	v.object(func(key string, item value) bool {
		if item.raw[0] != '"' {
			item.refuse("invalid_value", "a flat object of strings")
		} else if s, ok := item.text(); ok {
			metadata[key] = s
		}
		return true
	})
	return metadata
}

// decodeBatch reads the body of POST /jobs/batch.
func decodeBatch(raw []byte, maxPayload int) ([]jobs.Params, error) {
	var params []jobs.Params
	var over *problem
	given := false
	err := decodeObject(raw, batchDepth, func(key string, v value) bool {
		if key != "jobs" {
			return false
		}
		given = true
		v.array(func(n int, item value) bool {
			if n == maxBatchJobs {
				v.refuse("too_many", "1 to "+strconv.Itoa(maxBatchJobs)+" jobs")
				return false
			}
			f := newFields(maxPayload)
			item.object(f.member)
			if f.oversize && over == nil {
				over = payloadOver(maxPayload, item.place.pointer()+"/payload")
			}
			params = append(params, f.params)
			return true
		})
		if len(params) == 0 && v.raw[0] == '[' {
			v.refuse("too_few", "1 to "+strconv.Itoa(maxBatchJobs)+" jobs")
		}
		return true
	})
	switch {
	case err != nil:
		return nil, err
	case !given:
		return nil, refusedFields([]fieldError{{"/jobs", "missing", "1 to " + strconv.Itoa(maxBatchJobs) + " jobs"}})
	case over != nil:
		return nil, over
	}
	return params, nil
}
