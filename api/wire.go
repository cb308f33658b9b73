package api

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Answers as they cross the wire. Unset fields are null; payload, result and stack are absent where the caller may not
// see them or has not asked. Integers stay below 2^53.

// stamp is a time: RFC 3339, UTC, microseconds; null when zero.
type stamp time.Time

func (t stamp) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return appendStamp(make([]byte, 0, 32), t), nil
}

// text is a string; null when empty.
type text string

func (s text) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(s))
}

// span is a duration that is a setting; null when zero.
type span time.Duration

func (d span) MarshalJSON() ([]byte, error) {
	if d == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(formatDuration(time.Duration(d)))
}

// number is a measured value; null when there is none.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, math.Round(float64(n)*1e6)/1e6, 'f', -1, 64), nil
}

// list is every list.
type list[T any] struct {
	Data       []T   `json:"data"`
	NextCursor text  `json:"next_cursor"`
	AsOf       text  `json:"as_of"`
	Truncated  *bool `json:"truncated,omitempty"` // older ones are gone
}

// emptyNotNull keeps `data` an array.
func emptyNotNull[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// jobBody is a job in an answer; MarshalJSON knows its names.
type jobBody struct {
	ID                uuid.UUID
	Queue             string
	Kind              string
	Payload           json.RawMessage // absent when empty
	Priority          jobs.Priority
	Status            jobs.Status
	Reason            text
	MaxRetries        int
	Attempt           int
	AttemptsLeft      int
	Snoozes           int
	Redrives          int
	RunAt             stamp
	Timeout           span
	IdempotencyKey    text
	Tags              []string
	Metadata          json.RawMessage
	Fence             *int64
	LockedBy          text
	LockedAt          stamp
	LeaseExpiresAt    stamp
	CancelRequestedAt stamp
	Progress          *progressBody
	Result            json.RawMessage // absent when empty
	Error             *failureBody
	Source            string
	ClonedFrom        text
	Traceparent       text
	Version           int64
	AllowedActions    []jobs.Action
	CreatedAt         stamp
	UpdatedAt         stamp
	StartedAt         stamp
	FinishedAt        stamp
	Attempts          []attemptBody // absent when empty
}

// MarshalJSON writes by hand: each enqueue is answered with a job, and by reflection that was a third of the time that the
// call spends here (measured).
func (b jobBody) MarshalJSON() ([]byte, error) {
	m := members{out: make([]byte, 0, 1024)}
	m.id("id", b.ID)
	m.text("queue", b.Queue)
	m.text("kind", b.Kind)
	if len(b.Payload) > 0 {
		m.document("payload", b.Payload)
	}
	m.text("priority", string(b.Priority))
	m.text("status", string(b.Status))
	m.textOrNull("reason", b.Reason)
	m.integer("max_retries", int64(b.MaxRetries))
	m.integer("attempt", int64(b.Attempt))
	m.integer("attempts_left", int64(b.AttemptsLeft))
	m.integer("snoozes", int64(b.Snoozes))
	m.integer("redrives", int64(b.Redrives))
	m.stamp("run_at", b.RunAt)
	m.value("timeout", b.Timeout, b.Timeout != 0)
	m.textOrNull("idempotency_key", b.IdempotencyKey)
	writeTexts(&m, "tags", b.Tags)
	m.document("metadata", b.Metadata)
	m.value("fence", b.Fence, b.Fence != nil)
	m.textOrNull("locked_by", b.LockedBy)
	m.stamp("locked_at", b.LockedAt)
	m.stamp("lease_expires_at", b.LeaseExpiresAt)
	m.stamp("cancel_requested_at", b.CancelRequestedAt)
	m.value("progress", b.Progress, b.Progress != nil)
	if len(b.Result) > 0 {
		m.document("result", b.Result)
	}
	m.value("error", b.Error, b.Error != nil)
	m.text("source", b.Source)
	m.textOrNull("cloned_from", b.ClonedFrom)
	m.textOrNull("traceparent", b.Traceparent)
	m.integer("version", b.Version)
	writeTexts(&m, "allowed_actions", b.AllowedActions)
	m.stamp("created_at", b.CreatedAt)
	m.stamp("updated_at", b.UpdatedAt)
	m.stamp("started_at", b.StartedAt)
	m.stamp("finished_at", b.FinishedAt)
	if len(b.Attempts) > 0 {
		m.value("attempts", b.Attempts, true)
	}
	return m.end()
}

type progressBody struct {
	Percent number `json:"percent"`
	Message string `json:"message"`
	At      stamp  `json:"at"`
}

type failureBody struct {
	Type        string `json:"type"`
	Message     string `json:"message"`
	Stack       string `json:"stack,omitempty"`
	Fingerprint string `json:"fingerprint"`
	At          stamp  `json:"at"`
}

// show says what of a job may be in an answer beside its plain fields. The zero value shows none of it.
type show struct{ payload, result, stack bool }

var showAll = show{true, true, true}

func bodyOf(j *jobs.Job, with show) jobBody {
	b := jobBody{
		ID: j.ID, Queue: j.Queue, Kind: j.Kind, Priority: j.Priority, Status: j.Status, MaxRetries: j.MaxRetries,
		Attempt: j.Attempt, AttemptsLeft: j.AttemptsLeft(), Snoozes: j.Snoozes, Redrives: j.Redrives,
		RunAt: stamp(j.RunAt), Timeout: span(j.Timeout), IdempotencyKey: text(j.IdempotencyKey),
		Tags: emptyNotNull(j.Tags), Metadata: j.Metadata, CancelRequestedAt: stamp(j.CancelRequestedAt),
		Source: j.Source, Traceparent: text(j.Traceparent), Version: j.Version, AllowedActions: actionsOf(j.Status),
		CreatedAt: stamp(j.CreatedAt), UpdatedAt: stamp(j.UpdatedAt), StartedAt: stamp(j.StartedAt),
		FinishedAt: stamp(j.FinishedAt),
	}
	if j.ClonedFrom != uuid.Nil {
		b.ClonedFrom = text(j.ClonedFrom.String())
	}
	if len(b.Metadata) == 0 || string(b.Metadata) == "null" {
		b.Metadata = json.RawMessage(`{}`)
	}
	if j.Status == jobs.Dead || j.Status == jobs.Cancelled {
		b.Reason = text(j.Reason) // a live job's column holds what its next event will say
	}
	if j.Status == jobs.Running {
		b.Fence, b.LockedBy = &j.Fence, text(j.LockedBy)
		b.LockedAt, b.LeaseExpiresAt = stamp(j.LockedAt), stamp(j.LeaseExpiresAt)
	}
	if p := j.Progress; p != nil {
		b.Progress = &progressBody{number(p.Percent), p.Message, stamp(p.At)}
	}
	if e := j.Error; e != nil {
		b.Error = &failureBody{e.Type, e.Message, "", e.Fingerprint, stamp(e.At)}
		if with.stack {
			b.Error.Stack = e.Stack
		}
	}
	if with.payload {
		b.Payload = j.Payload
	}
	if with.result {
		b.Result = j.Result
	}
	return b
}

func actionsOf(s jobs.Status) []jobs.Action { return emptyNotNull(s.AllowedActions()) }

// storedBody is a line of the answer to a batch.
type storedBody struct {
	ID     uuid.UUID `json:"id"`
	Queue  string    `json:"queue"`
	Status text      `json:"status"` // null where the item's own key says that the job was stored before
	RunAt  stamp     `json:"run_at"`
}

type attemptBody struct {
	Number       int    `json:"attempt_number"`
	StartedAt    stamp  `json:"started_at"`
	CompletedAt  stamp  `json:"completed_at"`
	Status       string `json:"status"`
	ErrorType    text   `json:"error_type"`
	ErrorMessage text   `json:"error_message"`
	ErrorStack   text   `json:"error_stack,omitempty"`
	Worker       text   `json:"worker"`
	Fence        int64  `json:"fence"`
	WaitSeconds  number `json:"wait_seconds"`
	RunSeconds   number `json:"run_seconds"` // null while it runs
}

func attemptOf(a jobs.Attempt, stack bool) attemptBody {
	b := attemptBody{
		Number: a.Number, StartedAt: stamp(a.StartedAt), CompletedAt: stamp(a.CompletedAt), Status: a.Status,
		ErrorType: text(a.ErrorType), ErrorMessage: text(a.ErrorMessage), Worker: text(a.Worker), Fence: a.Fence,
		WaitSeconds: number(a.Wait.Seconds()), RunSeconds: number(math.NaN()),
	}
	if !a.CompletedAt.IsZero() {
		b.RunSeconds = number(a.CompletedAt.Sub(a.StartedAt).Seconds())
	}
	if stack {
		b.ErrorStack = text(a.ErrorStack)
	}
	return b
}

func attemptsOf(attempts []jobs.Attempt, stack bool) []attemptBody {
	out := make([]attemptBody, len(attempts))
	for i, a := range attempts {
		out[i] = attemptOf(a, stack)
	}
	return out
}

type queueBody struct {
	Name            string                `json:"name"`
	Paused          bool                  `json:"paused"`
	Pause           *pauseBody            `json:"pause"`
	Counts          map[jobs.Status]int64 `json:"counts"`
	OldestPendingAt stamp                 `json:"oldest_pending_at"`
	Rates           ratesBody             `json:"rates_1m"`
	WaitSeconds     quantiles             `json:"wait_seconds"`
	RunSeconds      quantiles             `json:"run_seconds"`
	Slots           int                   `json:"slots"`
	Busy            int                   `json:"busy"`
	Limits          *struct{}             `json:"limits"` // null: there are none yet
	Version         int64                 `json:"version"`
}

type pauseBody struct {
	Reason text  `json:"reason"`
	At     stamp `json:"at"`
	Until  stamp `json:"until"`
	Actor  text  `json:"actor"`
}

// ratesBody is per second, over the last minute.
type ratesBody struct {
	Enqueued  number `json:"enqueued"`
	Started   number `json:"started"`
	Completed number `json:"completed"`
	Failed    number `json:"failed"`
}

type quantiles struct {
	P50 number `json:"p50"`
	P95 number `json:"p95"`
	P99 number `json:"p99"`
}

type statsBody struct {
	Queue  text        `json:"queue"` // null: all of them
	Window string      `json:"window"`
	Step   string      `json:"step"`
	From   stamp       `json:"from"`
	AsOf   text        `json:"as_of"`
	Points []pointBody `json:"points"`
}

type pointBody struct {
	At          stamp     `json:"at"`
	Enqueued    int64     `json:"enqueued"`
	Completed   int64     `json:"completed"`
	Failed      int64     `json:"failed"`
	Dead        int64     `json:"dead"`
	Backlog     int64     `json:"backlog"`
	WaitSeconds quantiles `json:"wait_seconds"`
	RunSeconds  quantiles `json:"run_seconds"`
}
