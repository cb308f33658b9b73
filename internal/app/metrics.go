package app

import (
	"github.com/prometheus/client_golang/prometheus"
)

// nodeMetrics are what a node says about itself, read from live memory when Prometheus asks.
type nodeMetrics struct {
	node    *node
	metrics []nodeMetric
}

type nodeMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func() float64
	label []string
}

func newNodeMetrics(n *node) *nodeMetrics {
	m := &nodeMetrics{node: n}
	add := func(kind prometheus.ValueType, name, help string, value func() float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		m.metrics = append(m.metrics, nodeMetric{prometheus.NewDesc("miniasynq_"+name, help, names, nil), kind, value, values})
	}
	gauge := func(name, help string, value func() float64, labels ...string) {
		add(prometheus.GaugeValue, name, help, value, labels...)
	}
	counter := func(name, help string, value func() float64, labels ...string) {
		add(prometheus.CounterValue, name, help, value, labels...)
	}
	e := n.engine
	if e.Pool != nil {
		gauge("node_slots", "Handlers that this node runs at once.", func() float64 { return float64(e.Pool.Slots()) })
		gauge("node_slots_busy", "Handlers that run on this node.", func() float64 { return float64(e.Pool.Busy()) })
		gauge("handlers_abandoned", "Handlers that still run although their job was given up.",
			func() float64 { return float64(e.Pool.Abandoned()) })
	}
	counter("turns_total", "Round trips that store outcomes and claim jobs.", func() float64 { return float64(e.Dispatcher.Stats().Turns) })
	counter("jobs_claimed_total", "Jobs claimed by this node.", func() float64 { return float64(e.Dispatcher.Stats().Claimed) })
	counter("claims_empty_total", "Claims that found nothing.", func() float64 { return float64(e.Dispatcher.Stats().EmptyClaims) })
	counter("enqueue_batches_total", "Commits that stored jobs.", func() float64 { return float64(e.Inserter.Stats().Batches) })
	counter("enqueue_rows_total", "Jobs stored in shared commits.", func() float64 { return float64(e.Inserter.Stats().Rows) })
	gauge("parked_claims", "Claims of remote workers that wait at this node.", func() float64 { return float64(n.api.ParkedClaims()) })
	gauge("build_info", "The version of this node.", func() float64 { return 1 }, "version", n.config.Version, "commit", n.config.Commit)
	return m
}

// Describe sends nothing: the collector is checked when it collects.
func (m *nodeMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads every value.
func (m *nodeMetrics) Collect(out chan<- prometheus.Metric) {
	for _, metric := range m.metrics {
		out <- prometheus.MustNewConstMetric(metric.desc, metric.kind, metric.value(), metric.label...)
	}
}
