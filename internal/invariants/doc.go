// Package invariants holds the queries that must return no row, whatever is happening: what the database says about
// lost jobs, doubled events, leaked leases. Tests run them each second beside a load, and at rest; internal/doctor runs
// those that hold always. The definition of a tick in it (check_events) is written apart from the product's reader, so
// that both cannot share a mistake.
//
// It imports pgx and nothing of the product.
package invariants
