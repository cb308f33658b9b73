// Package conformance holds one suite of tests for every worker client: it starts a real server and drives the program
// conformance_worker of each client, which says in its source what its handlers do. `make clients-check` runs it with all of
// them; `go test` runs it with those whose language is installed here.
package conformance
