package workers

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

const (
	operationsAtOnce   = 8                // held by a node
	operationsSweep    = 5 * time.Minute  // for one whose events were missed
	operationsRetry    = time.Second      // after a database that is away
	portionDeadline    = 30 * time.Second // of one portion, its search included
	operationTries     = 5                // portions in a row that fail before the operation does
	operationsLastCall = 200 * time.Millisecond
)

// operations carries bulk operations out. One goroutine owns the state: a portion of each operation in turn, so that a large
// one holds up no small one, and one connection serves them all. When nothing runs it sleeps: the event of a new operation
// wakes it, and it knows when the lease of another node's operation would run out.
type operations struct {
	db    *pgxpool.Pool
	node  string
	lease time.Duration
	log   zerolog.Logger
	wake  chan struct{} // capacity 1: it never hurts to look once more

	held   map[uuid.UUID]*heldOperation
	lookAt time.Time // when to look for operations that nobody carries out
}

type heldOperation struct {
	*jobs.Operation
	dueAt  time.Time // of the next portion
	failed int       // portions in a row
}

func newOperations(db *pgxpool.Pool, node string, lease time.Duration, log zerolog.Logger) *operations {
	return &operations{
		db: db, node: node, lease: lease, log: log, wake: make(chan struct{}, 1),
		held: make(map[uuid.UUID]*heldOperation),
	}
}

// Wake says that there may be an operation to carry out. It never blocks.
func (o *operations) Wake() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Run ends with ctx, and lets other nodes have what it held.
func (o *operations) Run(ctx context.Context) error {
	o.lookAt = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			o.release(context.WithoutCancel(ctx))
			return nil
		case <-o.wake:
			o.lookAt = time.Now()
		case <-timer.C:
		}
		timer.Reset(time.Until(o.round(ctx)))
	}
}

// round does what is due, and says when something is again.
func (o *operations) round(ctx context.Context) time.Time {
	if !time.Now().Before(o.lookAt) {
		o.look(ctx)
	}
	for _, h := range o.held {
		if ctx.Err() == nil && !time.Now().Before(h.dueAt) {
			o.carryOn(ctx, h)
		}
	}
	next := o.lookAt
	for _, h := range o.held {
		if h.dueAt.Before(next) {
			next = h.dueAt
		}
	}
	return next
}

// look claims operations that no node carries out.
func (o *operations) look(ctx context.Context) {
	if len(o.held) == operationsAtOnce {
		o.lookAt = time.Now().Add(operationsSweep) // or when one of them is over
		return
	}
	ctx, cancel := context.WithTimeout(ctx, portionDeadline)
	defer cancel()
	claimed, next, err := jobs.ClaimOperations(ctx, o.db, o.node, o.lease, operationsAtOnce-len(o.held))
	for _, op := range claimed {
		o.held[op.ID] = &heldOperation{Operation: op, dueAt: time.Now()}
	}
	switch {
	case err != nil:
		if ctx.Err() == nil {
			o.log.Warn().Err(err).Msg("bulk operations could not be looked for, trying again")
		}
		next = operationsRetry
	case next == 0:
		next = operationsSweep
	}
	o.lookAt = time.Now().Add(min(next, operationsSweep))
}

// carryOn does one portion.
func (o *operations) carryOn(ctx context.Context, h *heldOperation) {
	bounded, cancel := context.WithTimeout(ctx, portionDeadline)
	defer cancel()
	p, err := h.CarryOn(bounded, o.db, o.node, o.lease)
	switch {
	case err == nil && p.Over:
		delete(o.held, h.ID)
		o.lookAt = time.Now() // there may be one that had to wait
	case err == nil:
		h.failed, h.dueAt = 0, time.Now().Add(p.Wait)
	case ctx.Err() != nil:
	default:
		o.log.Warn().Err(err).Str("operation", h.ID.String()).Msg("a portion of a bulk operation failed, trying again")
		h.dueAt = time.Now().Add(operationsRetry)
		if jobs.Unavailable(err) && bounded.Err() == nil {
			return // the database is away: that is not the operation's fault
		}
		if h.failed++; h.failed >= operationTries {
			o.giveUp(ctx, h)
		}
	}
}

// giveUp ends an operation that cannot be carried out: its search takes too long, or the database refuses it.
func (o *operations) giveUp(ctx context.Context, h *heldOperation) {
	ctx, cancel := context.WithTimeout(ctx, portionDeadline)
	defer cancel()
	if err := jobs.FailOperation(ctx, o.db, h.ID, o.node, "its portions fail, the server's log says why"); err != nil {
		o.log.Warn().Err(err).Str("operation", h.ID.String()).Msg("a bulk operation that fails could not be ended")
		return
	}
	delete(o.held, h.ID)
}

func (o *operations) release(ctx context.Context) {
	if len(o.held) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, operationsLastCall)
	defer cancel()
	if err := jobs.ReleaseOperations(ctx, o.db, o.node); err != nil {
		o.log.Warn().Err(err).Msg("bulk operations could not be released: other nodes wait for their leases to run out")
	}
}
