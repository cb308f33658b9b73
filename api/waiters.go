package api

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// until is what a parked call waits for.
type until string

const (
	untilFinished until = "finished"
	untilStarted  until = "started"
	untilChanged  until = "changed"
)

func (u until) valid() bool { return u == untilFinished || u == untilStarted || u == untilChanged }

// reached tells whether a job is there; since is the version that the caller knows.
func (u until) reached(j *jobs.Job, since int64) bool {
	switch u {
	case untilStarted:
		return !j.StartedAt.IsZero() || j.Status.Finished()
	case untilChanged:
		return j.Version > since
	}
	return j.Status.Finished()
}

// maxParked bounds the calls that wait at one node.
const maxParked = 10_000

// waiters are the calls that wait for jobs. One goroutine (follow) reads the stream for all of them, so that a call that
// waits costs neither a query nor a look at each event.
type waiters struct {
	mu    sync.Mutex // guards byJob and count; nothing blocks under it
	byJob map[uuid.UUID]map[*waiter]struct{}
	count int
}

// waiter is one call.
type waiter struct {
	job   uuid.UUID
	until until
	since atomic.Int64  // for untilChanged: the version that the caller knows
	wake  chan struct{} // capacity 1: look again. Sent by follow, never closed.
}

func newWaiters() *waiters { return &waiters{byJob: make(map[uuid.UUID]map[*waiter]struct{})} }

// add registers a call. What happens from here on wakes it, so whoever registers first and reads the job then misses
// nothing. nil: there are too many.
func (w *waiters) add(job uuid.UUID, u until) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count >= maxParked {
		return nil
	}
	one := &waiter{job: job, until: u, wake: make(chan struct{}, 1)}
	if w.byJob[job] == nil {
		w.byJob[job] = make(map[*waiter]struct{})
	}
	w.byJob[job][one] = struct{}{}
	w.count++
	return one
}

func (w *waiters) remove(one *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byJob[one.job], one)
	if len(w.byJob[one.job]) == 0 {
		delete(w.byJob, one.job)
	}
	w.count--
}

func (one *waiter) nudge() {
	select {
	case one.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// feed wakes the calls that an event concerns.
func (w *waiters) feed(batch []*events.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range batch {
		for one := range w.byJob[e.JobID] {
			if one.concerns(e) {
				one.nudge()
			}
		}
	}
}

func (one *waiter) concerns(e *events.Event) bool {
	switch {
	case e.Status == "" || e.Status.Finished(): // gone, or at its end: every wait is over
		return true
	case one.until == untilStarted:
		return e.Status == jobs.Running
	case one.until == untilChanged:
		return e.JobVersion > one.since.Load()
	}
	return false
}

// nudgeAll makes every call look again: something may have been missed.
func (w *waiters) nudgeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, calls := range w.byJob {
		for one := range calls {
			one.nudge()
		}
	}
}

func (w *waiters) parked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// followPage is how many events are looked at at once; followLag is when it is cheaper to let everybody look.
const (
	followPage = 1000
	followLag  = 10_000
)

// follow feeds the calls from the stream until ctx ends.
func (w *waiters) follow(ctx context.Context, stream *events.Stream) {
	select {
	case <-ctx.Done():
		return
	case <-stream.Ready():
	}
	var at events.Position // before everything: the first look finds the head
	for {
		if err := stream.Wait(ctx, at); err != nil {
			return
		}
		// The head is taken before the look at who waits: who registers after that reads the job later still, and sees
		// all that lies up to here.
		head, err := stream.Head()
		if err != nil {
			return // Ready says that this cannot be
		}
		if w.parked() == 0 {
			at = head
			continue
		}
		if at.Epoch != head.Epoch || head.Seq-at.Seq > followLag {
			at = head
			w.nudgeAll()
			continue
		}
		batch, err := stream.Read(ctx, at, followPage)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			at = head
			w.nudgeAll()
		case len(batch) > 0:
			at = batch[len(batch)-1].Position
			w.feed(batch)
		}
	}
}

// await reads a job, and while it has not got where the caller wants it waits up to a time, the caller's leaving or the
// node's going; then it returns the job as it is. Position first: the call is registered before the job is read.
func (s *Server) await(ctx context.Context, id uuid.UUID, u until, since int64, wait time.Duration) (*jobs.Job, error) {
	if wait <= 0 {
		return s.readJob(ctx, id)
	}
	one := s.waiters.add(id, u)
	if one == nil {
		return nil, refuse(tooManyStreams, "too many calls wait at this node")
	}
	defer s.waiters.remove(one)
	one.since.Store(since)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for last := false; ; {
		job, err := s.readJob(ctx, id)
		if err != nil {
			return nil, err
		}
		if since == 0 { // "changed" means since now
			since = job.Version
			one.since.Store(since)
		}
		if last || u.reached(job, since) {
			return job, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-one.wake:
		case <-timer.C:
			last = true
		case <-s.draining:
			return job, nil
		}
	}
}

// ParkedClaims is how many claims of remote workers wait at this moment.
func (s *Server) ParkedClaims() int { return s.presence.parkedCalls() }

// Parked is how many calls wait for jobs at this moment.
func (s *Server) Parked() int { return s.waiters.parked() }

func (s *Server) readJob(ctx context.Context, id uuid.UUID) (*jobs.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Deadline)
	defer cancel()
	return jobs.Get(ctx, s.config.DB, id)
}
