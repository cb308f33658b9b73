package events_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// gathered is the sum of all samples of a metric: counts of histograms, values of the others.
func gathered(t require.TestingT, c prometheus.Collector, name string) (sum float64) {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(c))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "miniasynq_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// TestEachEventIsCountedByOneNode: three nodes make ticks by turns; each hears of its own ticks before or after it reads
// their events, and reads at its own pace.
func TestEachEventIsCountedByOneNode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const nodes = 3
		var stream []*events.Event
		type node struct {
			*events.Metrics
			folded  int
			unnamed *events.Tick // made, and the answer is on its way
		}
		var all [nodes]*node
		for i := range all {
			all[i] = &node{Metrics: events.NewMetrics(events.MetricsConfig{})}
		}
		drawn := func(t *rapid.T) *node { return all[rapid.IntRange(0, nodes-1).Draw(t, "node")] }
		name := func(n *node) {
			if n.unnamed != nil {
				n.Published(*n.unnamed)
				n.unnamed = nil
			}
		}
		fold := func(n *node, count int) {
			count = min(count, len(stream)-n.folded)
			n.Fold(stream[n.folded : n.folded+count])
			n.folded += count
		}
		t.Repeat(map[string]func(*rapid.T){
			"tick": func(t *rapid.T) {
				n := drawn(t)
				name(n) // the next statement comes after the answer
				size := rapid.IntRange(1, 5).Draw(t, "size")
				n.unnamed = &events.Tick{Epoch: 1, FirstSeq: int64(len(stream) + 1), N: int64(size)}
				for range size {
					stream = append(stream, happened(int64(len(stream)+1), "q", time.Now(), "", jobs.Pending))
				}
			},
			"name": func(t *rapid.T) { name(drawn(t)) },
			"fold": func(t *rapid.T) { fold(drawn(t), rapid.IntRange(1, 7).Draw(t, "n")) },
		})
		sum := 0.0
		for _, n := range all {
			fold(n, len(stream))
			name(n)
			sum += gathered(t, n.Metrics, "jobs_enqueued_total")
		}
		require.Equal(t, float64(len(stream)), sum)
	})
}

func TestEventsOfOthersAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := events.NewMetrics(events.MetricsConfig{})
		seq := int64(0)
		fold := func(n int) {
			for range n {
				seq++
				m.Fold([]*events.Event{happened(seq, "q", time.Now(), "", jobs.Pending)})
			}
		}
		fold(70_000)
		require.LessOrEqual(t, m.WaitingRecords(), 65536)
		pass(11 * time.Second) // of the bubble
		fold(1)
		require.Equal(t, 1, m.WaitingRecords())
		m.Published(events.Tick{Epoch: 1, FirstSeq: seq + 1, N: 1})
		require.Zero(t, m.WaitingRecords(), "what waits from before an own tick is another node's")
		fold(1)
		require.EqualValues(t, 1, gathered(t, m, "jobs_enqueued_total"))
		// Another epoch: the same position is another event.
		m.Published(events.Tick{Epoch: 1, FirstSeq: seq + 1, N: 1})
		next := happened(seq+1, "q", time.Now(), "", jobs.Pending)
		next.Epoch = 2
		m.Fold([]*events.Event{next})
		require.EqualValues(t, 1, gathered(t, m, "jobs_enqueued_total"))
	})
}

func TestWhatEventsCountFor(t *testing.T) {
	t.Parallel()
	m := events.NewMetrics(events.MetricsConfig{})
	m.Published(events.Tick{Epoch: 1, FirstSeq: 1, N: 100})
	run, wait, total := ms(40), ms(2), ms(700)
	steps := []struct {
		from, to jobs.Status
		kind     string
		cause    string
	}{
		{"", jobs.Pending, "job.enqueued", ""}, {"", jobs.Scheduled, "job.scheduled", ""},
		{jobs.Scheduled, jobs.Pending, "job.ready", ""}, {jobs.Pending, jobs.Running, "job.started", ""},
		{jobs.Running, jobs.Completed, "job.completed", ""}, {jobs.Running, jobs.Retrying, "job.retrying", "error"},
		{jobs.Running, jobs.Retrying, "job.retrying", "timeout"}, {jobs.Running, jobs.Dead, "job.dead", "lease_expired"},
		{jobs.Running, jobs.Scheduled, "job.snoozed", ""}, {jobs.Running, jobs.Pending, "job.released", "shutdown"},
		{jobs.Pending, jobs.Cancelled, "job.cancelled", ""}, {jobs.Running, jobs.Cancelled, "job.cancelled", ""},
		{jobs.Dead, jobs.Pending, "job.redriven", ""}, {jobs.Pending, jobs.Dead, "job.redrive_undone", ""},
		{jobs.Dead, "", "job.deleted", ""}, {jobs.Running, jobs.Running, "job.progress", ""},
	}
	for i, s := range steps {
		e := happened(int64(i+1), "mail", time.Now(), s.from, s.to)
		e.Type, e.Cause = s.kind, s.cause
		switch {
		case s.to == jobs.Running && s.from != jobs.Running:
			e.WaitMS = wait
		case s.from == jobs.Running:
			e.RunMS = run
		}
		if s.to.Finished() {
			e.TotalMS = total
		}
		m.Fold([]*events.Event{e})
	}
	require.NoError(t, testutil.CollectAndCompare(m, strings.NewReader(`
# HELP miniasynq_job_attempts_total Attempts that ended, counted once in all nodes.
# TYPE miniasynq_job_attempts_total counter
miniasynq_job_attempts_total{kind="mail",outcome="cancelled",queue="mail"} 1
miniasynq_job_attempts_total{kind="mail",outcome="completed",queue="mail"} 1
miniasynq_job_attempts_total{kind="mail",outcome="failed",queue="mail"} 1
miniasynq_job_attempts_total{kind="mail",outcome="lease_expired",queue="mail"} 1
miniasynq_job_attempts_total{kind="mail",outcome="released",queue="mail"} 1
miniasynq_job_attempts_total{kind="mail",outcome="snoozed",queue="mail"} 1
miniasynq_job_attempts_total{kind="mail",outcome="timed_out",queue="mail"} 1
# HELP miniasynq_jobs_enqueued_total New jobs, counted once in all nodes.
# TYPE miniasynq_jobs_enqueued_total counter
miniasynq_jobs_enqueued_total{kind="mail",mode="immediate",queue="mail"} 1
miniasynq_jobs_enqueued_total{kind="mail",mode="scheduled",queue="mail"} 1
# HELP miniasynq_jobs_finished_total Jobs that ended, counted once in all nodes.
# TYPE miniasynq_jobs_finished_total counter
miniasynq_jobs_finished_total{kind="mail",queue="mail",status="cancelled"} 2
miniasynq_jobs_finished_total{kind="mail",queue="mail",status="completed"} 1
miniasynq_jobs_finished_total{kind="mail",queue="mail",status="dead"} 1
`), "miniasynq_job_attempts_total", "miniasynq_jobs_enqueued_total", "miniasynq_jobs_finished_total"))
	require.EqualValues(t, 1, gathered(t, m, "job_wait_seconds"))
	require.EqualValues(t, 7, gathered(t, m, "job_run_seconds"))
	require.EqualValues(t, 4, gathered(t, m, "job_total_seconds"))
}

func TestLabelsAreCapped(t *testing.T) {
	t.Parallel()
	m := events.NewMetrics(events.MetricsConfig{MaxLabels: 10})
	m.Published(events.Tick{Epoch: 1, FirstSeq: 1, N: 10_000})
	for i := range int64(10_000) {
		e := happened(i+1, "q"+strconv.FormatInt(i%20, 10), time.Now(), "", jobs.Pending)
		e.Kind = "k" + strconv.FormatInt(i, 10)
		m.Fold([]*events.Event{e})
	}
	require.EqualValues(t, 10_000, gathered(t, m, "jobs_enqueued_total"))
	require.LessOrEqual(t, testutil.CollectAndCount(m, "miniasynq_jobs_enqueued_total"), 11*11)
	require.EqualValues(t, 5000+9990, gathered(t, m, "label_overflow_total"))
}

func TestGaugesOfQueuesAreTheLeaders(t *testing.T) {
	t.Parallel()
	leads := false
	stream := events.NewReadyStream(events.Position{Epoch: 1, Seq: 40})
	o := events.NewOverview(events.OverviewConfig{Probe: -1, Stream: stream})
	due := time.Unix(1_700_000_000, 0)
	require.NoError(t, o.BeginCount()(events.Base{Snapshot: "1:1:", Rows: []jobs.Queue{{Name: "idle", Paused: true}}}))
	o.Fold([]*events.Event{happened(1, "mail", due, "", jobs.Pending)})
	m := events.NewMetrics(events.MetricsConfig{
		Overview: o, Leads: func() bool { return leads }, Stream: stream,
		Loops: map[string]func() time.Time{"pacer": func() time.Time { return due }, "never": func() time.Time { return time.Time{} }},
	})
	m.Heard(events.Note{Kind: events.NoteTick, Last: events.Position{Epoch: 1, Seq: 44}})
	require.Zero(t, gathered(t, m, "queue_jobs")+gathered(t, m, "queue_paused"), "not on a follower")
	require.EqualValues(t, 44, gathered(t, m, "stream_head_seq"))
	require.EqualValues(t, 40, gathered(t, m, "stream_position_seq"))
	require.EqualValues(t, due.Unix(), gathered(t, m, "loop_last_success_timestamp_seconds"))
	leads = true
	require.EqualValues(t, 1, gathered(t, m, "queue_jobs"))
	require.EqualValues(t, due.Unix(), gathered(t, m, "queue_oldest_pending_timestamp_seconds"), "absent for the empty queue")
	require.EqualValues(t, 1, gathered(t, m, "queue_paused"))
	require.Equal(t, 12, testutil.CollectAndCount(m, "miniasynq_queue_jobs"))
}

func BenchmarkMetricsFold(b *testing.B) {
	m := events.NewMetrics(events.MetricsConfig{})
	batch := make([]*events.Event, 500)
	for i := range batch {
		batch[i] = happened(int64(i+1), "q"+strconv.Itoa(i%8), time.Now(), jobs.Running, jobs.Completed,
			func(e *events.Event) { e.RunMS, e.TotalMS = ms(3), ms(9) })
	}
	m.Published(events.Tick{Epoch: 1, FirstSeq: 1, N: 1 << 40})
	for b.Loop() {
		m.Fold(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/event")
}
