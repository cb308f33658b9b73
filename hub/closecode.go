package hub

import (
	"encoding/json"
	"strconv"

	"github.com/mini-asynq/mini-asynq/events"
)

// CloseCode says why a socket was closed. Clients act on it: Advice.
type CloseCode int

// The close codes. Those from 4000 on are this product's own: 4000 plus the HTTP status of the same meaning.
const (
	CloseNormal       CloseCode = 1000 // the client said goodbye
	CloseGoingAway    CloseCode = 1001 // the node drains
	CloseProtocol     CloseCode = 1002 // not the WebSocket protocol
	CloseBinary       CloseCode = 1003 // a binary message
	CloseBroken       CloseCode = 1006 // the line broke: never on the wire
	CloseBadText      CloseCode = 1007 // a text message that is not UTF-8
	CloseTooBig       CloseCode = 1009 // a message over 16 KiB
	CloseInternal     CloseCode = 1011 // a fault of the server
	CloseBadFrame     CloseCode = 4400 // framed mode: not a frame of the protocol
	CloseUnauthorized CloseCode = 4401 // the credential ended or was revoked
	CloseForbidden    CloseCode = 4403 // the scope was lost
	CloseSilent       CloseCode = 4408 // no pong, or no first frame, in time
	CloseIDInUse      CloseCode = 4409 // framed mode: two subscriptions under one id
	CloseExpired      CloseCode = 4410 // plain mode: the cursor is older than what is kept
	CloseEpoch        CloseCode = 4412 // plain mode: history was lost or restored
	CloseFlood        CloseCode = 4429 // too many messages or subscriptions
	CloseSlow         CloseCode = 4508 // a write was blocked for too long
)

// Advice is what a client does after a close.
type Advice string

// The advices.
const (
	AdviceNothing   Advice = "nothing"
	AdviceResume    Advice = "reconnect after retry_ms, resume from the last cursor"
	AdviceBackoff   Advice = "reconnect with backoff 0.5..30 s and full jitter, resume from the last cursor"
	AdviceNoRetry   Advice = "a bug: do not retry"
	AdviceLogIn     Advice = "log in again"
	AdviceSayRights Advice = "say so; do not retry"
	AdviceSnapshot  Advice = "take a snapshot, then reconnect with after=as_of"
	AdviceFewer     Advice = "come back after 30 s, with fewer"
)

// Advice tells what a client does after this code. A code that it does not know is a broken line.
func (c CloseCode) Advice() Advice {
	switch c {
	case CloseNormal:
		return AdviceNothing
	case CloseGoingAway, CloseSlow:
		return AdviceResume
	case CloseProtocol, CloseBinary, CloseBadText, CloseTooBig, CloseBadFrame, CloseIDInUse:
		return AdviceNoRetry
	case CloseUnauthorized:
		return AdviceLogIn
	case CloseForbidden:
		return AdviceSayRights
	case CloseExpired, CloseEpoch:
		return AdviceSnapshot
	case CloseFlood:
		return AdviceFewer
	case CloseBroken, CloseInternal, CloseSilent:
	}
	return AdviceBackoff
}

func (c CloseCode) String() string { return strconv.Itoa(int(c)) }

// closeReason is the text of a close frame: JSON of at most 123 bytes.
type closeReason struct {
	Code    string `json:"code"`
	Cursor  string `json:"cursor,omitempty"`   // resume after this one
	Floor   string `json:"floor,omitempty"`    // the oldest cursor that works
	RetryMS int64  `json:"retry_ms,omitempty"` // wait so long
	Detail  string `json:"detail,omitempty"`   // what is wrong with a frame; for people
}

// maxReason is what a control frame leaves beside the code.
const maxReason = 123

func (r closeReason) encode() []byte {
	raw, err := json.Marshal(r)
	if err != nil || len(raw) > maxReason {
		return nil // two cursors, a word and a number fit
	}
	return raw
}

// names of the codes in close reasons.
var closeNames = map[CloseCode]string{
	CloseNormal: "done", CloseGoingAway: "draining", CloseProtocol: "bad_protocol", CloseBinary: "binary",
	CloseBadText: "bad_text", CloseTooBig: "too_big", CloseInternal: "internal", CloseSilent: "silent",
	CloseBadFrame: "bad_frame", CloseForbidden: "forbidden", CloseIDInUse: "id_in_use",
	CloseUnauthorized: "unauthorized", CloseExpired: "cursor_expired", CloseEpoch: "epoch_changed", CloseFlood: "too_many_messages", CloseSlow: "slow",
}

// ending is why a client ends. The zero ending is none.
type ending struct {
	code   CloseCode
	floor  events.Position // CloseExpired
	detail string          // CloseBadFrame, CloseFlood: a short constant text for the client
	err    error           // CloseInternal: for the log
}
