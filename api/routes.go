package api

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"
)

// prefix of the interface; the dashboard and the problem pages lie beside it.
const prefix = "/api/v1"

// route is a line of the policy table.
type route struct {
	method string
	path   string // after the base path; gin's template
	scope  Scope  // what the caller needs; open: nothing
	flags  routeFlag
	handle func(*gin.Context) error
}

type routeFlag uint8

const (
	anyHost     routeFlag = 1 << iota // probes name the node as they please
	asksCaller                        // open, and says more to who may read
	opensSocket                       // a foreign page must not: held to the rule of writes. Takes a ticket, too
	ofAllQueues                       // it cannot be cut down to some queues
)

// policy is the one table of who may do what: a route that is not in it does not exist. Reading needs read, what
// programs do its own scope, and everything an operator does lies under /admin/ and needs operate.
func (s *Server) policy() []route {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	table := []route{
		{get, prefix + "/jobs", ScopeRead, 0, s.listJobs},
		{post, prefix + "/jobs", ScopeEnqueue, 0, s.enqueueJob},
		{post, prefix + "/jobs/batch", ScopeEnqueue, 0, s.enqueueBatch},
		{get, prefix + "/jobs/count", ScopeRead, 0, s.countJobs},
		{get, prefix + "/jobs/:id", ScopeRead, 0, s.getJob},
		{get, prefix + "/jobs/:id/attempts", ScopeRead, 0, s.jobAttempts},
		{get, prefix + "/jobs/:id/events", ScopeRead, 0, s.jobEvents},
		{get, prefix + "/jobs/:id/result", ScopeReadPayload, 0, s.jobResult},

		{post, prefix + "/admin/jobs/:id/retry", ScopeOperate, 0, s.retryJob},
		{post, prefix + "/admin/jobs/:id/run-now", ScopeOperate, 0, s.runJobNow},
		{post, prefix + "/admin/jobs/:id/cancel", ScopeOperate, 0, s.cancelJob},
		{del, prefix + "/admin/jobs/:id", ScopeOperate, 0, s.deleteJob},
		{post, prefix + "/admin/jobs/:id/clone", ScopeOperate, 0, s.cloneJob},
		{http.MethodPatch, prefix + "/admin/jobs/:id", ScopeOperate, 0, s.patchJob},

		{get, prefix + "/queues", ScopeRead, 0, s.listQueues},
		{get, prefix + "/queues/:queue", ScopeRead, 0, s.getQueue},
		{post, prefix + "/admin/queues/:queue/pause", ScopeOperate, 0, s.pauseQueue},
		{post, prefix + "/admin/queues/:queue/resume", ScopeOperate, 0, s.resumeQueue},
		{post, prefix + "/admin/operations", ScopeOperate, 0, s.createOperation},
		{post, prefix + "/admin/operations/:id/cancel", ScopeOperate, 0, s.cancelOperation},
		{get, prefix + "/operations", ScopeRead, 0, s.listOperations},
		{get, prefix + "/operations/:id", ScopeRead, 0, s.getOperation},

		{get, prefix + "/failures", ScopeRead, 0, s.listFailures},
		{get, prefix + "/stats", ScopeRead, 0, s.stats},

		{post, prefix + "/login", open, 0, s.login},
		{post, prefix + "/logout", open, 0, s.logout},
		{get, prefix + "/me", open, asksCaller, s.me},
		{post, prefix + "/stream-tickets", ScopeRead, 0, s.streamTicket},
		{get, prefix + "/admin/keys", ScopeAdmin, 0, s.listKeys},
		{post, prefix + "/admin/keys", ScopeAdmin, 0, s.createKey},
		{del, prefix + "/admin/keys/:id", ScopeAdmin, 0, s.revokeKey},
		{post, prefix + "/admin/keys/:id/rotate", ScopeAdmin, 0, s.rotateKey},
		{get, prefix + "/admin/audit", ScopeAdmin, 0, s.listAudit},

		{get, prefix + "/health", open, anyHost | asksCaller, s.health},
		{get, prefix + "/health/live", open, anyHost, s.live},
		{get, prefix + "/health/ready", open, anyHost, s.ready},

		{get, prefix + "/openapi.yaml", ScopeRead, 0, s.openapiYAML},
		{get, prefix + "/openapi.json", ScopeRead, 0, s.openapiJSON},
		{get, prefix + "/asyncapi.yaml", ScopeRead, 0, s.asyncapiYAML},
		{get, "/docs", ScopeRead, 0, s.docs},

		{get, "/problems/:name", open, 0, s.problemPage},
	}
	if s.config.Work != nil {
		table = append(table,
			route{post, prefix + "/workers", ScopeWork, 0, s.registerWorker},
			route{get, prefix + "/workers", ScopeRead, 0, s.listWorkers},
			route{get, prefix + "/workers/:id", ScopeRead, 0, s.getWorker},
			route{del, prefix + "/workers/:id", ScopeWork, 0, s.removeWorker},
			route{post, prefix + "/workers/:id/claim", ScopeWork, 0, s.claimJobs},
			route{post, prefix + "/workers/:id/heartbeat", ScopeWork, 0, s.beat},
			route{post, prefix + "/workers/:id/outcomes", ScopeWork, 0, s.batchOutcomes},
			route{post, prefix + "/jobs/:id/complete", ScopeWork, 0, s.completeJob},
			route{post, prefix + "/jobs/:id/fail", ScopeWork, 0, s.failJob},
			route{post, prefix + "/jobs/:id/snooze", ScopeWork, 0, s.snoozeJob},
			route{post, prefix + "/jobs/:id/release", ScopeWork, 0, s.releaseJob},
			route{post, prefix + "/jobs/:id/progress", ScopeWork, 0, s.progressJob},
			route{post, prefix + "/admin/workers/:id/quiet", ScopeOperate, 0, s.quietWorker},
			route{post, prefix + "/admin/workers/:id/drain", ScopeOperate, 0, s.drainWorker},
		)
	}
	if s.config.Readers != nil {
		table = append(table,
			route{get, prefix + "/events", ScopeRead, 0, s.readEvents},
			route{get, prefix + "/events/position", ScopeRead, 0, s.eventPosition},

			route{http.MethodPut, prefix + "/admin/consumers/:name", ScopeOperate, 0, s.putConsumer},
			route{del, prefix + "/admin/consumers/:name", ScopeOperate, 0, s.deleteConsumer},
			route{post, prefix + "/admin/consumers/:name/reset", ScopeOperate, 0, s.resetConsumer},
			route{get, prefix + "/consumers", ScopeRead, 0, s.listConsumers},
			route{get, prefix + "/consumers/:name", ScopeRead, 0, s.getConsumer},
			route{get, prefix + "/consumers/:name/events", ScopeRead, 0, s.consumerEvents},
			route{post, prefix + "/consumers/:name/ack", ScopeRead, 0, s.ackConsumer},
		)
	}
	if s.config.Webhooks != nil {
		table = append(table,
			route{get, prefix + "/admin/webhooks", ScopeAdmin, 0, s.listWebhooks},
			route{post, prefix + "/admin/webhooks", ScopeAdmin, 0, s.createWebhook},
			route{get, prefix + "/admin/webhooks/:id", ScopeAdmin, 0, s.getWebhook},
			route{http.MethodPatch, prefix + "/admin/webhooks/:id", ScopeAdmin, 0, s.patchWebhook},
			route{del, prefix + "/admin/webhooks/:id", ScopeAdmin, 0, s.deleteWebhook},
			route{post, prefix + "/admin/webhooks/:id/test", ScopeAdmin, 0, s.testWebhook},
			route{post, prefix + "/admin/webhooks/:id/rotate-secret", ScopeAdmin, 0, s.rotateWebhookSecret},
			route{get, prefix + "/admin/webhooks/:id/deliveries", ScopeAdmin, 0, s.listDeliveries},
			route{post, prefix + "/admin/webhooks/:id/pause", ScopeOperate, ofAllQueues, s.pauseWebhook},
			route{post, prefix + "/admin/webhooks/:id/resume", ScopeOperate, ofAllQueues, s.resumeWebhook},
			route{post, prefix + "/admin/webhooks/:id/replay", ScopeOperate, ofAllQueues, s.replayWebhook},
		)
	}
	if s.config.Gatherer != nil {
		table = append(table, route{get, prefix + "/metrics", ScopeRead, ofAllQueues, s.metricsHandler()})
	}
	if s.config.Hub != nil {
		table = append(table, route{get, prefix + "/ws", ScopeRead, opensSocket, s.socket})
	}
	if s.config.Web != nil {
		web := func(c *gin.Context) error { s.serveWeb(c); return nil }
		table = append(table, route{get, "/", open, 0, web}, route{get, "/assets/*file", open, 0, web})
	}
	return table
}

// Route is a line of the policy table, as tests and documentation read it.
type Route struct {
	Method, Path string
	Scope        Scope // "": open
}

// Routes lists the policy table.
func (s *Server) Routes() []Route {
	table := s.policy()
	out := make([]Route, len(table))
	for i, r := range table {
		out[i] = Route{r.method, s.config.BasePath + r.path, r.scope}
	}
	return out
}

// serve is the way to one handler: draining, caller, scope, handler, answer.
func (s *Server) serve(r route) gin.HandlerFunc {
	return func(c *gin.Context) {
		err := s.admit(c, r)
		if h := callOf(c).principal.held; h != nil {
			defer s.keys.begin(h)()
			if r.flags&opensSocket == 0 { // who opens a socket is told by a code
				defer endWith(h.ctx, c)()
			}
		}
		if err == nil {
			err = r.handle(c)
		}
		if err != nil {
			s.fail(c, err)
		}
	}
}

// endWith ends a call when the credential behind it does; done lets go of that.
func endWith(life context.Context, c *gin.Context) (done func()) {
	ctx, cancel := context.WithCancelCause(c.Request.Context())
	stop := context.AfterFunc(life, func() { cancel(errCredentialEnded) })
	c.Request = c.Request.WithContext(ctx)
	return func() {
		stop()
		cancel(nil)
	}
}

// admit asks whether the call may go on, and who calls.
func (s *Server) admit(c *gin.Context, r route) error {
	if r.method != http.MethodGet && s.isDraining() {
		return refuse(draining, "this node shuts down")
	}
	if r.scope == open && r.flags&asksCaller == 0 {
		return nil
	}
	p, err := s.authenticate(c, r)
	if err != nil {
		return err
	}
	known := callOf(c)
	p.Local = known.local
	known.principal = p
	switch {
	case r.scope == open || p.Allows(r.scope):
	case p.anonymous:
		return s.challenge(c)
	default:
		return refuse(forbidden, "the credential lacks a scope").with("required_scope", r.scope)
	}
	if r.flags&ofAllQueues != 0 && p.queues != nil {
		return refuse(forbidden, "a key that is held to some queues may not use what is of all")
	}
	if r.flags&opensSocket != 0 {
		c.Request = c.Request.WithContext(forMounted(c.Request.Context(), known))
	}
	return nil
}

func (s *Server) socket(c *gin.Context) error {
	r := c.Request
	if wantsHead(c) { // a HEAD opens no socket, and the hub says so
		head := *r
		head.Method = http.MethodHead
		r = &head
	}
	s.config.Hub.ServeHTTP(c.Writer, r)
	return nil
}

func (s *Server) serveWeb(c *gin.Context) {
	c.Writer.Header().Del("Cache-Control") // hashed files live for ever, and only the dashboard knows which
	http.StripPrefix(s.config.BasePath, s.config.Web).ServeHTTP(c.Writer, c.Request)
}
