package dispatcher

import (
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// queueState is what a group believes about a queue. Guarded by Dispatcher.mu.
type queueState struct {
	name   string
	weight int
	credit int // of the weighted round robin
	share  int // of the turn that is being planned

	hot   bool      // it may have work
	woken bool      // somebody said so while a claim was under way
	after time.Time // not before: what is pending is locked by somebody
	pause time.Duration

	// low is, per priority, the smallest key that the last claim returned: the next one starts there, so that index
	// entries of jobs that were claimed before are not read again while some transaction of the cluster can still see
	// them. whole: the next claim reads the full range instead, and looks whether anything is left.
	low   [3]jobs.Key
	whole bool
}

// First and last pause before a queue whose pending jobs are all locked is looked at again.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// wake makes the queue hot; key is the place of the new work in line, priority is -1 if that is not known.
func (q *queueState) wake(priority int, key jobs.Key) {
	if !q.hot || priority < 0 {
		q.whole = true
	}
	q.hot, q.woken = true, true
	q.after = time.Time{}
	if priority >= 0 && key.Less(q.low[priority]) {
		q.low[priority] = key
	}
}

func (q *queueState) claimable(now time.Time) bool {
	return q.hot && !now.Before(q.after)
}

// claim makes the claim for the queue's share.
func (q *queueState) claim(w Want, lease time.Duration) jobs.Claim {
	c := jobs.Claim{Queue: q.name, Limit: q.share, Kinds: w.Kinds, Worker: w.Worker, Lease: lease, Probe: q.whole}
	if !q.whole {
		c.From = q.low
	}
	q.woken = false
	return c
}

// learn takes in what a claim brought. left says whether something was pending afterwards; it is known after a claim
// over the full range only.
func (q *queueState) learn(limit int, whole, left bool, got []*jobs.Claimed, now time.Time) {
	var seen [3]bool
	for _, j := range got { // in the order of the line
		if p := j.Priority.Index(); p >= 0 && !seen[p] {
			seen[p] = true
			q.low[p] = jobs.Key{RunAt: j.RunAt, ID: j.ID}
		}
	}
	switch {
	case len(got) >= limit:
		q.whole, q.pause = false, 0
	case !whole:
		// The range from the low-water key on is used up: the full one decides.
		q.whole = true
	case q.woken:
		// Something came while the claim was under way.
	case !left:
		q.hot, q.pause = false, 0
	case len(got) > 0:
		// Others are claiming here, too.
	default:
		q.pause = min(max(2*q.pause, firstPause), lastPause)
		q.after = now.Add(q.pause)
	}
}
