package figures

// Target is a bound on a metric of one of our cells: on its ratio to a reference, or on the figure itself.
type Target struct {
	Workload  string // in words
	Cell      string
	Metric    string
	Reference string // a cell; empty: the bound is absolute
	AtMost    bool   // the bound is an upper one
	Bound     float64
	Unit      string // of an absolute bound
}

// Verdict is a target beside what was measured.
type Verdict struct {
	Target

	Ours, Theirs Spread
	Value        float64 // the ratio of the medians, or our median; meaningless unless Known
	Known        bool    // both sides were measured
	Holds        bool
}

// Names of the contenders, as cells carry them behind the slash.
const (
	Mini          = "mini-asynq"
	River         = "river"
	RiverTuned    = "river-tuned"
	Asynq         = "asynq"
	Graphile      = "graphile-worker"
	Limit         = "limit"
	rate          = "jobs_per_s"
	drainOfOurs   = "drain/" + Mini
	riverAtBest   = "/" + RiverTuned
	riverIns64    = "single-64/" + RiverTuned
	latencyOfOurs = "latency-idle/" + Mini
)

// Targets are the promises about speed, in the order of the page.
func Targets() []Target {
	return []Target{
		{Workload: "drain, against River tuned", Cell: drainOfOurs, Metric: rate, Reference: "drain" + riverAtBest, Bound: 3.0},
		{Workload: "drain, against graphile-worker", Cell: drainOfOurs, Metric: rate, Reference: "drain/" + Graphile, Bound: 1.6},
		{Workload: "sustained enqueue and work", Cell: "sustained/" + Mini, Metric: rate, Reference: "sustained" + riverAtBest, Bound: 2.5},
		{Workload: "batch enqueue, 1000 a call", Cell: "batch/" + Mini, Metric: rate, Reference: "batch" + riverAtBest, Bound: 1.7},
		{Workload: "single enqueue from Go, 16 callers", Cell: "single-16/" + Mini, Metric: rate, Reference: "single-16" + riverAtBest, Bound: 3},
		{Workload: "single enqueue from Go, 64 callers", Cell: "single-64/" + Mini, Metric: rate, Reference: riverIns64, Bound: 8},
		{Workload: "single enqueue from Go, 256 callers", Cell: "single-256/" + Mini, Metric: rate, Reference: "single-256" + riverAtBest, Bound: 12},
		{Workload: "single enqueue over HTTP, 64 connections, against River in process", Cell: "http-64/" + Mini, Metric: rate, Reference: riverIns64, Bound: 3.5},
		{Workload: "the same: p99", Cell: "http-64/" + Mini, Metric: "p99_ms", AtMost: true, Bound: 10, Unit: "ms"},
		{Workload: "single enqueue over HTTP, 256 connections, against River in process at 64", Cell: "http-256/" + Mini, Metric: rate, Reference: riverIns64, Bound: 5},
		{Workload: "the same: p99", Cell: "http-256/" + Mini, Metric: "p99_ms", AtMost: true, Bound: 25, Unit: "ms"},
		{Workload: "plain SQL in own transactions, against the table without triggers", Cell: "sql-16/" + Mini, Metric: rate, Reference: "sql-16/" + Limit, Bound: 0.75},
		{Workload: "latency, idle: p50", Cell: latencyOfOurs, Metric: "p50_ms", Reference: "latency-idle" + riverAtBest, AtMost: true, Bound: 0.75},
		{Workload: "latency, idle: p99", Cell: latencyOfOurs, Metric: "p99_ms", Reference: "latency-idle" + riverAtBest, AtMost: true, Bound: 1.0},
		{Workload: "latency at half of River's drain rate: p99", Cell: "latency-half/" + Mini, Metric: "p99_ms", Reference: "latency-half" + riverAtBest, AtMost: true, Bound: 0.5},
		{Workload: "half of the jobs fail once, against our drain", Cell: "retry/" + Mini, Metric: rate, Reference: drainOfOurs, Bound: 0.6},
		{Workload: "drain beside an idle transaction with an id, against our drain", Cell: "drain-held-id/" + Mini, Metric: rate, Reference: drainOfOurs, Bound: 0.8},
		{Workload: "drain beside an idle snapshot, against our drain", Cell: "drain-held-snapshot/" + Mini, Metric: rate, Reference: drainOfOurs, Bound: 0.8},
		{Workload: "drain in a full database, against our drain", Cell: "drain-loaded/" + Mini, Metric: rate, Reference: drainOfOurs, Bound: 0.85},
		{Workload: "commit to event at a WebSocket client, full drain: p99", Cell: "ticks-drain/" + Mini, Metric: "p99_ms", AtMost: true, Bound: 60, Unit: "ms"},
		{Workload: "commit to event at a WebSocket client, idle: p99", Cell: "ticks-idle/" + Mini, Metric: "p99_ms", AtMost: true, Bound: 10, Unit: "ms"},
		{Workload: "commits per job at full load", Cell: "sustained/" + Mini, Metric: "commits_per_job", AtMost: true, Bound: 0.05},
		{Workload: "log (WAL) per job at full load, payload included", Cell: "sustained/" + Mini, Metric: "wal_bytes_per_job", AtMost: true, Bound: 2048, Unit: "bytes"},
		{Workload: "server memory, idle", Cell: "memory/" + Mini, Metric: "idle_mib", AtMost: true, Bound: 50, Unit: "MiB"},
		{Workload: "server memory, full load", Cell: "memory/" + Mini, Metric: "load_mib", AtMost: true, Bound: 200, Unit: "MiB"},
		{Workload: "server memory, backlog of 10 drains", Cell: "memory/" + Mini, Metric: "backlog_mib", AtMost: true, Bound: 200, Unit: "MiB"},
		{Workload: "statements a minute, idle", Cell: "idle/" + Mini, Metric: "statements_per_min", AtMost: true, Bound: 30},
		{Workload: "CPU of the server, idle", Cell: "idle/" + Mini, Metric: "cpu_percent", AtMost: true, Bound: 0.5, Unit: "%"},
	}
}

// Judge puts each target beside the figures.
func (r *Results) Judge(targets []Target) []Verdict {
	verdicts := make([]Verdict, len(targets))
	for i, t := range targets {
		v := Verdict{Target: t, Ours: r.Spread(t.Cell, t.Metric)}
		v.Known, v.Value = v.Ours.N > 0, v.Ours.Median
		if t.Reference != "" {
			v.Theirs = r.Spread(t.Reference, t.Metric)
			v.Known = v.Known && v.Theirs.N > 0 && v.Theirs.Median > 0
			if v.Known {
				v.Value = v.Ours.Median / v.Theirs.Median
			}
		}
		v.Holds = v.Known && (t.AtMost && v.Value <= t.Bound || !t.AtMost && v.Value >= t.Bound)
		verdicts[i] = v
	}
	return verdicts
}
