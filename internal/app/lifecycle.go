package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// stops is a stack of named steps that undo what was started. It is run in the order opposite to the start, also when
// the start fails half way; each step has a deadline, and one that fails does not keep the others from running.
// Owned by the goroutine of Run.
type stops struct {
	log   zerolog.Logger
	steps []stop
}

type stop struct {
	name  string
	limit time.Duration
	undo  func(context.Context) error
}

func (s *stops) push(name string, limit time.Duration, undo func(context.Context) error) {
	s.steps = append(s.steps, stop{name, limit, undo})
}

// run undoes everything and joins the errors.
func (s *stops) run() error {
	var faults []error
	for len(s.steps) > 0 {
		last := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		started := time.Now()
		switch err := last.bounded(); {
		case errors.Is(err, errHangs):
			// The stop is bounded whatever hangs: that is said, and is no failure of the stop.
			s.log.Warn().Str("component", last.name).Msg("did not end in time and was left behind")
		case err != nil:
			faults = append(faults, fmt.Errorf("stop %s: %w", last.name, err))
		}
		s.log.Debug().Str("component", last.name).Int64("duration_ms", time.Since(started).Milliseconds()).Msg("stopped")
	}
	return errors.Join(faults...)
}

var errHangs = errors.New("did not end in time and was left behind")

// bounded runs the step and leaves it behind when it hangs.
func (s stop) bounded() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	done := make(chan error, 1) // capacity: the step never waits for a caller that has left
	// Ends with the step.
	go func() { done <- s.undo(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errHangs
	}
}
