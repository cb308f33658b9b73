// Package workers runs handlers in a Go program, without the HTTP server.
//
// A Registry knows the handler of each kind, and the middleware around them; Run makes a node of the program, which claims
// jobs and calls the handlers until its context ends:
//
//	registry := workers.NewRegistry()
//	workers.Handle(registry, SendEmail, func(ctx context.Context, job *jobs.Claimed, email Email) error {
//		return send(ctx, email)
//	})
//	err := workers.Run(ctx, workers.Config{Pool: pool, Registry: registry})
//
// What the error of a handler says, and what it may do through its context, is described in package jobs: Snooze,
// NonRetryable, SetResult, CompleteTx and so on. Any number of programs and servers share a database; each job goes to one
// of them that knows its kind.
//
// # An attempt
//
// It goes through a straight line of steps: decode, deadline, call, recover, classify, report. A handler may be called
// more than once for a job: when its process died, or was taken for dead. jobs.CompleteTx makes the effect on tables of
// the same database happen exactly once all the same; for others the job's ID is a good idempotency key.
//
// # Promises
//
// A handler's context ends, with a cause, when its lease is lost, the job is cancelled, its timeout has come or the node
// stops. A panic is an error with a stack. A handler that ignores its context keeps its slot, so a node never runs more
// than its slots, and is counted. A stop never takes longer than the grace and two seconds: no new claims, the handlers
// have the grace, then their contexts end, what they report is stored, and what is unfinished is given back without
// spending an attempt.
//
// # The parts
//
// New gives the Engine to programs that need more than Run: its Inserter, through which concurrent enqueues of a program
// share commits and wake the node's own slots at once, its event stream, its pool of slots.
package workers
