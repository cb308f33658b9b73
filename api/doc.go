// Package api is the REST door: what programs, operators and the dashboard may say over HTTP, and what they hear back.
//
// It promises: a body is understood completely or refused, before anything is stored; a 4xx changed nothing; every
// refusal is a problem of one registry with a page of its own; a repeat with an idempotency key gets the first answer;
// who may call what stands in one table; a long poll costs no query while it waits; no text of an error, a driver or a
// stranger reaches a caller or the log unfiltered.
//
// How a request goes: begin (request id, limits, log), guard (address, host, origin), the route's line in the policy
// table (draining, credentials, scope), its handler, and one place that turns the handler's error into an answer.
//
// It imports jobs and events. The socket and the dashboard come in as http.Handlers; numbers come from the Overview,
// which is memory. The only package that knows gin.
package api
