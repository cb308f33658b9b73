package events

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// ReadersConfig says how a node serves those who read the log. Zero values mean the defaults.
type ReadersConfig struct {
	Stream        *Stream       // Required.
	Max           int           // readers that stay, of this node: sockets and streams; 0 is 10000
	MaxEach       int           // of one principal; 0 is 100
	HistoryReads  int           // questions to the database at once, by all readers: pages outside the ring, payloads; 0 is 2
	GatherPerWake time.Duration // pause of the fan per reader that it woke, 50 ms at most; 0 is 10 us, negative: none
	Log           zerolog.Logger
}

// Readers are all who read the log at this node, by socket or over HTTP. It counts those that stay, bounds what they cost
// the database, and follows the stream once for all of them (the fan). Safe for concurrent use.
type Readers struct {
	config ReadersConfig

	// history holds an entry for each page that is being read and may lie outside the ring, and for each reading of
	// payloads. Capacity: HistoryReads; never closed.
	history chan struct{}

	mu    sync.Mutex // guards the two below; nothing blocks under it
	count int
	each  map[string]int

	fanMu  sync.Mutex // guards the two below, and seen of readers; nothing blocks under it
	at     Position   // up to here the fan has told the readers
	parked map[*Reader]struct{}
}

// NewReaders refuses a configuration with all its faults. Readers that rest are woken while Run runs.
func NewReaders(config ReadersConfig) (*Readers, error) {
	config.Max, config.MaxEach = cmp.Or(config.Max, 10_000), cmp.Or(config.MaxEach, 100)
	config.HistoryReads = cmp.Or(config.HistoryReads, 2)
	config.GatherPerWake = cmp.Or(config.GatherPerWake, 10*time.Microsecond)
	var faults []error
	if config.Stream == nil {
		faults = append(faults, errors.New("Stream is required"))
	}
	for name, n := range map[string]int{"Max": config.Max, "MaxEach": config.MaxEach, "HistoryReads": config.HistoryReads} {
		if n < 1 {
			faults = append(faults, fmt.Errorf("%s %d: at least 1", name, n))
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("events: readers: %w", errors.Join(faults...))
	}
	return &Readers{
		config: config, history: make(chan struct{}, config.HistoryReads),
		each: make(map[string]int), parked: make(map[*Reader]struct{}),
	}, nil
}

// FullError means that no more readers may stay here.
type FullError struct {
	Limit int
	Own   bool // the limit is that of the principal, not that of the node
}

func (e *FullError) Error() string { return fmt.Sprintf("events: at most %d readers", e.Limit) }

// Join counts a reader that stays, until leave, which is called once. unlimited readers count for the node alone.
// *FullError.
func (rs *Readers) Join(principal string, unlimited bool) (leave func(), err error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	switch {
	case rs.count >= rs.config.Max:
		return nil, &FullError{Limit: rs.config.Max}
	case !unlimited && rs.each[principal] >= rs.config.MaxEach:
		return nil, &FullError{Limit: rs.config.MaxEach, Own: true}
	}
	rs.count++
	rs.each[principal]++
	return func() {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		rs.count--
		if rs.each[principal]--; rs.each[principal] == 0 {
			delete(rs.each, principal)
		}
	}, nil
}

// Reader is one way through the log: it reads from a cursor and rests where nothing is left for its filter. One goroutine
// uses it; one that was parked is unparked at its end.
type Reader struct {
	readers *Readers
	filter  *Filter
	live    bool          // it was at the head once
	wake    chan struct{} // capacity 1. Sender: the fan, under its lock; never closed
	shared  bool          // wake is a bell of several readers: what it says is not for this one alone
	seen    Position      // guarded by readers.fanMu
}

// Reader makes one. The filter decides what wakes it; Read gives all events.
func (rs *Readers) Reader(filter *Filter) *Reader {
	return &Reader{readers: rs, filter: filter, wake: make(chan struct{}, 1)}
}

// ReaderOn makes one that rings a bell, of capacity 1, when it is woken. Readers of one goroutine may share a bell; it may
// ring for nothing, and Parked tells for whom it rang.
func (rs *Readers) ReaderOn(bell chan struct{}, filter *Filter) *Reader {
	return &Reader{readers: rs, filter: filter, wake: bell, shared: true}
}

// Recent is Read from memory alone: it neither waits nor asks the database. ok is false when the position lies behind what
// is kept in memory. Errors as for Stream.Read.
func (r *Reader) Recent(after Position, limit int) (batch []*Event, ok bool, err error) {
	return r.readers.config.Stream.recent(after, limit)
}

// liveLag is how far behind the head a reader that was there still reads from the ring for certain.
const liveLag = 512

// Read returns up to limit events after a position; none means that it is the head. Only a few readers at once may read
// what may lie outside the ring: the rest of the node needs its connections. Errors as for Stream.Read, and the cause of
// ctx.
func (r *Reader) Read(ctx context.Context, after Position, limit int) ([]*Event, error) {
	stream := r.readers.config.Stream
	head, err := stream.Head()
	if err != nil {
		return nil, err
	}
	if !r.live || head.Seq-after.Seq > liveLag {
		done, err := r.readers.queue(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	batch, err := stream.Read(ctx, after, limit)
	if err == nil && len(batch) == 0 {
		r.live = true
	}
	return batch, err
}

// PayloadBatch is how many events to ask Payloads for at once: payloads may be large.
const PayloadBatch = 32

// Payloads returns the payloads of the jobs of some events, as they are stored now; those of jobs that are gone are missing.
// It asks the database, as one of those few who may at once.
func (r *Reader) Payloads(ctx context.Context, batch []*Event) (map[uuid.UUID]json.RawMessage, error) {
	ids := make([]uuid.UUID, 0, len(batch))
	for _, e := range batch {
		if e.AboutJob() {
			ids = append(ids, e.JobID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	done, err := r.readers.queue(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	stream := r.readers.config.Stream
	ctx, cancel := context.WithTimeout(ctx, stream.config.Deadline)
	defer cancel()
	return jobs.Payloads(ctx, stream.config.DB, ids)
}

// queue waits until this reader is one of those who may ask the database.
func (rs *Readers) queue(ctx context.Context) (done func(), err error) {
	select {
	case rs.history <- struct{}{}:
		return func() { <-rs.history }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Park puts a reader that has read everything up to pos to rest; false when the fan is past pos: there is more.
func (r *Reader) Park(pos Position) bool {
	rs := r.readers
	rs.fanMu.Lock()
	defer rs.fanMu.Unlock()
	if pos.Before(rs.at) {
		return false
	}
	if !r.shared {
		// A wake-up from before is stale.
		select {
		case <-r.wake:
		default:
		}
	}
	r.seen = pos
	rs.parked[r] = struct{}{}
	return true
}

// Woken is ready when there is something for a parked reader.
func (r *Reader) Woken() <-chan struct{} { return r.wake }

// Parked tells whether the reader still rests: nothing has come for it since Park.
func (r *Reader) Parked() bool {
	rs := r.readers
	rs.fanMu.Lock()
	defer rs.fanMu.Unlock()
	_, ok := rs.parked[r]
	return ok
}

// Unpark ends the rest, and tells up to where everything was looked at for the reader.
func (r *Reader) Unpark() Position {
	rs := r.readers
	rs.fanMu.Lock()
	defer rs.fanMu.Unlock()
	if _, ok := rs.parked[r]; ok {
		rs.rouse(r)
	}
	return r.seen
}

// rouse lets a parked reader go on. The caller holds fanMu.
func (rs *Readers) rouse(r *Reader) {
	if r.seen.Epoch == rs.at.Epoch && r.seen.Before(rs.at) {
		r.seen = rs.at // all up to here was looked at, and was not for it
	}
	delete(rs.parked, r)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

const (
	fanBatch   = 1000
	fanTooLate = 4096 // events behind the head: everybody looks for himself
	maxGather  = 50 * time.Millisecond
)

// Run is the fan: it follows the stream for all readers that have nothing to read, and wakes those for whom something has
// come, until ctx ends; it returns nil. Otherwise each tick would wake every reader, only to find that its filter lets
// nothing through. Measured (BenchmarkFanOut of the hub: 3000 filtered and 50 whole clients, 500 events/s, all on 2 cores,
// 2026-11): p50 6 ms, p99 17 ms; when each batch wakes everybody and nothing is gathered 53 and 130 ms.
func (rs *Readers) Run(ctx context.Context) error {
	stream := rs.config.Stream
	select {
	case <-ctx.Done():
		return nil
	case <-stream.Ready():
	}
	rs.jump()
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for {
		rs.fanMu.Lock()
		at := rs.at
		rs.fanMu.Unlock()
		if stream.Wait(ctx, at) != nil {
			return nil // ctx has ended
		}
		wait := time.Duration(0)
		head, err := stream.Head()
		var batch []*Event
		if err == nil && head.Epoch == at.Epoch && head.Seq-at.Seq <= fanTooLate {
			batch, err = stream.Read(ctx, at, fanBatch)
		}
		switch {
		case err != nil:
			rs.config.Log.Debug().Err(err).Msg("the fan lost its place in the stream")
			rs.jump()
			wait = maxGather
		case len(batch) == 0:
			rs.jump()
		default:
			// The more readers wake at once, the longer the next ones are gathered: what it costs grows with the readers,
			// and not with the readers times the ticks.
			wait = min(time.Duration(rs.tell(batch))*max(0, rs.config.GatherPerWake), maxGather)
		}
		if wait == 0 {
			continue
		}
		pause.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
}

// jump puts the fan at the head, and wakes everybody: what lies between, or that the epoch is another one, each finds out
// by reading.
func (rs *Readers) jump() {
	head, err := rs.config.Stream.Head()
	if err != nil {
		return // it was ready before, so it is
	}
	rs.fanMu.Lock()
	defer rs.fanMu.Unlock()
	for r := range rs.parked {
		rs.rouse(r)
	}
	rs.at = head
}

// tell moves the fan past a batch and wakes the readers that something in it is for.
func (rs *Readers) tell(batch []*Event) (woken int) {
	rs.fanMu.Lock()
	defer rs.fanMu.Unlock()
	for r := range rs.parked {
		for _, e := range batch {
			// A reader may have parked ahead of the fan.
			if r.seen.Before(e.Position) && r.filter.Match(e) {
				rs.rouse(r)
				woken++
				break
			}
		}
	}
	rs.at = batch[len(batch)-1].Position
	return woken
}

// Parked is how many readers rest, and where the fan is.
func (rs *Readers) Parked() (n int, at Position) {
	rs.fanMu.Lock()
	defer rs.fanMu.Unlock()
	return len(rs.parked), rs.at
}
