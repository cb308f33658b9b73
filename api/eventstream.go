package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/events"
)

// Headers of streams.
const (
	headerResumed = "Miniasynq-Resumed-From" // the cursor that the stream begins after
	headerUntil   = "Miniasynq-Until"        // the one that it ends with
	headerLastID  = "Last-Event-ID"          // what a browser got last
)

const (
	streamBatch = 256      // events read at once
	streamBytes = 64 << 10 // about the most that is written at once
	streamSlice = 16 << 10 // has the whole time of a write to itself
	// What a reader that stalls keeps in the kernel, which would take megabytes.
	streamKernel = 256 << 10
	streamRetry  = "retry: 2000\n"
)

var sseFrame = eventFrame{
	before: func(b []byte, e *events.Event) []byte {
		b = append(append(b, "id: "...), e.Position.String()...)
		b = append(append(b, "\nevent: "...), e.Type...)
		return append(b, "\ndata: "...) // JSON has no line breaks
	},
	after: "\n\n",
}

// Why a stream ends by itself.
var (
	errStreamDone = errors.New("api: the stream is at its end")
	errStreamSlow = errors.New("api: the reader of a stream is gone or too slow")
)

// eventStream sends the log as server-sent events: from a cursor on, without an end but for StreamLife, after which the
// client comes back. A client that was cut off states what it got last.
func (s *Server) eventStream(c *gin.Context) error {
	q := queryOf(c.Request, logParameters()...)
	last := c.Request.Header.Values(headerLastID)
	if len(last) > 1 {
		q.refuse(headerLastID, "given more than once")
	}
	a, err := s.askedOf(c, q, strings.Join(last, ""))
	if err != nil {
		return err
	}
	f, done, err := s.openFeed(c, a, mediaSSE)
	if err != nil {
		return err
	}
	defer done()
	if wantsHead(c) {
		return nil
	}
	defer s.log.sse.Add(-1)
	s.log.sse.Add(1)
	f.frame, f.sent, f.beats = sseFrame, &s.log.sentSSE, true
	// The id comes first, so that a client that is cut off before its first event goes on from here, too.
	if err = f.write([]byte(streamRetry + f.idBlock())); err == nil {
		err = f.run()
	}
	switch {
	case errors.Is(err, errStreamDone):
		_ = f.write([]byte(f.idBlock())) // the client may be gone
	case f.ctx.Err() == nil:
		if lost := s.lostBlock(err); lost != "" {
			_ = f.write([]byte(lost))
		}
	}
	f.ended(err)
	return nil
}

// wantsHead tells whether the header is all that is asked for: what follows would go nowhere, and hold the line for an hour.
func wantsHead(c *gin.Context) bool {
	head, _ := c.Request.Context().Value(headKey).(bool)
	return head
}

// lostBlock is what a stream ends with when it cannot go on from where it is; empty: the client may come back.
func (s *Server) lostBlock(err error) string {
	said, _ := events.Refused(err)
	kind, _ := problemNamed(said.Problem)
	if kind.name != epochChanged.name && kind.name != cursorExpired.name {
		return ""
	}
	raw, err := json.Marshal(struct {
		Code  string `json:"code"`
		Floor string `json:"floor"`
	}{kind.code(), s.config.Stream.Floor().String()})
	if err != nil {
		return "" // two strings always marshal
	}
	return "event: lost\ndata: " + string(raw) + "\n\n"
}

// eventLines sends the log between two cursors, a line for each event. A body that is cut off is no whole answer.
func (s *Server) eventLines(c *gin.Context) error {
	q := queryOf(c.Request, logParameters("until")...)
	a, err := s.askedOf(c, q, "")
	if err != nil {
		return err
	}
	end, err := s.untilOf(c.Request.Context(), q.values["until"], a.after)
	if err != nil {
		return err
	}
	c.Writer.Header().Set(headerUntil, end.String())
	f, done, err := s.openFeed(c, a, mediaNDJSON)
	if err != nil {
		return err
	}
	defer done()
	if wantsHead(c) {
		return nil
	}
	defer s.log.ndjson.Add(-1)
	s.log.ndjson.Add(1)
	f.frame, f.sent, f.until = eventFrame{after: "\n", once: true}, &s.log.sentNDJSON, end
	defer f.hurry()()
	err = f.run()
	f.ended(err)
	if f.pos != end {
		panic(http.ErrAbortHandler) // the only way to say that this is not all
	}
	return nil
}

// untilOf reads the end of a stream of lines: a cursor, or latest.
func (s *Server) untilOf(ctx context.Context, cursor string, after events.Position) (events.Position, error) {
	if cursor == "earliest" {
		return events.Position{}, badParameter("until", "a cursor, or latest")
	}
	end, err := s.config.Stream.Resolve(ctx, cursor)
	if errors.Is(err, events.ErrCursorInvalid) {
		return end, refuse(cursorInvalid, "the cursor is malformed, or ahead of the log").with("parameter", "until")
	}
	if err == nil && end.Before(after) {
		err = badParameter("until", "before after")
	}
	return end, err
}

// feed is one stream. Its goroutine is the request's.
type feed struct {
	s       *Server
	c       *gin.Context
	control *http.ResponseController
	ctx     context.Context //nolint:containedctx // of the one request that it serves
	ask     ask
	reader  *events.Reader
	frame   eventFrame
	sent    interface{ Add(int64) int64 }
	beats   bool            // marks and pings while nothing comes
	until   events.Position // zero: without an end
	ahead   *ahead          // nil: each page is read when it is wanted

	pos    events.Position // the client has everything up to here, or soon
	marked events.Position // the last id that the client got

	life             *time.Timer
	markedAt, pinged time.Time // monotonic
}

// openFeed begins a stream: the place among those who stay, the header. done ends it.
func (s *Server) openFeed(c *gin.Context, a ask, media string) (f *feed, done func(), err error) {
	if s.isDraining() {
		return nil, nil, refuse(draining, "this node shuts down")
	}
	who := callOf(c).principal
	leave, err := s.config.Readers.Join(who.Name, who.Anonymous() && s.config.BindIsLoopback)
	if err != nil {
		return nil, nil, err
	}
	callOf(c).lasting = true
	if conn, ok := c.Request.Context().Value(connKey).(interface{ SetWriteBuffer(int) error }); ok {
		_ = conn.SetWriteBuffer(streamKernel)
	}
	header := c.Writer.Header()
	header.Set("Content-Type", media)
	header.Set("X-Accel-Buffering", "no") // proxies pass each event on at once
	header.Set(headerResumed, a.after.String())
	line := http.ResponseWriter(c.Writer)
	if gins, ok := line.(interface{ Unwrap() http.ResponseWriter }); ok {
		line = gins.Unwrap() // gin's own Flush tells of no error
	}
	f = &feed{
		s: s, c: c, control: http.NewResponseController(line),
		ctx: c.Request.Context(), ask: a, reader: s.config.Readers.Reader(a.filter), pos: a.after,
		life: time.NewTimer(s.config.StreamLife), pinged: time.Now(),
	}
	c.Writer.WriteHeader(http.StatusOK)
	c.Writer.WriteHeaderNow()
	// A write that is blocked ends with the caller, or with his credential.
	released := make(chan struct{}) // closed by what follows
	stop := context.AfterFunc(f.ctx, func() {
		_ = f.control.SetWriteDeadline(time.Now()) // monotonic
		close(released)
	})
	return f, func() {
		if !stop() {
			<-released
		}
		_ = f.control.SetWriteDeadline(time.Now().Add(s.config.SlowAfter)) // monotonic; for the end of the body
		f.life.Stop()
		leave()
	}, nil
}

// run sends until the end, and says why it came: errStreamDone, or what the log or the line says.
func (f *feed) run() error {
	for {
		if f.until != (events.Position{}) && !f.pos.Before(f.until) {
			return errStreamDone
		}
		if err := f.over(); err != nil {
			return err
		}
		batch, err := f.next()
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			err = f.send(batch)
		} else if f.reader.Park(f.pos) {
			f.rest()
			f.pos = f.reader.Unpark()
		}
		if err == nil {
			err = f.beat()
		}
		if err != nil {
			return err
		}
	}
}

// next reads the page behind f.pos.
func (f *feed) next() ([]*events.Event, error) {
	if f.ahead != nil {
		return f.ahead.page(f.pos, f.until)
	}
	return f.reader.Read(f.ctx, f.pos, streamBatch)
}

// over tells whether the stream ends here.
func (f *feed) over() error {
	select {
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	case <-f.s.draining:
		return errStreamDone
	case <-f.life.C:
		return errStreamDone
	default:
		return nil
	}
}

// rest waits until there may be something to do.
func (f *feed) rest() {
	timer := time.NewTimer(f.s.config.StreamMark)
	defer timer.Stop()
	select {
	case <-f.reader.Woken():
	case <-f.ctx.Done():
	case <-f.s.draining:
	case <-timer.C:
	}
}

// send writes what the filter lets through of a batch.
func (f *feed) send(batch []*events.Event) error {
	last := batch[len(batch)-1].Position
	matched := make([]*events.Event, 0, len(batch))
	for _, e := range batch {
		if f.until != (events.Position{}) && f.until.Before(e.Position) {
			last = f.until
			break
		}
		if f.ask.filter.Match(e) {
			matched = append(matched, e)
		}
	}
	err := encode(f.ctx, f.reader, matched, f.frame, f.ask.payload, streamBytes, func(out []byte, n int) (bool, error) {
		if err := f.write(out); err != nil {
			return false, err
		}
		f.sent.Add(int64(n))
		f.pos, matched = matched[n-1].Position, matched[n:]
		f.marked, f.markedAt = f.pos, time.Now() // monotonic
		err := f.over()
		return err == nil, err
	})
	if err != nil {
		return err
	}
	f.pos = last
	return nil
}

// beat says where the reader is, so that what was left out is behind it, and that the server lives.
func (f *feed) beat() error {
	if !f.beats {
		return nil
	}
	now := time.Now() // monotonic
	out := ""
	if f.marked != f.pos && now.Sub(f.markedAt) >= f.s.config.StreamMark {
		out = f.idBlock()
	}
	if now.Sub(f.pinged) >= f.s.config.StreamPing {
		f.pinged = now
		out += ": ping\n\n"
	}
	if out == "" {
		return nil
	}
	return f.write([]byte(out))
}

// idBlock moves the client's resume point and is no event to it.
func (f *feed) idBlock() string {
	f.marked, f.markedAt = f.pos, time.Now() // monotonic
	return "id: " + f.pos.String() + "\n\n"
}

// write sends and flushes. It fails when nothing goes out for SlowAfter: what a reader that stalls costs is what the
// kernel holds for it, and one slice.
func (f *feed) write(b []byte) error {
	for len(b) > 0 {
		slice := b[:min(len(b), streamSlice)]
		if err := f.control.SetWriteDeadline(time.Now().Add(f.s.config.SlowAfter)); err != nil { // monotonic
			return errors.Join(errStreamSlow, err)
		}
		if err := context.Cause(f.ctx); err != nil {
			return err
		}
		if _, err := f.c.Writer.Write(slice); err != nil {
			return errors.Join(errStreamSlow, err)
		}
		b = b[len(slice):]
	}
	if err := f.control.Flush(); err != nil {
		return errors.Join(errStreamSlow, err)
	}
	return nil
}

// ended logs why a stream is over.
func (f *feed) ended(err error) {
	log := f.s.config.Log.Debug()
	if _, said := events.Refused(err); !said && f.ctx.Err() == nil && !errors.Is(err, errStreamDone) && !errors.Is(err, errStreamSlow) {
		log = f.s.config.Log.Warn().Err(err)
	}
	log.Str("request_id", callOf(f.c).id).Str("principal", callOf(f.c).principal.Name).Str("cursor", f.pos.String()).
		Bool("slow", errors.Is(err, errStreamSlow)).Msg("stream ended")
}
