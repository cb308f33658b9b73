// Package app wires a server node: it finds or starts the database, puts engine, API, hub and dashboard together, and
// orders start and stop. It is the only place that knows all of them.
//
// Start: database, engine (schema, pools), overview, hub, API, listener. Stop, bounded by the grace and two seconds: the
// node says that it is leaving (unready, long polls answered, sockets told to come back elsewhere), no new claims, the
// handlers get their grace, outcomes are stored, unfinished work is given back, then everything closes, in the order
// opposite to the start.
package app
