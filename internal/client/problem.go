package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Problem is a refusal of the server (application/problem+json), or what somebody between us and it said.
type Problem struct {
	Status    int     `json:"status"`
	Code      string  `json:"code"` // invalid_transition; "" when it did not come from the server
	Title     string  `json:"title"`
	Detail    string  `json:"detail"`
	Errors    []Fault `json:"errors"`
	Parameter string  `json:"parameter"`
	RequestID string  `json:"request_id"`

	RequiredScope  string   `json:"required_scope"`
	JobStatus      string   `json:"job_status"`
	AllowedActions []string `json:"allowed_actions"`
	Hint           string   `json:"hint"`
	Floor          string   `json:"floor"` // cursor_expired: the oldest cursor that works

	RetryAfter time.Duration `json:"-"` // 0: it said none
}

// Fault is one place of a request that is refused.
type Fault struct {
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// Error says what happened in the words of the server, and where.
func (p *Problem) Error() string {
	var text strings.Builder
	switch {
	case p.Detail != "":
		text.WriteString(p.Detail)
	case p.Title != "":
		text.WriteString(p.Title)
	default:
		text.WriteString(http.StatusText(p.Status))
	}
	if p.Parameter != "" && !strings.HasPrefix(p.Detail, p.Parameter) {
		fmt.Fprintf(&text, " (parameter %s)", p.Parameter)
	}
	if len(p.Errors) > 1 {
		for _, fault := range p.Errors {
			fmt.Fprintf(&text, "\n  %s: %s", fault.Pointer, fault.Detail)
		}
	}
	code := p.Code
	if code == "" {
		code = "status " + strconv.Itoa(p.Status)
	}
	fmt.Fprintf(&text, " [%s", code)
	if p.RequestID != "" {
		fmt.Fprintf(&text, ", request %s", p.RequestID)
	}
	text.WriteString("]")
	return text.String()
}

// problemOf reads a refusal. What is not a problem of the server is one with the status alone.
func problemOf(response *http.Response, raw []byte) *Problem {
	p := &Problem{}
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil || kind != "application/problem+json" || json.Unmarshal(raw, p) != nil {
		p = &Problem{Detail: "the answer did not come from a mini-asynq server: " + response.Status}
		if to := response.Header.Get("Location"); response.StatusCode/100 == 3 && to != "" {
			p.Detail = "redirected to " + to + ", which is not followed"
		}
	}
	p.Status = response.StatusCode
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	return p
}

// UnreachableError is a server that could not be asked, or whose answer did not arrive.
type UnreachableError struct {
	Server    string
	NeverSent bool          // there was no connection: the call did not happen
	Late      bool          // the deadline passed
	Deadline  time.Duration // of the call
	Err       error
}

func (e *UnreachableError) Error() string {
	switch {
	case e.Late:
		return fmt.Sprintf("no answer from %s within %s", e.Server, e.Deadline)
	case e.NeverSent:
		return fmt.Sprintf("cannot reach %s: %v", e.Server, e.Err)
	}
	return fmt.Sprintf("the connection to %s broke: %v", e.Server, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// unreachable says what became of a call without an answer. Who gave up himself gets his context's error.
func (c *Client) unreachable(ctx context.Context, err error, deadline time.Duration) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	var inside *url.Error // its text repeats method and address
	if errors.As(err, &inside) {
		err = inside.Err
	}
	var dial *net.OpError
	return &UnreachableError{
		Server: c.Server(), Err: err, Deadline: deadline,
		NeverSent: errors.As(err, &dial) && dial.Op == "dial",
		Late:      errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil,
	}
}
