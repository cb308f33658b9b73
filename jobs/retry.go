package jobs

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Strategy is how the delay grows from retry to retry.
type Strategy string

// The strategies: the same delay each time, or double the one before.
const (
	Fixed       Strategy = "fixed"
	Exponential Strategy = "exponential"
)

// RetryPolicy computes how long a failed job waits. The zero value is exponential from 5 s, capped at an hour.
type RetryPolicy struct {
	Strategy    Strategy      // "" is exponential
	Interval    time.Duration // before the first retry; 0 is 5 s, unless Immediate
	MaxInterval time.Duration // cap; 0 is 1 h
	Immediate   bool          // retry without delay: the interval is 0
}

// Defaults of RetryPolicy, as the environment of the server has them.
const (
	DefaultRetryInterval    = 5 * time.Second
	DefaultRetryMaxInterval = time.Hour
)

// Validate tells what is wrong with the policy, nil if nothing.
func (p RetryPolicy) Validate() error {
	switch {
	case p.Strategy != "" && p.Strategy != Fixed && p.Strategy != Exponential:
		return fmt.Errorf("retry strategy %q: fixed or exponential", p.Strategy)
	case p.Interval < 0 || p.Interval > 24*time.Hour:
		return fmt.Errorf("retry interval %s: 0 to 24h", p.Interval)
	case p.MaxInterval < 0:
		return fmt.Errorf("retry cap %s: not negative", p.MaxInterval)
	}
	return nil
}

// Delay is the wait before retry n (n = charged attempts of this budget, from 1). jitter is uniform in [0, 1): the
// delay is first capped and then multiplied by 0.9 to 1.1, so that capped jobs spread too.
func (p RetryPolicy) Delay(n int, jitter float64) time.Duration {
	interval, limit := p.Interval, p.MaxInterval
	if interval == 0 && !p.Immediate {
		interval = DefaultRetryInterval
	}
	if limit == 0 {
		limit = DefaultRetryMaxInterval
	}
	delay := float64(interval)
	if p.Strategy != Fixed {
		// A float cannot overflow here: 2^999 is below its maximum, and the cap comes next.
		delay *= math.Pow(2, float64(min(max(n, 1), 1000)-1))
	}
	return time.Duration(math.Min(delay, float64(limit)) * (0.9 + 0.2*jitter))
}

// Next is Delay with a random jitter.
func (p RetryPolicy) Next(n int) time.Duration {
	return p.Delay(n, rand.Float64()) //nolint:gosec // jitter needs no secrecy
}
