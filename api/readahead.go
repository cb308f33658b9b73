package api

import (
	"context"

	"github.com/mini-asynq/mini-asynq/events"
)

// Who takes a long stretch of the past gets larger pages, and the next one is read from the table while the one before is
// encoded and sent: both halves are work. It costs memory, two pages a stream, so only a few do it at once; the others
// read as everybody does.
//
// Measured (BenchmarkReplay, 30,000 to 50,000 events, server, client and PostgreSQL on two cores that others used as well,
// 2026-11): 31,000 events/s in pages of 256, 87,000 in pages of 2000; with the next page read ahead 95,000 to 126,000, and
// 150,000 to 166,000 when the others were quieter. Larger pages gained nothing.
const (
	maxBulk  = 8
	bulkPage = 2000 // events, about 2 MB
)

// ahead reads a stretch of the log a page ahead of who sends it. It and the feed that it is of are used by one goroutine.
type ahead struct {
	ctx    context.Context //nolint:containedctx // of the one request that it serves
	reader *events.Reader
	coming chan pageOf // capacity 1: what the goroutine of read sends, once; nil: nothing is on its way
}

type pageOf struct {
	after  events.Position
	events []*events.Event
	err    error
}

// hurry makes a feed read ahead, if it may. What it returns is called at the end of the feed. With payloads it does not:
// these are what such a stream waits for.
func (f *feed) hurry() (done func()) {
	if f.ask.payload {
		return func() {}
	}
	select {
	case f.s.bulk <- struct{}{}:
	default:
		return func() {}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	f.ahead = &ahead{ctx: ctx, reader: f.reader}
	return func() {
		cancel()
		f.ahead.settle()
		<-f.s.bulk
	}
}

// page returns the page behind a position, and begins to read the one behind that; until is where the stretch ends.
func (a *ahead) page(after, until events.Position) ([]*events.Event, error) {
	got := a.settle()
	if got.after != after { // nothing was
		got = a.read(after, until)
	}
	if got.err != nil || len(got.events) == 0 {
		return got.events, got.err
	}
	if last := got.events[len(got.events)-1].Position; last.Before(until) {
		a.coming = make(chan pageOf, 1)
		// Ends with its page or with ctx; settle waits for it.
		go func(coming chan<- pageOf) { coming <- a.read(last, until) }(a.coming)
	}
	return got.events, nil
}

// settle waits for what is on its way.
func (a *ahead) settle() (got pageOf) {
	if a.coming != nil {
		got, a.coming = <-a.coming, nil
	}
	return got
}

func (a *ahead) read(after, until events.Position) pageOf {
	limit := bulkPage
	if until.Epoch == after.Epoch && until.Seq > after.Seq {
		limit = int(min(bulkPage, until.Seq-after.Seq))
	}
	batch, err := a.reader.Read(a.ctx, after, limit)
	return pageOf{after, batch, err}
}
