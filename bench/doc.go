// Command bench measures Mini Asynq and its peers side by side, on this machine and on one private PostgreSQL with the
// durability of its defaults, and writes docs/BENCHMARKS.md.
//
//	go run .                        everything that is not measured yet
//	go run . -cell 'drain/*'        some cells: workload/contender, with the wildcards of path.Match
//	go run . -smoke                 seconds: that it works, and that the claim has its plan
//
// A cell is a workload at a contender. Each run of one has a fresh database, and the order of contenders turns from run to
// run. Results are kept in a file as they come, and what is there is not measured again. A run after which the database
// does not show every job, attempt and event is a failure.
package main
