package api

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// presence is what this node knows of remote workers: their registrations, so that a claim needs no query, and which of them
// it has heard of lately, which it says for all of them in one statement (keep).
type presence struct {
	mu     sync.Mutex // guards what follows; nothing blocks under it
	known  map[uuid.UUID]*knownWorker
	parked int       // calls of all of them
	watch  bool      // some worker is not offline: somebody must notice when it falls silent
	seenAt time.Time // until when the database was told who is there
}

// knownWorker is guarded by presence.mu; worker is never changed after it was read, only replaced.
type knownWorker struct {
	worker  jobs.Worker
	readAt  time.Time
	heardAt time.Time
	parked  int
	leave   chan struct{} // closed when its parked calls are to answer; made anew then
}

const (
	presenceEvery = 15 * time.Second // how often a node says whom it has heard of
	knownFor      = 2 * presenceEvery
)

// The first look is made whoever was heard of: workers may have gone together with the node that knew them.
func newPresence() *presence {
	return &presence{known: make(map[uuid.UUID]*knownWorker), watch: true}
}

// fold hears from the stream that a worker came to some node: that one may go before it.
func (p *presence) fold(batch []*events.Event) {
	for _, e := range batch {
		if e.Type == "worker.online" {
			p.mu.Lock()
			p.watch = true
			p.mu.Unlock()
		}
	}
}

// learn takes in a registration as it was read just now.
func (p *presence) learn(w jobs.Worker) *knownWorker {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[w.ID]
	if k == nil {
		k = &knownWorker{leave: make(chan struct{})}
		p.known[w.ID] = k
	}
	before := k.worker.Asked
	k.worker, k.readAt, k.heardAt = w, now, now
	k.worker.Asked = before
	k.ask(w.Asked)
	p.watch = true
	return k
}

// ask takes in what an operator wants, which only ever goes further: its parked calls answer.
func (k *knownWorker) ask(what jobs.Asked) {
	if what == k.worker.Asked || what == "" || k.worker.Asked == jobs.AskedDrain {
		return
	}
	k.worker.Asked = what
	k.letGo()
}

// heard returns a worker that was read not long ago; a call of it is a sign of life.
func (p *presence) heard(id uuid.UUID) (k *knownWorker, w jobs.Worker, ok bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k = p.known[id]
	if k == nil || now.Sub(k.readAt) > knownFor {
		return nil, w, false
	}
	k.heardAt = now
	return k, k.worker, true
}

// park counts a call of a worker as parked: leave is closed when it is to answer, gone ends that. false: it is not to be
// parked, because the worker was removed or asked to claim no more.
func (p *presence) park(k *knownWorker) (leave <-chan struct{}, gone func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[k.worker.ID] != k || k.worker.Asked != "" {
		return nil, nil, false
	}
	k.parked++
	p.parked++
	return k.leave, func() {
		p.mu.Lock()
		k.parked--
		p.parked--
		k.heardAt = time.Now()
		p.mu.Unlock()
	}, true
}

// asked takes in what an operator wants of a worker.
func (p *presence) asked(id uuid.UUID, what jobs.Asked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[id]; k != nil {
		k.ask(what)
	}
}

// forget ends what is known of a worker: its parked calls answer, and its next one finds out that it is gone.
func (p *presence) forget(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[id]; k != nil {
		delete(p.known, id)
		k.letGo()
	}
}

func (k *knownWorker) letGo() {
	close(k.leave)
	k.leave = make(chan struct{})
}

// present are the workers that were heard of since the last time; those silent for long are forgotten here.
func (p *presence) present(now time.Time) (ids []uuid.UUID, watch bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, k := range p.known {
		switch {
		case k.parked > 0 || k.heardAt.After(p.seenAt):
			ids = append(ids, id)
		case now.Sub(k.heardAt) > knownFor:
			delete(p.known, id)
		}
	}
	return ids, p.watch
}

// told takes in what the database knows of workers: ids were asked about, and asked holds those that are there.
func (p *presence) told(ids []uuid.UUID, asked map[uuid.UUID]jobs.Asked, watch bool, at time.Time) {
	for _, id := range ids {
		if what, ok := asked[id]; ok {
			p.asked(id, what)
		} else {
			p.forget(id)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch, p.seenAt = watch, at
	for id := range asked {
		if k := p.known[id]; k != nil {
			k.readAt = at
		}
	}
}

// keep says for all workers that this node has heard of that they are there, and lets those that nobody heard of go offline,
// until ctx ends. While no worker is online it asks nothing.
func (p *presence) keep(ctx context.Context, s *Server) {
	ticker := time.NewTicker(presenceEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		ids, watch := p.present(now)
		if len(ids) == 0 && !watch {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, s.config.Deadline)
		asked, left, err := jobs.SeeWorkers(callCtx, s.config.DB, ids)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.config.Log.Warn().Err(err).Int("workers", len(ids)).Msg("the presence of workers could not be noted")
		default:
			p.told(ids, asked, left, now)
		}
	}
}

// knows tells whether a worker is still the one that it was.
func (p *presence) knows(id uuid.UUID, k *knownWorker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id] == k
}

// now is a worker as it is known at this moment; w if it is not known any more.
func (p *presence) now(id uuid.UUID, w jobs.Worker) jobs.Worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[id]; k != nil {
		return k.worker
	}
	return w
}

// parkedCalls is how many claims are parked at this node.
func (p *presence) parkedCalls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parked
}
