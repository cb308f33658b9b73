// Package hub is the WebSocket door to the event stream: GET /api/v1/ws.
//
// Promises: every client gets the events that its filter lets through, in order and each once per connection, from the
// cursor that it states; a client that cannot go on is told by a close code why, with the cursor to resume from where
// that makes sense, and never has to guess. A client costs no query while it is near the head, one cursor and a few
// kilobytes in any case, and nobody else anything: whoever stops reading is cut off and its memory does not grow.
//
// Who does what: Hub.Run follows the stream once for all (the fan) and wakes the clients for whom something has come.
// A client's write pump reads the stream from its own cursor and is the only one that writes to its socket; its read
// pump only watches what comes in. Histories that lie outside the ring in memory are read a few at a time.
//
// It imports events and jobs and knows neither routes nor rights: the api package decides who may call, says who it is
// (Config.Principal), and writes the problems (Config.Problem).
package hub
