// Package machine starts what is measured on: a private PostgreSQL and, when there is one, a Redis. It reads what
// they and our server cost: commits, log, memory, CPU. It knows no contender.
package machine
