package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Config says what the door opens to. Zero values mean the defaults.
type Config struct {
	DB       jobs.DB         // a pool. Required.
	Inserter *jobs.Inserter  // Required.
	Stream   *events.Stream  // Required.
	Readers  *events.Readers // of the same stream; nil: GET /events is 404. They run beside the server.
	Webhooks Webhooks        // outgoing ones; nil: 404. They run beside the server.
	Overview Overview        // nil: queues have no numbers, statistics are empty
	Work     Work            // remote workers; nil: 404
	Hub      http.Handler    // GET /ws; nil: 404. It finds the caller with PrincipalOf.
	Web      http.Handler    // the dashboard, without the base path; nil: 404
	// Gatherer is what GET /metrics shows; nil: 404. Registerer takes http_request_seconds; nil: not measured.
	Gatherer   prometheus.Gatherer
	Registerer prometheus.Registerer
	// Health says how the node is. It must not block for longer than its context. nil: always well.
	Health func(context.Context) HealthReport
	Log    zerolog.Logger

	BasePath string // before /api/v1, "/x/y" without a slash at the end; "" is none
	GinMode  string // debug, release, test; "" is release. It is the process's.

	Bind           string // the address the server listens on: a Host that may be named; "" or unspecified: none
	BindIsLoopback bool
	AdminUser      string // "" is admin
	AdminPassword  string // "": nobody can sign in with a password
	// DefaultPassword says that the password is the documented one: it is valid for local requests, or with Dev.
	DefaultPassword bool
	Dev             bool
	// Anonymous is what a caller without credentials may do. nil is the default: the four open scopes for local
	// requests to a loopback bind, else nothing; an empty list is nothing.
	Anonymous      []Scope
	AllowedHosts   []string       // further values of Host, "name" or "name:port"
	CORSOrigins    []string       // origins that may call with bearer keys
	TrustedProxies []netip.Prefix // whose X-Forwarded-For and X-Forwarded-Proto count

	MaxPayload     int              // bytes; 0 is jobs.MaxPayload, at most 4 MiB
	IdempotencyTTL time.Duration    // 0 is 24 h
	Retry          jobs.RetryPolicy // of what remote workers report as failed
	Timeout        time.Duration    // of an attempt at a remote worker, for jobs that have none; 0 is 30 minutes
	Deadline       time.Duration    // of one call of the database, waiting for a connection included; 0 is 10 s

	// Streams of GET /events: after how long a mark says where the reader is, and a ping that the server lives; how long a
	// stream lasts, and a write may be blocked. 0 is 5 s, 15 s, 1 h and 10 s.
	StreamMark, StreamPing, StreamLife, SlowAfter time.Duration

	Version, Commit, Node, Environment string
}

// maxPayloadLimit is the most that MaxPayload may be: a batch must stay within the memory of a small node.
const maxPayloadLimit = 4 << 20

func (c Config) withDefaults() Config {
	if c.AdminUser == "" {
		c.AdminUser = "admin"
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = jobs.MaxPayload
	}
	if c.IdempotencyTTL == 0 {
		c.IdempotencyTTL = 24 * time.Hour
	}
	if c.Timeout == 0 {
		c.Timeout = jobs.DefaultTimeout
	}
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Second
	}
	c.StreamMark = cmp.Or(c.StreamMark, 5*time.Second)
	c.StreamPing = cmp.Or(c.StreamPing, 15*time.Second)
	c.StreamLife = cmp.Or(c.StreamLife, time.Hour)
	c.SlowAfter = cmp.Or(c.SlowAfter, 10*time.Second)
	if c.GinMode == "" {
		c.GinMode = "release"
	}
	if c.Overview == nil {
		c.Overview = noOverview{}
	}
	if c.Health == nil {
		c.Health = func(context.Context) HealthReport { return HealthReport{Status: HealthOK} }
	}
	return c
}

// validate names all faults at once.
func (c Config) validate() error {
	var faults []error
	refuse := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.DB == nil {
		refuse("DB is required")
	}
	if c.Inserter == nil {
		refuse("Inserter is required")
	}
	if c.Stream == nil {
		refuse("Stream is required")
	}
	if p := c.BasePath; p != "" && (!strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") ||
		strings.ContainsAny(p, ":*?#%\\ ") || strings.Contains(p, "//")) {
		refuse("base path %q: it begins with a slash, does not end with one, and holds plain characters", p)
	}
	if !slices.Contains([]string{"debug", "release", "test"}, c.GinMode) {
		refuse("gin mode %q: debug, release or test", c.GinMode)
	}
	for _, scope := range c.Anonymous {
		if !slices.Contains(openScopes, scope) {
			refuse("anonymous scope %q: enqueue, work, read or read:payload", scope)
		}
	}
	for _, origin := range c.CORSOrigins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			refuse("CORS origin %q: a scheme and a host, as in https://app.example.com", origin)
		}
	}
	for _, host := range c.AllowedHosts {
		if host == "" || strings.ContainsAny(host, "/ *@") {
			refuse("allowed host %q: a name, or a name and a port", host)
		}
	}
	if c.MaxPayload < 1 || c.MaxPayload > maxPayloadLimit {
		refuse("payload limit %d: 1 byte to 4 MiB", c.MaxPayload)
	}
	if c.IdempotencyTTL < time.Second {
		refuse("idempotency TTL %s: at least 1s", c.IdempotencyTTL)
	}
	if c.Deadline < 100*time.Millisecond {
		refuse("deadline %s: at least 100ms", c.Deadline)
	}
	for name, d := range map[string]time.Duration{
		"StreamMark": c.StreamMark, "StreamPing": c.StreamPing, "StreamLife": c.StreamLife, "SlowAfter": c.SlowAfter,
	} {
		if d < time.Millisecond {
			refuse("%s %s: at least 1ms", name, d)
		}
	}
	if strings.Contains(c.AdminUser, ":") {
		refuse("admin user: no colon, basic auth cannot carry it")
	}
	if len(faults) > 0 {
		return fmt.Errorf("api: %w", errors.Join(faults...))
	}
	return nil
}
