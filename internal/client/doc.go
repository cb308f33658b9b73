// Package client speaks to a server over REST and its event socket, for the commands of the command line. It knows the
// wire and nothing of the server: what it does not know of an answer it hands on as it came (Doc.Raw).
//
// Every call has a deadline. A refusal of the server is a *Problem, a server that could not be asked an *UnreachableError.
// A call is sent again only where that is safe: when it changes nothing or carries an idempotency key.
//
// A Client may be used by many goroutines.
package client
