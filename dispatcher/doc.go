// Package dispatcher brings jobs and idle slots together. Workers never touch the database: the dispatcher claims for
// them, in batches as large as the idle slots, and stores what they report, in batches as large as what has gathered.
//
// One turn is one round trip and one commit: the outcomes that have gathered, and the claims for the slots that are
// idle. While a turn is under way the next one fills; there is no timer in it.
//
// It is woken by method calls and polls nothing: WakeQueue for a queue that got work, Hint for work somewhere, Missed
// when anything may have happened. Deadlines (due jobs, expired leases, ends of pauses) are one timer each, set from the
// database as a duration and lowered by what the stream tells (DueIn). A safety sweep stands behind all of it.
//
// A queue is hot while it may have work. It goes cold only when a claim over its full range, in one snapshot, came back
// short and nothing of it is pending afterwards: SKIP LOCKED passes over rows whose holder may roll back without any
// event, so what is still pending is looked at again after 20, 40 .. 1000 ms.
//
// It imports jobs only, and declares the few calls that it needs (Store), so its loops are tested without a database.
// Lock order: Dispatcher.mu before leases.mu; nothing blocks under either.
package dispatcher
