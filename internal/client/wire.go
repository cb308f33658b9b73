package client

import (
	"bytes"
	"encoding/json"
	"time"
)

// Doc is a resource: what this package knows of it, and all that the server said.
type Doc[T any] struct {
	Value T
	Raw   json.RawMessage
}

// UnmarshalJSON keeps the bytes beside the value.
func (d *Doc[T]) UnmarshalJSON(raw []byte) error {
	d.Raw = bytes.Clone(raw)
	return json.Unmarshal(raw, &d.Value)
}

// MarshalJSON gives what the server said.
func (d Doc[T]) MarshalJSON() ([]byte, error) { return d.Raw, nil }

// List is a page of a list.
type List[T any] struct {
	Data       []Doc[T] `json:"data"`
	NextCursor string   `json:"next_cursor"` // "": the last page
	AsOf       string   `json:"as_of"`       // a cursor of the stream: all up to it is in the page
	Truncated  bool     `json:"truncated"`   // older ones are gone
}

// Job is what the commands show of a job.
type Job struct {
	ID             string            `json:"id"`
	Queue          string            `json:"queue"`
	Kind           string            `json:"kind"`
	Status         string            `json:"status"`
	Reason         string            `json:"reason"`
	Priority       string            `json:"priority"`
	Payload        json.RawMessage   `json:"payload"`
	Result         json.RawMessage   `json:"result"`
	Attempt        int               `json:"attempt"`
	MaxRetries     int               `json:"max_retries"`
	AttemptsLeft   int               `json:"attempts_left"`
	RunAt          *time.Time        `json:"run_at"`
	Timeout        string            `json:"timeout"`
	IdempotencyKey string            `json:"idempotency_key"`
	Tags           []string          `json:"tags"`
	Metadata       map[string]string `json:"metadata"`
	LockedBy       string            `json:"locked_by"`
	Progress       *Progress         `json:"progress"`
	Error          *Failure          `json:"error"`
	Source         string            `json:"source"`
	Version        int64             `json:"version"`
	AllowedActions []string          `json:"allowed_actions"`
	CreatedAt      *time.Time        `json:"created_at"`
	UpdatedAt      *time.Time        `json:"updated_at"`
	StartedAt      *time.Time        `json:"started_at"`
	FinishedAt     *time.Time        `json:"finished_at"`
	Attempts       []Attempt         `json:"attempts"`

	CancelRequestedAt *time.Time `json:"cancel_requested_at"`
}

// Finished tells whether nothing more happens to the job by itself.
func (j Job) Finished() bool {
	return j.Status == "completed" || j.Status == "dead" || j.Status == "cancelled"
}

// Progress is what a handler said while it runs.
type Progress struct {
	Percent float64 `json:"percent"`
	Message string  `json:"message"`
}

// Failure is why the latest attempt failed.
type Failure struct {
	Type        string `json:"type"`
	Message     string `json:"message"`
	Stack       string `json:"stack"`
	Fingerprint string `json:"fingerprint"`
}

// Attempt is one execution.
type Attempt struct {
	Number       int        `json:"attempt_number"`
	StartedAt    *time.Time `json:"started_at"`
	CompletedAt  *time.Time `json:"completed_at"`
	Status       string     `json:"status"`
	ErrorType    string     `json:"error_type"`
	ErrorMessage string     `json:"error_message"`
	Worker       string     `json:"worker"`
	WaitSeconds  float64    `json:"wait_seconds"`
	RunSeconds   *float64   `json:"run_seconds"`
}

// Stored is a line of the answer to a batch.
type Stored struct {
	ID     string     `json:"id"`
	Queue  string     `json:"queue"`
	Status string     `json:"status"`
	RunAt  *time.Time `json:"run_at"`
}

// Queue is a queue with its numbers.
type Queue struct {
	Name            string           `json:"name"`
	Paused          bool             `json:"paused"`
	Pause           *Pause           `json:"pause"`
	Counts          map[string]int64 `json:"counts"`
	OldestPendingAt *time.Time       `json:"oldest_pending_at"`
	Rates           Rates            `json:"rates_1m"`
	WaitSeconds     Quantiles        `json:"wait_seconds"`
	RunSeconds      Quantiles        `json:"run_seconds"`
	Slots           int              `json:"slots"`
	Busy            int              `json:"busy"`
}

// Pause says who stopped a queue, and why.
type Pause struct {
	Reason string     `json:"reason"`
	At     *time.Time `json:"at"`
	Until  *time.Time `json:"until"`
	Actor  string     `json:"actor"`
}

// Rates are per second, over the last minute.
type Rates struct {
	Enqueued  float64 `json:"enqueued"`
	Started   float64 `json:"started"`
	Completed float64 `json:"completed"`
	Failed    float64 `json:"failed"`
}

// Quantiles are seconds; nil where nothing was measured.
type Quantiles struct {
	P50 *float64 `json:"p50"`
	P95 *float64 `json:"p95"`
	P99 *float64 `json:"p99"`
}

// Worker is a worker in any language.
type Worker struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	State      string         `json:"state"`
	Queues     map[string]int `json:"queues"`
	Kinds      []string       `json:"kinds"` // nil: all
	Slots      int            `json:"slots"`
	Busy       int            `json:"busy"`
	Version    string         `json:"version"`
	Asked      string         `json:"asked"`
	LastSeenAt *time.Time     `json:"last_seen_at"`
}

// Event is one committed change.
type Event struct {
	Cursor    string         `json:"cursor"`
	Epoch     int64          `json:"epoch"`
	Seq       int64          `json:"seq"`
	Type      string         `json:"type"`
	Timestamp time.Time      `json:"timestamp"`
	Queue     string         `json:"queue"`
	Kind      string         `json:"kind"`
	JobID     string         `json:"job_id"`
	Status    string         `json:"status"`
	Attempt   int            `json:"attempt"`
	Worker    string         `json:"worker"`
	Actor     string         `json:"actor"`
	Data      map[string]any `json:"data"`
}

// Events is a page of the stream.
type Events struct {
	Data     []Doc[Event] `json:"data"`
	Cursor   string       `json:"cursor"` // go on after it
	CaughtUp bool         `json:"caught_up"`
}

// Key is an API key.
type Key struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Role       string     `json:"role"`
	Scopes     []string   `json:"scopes"`
	Queues     []string   `json:"queues"` // nil: all
	CreatedBy  string     `json:"created_by"`
	CreatedAt  *time.Time `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	Secret     string     `json:"secret"` // in the answer that makes the key, and never again
}

// AuditEntry is what somebody did.
type AuditEntry struct {
	Time      *time.Time `json:"time"`
	Actor     string     `json:"actor"`
	Address   string     `json:"address"`
	Action    string     `json:"action"`
	Target    string     `json:"target"`
	Reason    string     `json:"reason"`
	RequestID string     `json:"request_id"`
}

// Health is what a node says about itself; who may not read gets the status alone.
type Health struct {
	Status      string            `json:"status"` // ok, degraded, unavailable, draining
	Node        string            `json:"node"`
	Version     string            `json:"version"`
	Commit      string            `json:"commit"`
	Environment string            `json:"environment"`
	Leader      *bool             `json:"leader"`
	Checks      map[string]string `json:"checks"` // "ok", or what is wrong
}
