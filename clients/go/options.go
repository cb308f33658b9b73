package miniasynq

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Where to begin, beside a cursor.
const (
	Latest   = "latest"   // from now on
	Earliest = "earliest" // the oldest event that is kept
)

// Options say what Consume reads, and from where. The zero value reads everything from now on, of the server on this
// machine.
type Options struct {
	// URL is the address of the server with its base path, if it has one; empty is http://localhost:8080.
	URL string
	// Auth is what the server asks for; nil: nothing, as on the machine of the server.
	Auth Auth
	// TLS is the configuration of connections to an https address; nil: that of the standard library.
	TLS *tls.Config

	// Filter is what to let through; empty: everything.
	Filter Filter
	// Payload adds the payloads of jobs. It needs the right to read them.
	Payload bool
	// After is where to begin: a cursor, Earliest, or Latest; empty is Latest. A cursor that Cursors holds goes before it.
	After string
	// Cursors keeps the cursor over restarts of the program; nil: nobody does.
	Cursors Cursors

	// Held says that the key is held to some queues. It sees the log with gaps then, as through a filter, so events
	// cannot be counted.
	Held bool
	// Credit is how many events may be on their way or wait in memory for the handler, 1 to 10000; 0 is 2000.
	Credit int
	// Observe is told how the line does; nil: nobody is. It is called by Consume's goroutine, and not while a handler runs.
	Observe func(Note)
}

// Filter lets events through: fields are ANDed, the values of a field ORed, and an empty field lets all through. Types,
// Queues and Kinds take a * at the end.
type Filter struct {
	Types  []string `json:"types,omitempty"`
	Queues []string `json:"queues,omitempty"`
	Kinds  []string `json:"kinds,omitempty"`
	JobIDs []string `json:"job_ids,omitempty"`
	Tags   []string `json:"tags,omitempty"`
}

func (f Filter) empty() bool {
	return len(f.Types)+len(f.Queues)+len(f.Kinds)+len(f.JobIDs)+len(f.Tags) == 0
}

// Auth signs the request that opens a socket. It is called for each, so that it may hand out a new credential each time.
type Auth func(*http.Request)

// Bearer signs with an API key.
func Bearer(key string) Auth {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }
}

// Basic signs with a name and a password.
func Basic(name, password string) Auth {
	return func(r *http.Request) { r.SetBasicAuth(name, password) }
}

// Cursors keeps one cursor. Consume loads it once, and saves when the events of a frame, 200 at most, were handled, when a
// filter has held events back, and at its end: after a crash the handler sees the events of a frame again. A handler whose
// effects must not be repeated stores Event.Cursor in the same transaction as the effects, and has Load return it.
//
// An error ends Consume.
type Cursors interface {
	Load(ctx context.Context) (cursor string, err error) // empty: there is none yet
	Save(ctx context.Context, cursor string) error
}

// Note tells how the line does.
type Note struct {
	State  State
	Cursor string // everything up to here was handled, or not let through by the filter; Connected: where it begins
	Behind int64  // Connected: events between the cursor and the end of the log, before the filter
	// Disconnected: why, and how long Consume waits before it comes back.
	Err   error
	Pause time.Duration
}

// State is what happened.
type State string

// The states.
const (
	Connected    State = "connected"    // the server sends from the cursor on
	CaughtUp     State = "caught up"    // the end of the log is reached
	Disconnected State = "disconnected" // Consume comes back after a pause
)

const (
	defaultURL    = "http://localhost:8080"
	defaultCredit = 2000
	maxCredit     = 10_000 // the server's
)

// prepare checks the options, all at once, and fills in the defaults. endpoint is the address of the socket.
func (o Options) prepare() (_ Options, endpoint string, err error) {
	o.URL, o.Credit, o.After = cmp.Or(o.URL, defaultURL), cmp.Or(o.Credit, defaultCredit), cmp.Or(o.After, Latest)
	if o.Auth == nil {
		o.Auth = func(*http.Request) {}
	}
	if o.Observe == nil {
		o.Observe = func(Note) {}
	}
	var faults []error
	base, err := url.Parse(o.URL)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		// The text may hold a password.
		faults = append(faults, errors.New("URL: the address of a server, as https://jobs.example.com"))
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		faults = append(faults, errors.New("URL: without credentials, query and fragment; credentials are Auth"))
	default:
		base.Scheme = "ws" + strings.TrimPrefix(base.Scheme, "http")
		endpoint = base.JoinPath("api/v1/ws").String()
	}
	if o.Credit < 1 || o.Credit > maxCredit {
		faults = append(faults, fmt.Errorf("credit %d: 1 to %d", o.Credit, maxCredit))
	}
	if o.After != Latest && o.After != Earliest {
		if _, err := parseCursor(o.After); err != nil {
			faults = append(faults, fmt.Errorf("after: %w", err))
		}
	}
	if len(faults) > 0 {
		return o, "", fmt.Errorf("miniasynq: %w", errors.Join(faults...))
	}
	return o, endpoint, nil
}
