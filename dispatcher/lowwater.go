package dispatcher

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// queueState is what a group believes about a queue. Guarded by Dispatcher.mu.
type queueState struct {
	name   string
	weight int
	credit int // of the weighted round robin
	share  int // of the turn that is being planned

	hot     bool      // it may have work
	wakes   int       // how often somebody said so: a claim compares it before and after
	stirred bool      // somebody said so since the last claim was sent
	after   time.Time // no claim before, unless somebody says something
	pause   time.Duration

	// low is, per priority, the largest key that the last claim returned: the next one starts there, so that index
	// entries of jobs that were claimed before are not read again while some transaction of the cluster can still see
	// them. whole: the next claim reads the full range instead.
	low       [3]jobs.Key
	whole     bool
	nextWhole time.Time // when a queue that stays hot is claimed over its full range again
	dear      bool      // the last look at the full range read much, and found nothing
	full      bool      // the last claim brought all that it asked for
	flying    []*sent   // claims under way
}

// A queue that stays hot is claimed over its full range now and then: a row to the left of the low-water key may have come
// back without any event. That takes long while an old transaction keeps dead entries alive, so it gets a share of the
// time at most: the pause is so many times as long as the last such turn took.
const (
	wholeEvery    = time.Second
	wholeShare    = 20
	maxWholeEvery = 30 * time.Second
)

// dearLook is from when on a look that found nothing was dear: the line is long, and of kinds that nobody here handles (or its
// dead entries are many). Such a line is looked at as a whole with the pauses of one that stays hot, also before the group
// goes idle on it and after it was idle. What comes in meanwhile is named by the stream and claimed at its place. Where jobs are
// left that others have locked it is not dear: nobody says when they come free, so the look comes again soon.
const dearLook = 5 * time.Millisecond

// behindNow is how far behind the time of a claim that found all there was the next one begins, if it is choosy: a job enters the
// line at the time of its enqueue. One that enters further left (a transaction that was slow, a clock that is wrong) is named.
const behindNow = time.Second

// First and last pause before a queue whose pending jobs are all locked is looked at again. The first is also that before
// the look at the whole line which ends a busy time: while jobs come in, somebody says so before that, and the claims that
// find nothing would take the processors from those that do (measured: of 1,900 turns of a node at half load 800 found
// nothing, the median job waited 16 ms).
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// wake makes the queue hot, for work at a place in line.
func (q *queueState) wake(priority int, key jobs.Key) {
	q.hint()
	if key.Less(q.low[priority]) {
		q.low[priority] = key
	}
	for _, s := range q.flying {
		if !s.isNamed[priority] || key.Less(s.named[priority]) {
			s.isNamed[priority], s.named[priority] = true, key
		}
	}
}

// hint makes the queue hot: it may have got work, of which the stream will say the place.
func (q *queueState) hint() {
	q.whole = q.whole || !q.hot && !q.dear
	q.hot, q.stirred, q.after = true, true, time.Time{}
	q.wakes++
}

// wakeWhole makes the queue hot, for work anywhere in its line.
func (q *queueState) wakeWhole() {
	q.hint()
	q.whole = true
}

// claimable tells whether to claim now. What is being claimed is not claimed twice, unless more was named meanwhile.
func (q *queueState) claimable(now time.Time) bool {
	return q.hot && !now.Before(q.after) && !q.awaited()
}

// awaited tells whether a claim is under way that asks for all that is known of.
func (q *queueState) awaited() bool { return len(q.flying) > 0 && !q.stirred && !q.full }

// sent is a claim that is under way.
type sent struct {
	queue *queueState
	slots []*Demand // whom each slot is of that is claimed for
	claim jobs.Claim
	wakes int // of the queue, when it was made
	at    time.Time

	// The smallest place in line, per priority, that was named since: the claim may not have seen it.
	named   [3]jobs.Key
	isNamed [3]bool
}

// claim makes the claim for some slots.
func (q *queueState) claim(slots []*Demand, kinds []string, lease time.Duration, now time.Time) *sent {
	// Nobody said anything since a claim that came back short: is it the last one?
	last := !q.stirred && !q.full
	whole := q.whole || last || !now.Before(q.nextWhole)
	c := jobs.Claim{Queue: q.name, Limit: len(slots), Kinds: kinds, Lease: lease, Probe: last}
	for _, d := range slots {
		if d.want.Remote == uuid.Nil {
			c.Worker = d.want.Worker // this node's: it has one demand in a group
			break
		}
		c.Each = append(c.Each, jobs.Holder{Name: d.want.Worker, ID: d.want.Remote})
	}
	q.stirred = false
	if whole {
		q.nextWhole, q.whole = now.Add(wholeEvery), false
	} else {
		c.From = q.low
	}
	s := &sent{queue: q, slots: slots, claim: c, wakes: q.wakes, at: now}
	q.flying = append(q.flying, s)
	return s
}

// landed takes a claim out of those under way, whatever came of it.
func (q *queueState) landed(s *sent) {
	q.flying = slices.DeleteFunc(q.flying, func(o *sent) bool { return o == s })
}

// learn takes in what a claim brought. left says whether something was pending afterwards; it is known after a claim
// with Probe only. What was said while the claim was under way stands: a place in line that is lower than what the claim
// saw, and that the queue is to be looked at as a whole. Up to the last job that it brought, a claim took all that was
// pending and known when it was sent, but for what others had locked: their claims take it, or a look at the full range.
func (q *queueState) learn(s *sent, left jobs.Left, got []*jobs.Claimed, now time.Time) {
	woken := q.wakes != s.wakes
	for n, j := range got { // in the order of the line: the last one of each priority
		if p := j.Priority.Index(); p >= 0 && (n == len(got)-1 || got[n+1].Priority != j.Priority) {
			q.low[p] = jobs.Key{RunAt: j.RunAt, ID: j.ID}
			if s.isNamed[p] && s.named[p].Less(q.low[p]) {
				q.low[p] = s.named[p]
			}
		}
	}
	if s.claim.From == [3]jobs.Key{} {
		pause := min(max(wholeShare*now.Sub(s.at), wholeEvery), maxWholeEvery)
		q.nextWhole = now.Add(pause)
	}
	q.full = len(got) >= s.claim.Limit
	if !q.full && s.claim.Kinds != nil {
		q.passForeign(s)
	}
	if s.claim.Probe {
		q.dear = left.Took > dearLook && len(got) == 0 && !left.Pending
	}
	switch {
	case q.full:
		q.pause, q.after = 0, time.Time{}
	case woken:
		// What was named is claimed at once.
	case s.claim.Probe && !left.Pending:
		q.hot, q.pause = false, 0
	case s.claim.Probe && len(got) == 0:
		// All that is pending is locked by somebody.
		q.pause = min(max(2*q.pause, firstPause), lastPause)
		q.after = now.Add(q.pause)
	default:
		q.pause, q.after = 0, now.Add(firstPause)
	}
	if q.dear && q.after.Before(q.nextWhole) && !q.full && !woken {
		q.after = q.nextWhole
	}
}

// passForeign moves the low-water key past jobs of other kinds, which a claim that came back short has read in vain: a long
// line of them is not read again for each job of a kind that is handled here.
func (q *queueState) passForeign(s *sent) {
	for p := range q.low {
		key := jobs.Key{RunAt: s.at.Add(-behindNow)}
		if s.isNamed[p] && s.named[p].Less(key) {
			key = s.named[p]
		}
		if q.low[p].Less(key) {
			q.low[p] = key
		}
	}
}
