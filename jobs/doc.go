// Package jobs is the domain: a job, its states, and every SQL statement that reads or changes one.
//
// It promises what the rest is built on: an accepted job is stored before the call returns; every later write about an
// attempt states its fence and learns whether it landed; each change of a job is one step of the transition table and
// one event, written by triggers in the same transaction.
//
// Go programs that enqueue import this package alone: Enqueue takes a pool, a connection or their own transaction.
//
// It knows pgx and nothing above: no logger, no metrics, no other package of the product. All stored time is the
// database's: callers pass durations, SQL adds them to clock_timestamp().
//
// Lock order inside one transaction: an idempotency key, then rows of jobs in id order, then rows of jobs_finished of
// the same jobs, then a row of queues.
package jobs
