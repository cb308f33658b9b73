package events

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Position is a place in the stream. As a cursor it means "after this event". The zero Position is before everything.
type Position struct {
	Epoch int64 // one unbroken history
	Seq   int64 // dense within it, from 1
}

// String writes the cursor: <epoch>-<seq>.
func (p Position) String() string {
	return strconv.FormatInt(p.Epoch, 10) + "-" + strconv.FormatInt(p.Seq, 10)
}

// Before tells whether p comes before other.
func (p Position) Before(other Position) bool {
	return p.Epoch < other.Epoch || p.Epoch == other.Epoch && p.Seq < other.Seq
}

// maxInteger is the largest integer that survives a browser: positions stay below it.
const maxInteger = 1<<53 - 1

// ParseCursor reads what String writes. ErrCursorInvalid.
func ParseCursor(s string) (Position, error) {
	epoch, seq, ok := strings.Cut(s, "-")
	if !ok {
		return Position{}, ErrCursorInvalid
	}
	var p Position
	var err1, err2 error
	p.Epoch, err1 = strconv.ParseInt(epoch, 10, 64)
	p.Seq, err2 = strconv.ParseInt(seq, 10, 64)
	if err1 != nil || err2 != nil || p.Epoch < 0 || p.Seq < 0 || p.Epoch > maxInteger || p.Seq > maxInteger ||
		p.String() != s { // +1, 01 and the like
		return Position{}, ErrCursorInvalid
	}
	return p, nil
}

var (
	// ErrCursorInvalid means that a cursor is malformed or ahead of the log.
	ErrCursorInvalid = errors.New("events: invalid cursor")
	// ErrNotReady means that this node has not read the stream's state yet.
	ErrNotReady = errors.New("events: the stream is not ready")
)

// ExpiredError means that the events after a cursor are gone by retention. Floor is the oldest cursor that still works.
type ExpiredError struct{ Floor Position }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("events: cursor expired, the oldest is %s", e.Floor)
}

// EpochError means that the cursor belongs to another history. Head is the present end of the log.
type EpochError struct{ Head Position }

func (e *EpochError) Error() string {
	return fmt.Sprintf("events: epoch changed, now %d", e.Head.Epoch)
}
