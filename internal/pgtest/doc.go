// Package pgtest is the base of all tests: a real PostgreSQL, and a database of its own for each test.
//
// The test binaries of a run share one server (pgembed: the last one out stops it), in a folder that only its user can
// enter. Databases are cloned from a template that is named by a hash of the migrations. MINIASYNQ_TEST_DATABASE_URL
// names another server instead, where the tests may create databases. Crash tests start a server of their own
// (NewCluster). Only tests import this package.
package pgtest
