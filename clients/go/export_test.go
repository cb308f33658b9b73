package miniasynq

import (
	"context"
	"time"
)

// Pace are the spans of a consumer in a test.
type Pace struct{ FirstPause, MaxPause, Silence, GrantEvery time.Duration }

// ConsumeAt is Consume with spans of the test's choice.
func ConsumeAt(ctx context.Context, p Pace, o Options, handle func(context.Context, Event) error) error {
	return consume(ctx, o, pace{p.FirstPause, p.MaxPause, p.Silence, p.GrantEvery}, handle)
}

// Backoff draws the pause after so many failures, at the pace of the product.
func Backoff(failures int) time.Duration { return (&consumer{pace: defaultPace}).backoff(failures) }

// AfterClose says what a consumer does after a close frame.
func AfterClose(code int, retry time.Duration) (pause time.Duration, comes bool) {
	return comesBack(closedBy(code, `{"code":"x","floor":"1-1"}`, retry.Milliseconds()))
}
