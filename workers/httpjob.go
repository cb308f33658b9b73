package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// HTTPKind is the kind of jobs that call a URL.
const HTTPKind = "http"

// HTTPCall is the payload of a job of kind http.
type HTTPCall struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`  // "" is POST
	Headers map[string]string `json:"headers"` // none of those that this server sets
	Body    json.RawMessage   `json:"body"`    // sent as JSON; a string is sent as it is; absent: no body
}

// HTTPResult is the result of such a job.
type HTTPResult struct {
	Status int    `json:"status"`
	Body   string `json:"body"` // the first 64 KiB, if it is text
}

const (
	httpAnswerLimit = 64 << 10
	httpTimeout     = 30 * time.Second // of one call, if the attempt's own timeout is not nearer
)

// HTTPHandler calls URLs whose host is allow-listed, and nothing else. It follows no redirect and uses no proxy.
//
// The address is checked when the connection is made, after the name was resolved, so a name that changes its address in
// between gains nothing: private, loopback, link-local and other special addresses are refused, unless the list names
// that very address, or says with the prefix "private:" that a name may have one.
//
// 2xx completes the job. 408, 425, 429 and 5xx are retried, not before Retry-After; every other answer is final.
type HTTPHandler struct {
	guard  *events.Guard
	client *http.Client
}

// NewHTTPHandler reads the allow list: "api.example.com", "api.example.com:8443", "10.0.0.7", "localhost:9000",
// "private:billing.internal".
func NewHTTPHandler(allow []string) (*HTTPHandler, error) {
	guard, err := events.NewGuard(allow, false)
	if err != nil {
		return nil, err
	}
	h := &HTTPHandler{guard: guard, client: guard.Client(httpTimeout)}
	h.client.Timeout = httpTimeout
	return h, nil
}

// Close ends idle connections.
func (h *HTTPHandler) Close() { h.client.CloseIdleConnections() }

var errNotAllowed = fmt.Errorf("%w (MINIASYNQ_HTTP_ALLOW)", events.ErrNotListed)

// Handle makes the call.
func (h *HTTPHandler) Handle(ctx context.Context, job *jobs.Claimed) error {
	request, err := h.request(ctx, job)
	if err != nil {
		return jobs.NonRetryable(err)
	}
	answer, err := h.client.Do(request)
	if err != nil {
		var refused *events.NotAllowedError
		// The library's error holds the whole address, of which parts may be secret.
		var inURL *url.Error
		if errors.As(err, &inURL) {
			err = fmt.Errorf("call %s: %w", request.URL.Host, inURL.Err)
		}
		if errors.As(err, &refused) || errors.Is(err, events.ErrNotListed) {
			return jobs.NonRetryable(err)
		}
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, httpAnswerLimit))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		result := HTTPResult{Status: answer.StatusCode}
		if text := strings.ToValidUTF8(string(body), ""); utf8.Valid(body) || len(body) == httpAnswerLimit && len(body)-len(text) < utf8.UTFMax {
			result.Body = jobs.Storable(text, httpAnswerLimit) // the cut may have gone through a rune
		}
		if err := jobs.SetResult(ctx, result); err != nil {
			// The call was answered: it must not be made again because its answer is too long to keep.
			return jobs.SetResult(ctx, HTTPResult{Status: answer.StatusCode})
		}
		return nil
	}
	err = &HTTPStatusError{Status: answer.StatusCode, Host: request.URL.Host}
	switch {
	case answer.StatusCode >= 500, answer.StatusCode == http.StatusTooManyRequests,
		answer.StatusCode == http.StatusRequestTimeout, answer.StatusCode == http.StatusTooEarly:
		if after := retryAfter(answer.Header.Get("Retry-After")); after > 0 {
			return jobs.RetryAfter(after, err)
		}
		return err
	}
	return jobs.NonRetryable(err)
}

// HTTPStatusError is an answer other than 2xx.
type HTTPStatusError struct {
	Status int
	Host   string
}

func (e *HTTPStatusError) Error() string {
	return fmt.Sprintf("%s answered %d %s", e.Host, e.Status, http.StatusText(e.Status))
}

func (h *HTTPHandler) request(ctx context.Context, job *jobs.Claimed) (*http.Request, error) {
	var call HTTPCall
	if err := json.Unmarshal(job.Payload, &call); err != nil {
		return nil, fmt.Errorf("decode the payload: %w", err)
	}
	target, err := url.Parse(call.URL)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, errors.New("the payload has no http or https url")
	}
	if target.User != nil {
		return nil, errors.New("the url carries a user: send a header instead")
	}
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[target.Scheme]
	}
	if !h.guard.Listed(target.Hostname(), port) {
		return nil, errNotAllowed
	}
	if call.Method == "" {
		call.Method = http.MethodPost
	}
	body := []byte(call.Body)
	contentType := "application/json"
	var text string
	if len(body) > 0 && json.Unmarshal(body, &text) == nil {
		body, contentType = []byte(text), "text/plain; charset=utf-8"
	}
	request, err := http.NewRequestWithContext(ctx, strings.ToUpper(call.Method), target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range call.Headers {
		request.Header.Set(name, value)
	}
	if len(body) > 0 && request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("User-Agent", "mini-asynq")
	// The fence lets the other side tell a late call of an earlier attempt from that of the present one.
	request.Header.Set("Miniasynq-Job-Id", job.ID.String())
	request.Header.Set("Miniasynq-Attempt", strconv.Itoa(job.Attempt))
	request.Header.Set("Miniasynq-Fence", strconv.FormatInt(job.Fence, 10))
	if job.Traceparent != "" {
		request.Header.Set("Traceparent", job.Traceparent)
	}
	return request, nil
}

// retryAfter reads the header as seconds or as a date; 0 is none.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
