package client

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
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// prefix of the interface, below the address of the server.
const prefix = "/api/v1"

const (
	// DefaultTimeout bounds a call: the server gives up sooner.
	DefaultTimeout = 30 * time.Second
	// maxAnswer bounds what is read of an answer: 500 jobs with large payloads fit.
	maxAnswer = 256 << 20
	// tries is how often a call is sent that may be repeated.
	tries = 3
	// patience is the longest Retry-After that is waited for; a longer one is the caller's business.
	patience = 5 * time.Second
)

// Config says which server, and who calls.
type Config struct {
	Server   string        // http://localhost:8080, with a base path if there is one
	Key      string        // an API key; wins over User
	User     string        // basic auth, with Password
	Password string        // of User
	Timeout  time.Duration // of one call; 0: DefaultTimeout
	Agent    string        // User-Agent
}

// Client calls one server.
type Client struct {
	config Config
	base   *url.URL // with prefix
	http   *http.Client
	// clock is the server's time in the latest answer, Unix seconds; 0: none yet.
	clock atomic.Int64
}

// ErrAddress is an address that is none of a server.
var ErrAddress = errors.New("not the address of a server")

// New refuses an address that is none: ErrAddress.
func New(config Config) (*Client, error) {
	base, err := url.Parse(config.Server)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		return nil, fmt.Errorf("%q: %w: write http://host:port, with a path if there is one", withoutPassword(config.Server), ErrAddress)
	case base.User != nil:
		return nil, fmt.Errorf("%q: %w: credentials do not belong in it", withoutPassword(config.Server), ErrAddress)
	case base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("%q: %w: it ends with the path", config.Server, ErrAddress)
	}
	// The base of the interface is a fine answer to "which server?" as well.
	base.Path = strings.TrimSuffix(strings.TrimRight(base.Path, "/"), prefix) + prefix
	if config.Timeout <= 0 {
		config.Timeout = DefaultTimeout
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second}
	return &Client{
		config: config, base: base,
		http: &http.Client{
			Transport: transport,
			// A redirected POST becomes a GET, and credentials might go elsewhere: the answer is an error that says where to.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func withoutPassword(address string) string {
	if at := strings.LastIndex(address, "@"); at >= 0 {
		return "..." + address[at:]
	}
	return address
}

// Close gives up the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Server is the address without the interface's prefix.
func (c *Client) Server() string { return strings.TrimSuffix(c.base.String(), prefix) }

// Now is the server's time as of the latest answer, to the second; false before the first one. Ages are counted against
// it: this machine's clock may differ.
func (c *Client) Now() (time.Time, bool) {
	at := c.clock.Load()
	return time.Unix(at, 0).UTC(), at != 0
}

// call is one request.
type call struct {
	method, path string
	query        url.Values
	body         any           // sent as JSON; nil: none
	key          string        // Idempotency-Key
	patience     time.Duration // added to the deadline: how long the server may park the call
	accept       []int         // statuses beside 2xx that are answers
}

// answer is what came back.
type answer struct {
	status int
	body   []byte
}

// do sends a call and reads the whole answer. out, if not nil, takes the JSON of a 2xx.
func (c *Client) do(ctx context.Context, what call, out any) (answer, error) {
	var body []byte
	if what.body != nil {
		var err error
		if body, err = json.Marshal(what.body); err != nil {
			return answer{}, fmt.Errorf("encode the request: %w", err)
		}
	}
	deadline := c.config.Timeout + what.patience
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	pauses := backoff.NewExponentialBackOff(backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxInterval(patience))
	for try := 1; ; try++ {
		got, err := c.send(ctx, what, body, deadline)
		if err == nil {
			return got, decode(got, out)
		}
		pause, again := pauses.NextBackOff(), try < tries && repeatable(what, err)
		var problem *Problem
		if errors.As(err, &problem) && problem.RetryAfter > 0 {
			pause, again = problem.RetryAfter, again && problem.RetryAfter <= patience
		}
		if !again || !wait(ctx, pause) {
			return answer{}, err
		}
	}
}

// repeatable tells whether a call may be sent again after an error: it changes nothing or is recognised as the same one,
// and the error may pass. A server that refuses connections is not asked again: most often the address is wrong.
func repeatable(what call, err error) bool {
	var unreachable *UnreachableError
	var problem *Problem
	passes := errors.As(err, &unreachable) && !unreachable.NeverSent && !unreachable.Late ||
		errors.As(err, &problem) && (problem.Status == http.StatusServiceUnavailable || problem.Status == http.StatusTooManyRequests)
	return passes && (what.method == http.MethodGet || what.key != "")
}

// wait returns false when ctx ends first.
func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (c *Client) send(ctx context.Context, what call, body []byte, deadline time.Duration) (answer, error) {
	request, err := c.request(ctx, what, body)
	if err != nil {
		return answer{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer{}, c.unreachable(ctx, err, deadline)
	}
	defer response.Body.Close()
	if at, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		c.clock.Store(at.Unix())
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, c.unreachable(ctx, err, deadline)
	case len(raw) > maxAnswer:
		return answer{}, fmt.Errorf("read the answer: more than %d MiB", maxAnswer>>20)
	}
	if response.StatusCode/100 == 2 || contains(what.accept, response.StatusCode) {
		return answer{response.StatusCode, raw}, nil
	}
	return answer{}, problemOf(response, raw)
}

func contains(statuses []int, status int) bool {
	for _, s := range statuses {
		if s == status {
			return true
		}
	}
	return false
}

func (c *Client) request(ctx context.Context, what call, body []byte) (*http.Request, error) {
	address := *c.base
	// The segments are escaped already, as path joins them.
	address.Path, address.RawPath = "", ""
	target := strings.TrimSuffix(address.String(), "/") + c.base.EscapedPath() + what.path
	if len(what.query) > 0 {
		target += "?" + what.query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, what.method, target, reader)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	c.sign(request.Header)
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if what.key != "" {
		request.Header.Set("Idempotency-Key", what.key)
	}
	return request, nil
}

// sign says who calls.
func (c *Client) sign(header http.Header) {
	if c.config.Agent != "" {
		header.Set("User-Agent", c.config.Agent)
	}
	switch {
	case c.config.Key != "":
		header.Set("Authorization", "Bearer "+c.config.Key)
	case c.config.User != "":
		r := http.Request{Header: header}
		r.SetBasicAuth(c.config.User, c.config.Password)
	}
}

func decode(got answer, out any) error {
	if out == nil || len(bytes.TrimSpace(got.body)) == 0 {
		return nil
	}
	if err := json.Unmarshal(got.body, out); err != nil {
		return fmt.Errorf("read the answer: %w: is this a mini-asynq server?", err)
	}
	return nil
}

// at joins segments to a path, each escaped.
func at(segments ...string) string {
	var path strings.Builder
	for _, segment := range segments {
		path.WriteString("/" + url.PathEscape(segment))
	}
	return path.String()
}

// parked is a span as the query states it.
func parked(span time.Duration) string { return strconv.FormatInt(span.Milliseconds(), 10) + "ms" }
