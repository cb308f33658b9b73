package events

import (
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Event is one committed change. It is never changed after it was read, so readers share it.
type Event struct {
	Position
	Type       string
	At         time.Time
	XID        uint64 // the transaction that made it
	JobID      uuid.UUID
	JobVersion int64
	From       jobs.Status // before; empty: the job was new, or the event is about no job
	Status     jobs.Status // after; empty: the job is gone
	Priority   jobs.Priority
	Attempt    int
	Queue      string
	Kind       string
	Worker     string
	Tags       []string
	Actor      string
	Fence      int64     // job.started
	RunAt      time.Time // zero: the event says none
	WaitMS     *int64
	RunMS      *int64
	TotalMS    *int64
	Cause      string
	Reason     string
	Comment    string // a person's words
	Source     string
	HasResult  *bool
	Error      json.RawMessage
	Data       json.RawMessage // members that only this type has

	encoded sync.Once
	body    []byte
}

// AboutJob tells whether the event is about a job.
func (e *Event) AboutJob() bool { return e.JobID != uuid.Nil }

// Cursor is the position as readers state it.
func (e *Event) Cursor() string { return e.Position.String() }

// timeLayout is how a time in UTC is written: in events, and beside them.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// FormatTime writes a time as events do.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// JSON is the event as every transport sends it. It is encoded once, for all readers; the caller must not change it.
func (e *Event) JSON() []byte {
	e.encoded.Do(func() { e.body = e.AppendJSON(make([]byte, 0, 512)) })
	return e.body
}

// AppendJSON appends what JSON returns and keeps nothing: for an event that one reader wants once. The members are written
// in a fixed order, by hand: at full load hundreds of thousands a second pass here, and strings that need escaping go
// through encoding/json.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"cursor":"`...)
	b = strconv.AppendInt(b, e.Epoch, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, e.Seq, 10)
	b = append(b, `","epoch":`...)
	b = strconv.AppendInt(b, e.Epoch, 10)
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	b = appendMember(b, "type", e.Type)
	b = append(b, `,"v":1,"timestamp":"`...)
	b = e.At.UTC().AppendFormat(b, timeLayout)
	b = append(b, '"')
	b = appendOrNull(b, "queue", e.Queue)
	if e.AboutJob() {
		b = appendOrNull(b, "kind", e.Kind)
		b = append(b, `,"job_id":"`...)
		b = appendID(b, e.JobID)
		b = append(b, `","job_version":`...)
		b = strconv.AppendInt(b, e.JobVersion, 10)
		b = appendOrNull(b, "status", string(e.Status))
		b = appendOrNull(b, "priority", string(e.Priority))
		b = append(b, `,"attempt":`...)
		b = strconv.AppendInt(b, int64(e.Attempt), 10)
	} else {
		b = append(b, `,"kind":null,"job_id":null,"job_version":null,"status":null,"priority":null,"attempt":null`...)
	}
	b = appendOrNull(b, "worker", e.Worker)
	b = append(b, `,"tags":[`...)
	for i, tag := range e.Tags {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, tag)
	}
	b = append(b, `],"workflow_id":null`...)
	b = appendOrNull(b, "actor", e.Actor)
	b = append(b, `,"data":`...)
	b = e.appendData(b)
	return append(b, '}')
}

// appendData writes the members that belong to the type.
func (e *Event) appendData(b []byte) []byte {
	start := len(b)
	b = append(b, '{')
	member := func(name string) {
		if len(b) > start+1 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
	}
	text := func(name, value string) {
		if value != "" {
			member(name)
			b = appendString(b, value)
		}
	}
	number := func(name string, value *int64) {
		if value != nil {
			member(name)
			b = strconv.AppendInt(b, *value, 10)
		}
	}
	if e.Type == "job.ready" || e.Type == "job.redriven" {
		text("from", string(e.From))
	}
	if e.Fence != 0 && e.Type == "job.started" {
		number("fence", &e.Fence)
	}
	number("wait_ms", e.WaitMS)
	text("cause", e.Cause)
	text("reason", e.Reason)
	text("comment", e.Comment)
	if len(e.Error) > 0 {
		member("error")
		b = append(b, e.Error...)
	}
	if !e.RunAt.IsZero() {
		name := "run_at"
		if e.Type == "queue.paused" {
			name = "until"
		}
		member(name)
		b = append(b, '"')
		b = e.RunAt.UTC().AppendFormat(b, timeLayout)
		b = append(b, '"')
	}
	number("run_ms", e.RunMS)
	number("total_ms", e.TotalMS)
	if e.HasResult != nil && e.Type == "job.completed" {
		member("has_result")
		b = strconv.AppendBool(b, *e.HasResult)
	}
	text("source", e.Source)
	if len(e.Data) > 2 && e.Data[0] == '{' {
		if len(b) > start+1 {
			b = append(b, ',')
		}
		b = append(b, e.Data[1:len(e.Data)-1]...)
	}
	return append(b, '}')
}

// appendID is String of a UUID without the string.
func appendID(b []byte, id uuid.UUID) []byte {
	for i, octet := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[octet>>4], hexDigits[octet&15])
	}
	return b
}

const hexDigits = "0123456789abcdef"

func appendMember(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `":`...)
	return appendString(b, value)
}

func appendOrNull(b []byte, name, value string) []byte {
	if value != "" {
		return appendMember(b, name, value)
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, `":null`...)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			raw, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...) // a string always marshals
			}
			return append(b, raw...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// AppendWithPayload appends the event with the payload of its job as a member; nil is null: the job is gone, or the event
// is about none.
func (e *Event) AppendWithPayload(b []byte, payload json.RawMessage) []byte {
	body := e.JSON()
	b = append(b, body[:len(body)-1]...)
	b = append(b, `,"payload":`...)
	if payload == nil {
		payload = json.RawMessage("null")
	}
	return append(append(b, payload...), '}')
}
