package events

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// collectConsumers shows how far behind the named consumers are; of those beyond the cap the one that is furthest. It costs
// one short query. When the database does not answer, nothing is shown: neither is a lag of none.
func (m *Metrics) collectConsumers(gauge func(*prometheus.Desc, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), probeWait)
	defer cancel()
	all, err := Consumers(ctx, m.config.DB, nil)
	if err != nil {
		return
	}
	lags := make(map[string]int64, len(all))
	m.mu.Lock()
	for _, c := range all {
		if c.LagEvents >= 0 {
			name := m.consumers.value(c.Name)
			lags[name] = max(lags[name], c.LagEvents)
		}
	}
	m.mu.Unlock()
	for name, lag := range lags {
		gauge(m.lag, float64(lag), name)
	}
}
