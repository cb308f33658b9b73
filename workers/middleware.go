package workers

import "slices"

// Middleware wraps a handler: it may look at the job, give the handler's context a value or an earlier end, measure, and
// turn one error into another, so also into what jobs.Snooze and its like return. It is applied once to each handler, not
// once a job.
//
// The first in a list is the outermost: it sees a job first and an error last. Those of Registry.Use come around those of
// a kind. A panic passes through all of them, with their deferred calls, before it becomes the attempt's error.
type Middleware func(Handler) Handler

// chain puts middleware around a handler, the first outermost.
func chain(h Handler, around []Middleware) Handler {
	for _, m := range slices.Backward(around) {
		h = m(h)
	}
	return h
}
