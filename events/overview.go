package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// QueueNumbers is how a queue stands.
type QueueNumbers struct {
	Name   string
	Counts map[jobs.Status]int64 // live statuses and dead, never completed
	Paused bool
	// Row is the queue's row, zero if there is none. RowKnown is false for the moment in which it has changed and was not
	// read again.
	Row      jobs.Queue
	RowKnown bool
	// OldestPendingAt is when the oldest pending job became due, by the database's clock; zero: nothing is pending. It
	// is looked up while somebody asks, and OverviewConfig.Probe old at most.
	OldestPendingAt time.Time

	EnqueuedPerSec, StartedPerSec, CompletedPerSec, FailedPerSec float64 // of the last minute; failed counts attempts

	// Seconds, of the last five minutes; 0 without any.
	WaitP50, WaitP95, WaitP99, RunP50, RunP95, RunP99 float64

	Slots int // OverviewConfig.Slots
	Busy  int // running jobs
}

// Point is one step of a Series.
type Point struct {
	At        time.Time // where the step begins, by the database's clock
	Enqueued  int64     // new jobs
	Completed int64
	Failed    int64 // attempts that failed
	Dead      int64
	Backlog   int64 // pending jobs at the end of the step

	WaitP50, WaitP95, WaitP99, RunP50, RunP95, RunP99 float64 // seconds; 0 without any
}

// Series is a course over time. The last point is the present step, which is not over. From is where the first point
// begins; it is later than asked for when this node has not followed the stream for so long.
type Series struct {
	Step   time.Duration
	From   time.Time
	Points []Point
}

// OtherQueue is what queues beyond the bound are counted under.
const OtherQueue = "_other"

// OverviewConfig says what an overview counts from. Zero values mean the defaults.
type OverviewConfig struct {
	DB     jobs.DB // a pool. Required.
	Stream *Stream // Required. The caller adds Fold to its taps.
	// NewQueues is offered the names of queues that have no row yet, until they have one. It must not block.
	NewQueues func([]string)
	// Slots tells how many workers' slots serve a queue; nil: 0. It must not block.
	Slots func(queue string) int

	MaxQueues int           // with numbers of their own, the others are OtherQueue; 0 is 2000
	MaxSeries int           // of these, with a history longer than five minutes; 0 is 200
	Recount   time.Duration // between exact counts, if anything happened; 0 is 10 min, negative: never
	Probe     time.Duration // how old OldestPendingAt may be; 0 is 2 s, negative: it is never looked up (tests)
	Deadline  time.Duration // of an exact count; 0 is 60 s
	MaxDeltas int           // changes remembered while a count runs; 0 is 1 << 20 (40 MB)
	Log       zerolog.Logger
}

func (c OverviewConfig) withDefaults() OverviewConfig {
	c.MaxQueues = cmp.Or(c.MaxQueues, 2000)
	c.MaxSeries = cmp.Or(c.MaxSeries, 200)
	c.Recount = cmp.Or(c.Recount, 10*time.Minute)
	c.Probe = cmp.Or(c.Probe, 2*time.Second)
	c.Deadline = cmp.Or(c.Deadline, time.Minute)
	c.MaxDeltas = cmp.Or(c.MaxDeltas, 1<<20)
	if c.NewQueues == nil {
		c.NewQueues = func([]string) {}
	}
	if c.Slots == nil {
		c.Slots = func(string) int { return 0 }
	}
	return c
}

// Validate tells what is wrong with the configuration, nil if nothing.
func (c OverviewConfig) Validate() error {
	var faults []error
	if c.DB == nil {
		faults = append(faults, errors.New("DB is required"))
	}
	if c.Stream == nil {
		faults = append(faults, errors.New("Stream is required"))
	}
	if c.MaxQueues < 0 || c.MaxSeries < 0 || c.MaxDeltas < 0 || c.Deadline < 0 {
		faults = append(faults, errors.New("bounds are not negative"))
	}
	if len(faults) > 0 {
		return fmt.Errorf("events: overview: %w", errors.Join(faults...))
	}
	return nil
}

// Overview holds the numbers of all queues in memory, folded from the stream, so that a viewer costs no query.
//
// The counts are exact. They start from one count in the database, taken in one snapshot, and change with every event
// whose transaction that snapshot did not see: whichever arrives first, each change counts once. What arrives while the
// count runs is remembered, because the snapshot is known only at its end. Now and then, and after a new epoch or a
// dropped partition, a new count replaces the old one; the difference between both is the drift, and 0.
//
// Safe for concurrent use.
type Overview struct {
	config   OverviewConfig
	readBase func(context.Context) (base, error)
	readHead func(context.Context, []string) (map[string]time.Time, error)
	readRows func(context.Context, []string) ([]jobs.Queue, error)
	poke     chan struct{} // capacity 1: Run has something to do. Senders: Fold and readers; never closed.

	mu         sync.Mutex    // guards all below; nothing blocks under it
	epoch      int64         // of the events folded last; 0: none
	seq        int64         // of the event folded last; 0: none
	generation int           // grows when a count under way has lost its meaning
	based      bool          // the counts are true
	counted    chan struct{} // closed when they are, and replaced when they are no longer
	wantBase   bool
	folded     bool     // something, since the last count
	snap       snapshot // of the count; what it sees is in the counts already
	recording  bool     // a count is under way
	deltas     []delta
	rowDeltas  []rowDelta
	tooMany    bool                           // they did not fit
	workers    map[uuid.UUID]jobs.WorkerState // those that are not offline
	staleRows  map[string]struct{}            // queues whose rows have changed and were not read again
	queues     map[string]*queueState
	overflowed bool // a name was counted under OtherQueue since the last count
	series     int  // queues with a long history
	all        *history
	offset     time.Duration // the database's clock minus this node's
	since      time.Time     // start of the history, by this node's clock
	lag        time.Duration // of the newest event: from its writing to here
	audit      audit
	probe      probe
}

// queueState is what is known of one queue.
type queueState struct {
	name    string
	counts  [tracked]int64
	paused  bool
	hasRow  bool
	row     *jobs.Queue // nil: there is none, or it has changed and was not read again; never changed
	offers  int         // how often its name was offered to NewQueues
	oldest  time.Time
	looked  time.Time // when oldest was last read from the database, by this node's clock; zero: never
	touched time.Time // by its last event, this node's clock
	history *history

	summed  time.Time // when the rates below were computed
	summary QueueNumbers
}

// The statuses that are counted, as indexes.
const (
	atScheduled = iota
	atPending
	atRunning
	atRetrying
	atBlocked
	atDead
	tracked
)

var trackedStatuses = [tracked]jobs.Status{
	atScheduled: jobs.Scheduled, atPending: jobs.Pending, atRunning: jobs.Running,
	atRetrying: jobs.Retrying, atBlocked: jobs.Blocked, atDead: jobs.Dead,
}

// indexOf is -1 for what is not counted.
func indexOf(s jobs.Status) int8 {
	return int8(slices.Index(trackedStatuses[:], s)) //nolint:gosec // below tracked
}

// delta is n equal steps of one transaction in one queue, remembered while a count runs.
type delta struct {
	xid      uint64
	queue    string
	n        int64
	from, to int8
}

// NewOverview makes an overview; its numbers are true soon after Run has started. Before Run, Fold must be a tap of the
// stream.
func NewOverview(config OverviewConfig) *Overview {
	o := &Overview{
		config: config.withDefaults(),
		poke:   make(chan struct{}, 1),
		queues: make(map[string]*queueState), counted: make(chan struct{}),

		workers: make(map[uuid.UUID]jobs.WorkerState), staleRows: make(map[string]struct{}),

		all:   newHistory(true),
		since: time.Now(), // monotonic
	}
	o.readBase, o.readHead, o.readRows = o.baseFromDatabase, o.headFromDatabase, o.rowsFromDatabase
	return o
}

// now is the database's time, as far as this node can tell. The caller holds the lock.
func (o *Overview) now() time.Time { return time.Now().Add(o.offset) } // monotonic, shifted

func (o *Overview) wake() {
	select {
	case o.poke <- struct{}{}:
	default:
	}
}

// Fold takes events in, in order: a tap of the stream. It never blocks.
func (o *Overview) Fold(batch []*Event) {
	if names := o.fold(batch); len(names) > 0 {
		o.config.NewQueues(names)
	}
}

// fold returns the names that should get a row.
func (o *Overview) fold(batch []*Event) (names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if len(batch) > 0 {
		o.lag = max(0, now.Sub(batch[len(batch)-1].At))
	}
	var q *queueState
	for _, e := range batch {
		if e.Epoch != o.epoch {
			o.enterEpoch(e.Epoch)
		} else if e.Seq != o.seq+1 {
			o.forget() // this node was away for so long that retention passed it
		}
		o.seq = e.Seq
		o.folded = true
		if e.Type == "history.dropped" {
			// Its dead jobs are gone without an event for each.
			o.wantBase = true
			o.wake()
		}
		if !e.AboutJob() {
			o.foldRow(e)
		}
		if e.Queue == "" {
			continue
		}
		if q == nil || q.name != e.Queue {
			q = o.queue(e.Queue)
			q.touched = now.Add(-o.offset)
		}
		if !e.AboutJob() {
			continue
		}
		if !q.hasRow && q.offers == 0 && jobs.ValidName(q.name) {
			q.offers++
			names = append(names, q.name)
		}
		step := stepOf(e)
		q.history.add(now, e.At, step)
		o.all.add(now, e.At, step)
		if step.from != step.to {
			o.foldStep(q, e, step)
		}
	}
	return names
}

// foldStep counts a step, unless the base has it already. The caller holds the lock.
func (o *Overview) foldStep(q *queueState, e *Event, s step) {
	if o.recording {
		o.record(delta{e.XID, e.Queue, 1, s.from, s.to})
	}
	switch {
	case !o.based:
	case o.snap.sees(e.XID):
		o.audit.late(q.name, e.XID, s.from, s.to)
	default:
		runAt := e.RunAt
		if runAt.IsZero() {
			runAt = e.At
		}
		q.step(s.from, s.to, 1, runAt)
	}
}

// record remembers a change; one transaction that makes many equal ones takes one place.
func (o *Overview) record(d delta) {
	if n := len(o.deltas); n > 0 {
		last := &o.deltas[n-1]
		if last.xid == d.xid && last.queue == d.queue && last.from == d.from && last.to == d.to {
			last.n++
			return
		}
	}
	if len(o.deltas) >= o.config.MaxDeltas {
		o.tooMany = true
		return
	}
	o.deltas = append(o.deltas, d)
}

// step moves n jobs. The oldest pending one is exact while the line was empty before; else it may be too old until the
// next look.
func (q *queueState) step(from, to int8, n int64, runAt time.Time) {
	if to == atPending {
		if q.counts[atPending] <= 0 || runAt.Before(q.oldest) {
			q.oldest = runAt
		}
	}
	if from >= 0 {
		q.counts[from] -= n
	}
	if to >= 0 {
		q.counts[to] += n
	}
	if q.counts[atPending] <= 0 {
		q.oldest = time.Time{}
	}
}

// enterEpoch forgets the counts when history was lost.
func (o *Overview) enterEpoch(epoch int64) {
	first := o.epoch == 0
	o.epoch = epoch
	if !first {
		o.forget()
	}
}

// forget gives the numbers up, since something happened that was not told: they need a new base. The caller holds the lock.
func (o *Overview) forget() {
	o.generation++
	if o.based {
		o.counted = make(chan struct{})
	}
	o.based, o.wantBase, o.recording, o.deltas, o.rowDeltas = false, true, false, nil, nil
	o.audit = audit{}
	o.wake()
}

// queue finds a queue or takes it in. Once a name had to share OtherQueue no new one gets a place until the next count,
// or the numbers of that name would be torn between both. The caller holds the lock.
func (o *Overview) queue(name string) *queueState {
	if q := o.queues[name]; q != nil {
		return q
	}
	if name != OtherQueue && (o.overflowed || len(o.queues) >= o.config.MaxQueues) {
		o.overflowed = true
		return o.queue(OtherQueue)
	}
	long := o.series < o.config.MaxSeries || name == OtherQueue
	if long {
		o.series++
	}
	q := &queueState{name: name, history: newHistory(long), touched: time.Now()} // monotonic
	o.queues[name] = q
	return q
}

// Counted returns when the counts are true, or with the cause of ctx: soon after the start of a node, or of an epoch, there
// are none yet, and none is not 0.
func (o *Overview) Counted(ctx context.Context) error {
	o.mu.Lock()
	counted := o.counted
	o.mu.Unlock()
	select {
	case <-counted:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Queue returns the numbers of one queue; false: it is not known, or not counted yet.
func (o *Overview) Queue(name string) (QueueNumbers, bool) {
	o.lookAtHeads(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queues[name]
	if q == nil || !o.based {
		return QueueNumbers{}, false
	}
	return o.numbers(q), true
}

// Queues returns the numbers of all queues by name; none before the first count.
func (o *Overview) Queues() []QueueNumbers {
	o.lookAtHeads("")
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.based {
		return nil
	}
	out := make([]QueueNumbers, 0, len(o.queues))
	for _, q := range o.queues {
		out = append(out, o.numbers(q))
	}
	slices.SortFunc(out, func(a, b QueueNumbers) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Pulse tells the database's time, as far as this node knows it, and how long the newest event took to get here, with what
// its transaction took to commit after it.
func (o *Overview) Pulse() (now time.Time, lag time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now(), o.lag
}

// summaryAge is how old rates and percentiles may be: fifty dashboards ask at once.
const summaryAge = time.Second

// numbers copies what is known of a queue. The caller holds the lock.
func (o *Overview) numbers(q *queueState) QueueNumbers {
	if now := time.Now(); q.summed.IsZero() || now.Sub(q.summed) >= summaryAge { // monotonic
		q.summed = now
		q.summary = q.history.summary(now.Add(o.offset), o.since.Add(o.offset))
	}
	n := q.summary
	n.Name, n.Paused, n.OldestPendingAt = q.name, q.paused, q.oldest
	n.Row, n.RowKnown = q.rowOf()
	n.Counts = make(map[jobs.Status]int64, tracked)
	for i, status := range trackedStatuses {
		n.Counts[status] = max(0, q.counts[i])
	}
	n.Busy = int(max(0, q.counts[atRunning]))
	n.Slots = o.config.Slots(q.name)
	return n
}

// Stats returns the course of a queue, "" is all of them, over a window up to now. Within an hour the step is a multiple
// of 5 s, over more, up to 24 h, one of a minute; it is rounded up. A queue that is not known has no points.
func (o *Overview) Stats(queue string, window, step time.Duration) Series {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.all
	var pending int64
	if queue == "" {
		for _, q := range o.queues {
			pending += q.counts[atPending]
		}
	} else if q := o.queues[queue]; q != nil {
		h, pending = q.history, q.counts[atPending]
	} else {
		return Series{Step: step}
	}
	return h.course(o.now(), o.since.Add(o.offset), window, step, pending)
}

// Drift tells, for each queue, by how many jobs the numbers in memory were off at the last recount: none, unless there
// is a bug.
func (o *Overview) Drift() map[string]int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.audit.drift)
}

const (
	rollEvery   = 5 * time.Second // housekeeping in memory; it issues no statement
	forgetAfter = 24 * time.Hour  // a queue without jobs and events
	maxOffers   = 5               // of a name to NewQueues between two counts
)

// Run counts, keeps the counts honest and lets old history go until ctx ends. It returns nil then, and an error only
// for a configuration that cannot work.
func (o *Overview) Run(ctx context.Context) error {
	if err := o.config.Validate(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-o.config.Stream.Ready():
	}
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.MaxElapsedTime = 100*time.Millisecond, 10*time.Second, 0
	roll := time.NewTicker(rollEvery)
	defer roll.Stop()
	count := time.NewTimer(0)
	defer count.Stop()
	var notBefore time.Time                                                    // after a failure, by this node's clock
	wants := func() bool { return o.wants() && !time.Now().Before(notBefore) } // monotonic
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.poke:
			o.probeHeads(ctx)
			if o.rereadRows(ctx); !wants() {
				continue
			}
		case <-roll.C:
			o.roll()
			if o.rereadRows(ctx); !wants() {
				continue
			}
		case <-count.C:
			if !o.recountDue() {
				count.Reset(o.config.Recount)
				continue
			}
		}
		if err := o.count(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			pause := policy.NextBackOff()
			o.config.Log.Warn().Err(err).Dur("retry_in", pause).Msg("overview could not count the jobs")
			count.Reset(pause)
			notBefore = time.Now().Add(pause) // monotonic
			continue
		}
		policy.Reset()
		if o.config.Recount > 0 {
			count.Reset(o.config.Recount)
		}
	}
}

// wants tells whether the counts need a new base now.
func (o *Overview) wants() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wantBase
}

// recountDue tells whether a recount could find anything: an idle server issues no statement.
func (o *Overview) recountDue() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.based || o.wantBase || o.folded
}

// roll lets old history go, settles the audit, and offers the names that still have no row.
func (o *Overview) roll() {
	head, err := o.config.Stream.Head()
	names := func() (names []string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		// Also when nothing has happened since. What the head counts has been folded, unless it was passed over.
		switch {
		case err != nil:
		case head.Epoch > o.epoch:
			o.enterEpoch(head.Epoch)
			o.seq = head.Seq
		case head.Epoch == o.epoch && head.Seq > o.seq:
			o.forget()
			o.seq = head.Seq
		}
		now, own := o.now(), time.Now() // monotonic
		o.all.trim(now)
		for name, q := range o.queues {
			q.history.trim(now)
			if !q.hasRow && q.offers < maxOffers && jobs.ValidName(name) && q.counts != [tracked]int64{} {
				q.offers++
				names = append(names, name)
			}
			if own.Sub(q.touched) > forgetAfter && q.counts == [tracked]int64{} && !q.paused {
				if q.history.coarse != nil {
					o.series--
				}
				delete(o.queues, name)
			}
		}
		o.audit.settle(o.config.Stream.LastSuccess(), o.config.Log)
		return names
	}()
	if len(names) > 0 {
		o.config.NewQueues(names)
	}
}
