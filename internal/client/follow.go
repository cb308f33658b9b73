package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/gorilla/websocket"
)

const (
	// silence is after how long a line without a sign of life is given up: the server pings every 25 s.
	silence = 60 * time.Second
	// maxEvent bounds a frame: an event has no payload.
	maxEvent = 1 << 20
)

// Close codes of the server that ask for more than coming back at once.
const (
	closeUnauthorized = 4401
	closeForbidden    = 4403
	closeExpired      = 4410
	closeEpoch        = 4412
	closeFlood        = 4429
)

// Following is what Follow wants.
type Following struct {
	After  string     // a cursor, earliest, or "" and latest: from now on
	Filter url.Values // types, queues, kinds, job_ids, tags
	// Lost is told why the connection broke; Follow comes back by itself. It may be nil.
	Lost func(error)
}

// Follow calls each for every event after a cursor, in order and once, over the event socket in plain mode, until ctx
// ends or each fails, whose error it returns. A line that breaks is opened again, with backoff, after the last event that
// each has had; what the server sends twice is dropped. It returns a *Problem where coming back is no use: the cursor
// has expired, the history was lost, the right is gone; and an *UnreachableError when the first connection fails.
func (c *Client) Follow(ctx context.Context, f Following, each func(Doc[Event]) error) error {
	s := stream{client: c, want: f, each: each, after: f.After}
	if s.after == "" || s.after == "latest" {
		// From now on means from here on, also if the line breaks before the first event.
		page, err := c.Queues(ctx)
		if err != nil {
			return err
		}
		s.after = page.AsOf
	}
	pauses := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500*time.Millisecond), // full jitter, 0..30 s
		backoff.WithRandomizationFactor(1), backoff.WithMaxInterval(15*time.Second), backoff.WithMaxElapsedTime(0))
	for {
		before := s.after
		err := s.read(ctx)
		if s.after != before {
			pauses.Reset()
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.final(err):
			return err
		}
		if f.Lost != nil {
			f.Lost(err)
		}
		pause := pauses.NextBackOff()
		var closed *closedError
		if errors.As(err, &closed) && closed.retry > 0 {
			pause = closed.retry
		}
		if !wait(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// stream is one Follow.
type stream struct {
	client *Client
	want   Following
	each   func(Doc[Event]) error
	after  string
	last   Event // the latest one that each has had
	opened bool  // there was a connection
}

// handedOnError marks an error of each.
type handedOnError struct{ error }

func (e handedOnError) Unwrap() error { return e.error }

// closedError is a close frame of the server.
type closedError struct {
	code  int
	name  string
	retry time.Duration
}

func (e *closedError) Error() string {
	return fmt.Sprintf("the server closed the stream: %s (%d)", e.name, e.code)
}

// final tells whether coming back is no use.
func (s *stream) final(err error) bool {
	var own handedOnError
	var problem *Problem
	var closed *closedError
	var unreachable *UnreachableError
	switch {
	case errors.As(err, &own):
		return true
	case errors.As(err, &problem):
		return problem.Status < 500 && problem.Status != http.StatusTooManyRequests
	case errors.As(err, &unreachable):
		return !s.opened
	case errors.As(err, &closed):
		switch closed.code {
		case websocket.CloseProtocolError, websocket.CloseUnsupportedData, websocket.CloseInvalidFramePayloadData,
			websocket.CloseMessageTooBig, websocket.CloseNormalClosure:
			return true
		}
	}
	return false
}

// read opens the socket and hands its events on until it ends.
func (s *stream) read(ctx context.Context) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	s.opened = true
	// Ends with this function: a read is interrupted by closing the connection.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }() // nothing is written that could be lost
	conn.SetReadLimit(maxEvent)
	alive := func() error { return conn.SetReadDeadline(time.Now().Add(silence)) }
	answer := conn.PingHandler()
	conn.SetPingHandler(func(data string) error {
		if err := alive(); err != nil {
			return err
		}
		return answer(data)
	})
	for {
		if err := alive(); err != nil {
			return s.broken(err)
		}
		_, raw, err := conn.ReadMessage()
		if err != nil {
			return s.broken(err)
		}
		var event Doc[Event]
		if err := json.Unmarshal(raw, &event); err != nil {
			return s.broken(fmt.Errorf("read an event: %w", err))
		}
		if event.Value.Epoch == s.last.Epoch && event.Value.Seq <= s.last.Seq {
			continue // sent twice
		}
		if err := s.each(event); err != nil {
			return handedOnError{err}
		}
		s.last, s.after = event.Value, event.Value.Cursor
	}
}

func (s *stream) open(ctx context.Context) (*websocket.Conn, error) {
	address := *s.client.base
	address.Scheme = "ws" + strings.TrimPrefix(address.Scheme, "http")
	address.Path += "/ws"
	query := url.Values{}
	for name, values := range s.want.Filter {
		query[name] = values
	}
	query.Set("after", s.after)
	address.RawQuery = query.Encode()
	header := http.Header{}
	s.client.sign(header)
	timeout := s.client.config.Timeout
	dialCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dialer := websocket.Dialer{Proxy: http.ProxyFromEnvironment, HandshakeTimeout: timeout}
	conn, response, err := dialer.DialContext(dialCtx, address.String(), header)
	if err == nil {
		return conn, nil
	}
	if response != nil && errors.Is(err, websocket.ErrBadHandshake) {
		defer response.Body.Close()
		raw, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // what cannot be read is no problem document
		return nil, problemOf(response, raw)
	}
	return nil, s.client.unreachable(dialCtx, err, timeout)
}

// broken says why a line ended: a close frame that is a refusal is a *Problem, as over REST.
func (s *stream) broken(err error) error {
	var frame *websocket.CloseError
	if !errors.As(err, &frame) || frame.Code == websocket.CloseAbnormalClosure {
		return &UnreachableError{Server: s.client.Server(), Err: err}
	}
	var reason struct {
		Code    string `json:"code"`
		Floor   string `json:"floor"`
		RetryMS int64  `json:"retry_ms"`
	}
	if json.Unmarshal([]byte(frame.Text), &reason) != nil || reason.Code == "" {
		reason.Code = "code " + fmt.Sprint(frame.Code)
	}
	refused := func(status int, detail string) error {
		return &Problem{Status: status, Code: reason.Code, Detail: detail, Floor: reason.Floor}
	}
	switch frame.Code {
	case closeUnauthorized:
		return refused(http.StatusUnauthorized, "the credential has ended or was revoked")
	case closeForbidden:
		return refused(http.StatusForbidden, "the right to read was taken away")
	case closeExpired:
		return refused(http.StatusGone, "the events after this cursor are no longer kept")
	case closeEpoch:
		return refused(http.StatusConflict, "history was lost or restored: begin without a cursor")
	}
	closed := &closedError{code: frame.Code, name: reason.Code, retry: time.Duration(reason.RetryMS) * time.Millisecond}
	if frame.Code == closeFlood {
		closed.retry = 30 * time.Second
	}
	return closed
}
