package events

import (
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// deliveryCounts are the numbers of one webhook, or of all beyond those that are told apart.
type deliveryCounts struct {
	delivered, retried, failed atomic.Int64
	cursor                     atomic.Int64 // 0: this node has not sent for it
}

// deliveryMetrics are the numbers by the name of the label.
type deliveryMetrics struct {
	mu     sync.Mutex // guards what follows; nothing blocks under it
	labels labelCap
	by     map[string]*deliveryCounts
}

func (m *deliveryMetrics) init(overflow prometheus.Counter) {
	m.labels, m.by = newLabelCap(200, overflow), make(map[string]*deliveryCounts)
}

func (m *deliveryMetrics) of(id uuid.UUID) *deliveryCounts {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.labels.value(id.String())
	if m.by[name] == nil {
		m.by[name] = &deliveryCounts{}
	}
	return m.by[name]
}

var (
	webhookDeliveries = prometheus.NewDesc("miniasynq_webhook_deliveries_total",
		"Tries to deliver an event, by this node: delivered, retried (parked until the next try), failed (given up).",
		[]string{"name", "outcome"}, nil)
	webhookLag = prometheus.NewDesc("miniasynq_webhook_lag_events",
		"Events between the head and the cursor of a webhook, on the node that sends for it.", []string{"name"}, nil)
)

// Describe is that of a prometheus.Collector.
func (w *Webhooks) Describe(out chan<- *prometheus.Desc) { out <- webhookDeliveries; out <- webhookLag }

// Collect reads all values from live memory.
func (w *Webhooks) Collect(out chan<- prometheus.Metric) {
	head, err := w.config.Readers.config.Stream.Head()
	w.mu.Lock()
	held := make(map[string]bool, len(w.held))
	for id := range w.held {
		held[id.String()] = true
	}
	w.mu.Unlock()
	w.counts.mu.Lock()
	defer w.counts.mu.Unlock()
	for name, c := range w.counts.by {
		for outcome, n := range map[string]int64{"delivered": c.delivered.Load(), "retried": c.retried.Load(), "failed": c.failed.Load()} {
			out <- prometheus.MustNewConstMetric(webhookDeliveries, prometheus.CounterValue, float64(n), name, outcome)
		}
		if err == nil && held[name] {
			out <- prometheus.MustNewConstMetric(webhookLag, prometheus.GaugeValue, float64(max(head.Seq-c.cursor.Load(), 0)), name)
		}
	}
}
