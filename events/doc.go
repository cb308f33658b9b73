// Package events is the stream: it turns the outbox, as transactions commit into it, into one sequence of events with
// dense positions, the same for every reader and every node, for ever.
//
// How positions come about (after PgQ): a tick is one row that holds a snapshot, the position of its first event and
// their count. The events of a tick are those that became visible between the snapshot before and its own, ordered by
// the id of their row in the outbox and their place in it. So a position is arithmetic on stored snapshots: no event is written twice, an unfinished
// transaction holds up nobody (its events fall into the tick after its commit), and whoever reads later reads the same.
//
// Who does what on a node: the Listener hears NOTIFY and passes on what it heard; it promises nothing. The Pacer makes
// ticks, if this node is the one that should or if nobody else does. The Stream's tailer follows the ticks into a ring
// in memory; every other reader is a cursor over ring and table (Stream.Read), in one loop, so that there is no seam
// between history and live.
//
// Promises: positions are dense (each is the one before plus 1), per job events are in causal order, nothing is
// published that a crash could take back, and a reader that cannot go on is told why by a typed error, never by a hole.
//
// It imports jobs and nothing above. Every service is a Run(ctx) error that returns when all it started has ended.
package events
