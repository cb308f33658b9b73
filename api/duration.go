package api

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

var errDuration = errors.New("not a duration such as 90s, 1h30m or 7d")

// parseDuration reads Go's syntax plus d, a day of 24 hours.
func parseDuration(s string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(s, "-")
	if rest == "0" {
		return 0, nil
	}
	if rest == "" || len(rest) > 64 {
		return 0, errDuration
	}
	var sum int64 // nanoseconds
	for rest != "" {
		number := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if number <= 0 {
			return 0, errDuration
		}
		unit := strings.IndexAny(rest[number:], ".0123456789")
		if unit < 0 {
			unit = len(rest) - number
		}
		part, factor := rest[:number+unit], int64(1)
		if days, ok := strings.CutSuffix(part, "d"); ok {
			part, factor = days+"h", 24
		}
		span, err := time.ParseDuration(part)
		if err != nil || int64(span) > math.MaxInt64/factor || sum > math.MaxInt64-int64(span)*factor {
			return 0, errDuration
		}
		sum += int64(span) * factor
		rest = rest[number+unit:]
	}
	if negative {
		sum = -sum
	}
	return time.Duration(sum), nil
}

// formatDuration writes what parseDuration reads, in the fewest units: 7d, 1h30m, 250ms.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
