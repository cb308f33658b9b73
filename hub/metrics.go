package hub

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the hub; what other transports count under the same names has other labels.
type metrics struct {
	sent        atomic.Int64           // events
	skipped     atomic.Int64           // positions that views were told to pass over
	disconnects *prometheus.CounterVec // nil: not measured
}

func (h *Hub) register(registerer prometheus.Registerer) error {
	if registerer == nil {
		return nil
	}
	transport := prometheus.Labels{"transport": "ws"}
	h.metrics.disconnects = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "miniasynq_stream_disconnects_total", Help: "Sockets that ended, by close code.",
	}, []string{"code"})
	var faults []error
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "miniasynq_stream_subscribers", Help: "Readers of the event stream on this node.",
			ConstLabels: prometheus.Labels{"transport": "ws", "class": classPlain},
		}, func() float64 { return float64(h.subscribers(classPlain)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "miniasynq_stream_subscribers", Help: "Readers of the event stream on this node.",
			ConstLabels: prometheus.Labels{"transport": "ws", "class": classView},
		}, func() float64 { return float64(h.subscribers(classView)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "miniasynq_stream_subscribers", Help: "Readers of the event stream on this node.",
			ConstLabels: prometheus.Labels{"transport": "ws", "class": classConsumer},
		}, func() float64 { return float64(h.subscribers(classConsumer)) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "miniasynq_stream_skipped_total", Help: "Events that subscriptions of class view were told to pass over.",
		}, func() float64 { return float64(h.metrics.skipped.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "miniasynq_stream_events_sent_total", Help: "Events sent to readers of the stream.",
			ConstLabels: transport,
		}, func() float64 { return float64(h.metrics.sent.Load()) }),
		h.metrics.disconnects,
	} {
		faults = append(faults, registerer.Register(c))
	}
	return errors.Join(faults...)
}

func (m *metrics) ended(code CloseCode) {
	if m.disconnects != nil {
		m.disconnects.WithLabelValues(code.String()).Inc()
	}
}

// subscribers counts the readers of a class that there are now.
func (h *Hub) subscribers(class string) (n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sockets {
		switch m := s.mode.(type) {
		case *plain:
			if class == classPlain {
				n++
			}
		case *session:
			if class == classView {
				n += m.views.Load()
			}
			if class == classConsumer {
				n += m.consumers.Load()
			}
		}
	}
	return n
}
