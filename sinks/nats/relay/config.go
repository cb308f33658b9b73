package relay

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// Lost is what to do when the server no longer has what comes next.
type Lost string

// The choices.
const (
	Stop  Lost = "stop"  // Run ends with an *ExpiredError or an *EpochError
	GoOn  Lost = "go-on" // from the oldest event that there is; a warning says what is missing
	floor      = "earliest"
)

// Config says what to copy where. Zero values mean the defaults.
type Config struct {
	Server string   // address of a Mini Asynq server, with its base path. Required
	APIKey string   // empty: what needs no credential
	Types  []string // filters, as GET /events has them; empty: all
	Queues []string
	From   string // where the first start begins: earliest (default), latest, or a cursor
	OnLost Lost   // default Stop

	NATS     *nats.Conn    // Required. Without a reconnect buffer: what was not sent is sent anew
	Prefix   string        // of subjects; default miniasynq
	Stream   string        // default MINIASYNQ; made, if it is not there, for Prefix.>
	Bucket   string        // of the cursor; default MINIASYNQ_RELAY; made if it is not there
	Replicas int           // of what is made; default 1
	MaxAge   time.Duration // of events in a stream that is made; 0: for ever
	Window   int           // publishes in flight; default 256, at most 4096
	AckWait  time.Duration // for one publish; default 5 s

	Registerer prometheus.Registerer // nil: no metrics
	Log        zerolog.Logger
}

// maxWindow bounds what is in flight: each is in memory here and at the leader.
const maxWindow = 4096

var (
	streamName  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)
	subjectName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

func (c Config) withDefaults() Config {
	c.From = cmp.Or(c.From, floor)
	c.OnLost = cmp.Or(c.OnLost, Stop)
	c.Prefix = cmp.Or(c.Prefix, "miniasynq")
	c.Stream = cmp.Or(c.Stream, "MINIASYNQ")
	c.Bucket = cmp.Or(c.Bucket, "MINIASYNQ_RELAY")
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.Window = cmp.Or(c.Window, 256)
	c.AckWait = cmp.Or(c.AckWait, 5*time.Second)
	return c
}

// validate tells everything that is wrong with the settings.
func (c Config) validate() error {
	var faults []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	server, err := url.Parse(c.Server)
	refuse(err != nil || server.Host == "" || server.Scheme != "http" && server.Scheme != "https",
		"server: an address with http or https")
	refuse(c.NATS == nil, "a connection to NATS is required")
	_, err = ParseCursor(c.From)
	refuse(err != nil && c.From != floor && c.From != "latest", "from %q: earliest, latest or a cursor", c.From)
	refuse(c.OnLost != Stop && c.OnLost != GoOn, "on-lost %q: %s or %s", c.OnLost, Stop, GoOn)
	refuse(!subjectName.MatchString(c.Prefix), "prefix %q: names with dots between them", c.Prefix)
	refuse(!streamName.MatchString(c.Stream), "stream %q: letters, digits, _ and -", c.Stream)
	refuse(!streamName.MatchString(c.Bucket), "bucket %q: letters, digits, _ and -", c.Bucket)
	refuse(c.Replicas < 1 || c.Replicas > 5, "replicas %d: 1 to 5", c.Replicas)
	refuse(c.MaxAge < 0, "max-age %s: not negative", c.MaxAge)
	refuse(c.Window < 1 || c.Window > maxWindow, "window %d: 1 to %d", c.Window, maxWindow)
	refuse(c.AckWait < 100*time.Millisecond, "ack-wait %s: at least 100ms", c.AckWait)
	if len(faults) > 0 {
		return fmt.Errorf("relay: settings refused: %w", errors.Join(faults...))
	}
	return nil
}
