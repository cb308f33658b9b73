package workloads

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// wireLimit bounds one call over a wire.
const wireLimit = 30 * time.Second

// wire is one keep-alive connection that sends a ready request and reads the answer as far as it must: net/http costs
// the client about as much as the server, and both share the processors.
type wire struct {
	conn   net.Conn
	reader *textproto.Reader
	buffer *bufio.Reader
}

// StatusError means that the server did not take a job.
type StatusError struct{ Line string }

// Error holds the status line.
func (e *StatusError) Error() string { return "the server answered: " + e.Line }

func dialWire(ctx context.Context, addr string) (*wire, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	buffer := bufio.NewReader(conn)
	return &wire{conn: conn, buffer: buffer, reader: textproto.NewReader(buffer)}, nil
}

// call sends a request and waits for its whole answer, which must be 201 with a length.
func (w *wire) call(request []byte) error {
	if err := w.conn.SetDeadline(time.Now().Add(wireLimit)); err != nil { // monotonic: a deadline of this connection
		return err
	}
	if _, err := w.conn.Write(request); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	status, err := w.reader.ReadLine()
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	if !strings.HasPrefix(status, "HTTP/1.1 201 ") {
		return &StatusError{status}
	}
	length := -1
	for {
		line, err := w.reader.ReadLineBytes()
		if err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
		if len(line) == 0 {
			break
		}
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return fmt.Errorf("read an answer: %w", err)
			}
		}
	}
	if length < 0 {
		return errors.New("read an answer: it has no length")
	}
	if _, err := w.buffer.Discard(length); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	return nil
}

func (w *wire) close() { _ = w.conn.Close() }
