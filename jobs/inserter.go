package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// InserterConfig tunes an Inserter. The zero value is good.
type InserterConfig struct {
	Committers int // commits in flight at once; 0 is 2. More makes batches smaller, not commits faster.
	MaxRows    int // jobs in one commit; 0 is 1000
	KeyedLanes int // keyed enqueues at once; 0 is 8
	// Timeout bounds one commit; 0 is 10 s.
	Timeout time.Duration
	// Stored is called after each commit with what is new, before the callers return: the node wakes its idle workers.
	// It must not block.
	Stored func([]Enqueued)
}

func (c InserterConfig) withDefaults() InserterConfig {
	if c.Committers == 0 {
		c.Committers = 2
	}
	if c.MaxRows == 0 {
		c.MaxRows = 1000
	}
	if c.KeyedLanes == 0 {
		c.KeyedLanes = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Stored == nil {
		c.Stored = func([]Enqueued) {}
	}
	return c
}

// Inserter lets concurrent enqueues of a node share transactions. Batches form by back-pressure: while one commit is in
// flight the next one fills; there is no timer. Every caller returns after the commit that holds its jobs, and sees
// only its own error: a batch that fails is tried again one caller at a time.
//
// Enqueues with an idempotency key never share a transaction, and wait in lanes of their own: a foreign transaction
// that holds a key must not hold up a node. Safe for concurrent use.
type Inserter struct {
	db      DB
	config  InserterConfig
	waiting chan *enqueueCall // unbuffered: callers are the queue, so it is bounded by them. Never closed.
	keyed   chan struct{}     // capacity: the lanes
	done    chan struct{}     // closed when Run has returned
	batches atomic.Int64
	rows    atomic.Int64
}

type enqueueCall struct {
	rows  []row
	reply chan enqueueReply // capacity 1: the committer never waits for a caller that left
}

type enqueueReply struct {
	jobs []Enqueued
	err  error
}

// NewInserter makes an inserter; it works while Run does.
func NewInserter(db DB, config InserterConfig) *Inserter {
	config = config.withDefaults()
	return &Inserter{
		db:      db,
		config:  config,
		waiting: make(chan *enqueueCall),
		keyed:   make(chan struct{}, config.KeyedLanes),
		done:    make(chan struct{}),
	}
}

// InserterStats counts since the start.
type InserterStats struct{ Batches, Rows int64 }

// Stats tells how well calls share transactions.
func (in *Inserter) Stats() InserterStats {
	return InserterStats{Batches: in.batches.Load(), Rows: in.rows.Load()}
}

// Enqueue is the function Enqueue through shared transactions. When ctx ends while the commit is in flight the answer
// is ErrCommitUnknown: the jobs may be stored.
func (in *Inserter) Enqueue(ctx context.Context, params ...Params) ([]Enqueued, error) {
	rows, err := newRows(params)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	for i := range rows {
		if rows[i].params.IdempotencyKey != "" {
			return in.inLane(ctx, func(ctx context.Context) ([]Enqueued, error) { return enqueueKeyed(ctx, in.db, rows) })
		}
	}
	call := &enqueueCall{rows: rows, reply: make(chan enqueueReply, 1)}
	select {
	case in.waiting <- call:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-in.done:
		return nil, ErrClosed
	}
	select {
	case reply := <-call.reply:
		return reply.jobs, reply.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w (%w)", ErrCommitUnknown, context.Cause(ctx))
	}
}

// EnqueueOnce is the function EnqueueOnce in one of the lanes for keys.
func (in *Inserter) EnqueueOnce(ctx context.Context, once Once, params ...Params) (OnceResult, error) {
	var result OnceResult
	_, err := in.inLane(ctx, func(ctx context.Context) (_ []Enqueued, err error) {
		result, err = EnqueueOnce(ctx, in.db, once, params...)
		return result.Jobs, err
	})
	return result, err
}

func (in *Inserter) inLane(ctx context.Context, fn func(context.Context) ([]Enqueued, error)) ([]Enqueued, error) {
	select {
	case in.keyed <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-in.done:
		return nil, ErrClosed
	}
	defer func() { <-in.keyed }()
	ctx, cancel := context.WithTimeout(ctx, in.config.Timeout)
	defer cancel()
	jobs, err := fn(ctx)
	if err == nil {
		in.stored(jobs)
	}
	return jobs, err
}

// Run commits until ctx ends; calls that a committer has taken are finished first. It returns nil.
func (in *Inserter) Run(ctx context.Context) error {
	defer close(in.done)
	ended := make(chan struct{}, in.config.Committers)
	for range in.config.Committers {
		// Ends when ctx does; Run waits for it below.
		go func() {
			defer func() { ended <- struct{}{} }()
			in.commitLoop(ctx)
		}()
	}
	for range in.config.Committers {
		<-ended
	}
	return nil
}

// maxYields is how often a committer lets others run before it is sure that nobody else is coming. Where nothing else is
// to run, a yield takes well below a microsecond.
const maxYields = 4

func (in *Inserter) commitLoop(ctx context.Context) {
	calls := make([]*enqueueCall, 0, 256)
	for {
		select {
		case <-ctx.Done():
			return
		case call := <-in.waiting:
			calls = append(calls[:0], call)
		}
		// Everybody who waits at this moment rides along, and who is about to: the callers of the commit that has just
		// ended are on their way back, and without them each commit would be a third of what it could be (measured).
		n := len(calls[0].rows)
		for yields := 0; n < in.config.MaxRows && yields < maxYields; {
			select {
			case call := <-in.waiting:
				calls = append(calls, call)
				n += len(call.rows)
				yields = 0
			default:
				runtime.Gosched()
				yields++
			}
		}
		in.commit(context.WithoutCancel(ctx), calls, n)
	}
}

// commit stores the calls in one transaction, or each by itself when that fails for a reason that may be one call's.
func (in *Inserter) commit(ctx context.Context, calls []*enqueueCall, n int) {
	ctx, cancel := context.WithTimeout(ctx, in.config.Timeout)
	defer cancel()
	rows := make([]row, 0, n)
	for _, call := range calls {
		rows = append(rows, call.rows...)
	}
	stored, err := insert(ctx, in.db, rows)
	if err == nil {
		in.batches.Add(1)
		in.rows.Add(int64(n))
		in.stored(stored)
		for _, call := range calls {
			call.reply <- enqueueReply{jobs: stored[:len(call.rows):len(call.rows)]}
			stored = stored[len(call.rows):]
		}
		return
	}
	if len(calls) == 1 || errors.Is(err, ErrCommitUnknown) || Unavailable(err) {
		for _, call := range calls {
			call.reply <- enqueueReply{err: err}
		}
		return
	}
	for _, call := range calls {
		in.commit(ctx, []*enqueueCall{call}, len(call.rows))
	}
}

func (in *Inserter) stored(jobs []Enqueued) {
	if len(jobs) > 0 {
		in.config.Stored(jobs)
	}
}
