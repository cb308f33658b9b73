// Package relay copies the event stream of a Mini Asynq server into a stream of NATS JetStream: every event once, in order,
// none missing, on the subject <prefix>.<type>, with its cursor as Nats-Msg-Id.
//
// What holds that: the stream is the relay's own, and each publish states which sequence of the stream it follows
// (Nats-Expected-Last-Sequence). So of a window of publishes in flight either a prefix is stored or nothing, whatever is
// lost, comes late or comes twice, and two relays cannot both write. Where to go on is read from the last message of the
// stream, which is the truth; a key-value bucket remembers the cursor for when that message is gone.
//
// The server is asked over its public interface: GET /events, page by page, parked while nothing comes.
package relay
