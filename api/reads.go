package api

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// reads reads jobs for calls that end at the same time in one statement: while one is under way the next batch fills. Without it
// the answer to an outcome costs more than the outcome, which shares its statement with others, too.
type reads struct {
	db       jobs.DB
	deadline time.Duration

	mu      sync.Mutex // guards what follows; nothing blocks under it
	waiting []*oneRead
	reading bool
}

type oneRead struct {
	id   uuid.UUID
	done chan struct{} // closed when job and err are there
	job  *jobs.Job
	err  error
}

const maxReads = 500 // jobs of one statement

// get returns a job as it was after the call began, without payload and result.
func (r *reads) get(ctx context.Context, id uuid.UUID) (*jobs.Job, error) {
	one := &oneRead{id: id, done: make(chan struct{})}
	r.mu.Lock()
	r.waiting = append(r.waiting, one)
	begin := !r.reading
	r.reading = true
	r.mu.Unlock()
	if begin {
		go r.run() //nolint:gosec // it reads for others, too. Ends when nobody waits; each statement has a deadline
	}
	select {
	case <-one.done:
		return one.job, one.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *reads) run() {
	for {
		r.mu.Lock()
		n := min(len(r.waiting), maxReads)
		batch := r.waiting[:n:n]
		r.waiting = r.waiting[n:]
		r.reading = n > 0
		r.mu.Unlock()
		if n == 0 {
			return
		}
		ids := make([]uuid.UUID, n)
		for i, one := range batch {
			ids[i] = one.id
		}
		ctx, cancel := context.WithTimeout(context.Background(), r.deadline)
		found, err := jobs.GetMany(ctx, r.db, ids)
		cancel()
		for _, one := range batch {
			if one.job, one.err = found[one.id], err; one.job == nil && err == nil {
				one.err = jobs.ErrNotFound
			}
			close(one.done)
		}
	}
}
