package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Hub serves the sockets of a node: the http.Handler of GET /api/v1/ws. Safe for concurrent use.
type Hub struct {
	config   Config
	upgrader websocket.Upgrader
	metrics  metrics
	signal   func(moment string, c *client) // what tests wait for; never nil

	base context.Context // of all clients; ends when Run does
	over context.CancelCauseFunc

	mu      sync.Mutex // guards the two below; nothing blocks under it
	leaving bool       // no new sockets
	clients map[*client]struct{}

	// running are the sockets, and the requests that are becoming one; it grows under mu, and not once leaving is set.
	running sync.WaitGroup
}

// New makes a hub; it refuses a configuration with all its faults. Sockets are served while Run runs.
func New(config Config) (*Hub, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	h := &Hub{
		config:  config,
		signal:  func(string, *client) {},
		clients: make(map[*client]struct{}),
	}
	h.base, h.over = context.WithCancelCause(context.Background())
	h.upgrader = websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		WriteBufferPool:  &sync.Pool{}, // after the handshake the library writes nothing
		CheckOrigin:      func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, r *http.Request, _ int, reason error) {
			h.config.Log.Warn().Err(reason).Msg("socket could not be opened")
			h.config.Problem(w, r, problemInternal, "the connection cannot become a socket", nil)
		},
	}
	if err := h.register(config.Registerer); err != nil {
		return nil, fmt.Errorf("hub: register metrics: %w", err)
	}
	return h, nil
}

// Sockets is how many sockets are open.
func (h *Hub) Sockets() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.clients)
}

// ServeHTTP turns a request into a socket, or answers with a problem. It returns when the socket is open.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refused := checkHandshake(w, r)
	if refused == nil {
		refused = h.checkOrigin(r)
	}
	caller := h.config.Principal(r)
	var ask request
	if refused == nil {
		ask, refused = h.readRequest(r, caller)
	}
	var release func()
	if refused == nil {
		release, refused = h.reserve(caller)
	}
	if refused != nil {
		h.config.Problem(w, r, refused.name, refused.detail, refused.extra)
		return
	}
	line := &hijacker{ResponseWriter: w}
	conn, err := h.upgrader.Upgrade(line, r, nil)
	if err != nil {
		release()
		return // the upgrader has answered, or nobody is there
	}
	line.wire.muted.Store(true)
	c := newClient(h, conn, line.wire, caller, ask)
	if !h.enter(c) {
		_ = conn.Close() // the hub is over: there is nothing left to say
		release()
		return
	}
	// Ends when the socket does, at the latest with Run, which waits for it.
	go func() {
		defer release()
		c.run()
		h.leave(c)
	}()
}

// reserve counts a socket before the upgrade, and holds the caller's credential; release undoes that.
func (h *Hub) reserve(caller Caller) (release func(), refused *refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leaving {
		return nil, &refusal{problemDraining, "this node shuts down", nil}
	}
	leave, err := h.config.Readers.Join(caller.Name, caller.Unlimited)
	if err != nil {
		return nil, refusalOf(err)
	}
	letGo := func() {}
	if caller.Hold != nil {
		letGo = caller.Hold()
	}
	h.running.Add(1)
	return func() {
		letGo()
		leave()
		h.running.Done()
	}, nil
}

// enter takes in a client that is connected; false when the hub is over. One that comes while the node drains is told so.
func (h *Hub) enter(c *client) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.base.Err() != nil {
		return false
	}
	h.clients[c] = struct{}{}
	if h.leaving {
		c.end(&ending{code: CloseGoingAway})
	}
	return true
}

// leave takes out a client that has ended.
func (h *Hub) leave(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
}

// Drain opens no more sockets and tells the clients to go to another node. It does not wait for them; Run does.
func (h *Hub) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = true
	for c := range h.clients {
		c.end(&ending{code: CloseGoingAway})
	}
}

var errOver = errors.New("hub: over")

// Run serves until ctx ends, and then ends all sockets at once: Drain comes before, for an orderly goodbye. It returns
// nil when all of them are gone.
func (h *Hub) Run(ctx context.Context) error {
	<-ctx.Done()
	h.mu.Lock()
	h.leaving = true
	h.mu.Unlock()
	h.over(errOver)
	h.running.Wait()
	return nil
}
