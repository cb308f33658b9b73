package hub

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/events"
)

// Caller is who asks for a socket, and what of the log exists for him.
type Caller struct {
	Name      string
	Unlimited bool     // does not count against the sockets of a principal
	Queues    []string // the only ones whose events he sees; nil: all events
	Payloads  bool     // he may read payloads
	// Reads tells whether he may read the log now; framed mode asks at each subscription, and closes with 4403. nil: he may.
	Reads func() bool

	// Ended is closed when the credential ends: its sockets are closed with 4401. nil: it never ends.
	Ended <-chan struct{}
	// Hold says that the credential is in use, until release; called once for each socket. It must not block. May be nil.
	Hold func() (release func())
}

// PrincipalFunc says who calls.
type PrincipalFunc func(*http.Request) Caller

// ProblemFunc answers a request with a problem of INTERFACES.md section 4, by its name. detail is made here and holds no
// secret; extra are further members.
type ProblemFunc func(w http.ResponseWriter, r *http.Request, name, detail string, extra map[string]any)

// Config says how the hub serves sockets. Zero values mean the defaults.
type Config struct {
	Stream    *events.Stream  // Required.
	Readers   *events.Readers // Required: of the same stream. It runs beside the hub, at least as long.
	Principal PrincipalFunc   // nil: everybody is "anonymous"
	Problem   ProblemFunc     // nil: a plain problem body

	// AllowedHosts are hosts, "name" or "name:port", whose pages may open a socket, beside the host that was called.
	AllowedHosts []string
	// Scheme tells how the caller reached this server, http or https; nil: by whether the connection is TLS.
	Scheme func(*http.Request) string

	SlowAfter   time.Duration // a write is blocked for so long: cut off; 0 is 10 s
	SlowLinger  time.Duration // how long the cut-off client may take to read why; 0 is 10 s
	PingEvery   time.Duration // 0 is 25 s
	PongWithin  time.Duration // 0 is 10 s
	CloseWithin time.Duration // for the client's half of a goodbye; 0 is 1 s
	MaxMessage  int64         // bytes of an incoming message; 0 is 16 KiB
	MaxMessages int           // incoming frames a second; 0 is 50
	SendBuffer  int           // bytes of the socket's send buffer; 0 is 256 KiB
	BatchEvents int           // events of one read; 0 is 256
	BatchBytes  int           // bytes of one write, about; 0 is 64 KiB

	// Framed mode.
	Node        string                        // the name of this node, for the client to show; may be empty
	Numbers     Numbers                       // for stats frames; nil: there are none
	QueueBody   func(events.QueueNumbers) any // how a queue is shown, encoded with encoding/json; nil: as it is
	FirstWithin time.Duration                 // the client's first frame comes within; 0 is 10 s
	MarkEvery   time.Duration                 // a subscription says where it stands; 0 is 4 s: 5 at most are promised
	ViewEvery   time.Duration                 // between two ev frames of a view; 0 is 100 ms: ten a second at most are promised

	Registerer prometheus.Registerer // nil: not measured
	Log        zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.Principal == nil {
		c.Principal = func(*http.Request) Caller { return Caller{Name: "anonymous"} }
	}
	if c.Problem == nil {
		c.Problem = plainProblem
	}
	if c.Scheme == nil {
		c.Scheme = func(r *http.Request) string {
			if r.TLS != nil {
				return "https"
			}
			return "http"
		}
	}
	if c.QueueBody == nil {
		c.QueueBody = func(n events.QueueNumbers) any { return n }
	}
	c.FirstWithin = cmp.Or(c.FirstWithin, 10*time.Second)
	c.MarkEvery = cmp.Or(c.MarkEvery, 4*time.Second)
	c.ViewEvery = cmp.Or(c.ViewEvery, 100*time.Millisecond)
	c.SlowAfter = cmp.Or(c.SlowAfter, 10*time.Second)
	c.SlowLinger = cmp.Or(c.SlowLinger, 10*time.Second)
	c.PingEvery = cmp.Or(c.PingEvery, 25*time.Second)
	c.PongWithin = cmp.Or(c.PongWithin, 10*time.Second)
	c.CloseWithin = cmp.Or(c.CloseWithin, time.Second)
	c.MaxMessage = cmp.Or(c.MaxMessage, 16<<10)
	c.MaxMessages = cmp.Or(c.MaxMessages, 50)
	c.SendBuffer = cmp.Or(c.SendBuffer, 256<<10)
	c.BatchEvents = cmp.Or(c.BatchEvents, 256)
	c.BatchBytes = cmp.Or(c.BatchBytes, 64<<10)
	return c
}

// validate names all faults at once.
func (c Config) validate() error {
	var faults []error
	refuse := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Stream == nil {
		refuse("Stream is required")
	}
	if c.Readers == nil {
		refuse("Readers is required")
	}
	for _, host := range c.AllowedHosts {
		if host == "" || strings.ContainsAny(host, "/ *@") {
			refuse("allowed host %q: a name, or a name and a port", host)
		}
	}
	for name, n := range map[string]int{
		"MaxMessages": c.MaxMessages, "SendBuffer": c.SendBuffer, "BatchEvents": c.BatchEvents, "BatchBytes": c.BatchBytes,
	} {
		if n < 1 {
			refuse("%s %d: at least 1", name, n)
		}
	}
	for name, d := range map[string]time.Duration{
		"SlowAfter": c.SlowAfter, "SlowLinger": c.SlowLinger, "PingEvery": c.PingEvery, "PongWithin": c.PongWithin,
		"CloseWithin": c.CloseWithin, "FirstWithin": c.FirstWithin, "MarkEvery": c.MarkEvery, "ViewEvery": c.ViewEvery,
	} {
		if d < time.Millisecond {
			refuse("%s %s: at least 1ms", name, d)
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("hub: %w", errors.Join(faults...))
	}
	return nil
}

// Problems that the hub answers with before an upgrade, and their status.
const (
	problemParameter  = "invalid-parameter"
	problemOrigin     = "cross-origin"
	problemForbidden  = "forbidden"
	problemMethod     = "method-not-allowed"
	problemUpgrade    = "upgrade-required"
	problemInternal   = "internal"
	problemDraining   = "draining"
	problemParamExtra = "parameter"
)

// problemStatus are theirs, and those of events.Refused.
var problemStatus = map[string]int{
	problemParameter: http.StatusBadRequest, problemOrigin: http.StatusForbidden, problemForbidden: http.StatusForbidden,
	problemMethod: http.StatusMethodNotAllowed, problemUpgrade: http.StatusUpgradeRequired,
	problemInternal: http.StatusInternalServerError, problemDraining: http.StatusServiceUnavailable,
	"cursor-invalid": http.StatusBadRequest, "epoch-changed": http.StatusConflict, "cursor-expired": http.StatusGone,
	"too-many-streams": http.StatusTooManyRequests, "unavailable": http.StatusServiceUnavailable,
}

// plainProblem writes a problem for a hub that stands alone.
func plainProblem(w http.ResponseWriter, _ *http.Request, name, detail string, extra map[string]any) {
	status := problemStatus[name]
	body := map[string]any{
		"type": "/problems/" + name, "title": http.StatusText(status), "status": status, "detail": detail,
		"code": strings.ReplaceAll(name, "-", "_"),
	}
	maps.Copy(body, extra)
	raw, err := json.Marshal(body)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte("{}")
	}
	header := w.Header()
	header.Set("Content-Type", "application/problem+json")
	header.Set("Cache-Control", "no-store")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(raw) // the caller may be gone
}
