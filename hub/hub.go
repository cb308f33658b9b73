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
	config         Config
	upgrader       websocket.Upgrader // of plain mode
	framedUpgrader websocket.Upgrader // it names the subprotocol
	metrics        metrics
	panes          panes
	board          board
	signal         func(moment string, s *socket) // what tests wait for; never nil

	base context.Context // of all clients; ends when Run does
	over context.CancelCauseFunc

	mu      sync.Mutex // guards the two below; nothing blocks under it
	leaving bool       // no new sockets
	sockets map[*socket]struct{}

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
		signal:  func(string, *socket) {},
		sockets: make(map[*socket]struct{}),
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
	h.framedUpgrader = h.upgrader
	h.framedUpgrader.Subprotocols = []string{Subprotocol}
	if err := h.register(config.Registerer); err != nil {
		return nil, fmt.Errorf("hub: register metrics: %w", err)
	}
	return h, nil
}

// Sockets is how many sockets are open.
func (h *Hub) Sockets() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sockets)
}

// ServeHTTP turns a request into a socket, or answers with a problem. It returns when the socket is open.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refused := checkHandshake(w, r)
	if refused == nil {
		refused = h.checkOrigin(r)
	}
	caller := h.config.Principal(r)
	framed := false
	if refused == nil {
		framed, refused = subprotocol(r)
	}
	var ask request
	if refused == nil {
		ask, refused = h.readRequest(r, caller, framed)
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
	upgrader := &h.upgrader
	if framed {
		upgrader = &h.framedUpgrader
	}
	conn, err := upgrader.Upgrade(line, r, nil)
	if err != nil {
		release()
		return // the upgrader has answered, or nobody is there
	}
	line.wire.muted.Store(true)
	var s *socket
	if framed {
		s = newSession(h, conn, line.wire, caller)
	} else {
		s = newPlain(h, conn, line.wire, caller, ask)
	}
	if !h.enter(s) {
		_ = conn.Close() // the hub is over: there is nothing left to say
		release()
		return
	}
	// Ends when the socket does, at the latest with Run, which waits for it.
	go func() {
		defer release()
		s.run()
		h.leave(s)
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

// enter takes in a socket that is open; false when the hub is over. One that comes while the node drains is told so.
func (h *Hub) enter(s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.base.Err() != nil {
		return false
	}
	h.sockets[s] = struct{}{}
	if h.leaving {
		s.end(&ending{code: CloseGoingAway})
	}
	return true
}

// leave takes out a socket that has ended.
func (h *Hub) leave(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sockets, s)
}

// Drain opens no more sockets and tells the clients to go to another node. It returns when that has been said to all, or when
// ctx ends: the end of Run, which cuts everybody off, should come after. It does not wait for the clients to leave; Run does.
func (h *Hub) Drain(ctx context.Context) {
	for _, s := range h.sendAway() {
		select {
		case <-s.parted:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Hub) sendAway() []*socket {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = true
	open := make([]*socket, 0, len(h.sockets))
	for s := range h.sockets {
		s.end(&ending{code: CloseGoingAway})
		open = append(open, s)
	}
	return open
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
