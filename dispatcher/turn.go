package dispatcher

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// turn is one round trip that was planned.
type turn struct {
	group   *group // nil: outcomes only
	sent    []*sent
	reports []report
	storing int  // how many reports it began with
	recover bool // look for claims that got lost, before anything else
}

// A group has one turn under way, and a second one beside it when so many slots have become idle meanwhile: then one
// session of PostgreSQL is not enough. While few are idle turns never overlap, unless one does not come back: they would
// only be smaller. Outcomes ride with the next turn; while one is under way they go by themselves only when they are
// many, or have waited (measured on two processors: with 1000 instead of 200, remote workers get 10,500 jobs a second instead of
// 12,500 while a local drain gets the same).
const (
	maxTurning = 2
	secondTurn = 200
	ownTurn    = 200
	// ownTurnAfter is how long outcomes wait for a turn that is under way, and claims of what was named meanwhile: its
	// connection may hang.
	ownTurnAfter = 200 * time.Millisecond
)

// plan takes what there is to do into a turn, nil if there is nothing, and says when to look again.
func (d *Dispatcher) plan(now time.Time) (*turn, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if wait := d.holdOff.Sub(now); wait > 0 {
		return nil, wait
	}
	if d.recovering {
		return nil, time.Second // its end is a kick
	}
	if d.suspect && d.inFlight == 0 {
		// Nothing may be claimed while what was claimed is compared with what is known.
		d.suspect = false
		t := &turn{recover: true}
		d.begin(t)
		return t, 0
	}
	if d.suspect {
		return nil, time.Second // the end of the turns under way is a kick
	}
	wait := time.Hour
	for _, g := range d.groups {
		idle := min(g.free(), d.config.MaxTurn)
		if d.draining || idle <= 0 || g.turning == maxTurning {
			continue
		}
		if g.turning > 0 && idle < min(secondTurn, d.config.MaxTurn) {
			patience := ownTurnAfter - now.Sub(g.turnedAt)
			if patience > 0 {
				wait = min(wait, patience)
				continue
			}
		}
		claims := g.claims(idle, d.config.Lease, now)
		if len(claims) == 0 {
			wait = min(wait, g.nextLook(now))
			continue
		}
		t := &turn{group: g, sent: claims, reports: d.takeReports()}
		g.turning++
		g.turnedAt = now
		d.begin(t)
		return t, 0
	}
	if len(d.reports) > 0 && !d.flushing {
		patience := ownTurnAfter - now.Sub(d.reportedAt)
		if d.inFlight == 0 || len(d.reports) >= ownTurn || patience <= 0 || d.draining || d.idleCh != nil {
			t := &turn{reports: d.takeReports()}
			d.flushing = true
			d.begin(t)
			return t, 0
		}
		wait = min(wait, patience)
	}
	return nil, wait
}

// begin counts a turn as under way. Under mu.
func (d *Dispatcher) begin(t *turn) {
	d.inFlight++
	t.storing = len(t.reports)
	d.storing += t.storing
	d.recovering = d.recovering || t.recover
}

func (d *Dispatcher) takeReports() []report {
	n := min(len(d.reports), d.config.MaxTurn)
	taken := d.reports[:n:n]
	d.reports = d.reports[n:]
	d.reportedAt = time.Now() // monotonic: a full turn was just taken, the rest has not been waiting for a slow one
	return taken
}

// nextLook is when a queue whose pending jobs are locked by others is looked at again.
func (g *group) nextLook(now time.Time) time.Duration {
	next := time.Hour
	for _, q := range g.queues {
		if q.hot && !q.awaited() { // the landing of a claim is a kick
			next = min(next, q.after.Sub(now))
		}
	}
	return max(next, time.Millisecond)
}

// run carries out a turn.
func (d *Dispatcher) run(ctx context.Context, t *turn) error {
	d.turns.Add(1)
	callCtx, cancel := context.WithTimeout(ctx, d.config.Deadline)
	defer cancel()
	if t.recover {
		err := d.recoverClaims(callCtx)
		d.end(t, nil, err)
		return err
	}
	outcomes := make([]jobs.Outcome, len(t.reports))
	for i, r := range t.reports {
		outcomes[i] = r.outcome
	}
	err := failpoint.Hit("dispatcher.turn.before_commit")
	var result jobs.TurnResult
	if err == nil {
		claims := make([]jobs.Claim, len(t.sent))
		for i, s := range t.sent {
			claims[i] = s.claim
		}
		result, err = d.config.Store.Turn(callCtx, jobs.Turn{Outcomes: outcomes, Claims: claims})
	}
	if err == nil {
		err = failpoint.Hit("dispatcher.turn.after_commit")
	}
	locked := jobs.Locked(err)
	if err != nil && (locked || !jobs.Transient(err) && !errors.Is(err, jobs.ErrCommitUnknown)) && len(outcomes) > 0 {
		// One outcome that cannot be stored, or whose row somebody holds, must not hold up the others.
		finishCtx, cancel := context.WithTimeout(ctx, d.config.Deadline)
		verdicts, finishErr := d.config.Store.Finish(finishCtx, outcomes)
		cancel()
		if finishErr == nil {
			d.settle(t.reports, verdicts)
			t.reports = nil
		}
		d.end(t, nil, err)
		if locked {
			return finishErr
		}
		return err
	}
	if err != nil {
		d.end(t, nil, err)
		return err
	}
	d.settle(t.reports, result.Verdicts)
	d.end(t, &result, nil)
	return nil
}

// settle tells what became of outcomes.
func (d *Dispatcher) settle(reports []report, verdicts []jobs.Verdict) {
	d.leases.drop(reports, verdicts)
	var busy, undecided []report
	for i, r := range reports {
		v := verdicts[i]
		if v.Open() {
			r.outcome = r.outcome.Patient() // or it would wait again, and the whole turn with it
			if v.Busy {
				busy = append(busy, r)
			} else {
				undecided = append(undecided, r)
			}
			continue
		}
		if v.Fault != nil {
			d.config.Log.Error().Err(v.Fault).Stringer("job_id", r.outcome.JobID).Int64("fence", r.outcome.Fence).
				Msg("an outcome could not be stored, the attempt failed")
		}
		if v.Landed && (v.Status == jobs.Retrying || v.Status == jobs.Scheduled) {
			d.timers.lower(dueJob, v.DueIn)
		}
		if v.Landed && v.Status == jobs.Pending && r.work.Job.Queue != "" {
			d.WakeWhole(r.work.Job.Queue)
		}
		if r.stored != nil {
			r.stored(r.work, v)
		}
	}
	for _, r := range undecided {
		d.report(r)
	}
	if len(busy) > 0 {
		d.later(busy)
	}
}

// busyPause is how long an outcome waits whose row somebody else holds.
const busyPause = 100 * time.Millisecond

// later reports outcomes again after a pause. Flush waits for them.
func (d *Dispatcher) later(busy []report) {
	d.mu.Lock()
	d.storing += len(busy)
	d.mu.Unlock()
	time.AfterFunc(busyPause, func() {
		d.mu.Lock()
		d.storing -= len(busy)
		d.reports = append(d.reports, busy...)
		d.mu.Unlock()
		d.poke()
	})
}

// end takes in what a turn brought, and hands it out.
func (d *Dispatcher) end(t *turn, result *jobs.TurnResult, err error) {
	var deliveries []delivery
	var surplus, stale []*Work
	now := time.Now()

	d.mu.Lock()
	d.inFlight--
	d.storing -= t.storing
	switch {
	case t.recover:
		d.recovering = false
	case t.group == nil:
		d.flushing = false
	}
	if err != nil {
		// What was not stored is tried again, in front of what came since.
		d.reports = append(t.reports[:len(t.reports):len(t.reports)], d.reports...)
		for _, s := range t.sent {
			s.queue.hot, s.queue.whole, s.queue.stirred = true, true, true
		}
		// A lock that was not to be had took the claims back with it.
		d.suspect = d.suspect || len(t.sent) > 0 && !jobs.Locked(err) || t.recover
	}
	for _, s := range t.sent {
		s.queue.landed(s)
	}
	full := false
	var local []*Work // whose leases this node keeps alive
	for n, s := range t.sent {
		for _, demand := range s.slots {
			demand.reserved--
		}
		if result == nil {
			continue
		}
		got := result.Claimed[n]
		s.queue.learn(s, result.Left[n], got, now)
		full = full || s.queue.full
		if len(got) == 0 {
			d.emptyClaims.Add(1)
		}
		works := make([]*Work, 0, len(got))
		for _, j := range got {
			w := &Work{Job: j, dispatcher: d}
			if now.Sub(j.ClaimedAt) >= d.config.Lease/2 {
				stale = append(stale, w) // the claim waited for so long that little of the lease is left
			} else {
				works = append(works, w)
			}
		}
		d.claimed.Add(int64(len(works)))
		if len(s.claim.Each) == 0 {
			local = append(local, works...)
		}
		dealt, left := s.deal(works)
		deliveries = append(deliveries, dealt...)
		surplus = append(surplus, left...)
	}
	// Leases are held before anybody else can see the work.
	if len(local) > 0 {
		d.leases.hold(local)
	}
	if t.group != nil {
		t.group.turning--
		t.group.reached(full, d.config.MaxTurn)
	}
	if d.idleCh != nil && len(d.reports) == 0 && d.storing == 0 && d.inFlight == 0 {
		close(d.idleCh)
		d.idleCh = nil
	}
	d.mu.Unlock()

	for _, del := range deliveries {
		del.demand.want.Deliver(del.works)
	}
	for _, w := range stale {
		w.Finish(jobs.Release(&w.Job.Job, "lost_claim"), nil)
	}
	// The slots went away while the claim was under way: this node stops, or a remote worker has hung up.
	for _, w := range surplus {
		cause := "shutdown"
		if w.Job.Holder.ID != uuid.Nil {
			cause = "lost_claim"
		}
		w.Finish(jobs.Release(&w.Job.Job, cause), nil)
	}
	d.poke()
}

// delivery is what one demand gets of a turn.
type delivery struct {
	demand *Demand
	works  []*Work
}

// deal gives each job to a demand that it was claimed for, and takes the slots; left is what nobody waits for any more.
// Under Dispatcher.mu.
func (s *sent) deal(works []*Work) (dealt []delivery, left []*Work) {
	waiting := make(map[uuid.UUID][]*Demand) // by worker, once for each slot
	for _, demand := range s.slots {
		waiting[demand.want.Remote] = append(waiting[demand.want.Remote], demand)
	}
	places := make(map[*Demand]int)
	for _, w := range works {
		id := w.Job.Holder.ID
		for len(waiting[id]) > 0 && waiting[id][0].idle == 0 {
			waiting[id] = waiting[id][1:]
		}
		if len(waiting[id]) == 0 {
			left = append(left, w)
			continue
		}
		demand := waiting[id][0]
		waiting[id] = waiting[id][1:]
		demand.idle--
		place, ok := places[demand]
		if !ok {
			place = len(dealt)
			places[demand] = place
			dealt = append(dealt, delivery{demand: demand})
		}
		dealt[place].works = append(dealt[place].works, w)
	}
	return dealt, left
}
