// Package pgtest is the base of all tests: a real PostgreSQL, and a database of its own for each test.
//
// # Promises
//
//   - A package whose TestMain calls [Main] needs no set-up: [NewDB] gives a database with the schema at head within some
//     tens of milliseconds and drops it when the test ends.
//   - The test binaries of a `go test` run share one server, started by the first that needs it and stopped by the last
//     (pgembed). It is tuned for speed and not for crashes; what a test proves about crashes it proves on a [Cluster] of
//     its own, which keeps PostgreSQL's durability and may be stopped, killed and started again.
//   - What killed test binaries leave, the next one removes: databases, servers and folders. Whether an owner is alive is
//     said by a lock that dies with it, an advisory one in the server and a file lock beside the folders, and not by its
//     process id, which is soon another's.
//   - [Proxy] puts the faults of a network in front of PostgreSQL, and can lose just the answer to a COMMIT.
//
// MINIASYNQ_TEST_DATABASE_URL names another server instead of the shared one, as a superuser of it.
//
// Only tests import this package. Its functions fail the test that they are given instead of returning errors, so they
// are called from the goroutine of the test; those without a testing.TB may be called from any.
package pgtest
