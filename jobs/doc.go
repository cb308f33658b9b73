// Package jobs is the domain: a job, its states, and every SQL statement that reads or changes one.
//
// # Enqueueing
//
// A Kind is declared once, with the type of its payload, and enqueues with a pool, a connection, or the caller's own
// transaction, in which the job exists exactly if the transaction commits:
//
//	var SendEmail = jobs.Kind[Email]{Name: "email.send", Defaults: jobs.Params{Queue: "mail"}}
//
//	_, err := SendEmail.Enqueue(ctx, tx, Email{To: "ann@example.com"}, jobs.Params{Delay: time.Hour})
//
// The function Enqueue takes jobs of any kinds, as Params. Programs that only enqueue import this package alone; it costs
// them pgx and uuid.
//
// # Inside a handler
//
// Handlers are run by package workers. What they say about their attempt is here. They return nil, an error, or Snooze,
// RetryAfter, NonRetryable, Cancel; they may SetResult and ReportProgress; and with CompleteTx they complete their job in
// their own transaction, so that its effect happens exactly once. Their context ends with a cause: ErrTimeout,
// ErrCancelled, ErrLeaseLost, ErrShutdown.
//
// # Looking and steering
//
// Get, List, Count and Attempts read; CancelJob, RetryJob, RunJobNow, DeleteJob, PauseQueue and ResumeQueue act. Package
// jobstest has what tests of programs need.
//
// The rest is what a node is made of: claims and turns, leases, outcomes and their verdicts, retention. Programs that
// embed the product do not call it.
//
// # Promises
//
// An accepted job is stored before the call returns; every later write about an attempt states its fence and learns
// whether it landed; each change of a job is one step of the transition table and one event, written by triggers in the
// same transaction.
//
// It knows pgx and nothing above: no logger, no metrics, no other package of the product. All stored time is the
// database's: callers pass durations, SQL adds them to clock_timestamp().
//
// Lock order inside one transaction: an idempotency key, then rows of jobs in id order, then rows of jobs_finished of
// the same jobs, then a row of queues.
package jobs
