// Package attempt is what a node does with one attempt and what a test of a handler does just so: it calls the handler,
// makes an error of a panic, and an outcome of an error. It starts nothing, waits for nothing and knows no database, so
// that jobs/jobstest can promise that a handler under test is judged as in production.
package attempt
