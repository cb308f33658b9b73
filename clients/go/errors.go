package miniasynq

import (
	"errors"
	"fmt"
	"time"
)

// ExpiredError means that the events after a cursor are no longer kept. Floor is the oldest cursor that still works.
type ExpiredError struct{ Cursor, Floor string }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("miniasynq: the events after %s are no longer kept; the oldest cursor that works is %s", e.Cursor, e.Floor)
}

// EpochError means that the history of the cursor was lost or restored. Head and Floor are of the present one, as they
// were when the socket was opened or, where the history changed under it, empty.
type EpochError struct{ Cursor, Head, Floor string }

func (e *EpochError) Error() string {
	return fmt.Sprintf("miniasynq: the history of cursor %s was lost or restored", e.Cursor)
}

// HoleError means that what lies between two cursors did not come, though the server says that it has sent it.
type HoleError struct{ After, Got string }

func (e *HoleError) Error() string {
	return fmt.Sprintf("miniasynq: events are missing: after %s came %s (a key that is held to queues needs Options.Held)", e.After, e.Got)
}

// CloseError is a close frame of the server. Consume returns one when coming back is of no use.
type CloseError struct {
	Code   int           // of the WebSocket, 4401 say
	Name   string        // what the server calls it, as "unauthorized"; may be empty
	Detail string        // for people; may be empty
	Retry  time.Duration // how long the server wants to be left alone; 0: it did not say
}

func (e *CloseError) Error() string {
	text := fmt.Sprintf("miniasynq: the server closed the socket: %d", e.Code)
	if e.Name != "" {
		text += " " + e.Name
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// ProblemError is a refusal: of the request that opens the socket, or of the subscription (Status is 0 then). Consume
// returns one when asking again is of no use.
type ProblemError struct {
	Status int    // of HTTP
	Code   string // of the problem, as cursor_invalid
	Detail string // for people
	retry  time.Duration
}

func (e *ProblemError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("miniasynq: the server refuses to send events: %s: %s", e.Code, e.Detail)
	}
	return fmt.Sprintf("miniasynq: the server refuses the socket: %d %s: %s", e.Status, e.Code, e.Detail)
}

// ErrProtocol means that the other side does not speak the protocol: it is no such server, or has a bug.
var ErrProtocol = errors.New("miniasynq: not the stream protocol")

// Close codes that ask for something else than coming back after a while. docs/stream-protocol.md lists all.
const (
	closeNormal        = 1000
	closeGoingAway     = 1001
	closeProtocol      = 1002
	closeBinary        = 1003
	closeBadText       = 1007
	closeTooBig        = 1009
	closeBadFrame      = 4400
	closeUnauthorized  = 4401
	closeForbidden     = 4403
	closeIDInUse       = 4409
	closeExpired       = 4410
	closeEpoch         = 4412
	closeFlood         = 4429
	closeSlow          = 4508
	codeCursorInvalid  = "cursor_invalid"
	pauseAfterFlood    = 30 * time.Second
	maxPauseOfServer   = time.Minute // whatever a server says
	statusTooManyCalls = 429
)

// comesBack tells whether coming back is of use after an error, and how long the server wants to be left alone before; 0:
// it does not say, so back off.
func comesBack(err error) (pause time.Duration, ok bool) {
	var closed *CloseError
	var problem *ProblemError
	switch {
	case errors.As(err, &closed):
		return afterClose(closed)
	case errors.As(err, &problem):
		return min(problem.retry, maxPauseOfServer), problem.Status >= 500 || problem.Status == statusTooManyCalls ||
			problem.Status == 0 && problem.Code == "unavailable"
	case errors.As(err, new(*ExpiredError)), errors.As(err, new(*EpochError)), errors.As(err, new(*HoleError)):
		return 0, false
	}
	return 0, !errors.Is(err, ErrProtocol)
}

func afterClose(e *CloseError) (pause time.Duration, ok bool) {
	switch e.Code {
	case closeNormal, closeProtocol, closeBinary, closeBadText, closeTooBig, closeBadFrame, closeIDInUse,
		closeUnauthorized, closeForbidden, closeExpired, closeEpoch:
		return 0, false
	case closeFlood:
		return pauseAfterFlood, true
	case closeGoingAway, closeSlow:
		return min(e.Retry, maxPauseOfServer), true
	}
	return 0, true
}
