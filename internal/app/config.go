package app

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Config is a node. internal/cli fills it; zero values mean the defaults of the packages they go to.
type Config struct {
	DatabaseURL string // "": the fallback if it answers, else a private PostgreSQL
	ListenURL   string // direct, beside a pooler
	FallbackURL string // the database of the quick start
	StateDir    string // where the private PostgreSQL lives; "": the user's state folder
	Migrate     bool

	Bind, Address, BasePath, PublicURL, GinMode string
	AdminUser, AdminPassword                    string
	Dev                                         bool
	Anonymous                                   []string // nil: by where the node is bound
	AllowedHosts, CORSOrigins                   []string
	TrustedProxies                              []netip.Prefix
	Environment                                 string
	MaxSockets, MaxSocketsEach                  int

	Slots        int
	Queues       map[string]int
	Lease        time.Duration
	JobTimeout   time.Duration
	Grace        time.Duration
	Retry        jobs.RetryPolicy
	Settings     jobs.Settings
	HTTPAllow    []string
	WebhookAllow []string
	DemoHandlers string // true, false; "": in development and on the private PostgreSQL

	KeepDone, KeepDead, KeepEvents time.Duration
	KeepEventBytes                 int64 // 0: no limit

	Version, Commit string
	Log             zerolog.Logger

	// Ready is called with the address once the node serves; tests wait for it. nil: nobody does.
	Ready func(net.Addr)
}

// loopback tells whether the node is reachable from this machine only.
func (c Config) loopback() bool {
	if c.Bind == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(c.Bind)
	return err == nil && ip.Unmap().IsLoopback()
}

// documentedUser and DocumentedPassword are the credentials of the quick start, known to everybody.
const (
	documentedUser     = "admin"
	DocumentedPassword = "password"
)

// shortPassword is the length below which a password does not guard a node that others can reach.
const shortPassword = 12

// errPassword names the ways out.
var errPassword = errors.New("bound to an address that others can reach, the server needs a password of its own: " +
	"set MINIASYNQ_ADMIN_PASSWORD (or MINIASYNQ_ADMIN_PASSWORD_FILE) to at least 12 characters, " +
	"or bind to 127.0.0.1, or set MINIASYNQ_DEV=true on a machine of your own")

// withCredentials settles the admin's password. documented says that it is the one of the quick start: that is valid for
// local requests, or in development, and is no password for a node that others can reach.
func (c Config) withCredentials() (_ Config, isDocumented bool, err error) {
	if c.AdminUser == "" {
		c.AdminUser = documentedUser
	}
	if c.AdminPassword == "" {
		c.AdminPassword = DocumentedPassword
	}
	isDocumented = c.AdminPassword == DocumentedPassword
	if c.loopback() || c.Dev {
		return c, isDocumented, nil
	}
	if isDocumented {
		return c, true, errPassword
	}
	if len(c.AdminPassword) < shortPassword {
		return c, false, fmt.Errorf("the admin password is too short: %w", errPassword)
	}
	return c, false, nil
}
