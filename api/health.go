package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

// HealthStatus is how a node is.
type HealthStatus string

// The states of a node. Degraded still serves.
const (
	HealthOK          HealthStatus = "ok"
	HealthDegraded    HealthStatus = "degraded"
	HealthUnavailable HealthStatus = "unavailable"
	healthDraining    HealthStatus = "draining"
)

// HealthReport is what the node knows about itself: database writable, schema current, stream moving, listener
// connected. The values of Checks are "ok", or what is wrong, in words that may be shown to readers.
type HealthReport struct {
	Status   HealthStatus
	Leader   bool
	Draining bool
	Checks   map[string]string
}

// healthDeadline bounds the question how the node is: a probe waits no longer.
const healthDeadline = 2 * time.Second

func (s *Server) report(ctx context.Context) HealthReport {
	ctx, cancel := context.WithTimeout(ctx, healthDeadline)
	defer cancel()
	r := s.config.Health(ctx)
	if r.Draining || s.isDraining() {
		r.Status, r.Draining = healthDraining, true
	}
	if r.Status == "" {
		r.Status = HealthUnavailable // who does not say that it is well is not
	}
	return r
}

// statusOf is 503 for a node that should get no calls.
func (r HealthReport) statusOf(c *gin.Context) int {
	if r.Status == HealthOK || r.Status == HealthDegraded {
		return http.StatusOK
	}
	c.Header("Retry-After", strconv.Itoa(int(retryIn/time.Second)))
	return http.StatusServiceUnavailable
}

type healthBody struct {
	Status      HealthStatus      `json:"status"`
	Node        string            `json:"node,omitempty"`
	Version     string            `json:"version,omitempty"`
	Commit      string            `json:"commit,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Leader      *bool             `json:"leader,omitempty"`
	Checks      map[string]string `json:"checks,omitempty"`
}

// health is ready with details, for those who may read.
func (s *Server) health(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	r := s.report(c.Request.Context())
	body := healthBody{Status: r.Status}
	if callOf(c).principal.Allows(ScopeRead) {
		body.Node, body.Version, body.Commit = s.config.Node, s.config.Version, s.config.Commit
		body.Environment, body.Leader, body.Checks = s.config.Environment, &r.Leader, r.Checks
	}
	return reply(c, r.statusOf(c), body)
}

// live says that the process answers. It asks nobody: a database that is away is no reason to restart a node.
func (s *Server) live(c *gin.Context) error {
	return reply(c, http.StatusOK, healthBody{Status: HealthOK})
}

func (s *Server) ready(c *gin.Context) error {
	r := s.report(c.Request.Context())
	return reply(c, r.statusOf(c), healthBody{Status: r.Status})
}

// metricsHandler is GET /metrics. What a collector cannot say is left out and logged; its error's text is not shown.
func (s *Server) metricsHandler() func(*gin.Context) error {
	metrics := promhttp.HandlerFor(s.config.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorHandling:     promhttp.ContinueOnError,
		ErrorLog:          metricsLog{s.config.Log},
	})
	return func(c *gin.Context) error {
		metrics.ServeHTTP(c.Writer, c.Request)
		return nil
	}
}

type metricsLog struct{ log zerolog.Logger }

func (l metricsLog) Println(v ...any) {
	for _, item := range v {
		if err, ok := item.(error); ok {
			l.log.Warn().Err(err).Msg("metrics could not be gathered")
			return
		}
	}
	l.log.Warn().Msg("metrics could not be gathered")
}
