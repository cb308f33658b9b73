package dispatcher

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// MinLease is the shortest lease that can be kept alive.
const MinLease = 300 * time.Millisecond

// Config says how a node dispatches. Zero values mean the defaults.
type Config struct {
	Store Store  // Required.
	Node  string // becomes locked_by; unique for each start of a process. Required.

	Lease time.Duration    // visibility timeout; 0 is 30 s, at least MinLease
	Retry jobs.RetryPolicy // of jobs whose lease expired again and again, and of what remote workers report as failed
	// Timeout of an attempt, for jobs that have none of their own; 0 is 30 minutes.
	Timeout time.Duration
	// Leads tells whether this node is the preferred one for deadlines; the others come a moment later. nil: it is.
	Leads func() bool

	Sweep    time.Duration // look at everything without being told; 0 is 30 s, negative: never (tests)
	Deadline time.Duration // of one call; 0 is 10 s
	MaxTurn  int           // claims and outcomes of one turn; 0 is 1000

	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = jobs.DefaultTimeout
	}
	if c.Leads == nil {
		c.Leads = func() bool { return true }
	}
	if c.Sweep == 0 {
		c.Sweep = 30 * time.Second
	}
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Second
	}
	if c.MaxTurn == 0 {
		c.MaxTurn = 1000
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	if c.Store == nil {
		faults = append(faults, errors.New("Store is required"))
	}
	if c.Node == "" {
		faults = append(faults, errors.New("Node is required"))
	}
	if c.Lease < MinLease {
		faults = append(faults, fmt.Errorf("lease %s: at least %s", c.Lease, MinLease))
	}
	if err := c.Retry.Validate(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
