package relay

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Cursor is a position in the stream of the server: everything up to it is done.
type Cursor struct {
	Epoch, Seq int64
}

var errCursor = errors.New("a cursor is <epoch>-<seq>")

// ParseCursor reads what String wrote.
func ParseCursor(text string) (Cursor, error) {
	epoch, seq, _ := strings.Cut(text, "-")
	e, err := strconv.ParseInt(epoch, 10, 64)
	n, err2 := strconv.ParseInt(seq, 10, 64)
	c := Cursor{e, n}
	if err != nil || err2 != nil || e < 1 || n < 0 || c.String() != text {
		return Cursor{}, fmt.Errorf("%q: %w", text, errCursor)
	}
	return c, nil
}

func (c Cursor) String() string {
	return strconv.FormatInt(c.Epoch, 10) + "-" + strconv.FormatInt(c.Seq, 10)
}

// compare orders cursors: a later epoch is a later history.
func (c Cursor) compare(other Cursor) int {
	return cmp.Or(cmp.Compare(c.Epoch, other.Epoch), cmp.Compare(c.Seq, other.Seq))
}

// ExpiredError means that the server's retention took what comes after At. Floor is the oldest cursor that works.
type ExpiredError struct{ At, Floor Cursor }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("cursor_expired: the server no longer has the events from %s to %s", e.At, e.Floor)
}

// EpochError means that the history that At belongs to was lost or replaced: after a restore, or a failover that lost
// commits. Floor is where the present one begins.
type EpochError struct{ At, Floor Cursor }

func (e *EpochError) Error() string {
	return fmt.Sprintf("epoch_changed: the server's history is no longer that of %s; the present one begins at %s", e.At, e.Floor)
}

// HoleError means that an event is missing between two, although no filter was asked for: the key sees some queues only,
// or the server is broken.
type HoleError struct{ At, Next Cursor }

func (e *HoleError) Error() string {
	return fmt.Sprintf("after %s came %s: a key that is held to queues needs them named as a filter", e.At, e.Next)
}
