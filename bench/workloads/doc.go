// Package workloads holds what is measured: each workload runs at one contender on a fresh database, checks that the
// database shows every job, attempt and event in the end, and gives figures.
package workloads
