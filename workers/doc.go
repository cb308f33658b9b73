// Package workers runs handlers. A Registry knows the handler of each kind; a Pool has a fixed number of slots that run
// them; an Engine wires everything that a node needs (stream, pacer, listener, dispatcher, inserter, pool) into one
// value, for Go programs that embed it and for the server alike.
//
// An attempt goes through a straight line of steps (execute.go): decode, deadline, call, recover, classify, report.
//
// Promises: a handler's context ends, with a cause, when its lease is lost, the job is cancelled, its timeout has come or
// the node stops; a panic is an error with a stack; a handler that ignores its context keeps its slot, so a node never
// runs more than its slots, and is counted; a stop never takes longer than the grace and two seconds.
//
// Programs that embed this package never compile the HTTP server.
package workers
