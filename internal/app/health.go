package app

import (
	"context"
	"time"

	"github.com/mini-asynq/mini-asynq/api"
)

// stale is the silence after which a loop counts as stuck: three sweeps.
const stale = 90 * time.Second

// health says how the node is. Ready is: the database can be written, the stream is known, the loops move.
func (n *node) health(ctx context.Context) api.HealthReport {
	e := n.engine
	report := api.HealthReport{Status: api.HealthOK, Leader: e.Pacer.Leads(), Checks: make(map[string]string)}
	worse := func(name, what string, status api.HealthStatus) {
		report.Checks[name] = what
		if report.Status == api.HealthOK || status == api.HealthUnavailable {
			report.Status = status
		}
	}
	var readOnly bool
	err := e.Door.QueryRow(ctx, `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'`).Scan(&readOnly)
	switch {
	case err != nil:
		worse("database", "cannot be reached", api.HealthUnavailable)
	case readOnly:
		worse("database", "is read-only", api.HealthUnavailable)
	default:
		report.Checks["database"] = "ok"
	}
	if _, err := e.Stream.Head(); err != nil {
		worse("stream", "not read yet", api.HealthUnavailable)
	} else if time.Since(e.Stream.LastSuccess()) > stale {
		worse("stream", "stands still", api.HealthUnavailable)
	} else {
		report.Checks["stream"] = "ok"
	}
	if time.Since(e.Pacer.LastSuccess()) > stale {
		worse("pacer", "stands still", api.HealthUnavailable)
	} else {
		report.Checks["pacer"] = "ok"
	}
	if time.Since(e.Dispatcher.LastSuccess()) > stale {
		worse("deadlines", "stand still", api.HealthUnavailable)
	} else {
		report.Checks["deadlines"] = "ok"
	}
	if e.Listener.Hears() {
		report.Checks["listener"] = "ok"
	} else {
		worse("listener", "does not hear: wake-ups come by timer", api.HealthDegraded)
	}
	if e.Pool != nil {
		report.Checks["workers"] = "ok"
		if e.Pool.Abandoned() >= e.Pool.Slots() {
			worse("workers", "every slot is held by a handler that does not return", api.HealthUnavailable)
		}
	}
	return report
}
