package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// snapshot is a pg_snapshot: which transactions were over when it was taken.
type snapshot struct {
	xmin, xmax uint64
	xip        []uint64 // in progress between the two, ascending
}

var errSnapshot = errors.New("malformed snapshot")

// parseSnapshot reads PostgreSQL's text form, xmin:xmax:xip,xip,..
func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return snapshot{}, errSnapshot
	}
	number := func(text string) uint64 {
		n, e := strconv.ParseUint(text, 10, 64)
		if e != nil {
			err = errSnapshot
		}
		return n
	}
	s.xmin, s.xmax = number(parts[0]), number(parts[1])
	if parts[2] != "" {
		for xid := range strings.SplitSeq(parts[2], ",") {
			s.xip = append(s.xip, number(xid))
		}
	}
	if err != nil || s.xmin > s.xmax {
		return snapshot{}, errSnapshot
	}
	slices.Sort(s.xip)
	return s, nil
}

// sees tells whether a committed transaction is visible: pg_visible_in_snapshot.
func (s snapshot) sees(xid uint64) bool {
	switch {
	case xid < s.xmin:
		return true
	case xid >= s.xmax:
		return false
	}
	_, running := slices.BinarySearch(s.xip, xid)
	return !running
}

// base is an exact count, in one snapshot.
type base struct {
	snap     snapshot
	backlogs map[string]*jobs.Backlog
	rows     []jobs.Queue
	workers  map[uuid.UUID]jobs.WorkerState
	offset   time.Duration // the database's clock minus this node's
}

var errTooMany = errors.New("too many changes while the jobs were counted")

// count takes a new base.
func (o *Overview) count(ctx context.Context) error {
	generation, dropped := o.beginCount()
	ctx, cancel := context.WithTimeout(ctx, o.config.Deadline)
	defer cancel()
	b, err := o.readBase(ctx)
	names, err := o.install(b, generation, dropped, err)
	if len(names) > 0 {
		o.config.NewQueues(names)
	}
	return err
}

// beginCount begins to remember what arrives: from here on events may be missing from the snapshot. Those folded before
// are in it: the tick that published them saw them, and the snapshot is younger. dropped: jobs may have gone without an
// event, which is no drift.
func (o *Overview) beginCount() (generation int, dropped bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.recording, o.deltas, o.rowDeltas, o.tooMany = true, nil, nil, false
	dropped, o.wantBase = o.wantBase, false
	return o.generation, dropped
}

// install makes a base the state, or gives it up. It returns the names that should get a row.
func (o *Overview) install(b base, generation int, dropped bool, err error) (names []string, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.generation != generation {
		return nil, nil // wantBase is set again
	}
	deltas, rowDeltas, tooMany := o.deltas, o.rowDeltas, o.tooMany
	o.recording, o.deltas, o.rowDeltas, o.tooMany = false, nil, nil, false
	if err == nil && tooMany {
		err = errTooMany
	}
	if err != nil {
		o.wantBase = o.wantBase || dropped
		return nil, err
	}
	before := make(map[string][tracked]int64, len(o.queues))
	for name, q := range o.queues {
		before[name] = q.counts
		q.counts, q.oldest, q.paused, q.hasRow, q.row, q.offers = [tracked]int64{}, time.Time{}, false, false, nil, 0
	}
	wasBased, torn := o.based, o.overflowed
	o.based, o.folded, o.overflowed, o.offset = true, false, false, b.offset
	if !wasBased {
		defer close(o.counted) // when all below is in its place
	}
	previous := o.snap
	o.snap = b.snap

	o.installRows(b, rowDeltas)
	for name, backlog := range b.backlogs {
		q := o.queue(name)
		for i, status := range trackedStatuses {
			q.counts[i] += backlog.Counts[status]
		}
		if at := backlog.OldestPending; !at.IsZero() && (q.oldest.IsZero() || at.Before(q.oldest)) {
			q.oldest = at
		}
		if !q.hasRow && jobs.ValidName(q.name) {
			q.offers++
			names = append(names, q.name)
		}
	}
	now := o.now()
	for _, d := range deltas {
		if !b.snap.sees(d.xid) {
			q := o.queue(d.queue)
			q.step(d.from, d.to, d.n, now)
		}
	}
	after := make(map[string][tracked]int64, len(o.queues))
	for name, q := range o.queues {
		q.looked, q.summed = time.Time{}, time.Time{}
		if q.counts[atPending] <= 0 {
			q.oldest = time.Time{}
		}
		after[name] = q.counts
	}
	if wasBased && !dropped && !torn && !o.overflowed {
		o.audit.open(before, after, previous, b.snap)
	}
	return names, nil
}

// baseFromDatabase counts in one REPEATABLE READ snapshot. It reads all live jobs and all dead ones, locks nothing, and
// holds the xmin horizon for as long as that takes.
func (o *Overview) baseFromDatabase(ctx context.Context) (b base, err error) {
	tx, err := o.config.DB.Begin(ctx)
	if err != nil {
		return base{}, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it has only read
	if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY`); err != nil {
		return base{}, fmt.Errorf("set the isolation level: %w", err)
	}
	var snap string
	var clock time.Time
	asked := time.Now() // monotonic
	if err := tx.QueryRow(ctx, `SELECT pg_current_snapshot()::text, clock_timestamp()`).Scan(&snap, &clock); err != nil {
		return base{}, fmt.Errorf("take a snapshot: %w", err)
	}
	b.offset = clock.Sub(asked.Add(time.Since(asked) / 2))
	if b.snap, err = parseSnapshot(snap); err != nil {
		return base{}, fmt.Errorf("take a snapshot: %w", err)
	}
	if b.rows, err = jobs.ListQueues(ctx, tx); err != nil {
		return base{}, err
	}
	if b.workers, err = jobs.PresentWorkers(ctx, tx); err != nil {
		return base{}, err
	}
	if b.backlogs, err = jobs.Backlogs(ctx, tx); err != nil {
		return base{}, err
	}
	return b, nil
}

// audit compares the numbers in memory with a recount. At the time of the recount memory may lag: events that the
// snapshot saw are still on their way. Each of them closes its part of the difference; what stays open is drift.
type audit struct {
	opened    time.Time                 // by this node's clock; zero: none is open
	unsettled map[string][tracked]int64 // recount minus memory
	previous  snapshot                  // what it saw was in memory before, and comes too late for both
	snap      snapshot                  // of the recount
	drift     map[string]int64          // result of the last audit
}

func (a *audit) open(before, after map[string][tracked]int64, previous, snap snapshot) {
	a.opened, a.previous, a.snap = time.Now(), previous, snap // monotonic
	a.unsettled = make(map[string][tracked]int64)
	for name, counts := range after {
		was := before[name]
		for i := range counts {
			counts[i] -= was[i]
		}
		if counts != [tracked]int64{} {
			a.unsettled[name] = counts
		}
	}
}

// late takes in an event that the recount had seen already.
func (a *audit) late(queue string, xid uint64, from, to int8) {
	if a.opened.IsZero() || a.previous.sees(xid) {
		return
	}
	counts := a.unsettled[queue]
	if from >= 0 {
		counts[from]++
	}
	if to >= 0 {
		counts[to]--
	}
	if counts == [tracked]int64{} {
		delete(a.unsettled, queue)
	} else {
		a.unsettled[queue] = counts
	}
}

// auditPatience is how long an event may be on its way: the longest sleep of pacer and tailer, and a little.
const auditPatience = 35 * time.Second

// settle closes the audit when nothing is open, or when nothing more can come.
func (a *audit) settle(streamRead time.Time, log zerolog.Logger) {
	if a.opened.IsZero() || len(a.unsettled) > 0 && streamRead.Sub(a.opened) < auditPatience {
		return
	}
	a.drift = make(map[string]int64)
	for name, counts := range a.unsettled {
		for _, n := range counts {
			a.drift[name] += max(n, -n)
		}
		log.Error().Str("queue", name).Int64("jobs", a.drift[name]).
			Msg("numbers in memory had drifted from the jobs in the database; repaired")
	}
	a.opened, a.unsettled = time.Time{}, nil
}

// probe keeps looks at the heads of the lines rare.
type probe struct {
	asked   map[string]bool // queues whose head somebody wants to see
	done    chan struct{}   // closed by Run when the look at them is over; nil: none is wanted
	notTill time.Time       // by this node's clock: after a slow look, a pause
}

const (
	probeWait     = 250 * time.Millisecond // for a reader
	probeDeadline = 2 * time.Second
)

// lookAtHeads brings OldestPendingAt of one queue, "" is all, up to date: those that are older than config.Probe are
// looked up, all readers together, and the reader waits a moment for it. Without readers nothing is looked up.
func (o *Overview) lookAtHeads(name string) {
	done := func() <-chan struct{} {
		o.mu.Lock()
		defer o.mu.Unlock()
		now := time.Now() // monotonic
		if !o.based || o.config.Probe < 0 || now.Before(o.probe.notTill) {
			return nil
		}
		stale := func(q *queueState) bool {
			return q != nil && q.counts[atPending] > 0 && q.name != OtherQueue &&
				(q.looked.IsZero() || now.Sub(q.looked) >= o.config.Probe)
		}
		want := func(q *queueState) {
			if o.probe.done == nil {
				o.probe.done, o.probe.asked = make(chan struct{}), make(map[string]bool)
			}
			o.probe.asked[q.name] = true
		}
		if name != "" {
			if q := o.queues[name]; stale(q) {
				want(q)
				return o.probe.done
			}
			return nil
		}
		any := false
		for _, q := range o.queues {
			if stale(q) {
				want(q)
				any = true
			}
		}
		if !any {
			return nil
		}
		return o.probe.done
	}()
	if done == nil {
		return
	}
	o.wake()
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C: // the reader gets what is known
	}
}

// probeHeads looks at the heads that were asked for.
func (o *Overview) probeHeads(ctx context.Context) {
	o.mu.Lock()
	done := o.probe.done
	names := make([]string, 0, len(o.probe.asked))
	for name := range o.probe.asked {
		names = append(names, name)
	}
	o.mu.Unlock()
	if done == nil {
		return
	}
	defer close(done)
	ctx, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	started := time.Now() // monotonic
	heads, err := o.readHead(ctx, names)
	if err != nil && ctx.Err() == nil {
		o.config.Log.Warn().Err(err).Msg("overview could not look at the oldest pending jobs")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.probe.done, o.probe.asked = nil, nil
	took := time.Since(started)
	if took > 100*time.Millisecond || err != nil {
		// Dead index entries under a held horizon make the look dear: it takes a twentieth of the time at most.
		o.probe.notTill = time.Now().Add(min(20*took+time.Second, time.Minute)) // monotonic
	}
	for _, name := range names {
		q := o.queues[name]
		if q == nil || err != nil {
			continue
		}
		q.looked = started
		if at, ok := heads[name]; ok && q.counts[atPending] > 0 {
			q.oldest = at // none found: the events that empty the line are on their way
		}
	}
}

// headFromDatabase finds the smallest run_at among the pending jobs of queues: one probe of the index jobs_claim per
// queue and priority. Locks nothing.
func (o *Overview) headFromDatabase(ctx context.Context, names []string) (map[string]time.Time, error) {
	rows, err := o.config.DB.Query(ctx, `
		SELECT asked.name, min(head.run_at)
		  FROM unnest($1::text[]) AS asked(name)
		 CROSS JOIN unnest(enum_range(NULL::mini_asynq.job_priority)) AS p(priority)
		 CROSS JOIN LATERAL (
		       SELECT run_at FROM mini_asynq.jobs
		        WHERE queue = asked.name AND priority = p.priority AND status = 'pending'
		        ORDER BY run_at, id LIMIT 1) AS head
		 GROUP BY asked.name`, names)
	if err != nil {
		return nil, fmt.Errorf("look at the oldest pending jobs: %w", err)
	}
	defer rows.Close()
	heads := make(map[string]time.Time, len(names))
	for rows.Next() {
		var name string
		var at time.Time
		if err := rows.Scan(&name, &at); err != nil {
			return nil, fmt.Errorf("look at the oldest pending jobs: %w", err)
		}
		heads[name] = at
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look at the oldest pending jobs: %w", err)
	}
	return heads, nil
}
