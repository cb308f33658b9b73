package relay

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the metrics of a relay.
type counts struct {
	published, duplicates, sessions, failures prometheus.Counter
	position, inFlight, lastAck               prometheus.Gauge
}

func (c *counts) register(registerer prometheus.Registerer) error {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "miniasynq_relay_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "miniasynq_relay_" + name, Help: help})
	}
	c.published = counter("events_published_total", "Events that JetStream has stored.")
	c.duplicates = counter("events_duplicate_total", "Events that JetStream had already.")
	c.sessions = counter("sessions_failed_total", "How often the relay had to find its place anew.")
	c.failures = counter("source_failures_total", "Reads of the server's stream that failed.")
	c.position = gauge("position_seq", "Everything up to this position is in JetStream.")
	c.inFlight = gauge("events_in_flight", "Events that are published and not acknowledged yet.")
	c.lastAck = gauge("last_ack_timestamp_seconds", "When the position last moved.")
	if registerer == nil {
		return nil
	}
	var faults []error
	for _, collector := range []prometheus.Collector{
		c.published, c.duplicates, c.sessions, c.failures, c.position, c.inFlight, c.lastAck,
	} {
		faults = append(faults, registerer.Register(collector))
	}
	return errors.Join(faults...)
}
