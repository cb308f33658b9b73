package events

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// MetricsConfig says what is measured. What is nil is not exported, so that a program may export it elsewhere.
type MetricsConfig struct {
	Overview *Overview   // queue_jobs and the other gauges of queues, recount_drift_jobs
	Leads    func() bool // whether this node exports those; nil: it does not
	Stream   *Stream     // stream_head_seq, stream_position_seq, stream_reads_total
	Pacer    *Pacer      // leader
	Listener *Listener   // listener_connected, listener_reconnects_total
	// Loops tell when they last succeeded: loop_last_success_timestamp_seconds.
	Loops map[string]func() time.Time
	DB    jobs.DB // where the leader reads consumer_lag_events

	MaxLabels int // values of queue, of kind, and of name, before OtherQueue; 0 is 200
}

// Metrics counts what happens to jobs, and shows how queues and stream stand: a prometheus.Collector.
//
// A job's numbers are counted from its events, whoever made them, by the one node that made their tick: then the sum
// over all nodes is right. Every node sees all events (Fold), and the pacer tells which ticks are its own (Published). A
// tick may be heard of in either order, so an event waits until its tick was named, or another one was that comes later.
// A tick whose answer got lost with the pacer's connection is counted by nobody.
//
// Safe for concurrent use.
type Metrics struct {
	config MetricsConfig

	mu      sync.Mutex // guards the four below; nothing blocks under it
	epoch   int64
	folded  int64    // position of the last event seen
	own     []span   // ticks of this node whose events have not all been seen, ascending
	waiting []record // events whose tick is not known yet, ascending; a queue, its head is at first
	first   int
	tick    Position // of the last event known to be in the log

	enqueued, finished, attempts *prometheus.CounterVec
	wait, run, total             *prometheus.HistogramVec
	overflow                     *prometheus.CounterVec
	queues, kinds, consumers     labelCap

	queueJobs, oldest, paused, drift             *prometheus.Desc
	head, position, reads, leads, hears, redials *prometheus.Desc
	loop, lag                                    *prometheus.Desc
}

// span is a range of positions, both ends included.
type span struct{ first, last int64 }

// record is what is counted of an event.
type record struct {
	seq              int64
	at               time.Time // when it was seen, by this node's clock
	queue, kind      string
	mode             string // of a new job: immediate, scheduled, blocked
	finished         string // completed, cancelled, dead
	outcome          string // of an attempt that ended
	wait, run, total int64  // milliseconds; -1: none
}

const (
	// maxWaiting bounds the events that wait for their tick to be named. The pacer learns of its tick no later than the
	// tailer, so it takes a stall of one between two statements to get there.
	maxWaiting = 65536
	// waitFor is how long an event waits: after that, no node that lives will name its tick.
	waitFor  = 10 * time.Second
	maxSpans = 4096
)

// NewMetrics makes the collector. Its Fold is a tap of the stream, its Published is called by the pacer.
func NewMetrics(config MetricsConfig) *Metrics {
	if config.MaxLabels == 0 {
		config.MaxLabels = 200
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "miniasynq_" + name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "miniasynq_" + name, Help: help, Buckets: histogramBounds[:],
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels)
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("miniasynq_"+name, help, labels, nil)
	}
	m := &Metrics{
		config:   config,
		enqueued: counter("jobs_enqueued_total", "New jobs, counted once in all nodes.", "queue", "kind", "mode"),
		finished: counter("jobs_finished_total", "Jobs that ended, counted once in all nodes.", "queue", "kind", "status"),
		attempts: counter("job_attempts_total", "Attempts that ended, counted once in all nodes.", "queue", "kind", "outcome"),
		wait:     histogram("job_wait_seconds", "From ready to started, counted once in all nodes.", "queue"),
		run:      histogram("job_run_seconds", "One attempt, counted once in all nodes.", "queue", "kind", "outcome"),
		total:    histogram("job_total_seconds", "From ready to finished, counted once in all nodes.", "queue"),
		overflow: counter("label_overflow_total", "Values of a label beyond those that are told apart.", "label"),

		queueJobs: desc("queue_jobs", "Live and dead jobs; on the leader.", "queue", "status"),
		oldest: desc("queue_oldest_pending_timestamp_seconds",
			"When the oldest pending job became due; absent without one; on the leader.", "queue"),
		paused: desc("queue_paused", "Whether the queue is paused; on the leader.", "queue"),
		drift:  desc("recount_drift_jobs", "By how much memory was off at the last recount; on the leader.", "queue"),

		head:     desc("stream_head_seq", "The last event of the log, as far as this node has heard."),
		position: desc("stream_position_seq", "The last event that this node has read."),
		reads:    desc("stream_reads_total", "Pages of events that readers got.", "tier"),
		leads:    desc("leader", "Whether this node is the pacer."),
		hears:    desc("listener_connected", "Whether this node hears NOTIFY."),
		redials:  desc("listener_reconnects_total", "Connections of the listener after the first."),
		loop:     desc("loop_last_success_timestamp_seconds", "When a loop last reached its goal.", "loop"),
		lag: desc("consumer_lag_events",
			"Events behind what a named consumer has acknowledged; absent when they are of another history; on the leader.", "name"),
	}
	m.queues = newLabelCap(config.MaxLabels, m.overflow.WithLabelValues("queue"))
	m.kinds = newLabelCap(config.MaxLabels, m.overflow.WithLabelValues("kind"))
	m.consumers = newLabelCap(config.MaxLabels, m.overflow.WithLabelValues("name"))
	return m
}

// labelCap keeps the first values of a label and calls the rest OtherQueue. Guarded by Metrics.mu.
type labelCap struct {
	max      int
	known    map[string]struct{}
	overflow prometheus.Counter
}

func newLabelCap(limit int, overflow prometheus.Counter) labelCap {
	return labelCap{limit, make(map[string]struct{}), overflow}
}

func (l *labelCap) value(s string) string {
	if _, ok := l.known[s]; ok {
		return s
	}
	if len(l.known) >= l.max {
		l.overflow.Inc()
		return OtherQueue
	}
	l.known[s] = struct{}{}
	return s
}

// Overflow counts the values of a label of somebody else beyond those that are told apart.
func (m *Metrics) Overflow(label string) prometheus.Counter { return m.overflow.WithLabelValues(label) }

// Published takes a tick of this node: PacerConfig.Published calls it. It never blocks.
func (m *Metrics) Published(t Tick) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard(t.Last())
	if t.Epoch != m.epoch {
		m.enter(t.Epoch)
	}
	tick := span{t.FirstSeq, t.FirstSeq + t.N - 1}
	// This node's ticks come in their order: what waits from before this one is another node's.
	m.forget(func(r *record) bool { return r.seq < tick.first })
	for m.first < len(m.waiting) && m.waiting[m.first].seq <= tick.last {
		m.count(&m.waiting[m.first])
		m.first++
	}
	if tick.last <= m.folded {
		return
	}
	if n := len(m.own); n > 0 && m.own[n-1].last+1 == tick.first {
		m.own[n-1].last = tick.last
		return
	}
	if len(m.own) >= maxSpans {
		m.own = m.own[1:]
	}
	m.own = append(m.own, tick)
}

// Heard takes what the listener heard, for the head of the log. It never blocks.
func (m *Metrics) Heard(n Note) {
	if n.Kind != NoteTick {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard(n.Last)
}

func (m *Metrics) heard(at Position) {
	if m.tick.Before(at) {
		m.tick = at
	}
}

// Fold takes events in: a tap of the stream. It never blocks.
func (m *Metrics) Fold(batch []*Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now() // monotonic
	m.forget(func(r *record) bool { return now.Sub(r.at) > waitFor })
	for _, e := range batch {
		if e.Epoch != m.epoch {
			m.enter(e.Epoch)
		}
		m.folded = e.Seq
		for len(m.own) > 0 && m.own[0].last < e.Seq {
			m.own = m.own[1:]
		}
		r, counts := recordOf(e)
		if !counts {
			continue
		}
		switch {
		case len(m.own) == 0:
			if len(m.waiting)-m.first >= maxWaiting {
				m.first++
			}
			r.at = now
			m.waiting = append(m.waiting, r)
			m.compact()
		case m.own[0].first <= e.Seq:
			m.count(&r)
		default:
			// This node made a later tick, and would have named this one before.
		}
	}
}

// enter begins a new history: positions mean something else.
func (m *Metrics) enter(epoch int64) {
	m.epoch, m.folded, m.own, m.waiting, m.first = epoch, 0, nil, nil, 0
}

// forget drops the oldest that wait, as long as they are done.
func (m *Metrics) forget(done func(*record) bool) {
	for m.first < len(m.waiting) && done(&m.waiting[m.first]) {
		m.first++
	}
	m.compact()
}

// compact gives the place of what has gone back, once that is half.
func (m *Metrics) compact() {
	if m.first < 1024 && m.first < len(m.waiting) || 2*m.first < len(m.waiting) {
		return
	}
	m.waiting = append(m.waiting[:0:0], m.waiting[m.first:]...)
	m.first = 0
}

// modes of new jobs.
var modes = map[jobs.Status]string{jobs.Pending: "immediate", jobs.Scheduled: "scheduled", jobs.Blocked: "blocked"}

// outcomes of attempts that failed, by the event's cause.
var outcomesOf = map[string]jobs.OutcomeKind{
	"error": jobs.OutcomeFailed, "timeout": jobs.OutcomeTimedOut, "lease_expired": jobs.OutcomeLeaseExpired,
}

// recordOf is false for an event that counts for nothing.
func recordOf(e *Event) (r record, counts bool) {
	if !e.AboutJob() || e.From == e.Status {
		return record{}, false
	}
	r = record{seq: e.Seq, queue: e.Queue, kind: e.Kind, wait: -1, run: -1, total: -1}
	if e.From == "" {
		r.mode = modes[e.Status]
	}
	if e.Status.Finished() && e.Type != "job.redrive_undone" {
		r.finished = string(e.Status)
		if e.TotalMS != nil {
			r.total = *e.TotalMS
		}
	}
	if e.Status == jobs.Running && e.WaitMS != nil {
		r.wait = *e.WaitMS
	}
	if e.From == jobs.Running {
		r.outcome = string(outcomeOf(e))
		if e.RunMS != nil {
			r.run = *e.RunMS
		}
	}
	return r, r.mode != "" || r.finished != "" || r.outcome != "" || r.wait >= 0
}

// outcomeOf tells how an attempt ended.
func outcomeOf(e *Event) jobs.OutcomeKind {
	switch {
	case e.Status == jobs.Completed:
		return jobs.OutcomeCompleted
	case e.Status == jobs.Cancelled:
		return jobs.OutcomeCancelled
	case e.Type == "job.snoozed":
		return jobs.OutcomeSnoozed
	case e.Type == "job.released":
		return jobs.OutcomeReleased
	}
	if outcome, ok := outcomesOf[e.Cause]; ok {
		return outcome
	}
	return jobs.OutcomeFailed
}

// count counts a record. The caller holds the lock.
func (m *Metrics) count(r *record) {
	queue, kind := m.queues.value(r.queue), m.kinds.value(r.kind)
	seconds := func(ms int64) float64 { return float64(ms) / 1000 }
	if r.mode != "" {
		m.enqueued.WithLabelValues(queue, kind, r.mode).Inc()
	}
	if r.wait >= 0 {
		m.wait.WithLabelValues(queue).Observe(seconds(r.wait))
	}
	if r.outcome != "" {
		m.attempts.WithLabelValues(queue, kind, r.outcome).Inc()
		if r.run >= 0 {
			m.run.WithLabelValues(queue, kind, r.outcome).Observe(seconds(r.run))
		}
	}
	if r.finished != "" {
		m.finished.WithLabelValues(queue, kind, r.finished).Inc()
		if r.total >= 0 {
			m.total.WithLabelValues(queue).Observe(seconds(r.total))
		}
	}
}

func (m *Metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.enqueued, m.finished, m.attempts, m.wait, m.run, m.total, m.overflow}
}

// Describe tells what may come.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, v := range m.vectors() {
		v.Describe(out)
	}
	given := func(yes bool, descs ...*prometheus.Desc) {
		for _, d := range descs {
			if yes {
				out <- d
			}
		}
	}
	given(m.config.Overview != nil, m.queueJobs, m.oldest, m.paused, m.drift)
	given(m.config.Stream != nil, m.head, m.position, m.reads)
	given(m.config.Pacer != nil, m.leads)
	given(m.config.Listener != nil, m.hears, m.redials)
	given(len(m.config.Loops) > 0, m.loop)
	given(m.config.DB != nil, m.lag)
}

// Collect reads all values from live memory. On the leader it may wait a quarter of a second for the oldest pending
// jobs to be looked up, and as long for the consumers.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	for _, v := range m.vectors() {
		v.Collect(out)
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, value int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	if m.config.Overview != nil && m.config.Leads != nil && m.config.Leads() {
		m.collectQueues(gauge)
	}
	if m.config.DB != nil && m.config.Leads != nil && m.config.Leads() {
		m.collectConsumers(gauge)
	}
	if s := m.config.Stream; s != nil {
		if at, err := s.Head(); err == nil {
			m.mu.Lock()
			m.heard(at)
			head := m.tick
			m.mu.Unlock()
			gauge(m.head, float64(head.Seq))
			gauge(m.position, float64(at.Seq))
		}
		ring, table := s.Reads()
		counter(m.reads, ring, "ring")
		counter(m.reads, table, "table")
	}
	if p := m.config.Pacer; p != nil {
		gauge(m.leads, asNumber(p.Leads()))
	}
	if l := m.config.Listener; l != nil {
		gauge(m.hears, asNumber(l.Hears()))
		counter(m.redials, l.Reconnects())
	}
	for name, last := range m.config.Loops {
		if at := last(); !at.IsZero() {
			gauge(m.loop, timestamp(at), name)
		}
	}
}

// collectQueues shows each queue under its own name, or all beyond the cap as one.
func (m *Metrics) collectQueues(gauge func(*prometheus.Desc, float64, ...string)) {
	type sum struct {
		counts [tracked]int64
		oldest time.Time
		paused bool
		drift  int64
	}
	sums := make(map[string]*sum)
	named := func(queue string) *sum {
		s := sums[queue]
		if s == nil {
			s = &sum{}
			sums[queue] = s
		}
		return s
	}
	numbers, drift := m.config.Overview.Queues(), m.config.Overview.Drift()
	m.mu.Lock()
	for i := range numbers {
		q := &numbers[i]
		s := named(m.queues.value(q.Name))
		for j, status := range trackedStatuses {
			s.counts[j] += q.Counts[status]
		}
		if at := q.OldestPendingAt; !at.IsZero() && (s.oldest.IsZero() || at.Before(s.oldest)) {
			s.oldest = at
		}
		s.paused = s.paused || q.Paused
		s.drift += drift[q.Name]
	}
	m.mu.Unlock()
	for queue, s := range sums {
		for j, status := range trackedStatuses {
			gauge(m.queueJobs, float64(s.counts[j]), queue, string(status))
		}
		if !s.oldest.IsZero() {
			gauge(m.oldest, timestamp(s.oldest), queue)
		}
		gauge(m.paused, asNumber(s.paused), queue)
		gauge(m.drift, float64(s.drift), queue)
	}
}

func asNumber(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func timestamp(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// Register registers m; nil registerer: not measured.
func (m *Metrics) Register(registerer prometheus.Registerer) error {
	if registerer == nil {
		return nil
	}
	if err := registerer.Register(m); err != nil {
		var already prometheus.AlreadyRegisteredError
		if errors.As(err, &already) {
			return fmt.Errorf("events: metrics are registered twice: %w", err)
		}
		return fmt.Errorf("events: register metrics: %w", err)
	}
	return nil
}
