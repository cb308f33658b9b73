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
	wakes int       // how often somebody said so: a claim compares it before and after
	after time.Time // not before: what is pending is locked by somebody
	pause time.Duration

	// low is, per priority, the smallest key that the last claim returned: the next one starts there, so that index
	// entries of jobs that were claimed before are not read again while some transaction of the cluster can still see
	// them. whole: the next claim reads the full range instead, and looks whether anything is left.
	low       [3]jobs.Key
	whole     bool
	lastWhole time.Time
}

// wholeEvery is how often a queue that stays hot is claimed over its full range: a row to the left of the low-water key
// may have come back without any event.
const wholeEvery = time.Second

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
	q.hot = true
	q.wakes++
	q.after = time.Time{}
	if priority >= 0 && key.Less(q.low[priority]) {
		q.low[priority] = key
	}
}

func (q *queueState) claimable(now time.Time) bool {
	return q.hot && !now.Before(q.after)
}

// sent is a claim that is under way.
type sent struct {
	queue *queueState
	claim jobs.Claim
	wakes int // of the queue, when it was made
}

// claim makes the claim for the queue's share.
func (q *queueState) claim(w Want, lease time.Duration, now time.Time) sent {
	whole := q.whole || now.Sub(q.lastWhole) >= wholeEvery
	c := jobs.Claim{Queue: q.name, Limit: q.share, Kinds: w.Kinds, Worker: w.Worker, Lease: lease, Probe: whole}
	if whole {
		q.lastWhole, q.whole = now, false
	} else {
		c.From = q.low
	}
	return sent{queue: q, claim: c, wakes: q.wakes}
}

// learn takes in what a claim brought. left says whether something was pending afterwards; it is known after a claim
// over the full range only. What was said while the claim was under way stands: a place in line that is lower than what
// the claim saw, and that the queue is to be looked at as a whole.
func (q *queueState) learn(s sent, left bool, got []*jobs.Claimed, now time.Time) {
	woken := q.wakes != s.wakes
	var seen [3]bool
	for _, j := range got { // in the order of the line
		if p := j.Priority.Index(); p >= 0 && !seen[p] {
			seen[p] = true
			if key := (jobs.Key{RunAt: j.RunAt, ID: j.ID}); !woken || key.Less(q.low[p]) {
				q.low[p] = key
			}
		}
	}
	switch {
	case len(got) >= s.claim.Limit:
		q.pause = 0
	case !s.claim.Probe:
		// The range from the low-water key on is used up: the full one decides.
		q.whole = true
	case woken:
		q.whole = true
	case !left:
		q.hot, q.pause = false, 0
	case len(got) > 0:
		// Others are claiming here, too.
		q.whole = true
	default:
		q.whole = true
		q.pause = min(max(2*q.pause, firstPause), lastPause)
		q.after = now.Add(q.pause)
	}
}
