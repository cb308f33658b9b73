package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// call is what the door knows about one request.
type call struct {
	id        string     // the request id
	address   netip.Addr // the caller's; the proxy's client where the proxy is trusted
	forwarded bool       // somebody passed it on: never local
	local     bool       // from this machine, by nobody's hand
	foreign   bool       // from another origin that may call with bearer keys only
	principal Principal
	lasting   bool // a stream, whose life is no answer's time
}

const callKey = "miniasynq.call"

// callOf is the call of a request; begin has made it.
func callOf(c *gin.Context) *call {
	if v, ok := c.Get(callKey); ok {
		if known, ok := v.(*call); ok {
			return known
		}
	}
	return &call{}
}

// Values of headers that most answers have. They are shared, so nobody may write into them; Set, Add and Del do not.
var (
	headerNosniff    = []string{"nosniff"}
	headerNoReferrer = []string{"no-referrer"}
	headerNoStore    = []string{"no-store"}
	headerJSON       = []string{"application/json"}
)

type contextKey int

const (
	requestIDKey contextKey = iota
	principalKey
	connKey // the net.Conn that a request came on
	headKey // true: the request was a HEAD
)

func requestIDFrom(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func requestID(r *http.Request) string {
	if given := r.Header.Values("X-Request-Id"); len(given) == 1 && requestIDPattern.MatchString(given[0]) {
		return given[0]
	}
	return uuid.NewString()
}

// begin stands around everything: it names the request, sets its time limits, and is the one place that recovers, logs
// and measures.
func (s *Server) begin(c *gin.Context) {
	started := time.Now() // monotonic
	known := &call{id: requestID(c.Request)}
	known.address, known.forwarded, known.local = s.whence(c.Request)
	c.Set(callKey, known)

	header := c.Writer.Header()
	header.Set("X-Request-Id", known.id)
	header["X-Content-Type-Options"] = headerNosniff
	header["Referrer-Policy"] = headerNoReferrer
	header["Cache-Control"] = headerNoStore
	if s.isDraining() {
		header.Set("Connection", "close")
	}

	// Deadlines outlive a request on a kept connection, so each one sets its own. Writers that have none (tests) say
	// so, and that is all right.
	control := http.NewResponseController(c.Writer)
	_ = control.SetWriteDeadline(started.Add(answerTimeout))
	if c.Request.ContentLength != 0 {
		_ = control.SetReadDeadline(started.Add(bodyTimeout))
	}

	defer func() {
		if cause := recover(); cause != nil {
			if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(cause)
			}
			s.config.Log.Error().Str("request_id", known.id).Str("route", routeOf(c)).
				Str("error", limited(fmt.Sprint(cause))).Bytes("stack", debug.Stack()).Msg("handler panicked")
			if !c.Writer.Written() {
				s.write(c, refuse(internal, "a fault of the server; the request id finds it in the log"))
			}
		}
		s.end(c, known, time.Since(started))
	}()
	c.Next()
}

// end logs and measures. No query, header or body: they may hold payloads and tickets.
func (s *Server) end(c *gin.Context, known *call, took time.Duration) {
	route, status := routeOf(c), c.Writer.Status()
	if s.seconds != nil && !known.lasting && !strings.HasSuffix(route, "/ws") { // a socket's life is no answer's time
		s.seconds.WithLabelValues(route, methodLabel(c.Request.Method), strconv.Itoa(status)).Observe(took.Seconds())
	}
	if line := s.config.Log.Debug(); line.Enabled() {
		line.Str("request_id", known.id).Str("method", methodLabel(c.Request.Method)).Str("route", route).
			Int("status", status).Int64("duration_ms", took.Milliseconds()).Str("actor", known.principal.Name).
			Stringer("address", known.address).Msg("request")
	}
}

// routeOf is the template of the address: what was sent for its parameters is not in it.
func routeOf(c *gin.Context) string {
	if path := c.FullPath(); path != "" {
		return path
	}
	return "unmatched"
}

// methodLabel keeps the label's set small: a stranger may invent methods.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

func limited(s string) string { return s[:min(len(s), maxDetail)] }

func newRequestSeconds() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "miniasynq_http_request_seconds",
		Help: "Time from a request to its answer, waits included.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800,
			7200},
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 160,
	}, []string{"route", "method", "code"})
}

// guard refuses what no route should see: strange addresses, foreign hosts and foreign origins.
func (s *Server) guard(c *gin.Context) {
	if p := s.refusal(c); p != nil {
		s.write(c, p)
	}
}

func (s *Server) refusal(c *gin.Context) *problem {
	r := c.Request
	if len(r.RequestURI) > maxURLBytes || len(r.URL.RawQuery) > maxURLBytes {
		return refuse(uriTooLong, "an address may have 8 KiB")
	}
	if path := r.URL.EscapedPath(); path != s.config.BasePath+"/" && strangePath(path) {
		return refuse(notFound, "there is nothing at this address")
	}
	if !slices.Contains(s.exempt, c.FullPath()) && !s.hostAllowed(r.Host) {
		return refuse(hostNotAllowed, "this server does not answer for that host")
	}
	return s.checkOrigin(c)
}

// strangePath tells whether an address is spelled in a way that some layer might read as another one: empty or dot
// segments, escaped slashes. No route has such an address.
func strangePath(escaped string) bool {
	if !strings.Contains(escaped, "//") && !strings.Contains(escaped, "/.") && !strings.HasSuffix(escaped, "/") &&
		!strings.HasPrefix(escaped, ".") && !strings.Contains(escaped, "%") {
		return false // what nearly all are like
	}
	for i, segment := range strings.Split(escaped, "/") {
		plain := strings.ToLower(segment)
		if i > 0 && segment == "" || strings.Contains(plain, "%2f") || strings.Contains(plain, "%5c") {
			return true
		}
		if plain = strings.ReplaceAll(plain, "%2e", "."); plain == "." || plain == ".." {
			return true
		}
	}
	return false
}
