// Package jobstest is for the tests of programs that use package jobs: what was enqueued, what a handler makes of a job,
// and what becomes of everything once the jobs are worked on.
//
// All of it runs in the goroutine of the test and in the test's own database, or in a transaction that it rolls back at
// the end; nothing listens, polls or waits. Jobs in a transaction are seen by that transaction alone, so that tests in
// one database do not meet.
//
//   - RequireEnqueued, RequireNotEnqueued and Enqueued look at jobs of a kind.
//   - Work runs a handler for one job, without a database.
//   - Drain works on every job that is due, as a node would, until there is none.
//
// A handler under test is judged by the code that judges it in production: a panic, jobs.Snooze, jobs.CompleteTx, a result
// and progress come out just so.
//
// Its first parameter is a *testing.T, *testing.B or any testing.TB. A failed requirement ends the test, as FailNow does.
package jobstest
