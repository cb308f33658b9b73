package miniasynq

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	subprotocol   = "miniasynq.v1"
	subscription  = "log" // the id of the one subscription of a socket
	maxFrame      = 64 << 20
	dialWithin    = 10 * time.Second
	writeWithin   = 10 * time.Second
	goodbyeWithin = time.Second
)

// frame is a frame of the server, of any kind.
type frame struct {
	T       string  `json:"t"`
	ID      string  `json:"id"`
	V       int     `json:"v"`
	Head    string  `json:"head"`
	Floor   string  `json:"floor"`
	Cursor  string  `json:"cursor"`
	Behind  int64   `json:"behind"`
	Events  []Event `json:"ev"`
	Code    string  `json:"code"`
	Detail  string  `json:"detail"`
	RetryMS int64   `json:"retry_ms"`
}

// wish is a frame of the client.
type wish struct {
	T       string   `json:"t"`
	ID      string   `json:"id"`
	Class   string   `json:"class,omitempty"`
	After   string   `json:"after,omitempty"`
	Filter  *Filter  `json:"filter,omitempty"`
	Include []string `json:"include,omitempty"`
	Credit  int      `json:"credit,omitempty"`
	N       int      `json:"n,omitempty"`
}

// line is one socket. A goroutine of its own reads it, so that a slow handler does not keep pings waiting; what it has
// read lies in the inbox. Writing is the caller's.
type line struct {
	conn *websocket.Conn
	in   inbox
	done chan struct{} // closed when the reader has ended
}

// dial opens a socket. silence is how long nothing may be heard before the line counts as broken. *ProblemError,
// ErrProtocol, or what the network says.
func dial(ctx context.Context, endpoint string, o *Options, silence time.Duration) (*line, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return nil, err
	}
	o.Auth(request)
	dialer := websocket.Dialer{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: o.TLS, HandshakeTimeout: dialWithin,
		Subprotocols: []string{subprotocol},
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &watched{Conn: conn, silence: silence}, nil
		},
	}
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	conn, response, err := dialer.DialContext(ctx, endpoint, request.Header)
	if err != nil {
		if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
			defer response.Body.Close()
			return nil, refused(response)
		}
		return nil, fmt.Errorf("open a socket: %w", cmp.Or(context.Cause(ctx), err))
	}
	if conn.Subprotocol() != subprotocol {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: the server does not know %s", ErrProtocol, subprotocol)
	}
	conn.SetReadLimit(maxFrame)
	l := &line{conn: conn, in: inbox{bell: make(chan struct{}, 1)}, done: make(chan struct{})}
	// Ends when the connection does; close waits for it.
	go l.read()
	return l, nil
}

// refused reads the answer to a request that did not become a socket.
func refused(response *http.Response) error {
	e := &ProblemError{Status: response.StatusCode, Code: "http_" + strconv.Itoa(response.StatusCode)}
	raw, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // what cannot be read is no problem document
	var body struct{ Code, Detail, Floor string }
	if json.Unmarshal(raw, &body) == nil && body.Code != "" {
		e.Code, e.Detail = body.Code, body.Detail
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retry = time.Duration(seconds) * time.Second
	}
	return e
}

// read moves frames into the inbox until the line ends, and says why it did.
func (l *line) read() {
	defer close(l.done)
	var retry int64 // as the server's goodbye said
	for {
		kind, raw, err := l.conn.ReadMessage()
		if err != nil {
			l.in.end(broken(err, retry))
			return
		}
		var f frame
		if kind != websocket.TextMessage || json.Unmarshal(raw, &f) != nil {
			l.in.end(fmt.Errorf("%w: a frame that is no JSON object", ErrProtocol))
			return
		}
		if f.T == "bye" {
			retry = f.RetryMS
			continue
		}
		l.in.put(f)
	}
}

// broken is why reading ended: what a close frame says, or what happened to the connection.
func broken(err error, retryMS int64) error {
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code == websocket.CloseAbnormalClosure {
		return fmt.Errorf("read the socket: %w", err)
	}
	return closedBy(closed.Code, closed.Text, retryMS)
}

func closedBy(code int, text string, retryMS int64) error {
	var reason struct {
		Code, Detail, Cursor, Floor string
		RetryMS                     int64 `json:"retry_ms"`
	}
	_ = json.Unmarshal([]byte(text), &reason) // a proxy says something else, or nothing
	switch code {
	case closeExpired:
		return &ExpiredError{Cursor: reason.Cursor, Floor: reason.Floor}
	case closeEpoch:
		return &EpochError{Cursor: reason.Cursor}
	}
	return &CloseError{
		Code: code, Name: reason.Code, Detail: reason.Detail,
		Retry: time.Duration(cmp.Or(retryMS, reason.RetryMS)) * time.Millisecond,
	}
}

func (l *line) send(w wish) error {
	raw, err := json.Marshal(w)
	if err != nil {
		return err
	}
	err = l.conn.SetWriteDeadline(time.Now().Add(writeWithin)) // monotonic
	if err == nil {
		err = l.conn.WriteMessage(websocket.TextMessage, raw)
	}
	if err != nil {
		return fmt.Errorf("write to the socket: %w", err)
	}
	return nil
}

// close says goodbye, as far as that is possible, and returns when the reader has ended.
func (l *line) close() {
	deadline := time.Now().Add(goodbyeWithin) // monotonic
	_ = l.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(closeNormal, ""), deadline)
	_ = l.conn.Close()
	<-l.done
}

// watched is a connection that is broken once nothing came for a while. Each piece that arrives counts, so a large frame on a
// slow line does not.
type watched struct {
	net.Conn
	silence time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	if err := w.SetReadDeadline(time.Now().Add(w.silence)); err != nil { // monotonic
		return 0, err
	}
	return w.Conn.Read(p)
}

// inbox holds what was read and not handled yet. The server sends no more events than there is credit for, and what only
// says where the log stands is merged, so it is bounded.
type inbox struct {
	bell chan struct{} // capacity 1: there is something new. Sender: the reader; never closed

	mu     sync.Mutex // guards the two below
	frames []frame
	ended  error // nothing more comes
}

func (in *inbox) put(f frame) {
	in.mu.Lock()
	if n := len(in.frames); n > 0 && f.T == "mark" && in.frames[n-1].T == "mark" {
		in.frames[n-1] = f
	} else {
		in.frames = append(in.frames, f)
	}
	in.mu.Unlock()
	in.ring()
}

func (in *inbox) end(why error) {
	in.mu.Lock()
	in.ended = why
	in.mu.Unlock()
	in.ring()
}

func (in *inbox) ring() {
	select {
	case in.bell <- struct{}{}:
	default:
	}
}

// take gives out what has gathered; ended is set with the last of it.
func (in *inbox) take() (frames []frame, ended error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	frames, in.frames = in.frames, nil
	return frames, in.ended
}
