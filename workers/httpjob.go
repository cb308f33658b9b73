package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

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
	allow  []allowEntry
	client *http.Client
}

// allowEntry is a host, with a port if only that one is allowed.
type allowEntry struct {
	host, port string
	private    bool
}

// NewHTTPHandler reads the allow list: "api.example.com", "api.example.com:8443", "10.0.0.7", "localhost:9000",
// "private:billing.internal".
func NewHTTPHandler(allow []string) (*HTTPHandler, error) {
	h := &HTTPHandler{}
	for _, text := range allow {
		rest, private := strings.CutPrefix(strings.TrimSpace(text), "private:")
		entry := allowEntry{host: strings.ToLower(rest), private: private}
		if host, port, err := net.SplitHostPort(rest); err == nil {
			entry.host, entry.port = strings.ToLower(host), port
		}
		entry.host = strings.Trim(entry.host, "[]")
		if entry.host == "" || strings.ContainsAny(entry.host, "/@*? ") {
			return nil, fmt.Errorf("allowed host %q: a host, or host:port", text)
		}
		// An address, or the name of this machine, names what it is.
		if _, err := netip.ParseAddr(entry.host); err == nil || entry.host == "localhost" {
			entry.private = true
		}
		h.allow = append(h.allow, entry)
	}
	h.client = &http.Client{
		Timeout:       httpTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:           h.dial,
			Proxy:                 nil,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: httpTimeout,
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       30 * time.Second,
		},
	}
	return h, nil
}

// Close ends idle connections.
func (h *HTTPHandler) Close() { h.client.CloseIdleConnections() }

var errNotAllowed = errors.New("the host is not on the allow list (MINIASYNQ_HTTP_ALLOW)")

// NotAllowedError is an address that jobs may not reach.
type NotAllowedError struct{ Host string }

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("%s resolves to an address that jobs may not reach", e.Host)
}

// entry returns the allow-list entry for a host and port.
func (h *HTTPHandler) entry(host, port string) (allowEntry, bool) {
	i := slices.IndexFunc(h.allow, func(e allowEntry) bool {
		return e.host == strings.ToLower(host) && (e.port == "" || e.port == port)
	})
	if i < 0 {
		return allowEntry{}, false
	}
	return h.allow[i], true
}

func (h *HTTPHandler) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	entry, ok := h.entry(host, port)
	if !ok {
		return nil, errNotAllowed
	}
	dialer := net.Dialer{
		Timeout: 10 * time.Second,
		// Control sees the resolved address, for each that is tried.
		Control: func(_, resolved string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			if !entry.private && !public(addr.Addr()) {
				return &NotAllowedError{Host: host}
			}
			return nil
		},
	}
	return dialer.DialContext(ctx, network, address)
}

// special are networks that are reachable and yet not the internet: RFC 6890 and the metadata services of clouds.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("::/96"),
}

// public tells whether an address is one of the internet.
func public(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Handle makes the call.
func (h *HTTPHandler) Handle(ctx context.Context, job *jobs.Claimed) error {
	request, err := h.request(ctx, job)
	if err != nil {
		return jobs.NonRetryable(err)
	}
	answer, err := h.client.Do(request)
	if err != nil {
		var refused *NotAllowedError
		// The library's error holds the whole address, of which parts may be secret.
		var inURL *url.Error
		if errors.As(err, &inURL) {
			err = fmt.Errorf("call %s: %w", request.URL.Host, inURL.Err)
		}
		if errors.As(err, &refused) || errors.Is(err, errNotAllowed) {
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
	if _, ok := h.entry(target.Hostname(), port); !ok {
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
