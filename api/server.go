package api

import (
	"context"
	"errors"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"
)

// Limits of a connection. A caller who trickles gets this long and no longer; one who stopped reading, too.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	// answerTimeout is the longest wait, and the time to send what came of it.
	answerTimeout  = maxWait + time.Minute
	maxHeaderBytes = 32 << 10
	maxURLBytes    = 8 << 10
)

// Server is the REST door of one node. Safe for concurrent use.
type Server struct {
	config   Config
	engine   *gin.Engine
	waiters  *waiters
	presence *presence
	reads    *reads
	failures *failures
	keys     *keyring
	log      readers
	bulk     chan struct{} // an entry for each stream of lines that reads ahead; capacity maxBulk, never closed
	admin    credential
	batches  *semaphore.Weighted      // bytes of batches
	exempt   []string                 // templates of the addresses that any Host may name
	seconds  *prometheus.HistogramVec // nil: not measured

	describe func() (*description, error)

	drain    sync.Once
	draining chan struct{} // closed by Drain
}

// New makes the door. Run must work for long polls to answer early.
func New(config Config) (*Server, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		config:   config,
		waiters:  newWaiters(),
		presence: newPresence(),
		reads:    &reads{db: config.DB, deadline: config.Deadline},
		failures: newFailures(),
		keys:     newKeyring(config.DB, config.Deadline, config.Log),
		admin:    newCredential(config.AdminUser, config.AdminPassword),
		describe: sync.OnceValues(func() (*description, error) { return describe(config.BasePath) }),
		draining: make(chan struct{}),
		bulk:     make(chan struct{}, maxBulk),
		batches:  semaphore.NewWeighted(batchBytes),
	}
	if config.Registerer != nil {
		s.seconds = newRequestSeconds()
		if err := config.Registerer.Register(s.seconds); err != nil {
			return nil, errors.Join(errors.New("api: register http_request_seconds"), err)
		}
	}
	if config.Registerer != nil && config.Readers != nil {
		if err := s.log.register(config.Registerer); err != nil {
			return nil, errors.Join(errors.New("api: register the numbers of streams"), err)
		}
	}
	config.Stream.Tap(s.keys.fold)
	if config.Work != nil {
		config.Stream.Tap(s.presence.fold)
	}
	gin.SetMode(config.GinMode)
	s.engine = s.routes()
	return s, nil
}

// Run follows the stream for the calls that wait, says which remote workers are there, and looks after the credentials in
// use. It returns nil when ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	// All end with ctx; Run waits for them.
	wg.Go(func() { s.presence.keep(ctx, s) })
	wg.Go(func() { s.keys.keep(ctx) })
	s.waiters.follow(ctx, s.config.Stream)
	wg.Wait()
	return nil
}

// Drain makes the node say that it goes: parked calls answer at once with what they have, ready is 503, writes are
// refused. It may be called again.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// Handler is the whole door.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			// A HEAD is the GET whose body net/http does not send. A stream must know: its body would not end.
			r = r.WithContext(context.WithValue(r.Context(), headKey, true))
			r.Method = http.MethodGet
		}
		s.engine.ServeHTTP(w, r)
	})
}

// HTTPServer is an http.Server with this door and its limits. It has no WriteTimeout, because long polls and sockets
// live longer than any: each request gets a deadline of its own.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler: s.Handler(),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey, conn)
		},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          stdlog.New(serverLog{s.config.Log}, "", 0),
	}
}

// serverLog takes what net/http says about connections: a stranger's broken request is no fault of ours, and its text
// may hold what the stranger sent.
type serverLog struct{ log zerolog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	what, _, _ := strings.Cut(string(p), ":")
	l.log.Debug().Str("what", what).Msg("http connection")
	return len(p), nil
}

// routes builds the engine from the policy table.
func (s *Server) routes() *gin.Engine {
	e := gin.New()
	// Never a redirect: gin would answer a POST with 307, and an address has one spelling. Addresses are matched as
	// they were sent, so that an escaped slash is no separator; parameters are unescaped by param.
	e.RedirectTrailingSlash, e.RedirectFixedPath = false, false
	e.HandleMethodNotAllowed = true
	e.UseEscapedPath, e.UnescapePathValues = true, false
	e.ForwardedByClientIP = false
	_ = e.SetTrustedProxies(nil) // nil cannot be wrong

	e.Use(s.begin, s.guard)
	e.NoRoute(s.noRoute)
	e.NoMethod(func(c *gin.Context) {
		s.write(c, refuse(methodNotAllowed, "this address takes "+c.Writer.Header().Get("Allow")))
	})
	for _, r := range s.policy() {
		e.Handle(r.method, s.config.BasePath+r.path, s.serve(r))
		if r.flags&anyHost != 0 {
			s.exempt = append(s.exempt, s.config.BasePath+r.path)
		}
	}
	return e
}

// noRoute is the dashboard's for pages, which know their own addresses, and 404 for everything else.
func (s *Server) noRoute(c *gin.Context) {
	path := c.Request.URL.Path
	inside := strings.HasPrefix(path, s.config.BasePath+"/") &&
		!strings.HasPrefix(path, s.config.BasePath+"/api/") && !strings.HasPrefix(path, s.config.BasePath+"/problems/")
	if s.config.Web != nil && inside && c.Request.Method == http.MethodGet &&
		strings.Contains(c.GetHeader("Accept"), "text/html") {
		c.Status(http.StatusOK) // gin has put 404 there
		s.serveWeb(c)
		return
	}
	s.write(c, refuse(notFound, "there is nothing at this address"))
}
