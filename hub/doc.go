// Package hub is the WebSocket door to the event stream: GET /api/v1/ws.
//
// Promises: every client gets the events that its filter lets through, in order and each once per connection, from the
// cursor that it states; a client that cannot go on is told by a close code why, with the cursor to resume from where
// that makes sense, and never has to guess. A client costs no query while it is near the head, one cursor and a few
// kilobytes in any case, and nobody else anything: whoever stops reading is cut off and its memory does not grow.
//
// Who does what: events.Readers follows the stream once for all (the fan) and wakes those for whom something has come. A
// socket (socket.go, listen.go) has one goroutine that writes and one that watches what comes in. What is spoken over it is
// a mode: plain (plain.go) sends the events behind one cursor and hears nothing; framed (framed.go, frames.go) serves up to
// 16 subscriptions, each a cursor, a filter and a class: consumer (subscription.go) or view (view.go). Histories that lie
// outside the ring in memory are read a few at a time, and in framed mode beside, so that the other subscriptions go on.
//
// It imports events and jobs and knows neither routes nor rights: the api package decides who may call, says who it is
// (Config.Principal), and writes the problems (Config.Problem).
package hub
