package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Duration is a span as settings write it: Go's syntax plus d for days.
type Duration time.Duration

var days = regexp.MustCompile(`(\d+(?:\.\d+)?)d`)

// UnmarshalText reads "90s", "1h30m", "7d".
func (d *Duration) UnmarshalText(text []byte) error {
	var err error
	spelled := days.ReplaceAllStringFunc(string(text), func(part string) string {
		n, parseErr := strconv.ParseFloat(strings.TrimSuffix(part, "d"), 64)
		if parseErr != nil {
			err = parseErr
		}
		return strconv.FormatFloat(n*24, 'f', -1, 64) + "h"
	})
	span, parseErr := time.ParseDuration(spelled)
	if err != nil || parseErr != nil || span < 0 {
		return fmt.Errorf("%q is no duration: write 90s, 1h30m or 7d", text)
	}
	*d = Duration(span)
	return nil
}

// Seconds is a span that may be written as a bare number of seconds.
type Seconds time.Duration

// UnmarshalText reads "5" and what Duration reads.
func (s *Seconds) UnmarshalText(text []byte) error {
	if n, err := strconv.Atoi(string(text)); err == nil && n >= 0 && n <= 7*24*3600 {
		*s = Seconds(time.Duration(n) * time.Second)
		return nil
	}
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return fmt.Errorf("%q is neither seconds nor a duration", text)
	}
	*s = Seconds(d)
	return nil
}

// Bytes is a size: "262144", "256KiB", "4MiB", "20GiB".
type Bytes int

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, unit := string(text), 1
	for suffix, factor := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = strings.TrimSpace(rest), factor
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1<<30 {
		return fmt.Errorf("%q is no size: write 262144, 256KiB, 4MiB or 20GiB", text)
	}
	*b = Bytes(n * unit)
	return nil
}

// Weights are queues with their weights: "critical:6,default:3"; "*" is every queue.
type Weights map[string]int

var errWeights = errors.New("write *, or queues with weights from 1 to 1000: critical:6,default:3")

// UnmarshalText reads a list of queues; one without a weight has 1.
func (w *Weights) UnmarshalText(text []byte) error {
	out := make(Weights)
	for part := range strings.SplitSeq(string(text), ",") {
		name, weight, weighted := strings.Cut(strings.TrimSpace(part), ":")
		n := 1
		if weighted {
			var err error
			if n, err = strconv.Atoi(weight); err != nil || n < 1 || n > 1000 {
				return fmt.Errorf("weight of queue %q: %w", name, errWeights)
			}
		}
		if name != "*" && !jobs.ValidName(name) {
			return fmt.Errorf("queue %q: %w", name, errWeights)
		}
		if _, twice := out[name]; twice {
			return fmt.Errorf("queue %q stands twice: %w", name, errWeights)
		}
		out[name] = n
	}
	*w = out
	return nil
}
