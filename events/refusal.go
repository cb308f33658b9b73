package events

import (
	"errors"
)

// Refusal is what a client is told about a reading of the log that cannot begin, the same at every door.
type Refusal struct {
	Problem string         // the name of the problem
	Detail  string         // holds nothing of the input
	Members map[string]any // further members of the problem; may be nil
}

// Refused maps what Resolve, ParseFilter, Join and Read say; false: the error is none of theirs.
func Refused(err error) (Refusal, bool) {
	var epoch *EpochError
	var expired *ExpiredError
	var filter *FilterError
	var full *FullError
	switch {
	case errors.Is(err, ErrCursorInvalid):
		return Refusal{
			"cursor-invalid", "the cursor is malformed, or ahead of the log", map[string]any{"parameter": "after"},
		}, true
	case errors.As(err, &epoch):
		return Refusal{
			"epoch-changed", "history was lost or restored: take a snapshot", map[string]any{"epoch": epoch.Head.Epoch},
		}, true
	case errors.As(err, &expired):
		return Refusal{
			"cursor-expired", "older than what is kept: take a snapshot", map[string]any{"floor": expired.Floor.String()},
		}, true
	case errors.As(err, &filter):
		return Refusal{
			"invalid-parameter", filter.Error(), map[string]any{"parameter": filter.Field},
		}, true
	case errors.As(err, &full):
		detail := "this node serves no more streams: poll GET /events"
		if full.Own {
			detail = "this caller has too many streams: poll GET /events"
		}
		return Refusal{"too-many-streams", detail, map[string]any{"limit": full.Limit}}, true
	case errors.Is(err, ErrNotReady):
		return Refusal{"unavailable", "this node has not read the stream's state yet", nil}, true
	}
	return Refusal{}, false
}
