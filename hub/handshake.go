package hub

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gorilla/websocket"

	"github.com/mini-asynq/mini-asynq/events"
)

// refusal is why a request does not become a socket.
type refusal struct {
	name, detail string
	extra        map[string]any
}

func badParameter(name, detail string) *refusal {
	return &refusal{problemParameter, name + ": " + detail, map[string]any{problemParamExtra: name}}
}

// checkHandshake looks at what the library does not look at, or answers otherwise: method, upgrade, version and key, each
// once.
func checkHandshake(w http.ResponseWriter, r *http.Request) *refusal {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return &refusal{problemMethod, "a socket is opened with GET", nil}
	}
	if r.ProtoMajor != 1 || !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		return &refusal{problemUpgrade, "this address speaks WebSocket; without it, poll GET /events", nil}
	}
	if version := r.Header.Values("Sec-Websocket-Version"); len(version) != 1 || version[0] != "13" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		return badParameter("Sec-WebSocket-Version", "13, once")
	}
	key := r.Header.Values("Sec-Websocket-Key")
	if len(key) != 1 {
		return badParameter("Sec-WebSocket-Key", "once")
	}
	if raw, err := base64.StdEncoding.DecodeString(key[0]); err != nil || len(raw) != 16 {
		return badParameter("Sec-WebSocket-Key", "16 bytes in base64")
	}
	return nil
}

// subprotocol tells whether the caller wants framed mode: it is among those that he offers. Who offers only others would
// take plain mode for one of them.
func subprotocol(r *http.Request) (framed bool, refused *refusal) {
	if len(r.Header.Values("Sec-Websocket-Protocol")) == 0 {
		return false, nil
	}
	if slices.Contains(websocket.Subprotocols(r), Subprotocol) {
		return true, nil
	}
	return false, badParameter("Sec-WebSocket-Protocol", "none, for plain mode, or "+Subprotocol)
}

// checkOrigin refuses the pages of others: a browser sends cookies and passwords along for them. Programs send no
// Origin.
func (h *Hub) checkOrigin(r *http.Request) *refusal {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 || len(origins) == 1 && h.ownOrigin(r, origins[0]) {
		return nil
	}
	return &refusal{problemOrigin, "a page of another origin may not open this socket", nil}
}

// ownOrigin tells whether an Origin is what was called, scheme, host and port, or a host of the list.
func (h *Hub) ownOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Scheme+"://"+u.Host != origin {
		return false // "null" too
	}
	host, name := strings.ToLower(u.Host), strings.ToLower(u.Hostname())
	if u.Scheme == h.config.Scheme(r) && withPort(host, u.Scheme) == withPort(strings.ToLower(r.Host), u.Scheme) {
		return true
	}
	_, port, _ := net.SplitHostPort(r.Host) // without a port it stays empty
	return slices.ContainsFunc(h.config.AllowedHosts, func(allowed string) bool {
		allowed = strings.ToLower(allowed)
		return allowed == host || allowed == name && (u.Port() == "" || u.Port() == port)
	})
}

// withPort spells a host with its port, so that the default port is the same said and unsaid.
func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "80"
	if scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// request is what a socket's address asks for.
type request struct {
	after  events.Position // where to begin
	filter *events.Filter  // what to let through; what the caller may not see is not in it

	payload bool // add the payloads
}

// readRequest reads the address. In framed mode it says nothing: what is asked for comes in frames.
func (h *Hub) readRequest(r *http.Request, caller Caller, framed bool) (ask request, refused *refusal) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return ask, &refusal{problemParameter, "the query cannot be read", nil}
	}
	if framed && len(query) == 0 {
		return ask, nil
	}
	fields := make(map[string][]string)
	for name, values := range query {
		switch {
		case framed:
			return ask, badParameter(cut(name, 64), "not in framed mode: subscribe with a frame")
		case len(values) > 1:
			return ask, badParameter(cut(name, 64), "given more than once")
		}
		fields[name] = strings.Split(values[0], ",")
	}
	include := fields[paramInclude]
	delete(fields, paramInclude)
	delete(fields, paramAfter)
	for _, part := range include {
		if part != includePayload {
			return ask, badParameter(paramInclude, "payload is all that can be added")
		}
		if !caller.Payloads {
			return ask, &refusal{
				problemForbidden, "include=payload needs the right to read payloads", map[string]any{"required_scope": "read:payload"},
			}
		}
		ask.payload = true
	}
	filter, err := events.ParseFilter(fields)
	if err != nil {
		return ask, refusalOf(err)
	}
	ask.filter = filter.Within(caller.Queues)
	cursor := query.Get(paramAfter)
	if _, given := query[paramAfter]; given && cursor == "" {
		return ask, badParameter(paramAfter, "a cursor, earliest or latest")
	}
	if ask.after, err = h.config.Stream.Resolve(r.Context(), cursor); err != nil {
		return ask, refusalOf(err)
	}
	return ask, nil
}

// refusalOf maps what the log says about a cursor, a filter or one reader more.
func refusalOf(err error) *refusal {
	if said, ok := events.Refused(err); ok {
		return &refusal{said.Problem, said.Detail, said.Members}
	}
	return &refusal{problemInternal, "the log cannot be read", nil}
}

// cut keeps what a problem repeats of its input short.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + ".."
}

// wire is the connection as the library gets it: it reads, and from the end of the handshake on what it wants to write is
// not written. It would answer pings and write close frames from the read pump, in the middle of a frame of the write
// pump that has been cut by a full buffer. What it wanted is noted.
type wire struct {
	net.Conn
	muted  atomic.Bool
	wanted atomic.Int32 // the code of a close frame that it wanted to write; 0: none
}

func (w *wire) Write(p []byte) (int, error) {
	if !w.muted.Load() {
		return w.Conn.Write(p)
	}
	// A close frame of the library comes in one piece, unmasked: opcode, length, code.
	if len(p) >= 4 && p[0]&0x0f == websocket.CloseMessage {
		w.wanted.CompareAndSwap(0, int32(binary.BigEndian.Uint16(p[2:])))
	}
	return len(p), nil
}

// hijacker puts the wire between the server and the library.
type hijacker struct {
	http.ResponseWriter
	wire *wire
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.wire = &wire{Conn: conn}
	return h.wire, buffered, nil
}
