package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// DemoCall is what the demo handler obeys; a payload of any other shape is simply completed.
type DemoCall struct {
	SleepMS  float64 `json:"sleep_ms"` // works for so long
	Fail     any     `json:"fail"`     // true or a text: every attempt fails; a number: the first so many attempts do
	Progress bool    `json:"progress"` // reports progress while it works
}

// DemoError is the error that a payload asked for.
type DemoError struct{ Message string }

func (e *DemoError) Error() string { return e.Message }

// Demo is a handler for trying things out: it takes any kind, works for payload.sleep_ms, and fails as payload.fail
// says.
func Demo(ctx context.Context, job *jobs.Claimed) error {
	var call DemoCall
	if err := json.Unmarshal(job.Payload, &call); err != nil {
		call = DemoCall{}
	}
	if err := work(ctx, call); err != nil {
		return err
	}
	switch fail := call.Fail.(type) {
	case bool:
		if fail {
			return &DemoError{"the payload asked for a failure"}
		}
	case string:
		return &DemoError{fail}
	case float64:
		if job.Attempt <= int(fail) {
			return &DemoError{fmt.Sprintf("attempt %d of %d that fail", job.Attempt, int(fail))}
		}
	}
	return nil
}

// demoSteps is how often the demo handler reports progress.
const demoSteps = 10

func work(ctx context.Context, call DemoCall) error {
	span := time.Duration(min(max(call.SleepMS, 0), float64(jobs.MaxTimeout.Milliseconds()))) * time.Millisecond
	if span == 0 {
		return nil
	}
	step := time.NewTicker(max(span/demoSteps, time.Millisecond))
	defer step.Stop()
	end := time.NewTimer(span)
	defer end.Stop()
	for started := time.Now(); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			return nil
		case <-step.C:
			if !call.Progress {
				continue
			}
			done := min(100*float64(time.Since(started))/float64(span), 100)
			if err := jobs.ReportProgress(ctx, done, "working"); err != nil {
				return err
			}
		}
	}
}
