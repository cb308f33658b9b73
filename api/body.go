package api

import (
	"context"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// Limits of a body, enforced while it is read.
const (
	maxBody  = 512 << 10
	maxBatch = 16 << 20
	// aroundPayload is what the other fields of a job may need when the payload limit is raised.
	aroundPayload = 256 << 10
)

func (s *Server) jobBodyLimit() int64 { return int64(max(maxBody, s.config.MaxPayload+aroundPayload)) }

// readBody reads a whole JSON body within its limit, or says why not. It checks what the headers say before it reads a
// byte: who announces too much is refused before the memory is spent.
func readBody(c *gin.Context, limit int64) ([]byte, error) {
	if err := checkMediaType(c.Request.Header); err != nil {
		return nil, err
	}
	return readLimited(c, limit)
}

// readOptionalBody is readBody for actions that need none; without one it returns nil.
func readOptionalBody(c *gin.Context, limit int64) ([]byte, error) {
	if c.Request.ContentLength == 0 {
		return nil, nil
	}
	if c.Request.ContentLength > 0 || c.GetHeader("Content-Type") != "" {
		return readBody(c, limit)
	}
	// Chunks, and nobody said of what: fine if there are none.
	raw, err := readLimited(c, limit)
	if err == nil && len(raw) > 0 {
		return nil, checkMediaType(c.Request.Header)
	}
	return nil, err
}

func readLimited(c *gin.Context, limit int64) ([]byte, error) {
	r := c.Request
	if r.ContentLength > limit {
		c.Writer.Header().Set("Connection", "close") // the rest is not worth reading
		return nil, bodyTooLarge(limit)
	}
	raw, err := readAnnounced(c.Writer, r, limit)
	if err != nil {
		c.Writer.Header().Set("Connection", "close")
		return nil, bodyReadError(err)
	}
	// The deadline was for the body. Left standing it would end a long poll: net/http reads on to see a caller leave.
	_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Time{})
	return raw, nil
}

// smallBody is how much a body may announce and be given the memory for before it is there.
const smallBody = 8 << 10

// readAnnounced reads a small body in one go: its connection holds it to the length that it announced. A large one is
// given memory as it comes.
func readAnnounced(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if n := r.ContentLength; n > 0 && n <= min(limit, smallBody) {
		raw := make([]byte, n)
		_, err := io.ReadFull(r.Body, raw)
		return raw, err
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
}

// Batches are let in by their size: decoded, checked and on its way to the database, one needs some ten times the memory
// of its body. It waits when the body is there, so that a slow caller keeps nobody out.
const (
	batchBytes = 2 * maxBatch    // of bodies at once
	batchSmall = 256 << 10       // up to this a body is let in without asking: it need not wait behind a large one
	batchWait  = 5 * time.Second // for room
)

// admitBatch waits for room for a body of so many bytes; release gives it back.
func (s *Server) admitBatch(ctx context.Context, size int64) (release func(), err error) {
	if size <= batchSmall {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, batchWait)
	defer cancel()
	if err := s.batches.Acquire(ctx, size); err != nil {
		return nil, refuse(unavailable, "too many large batches at once")
	}
	return func() { s.batches.Release(size) }, nil
}

func checkMediaType(header http.Header) error {
	if len(header.Values("Content-Encoding")) > 0 {
		return refuse(unsupportedMediaType, "a Content-Encoding is not supported")
	}
	types := header.Values("Content-Type")
	if len(types) != 1 {
		return refuse(unsupportedMediaType, "a body needs one Content-Type: application/json")
	}
	if types[0] == "application/json" {
		return nil
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil || media != "application/json" {
		return refuse(unsupportedMediaType, "a body needs Content-Type: application/json")
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return refuse(unsupportedMediaType, "JSON is UTF-8")
	}
	return nil
}
