package hub

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the hub; what other transports count under the same names has other labels.
type metrics struct {
	sent        atomic.Int64
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
			ConstLabels: prometheus.Labels{"transport": "ws", "class": "plain"},
		}, func() float64 { return float64(h.Sockets()) }),
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
