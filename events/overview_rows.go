package events

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Beside the counts of jobs an overview knows the rows of queues and which remote workers are there. Both begin with the base.
// A worker's event says all of its step, so it is folded. A queue's event says that its row has changed, and not all of how:
// the row is read again, once for all viewers.

// WorkerNumbers is how many remote workers there are; who is silent for jobs.WorkerSilence is not.
type WorkerNumbers struct{ Online, Draining int }

// Workers tells how many remote workers there are; false: not counted yet.
func (o *Overview) Workers() (n WorkerNumbers, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, state := range o.workers {
		switch state {
		case jobs.WorkerOnline:
			n.Online++
		case jobs.WorkerDraining:
			n.Draining++
		}
	}
	return n, o.based
}

// rowDelta is an event of a queue or of a worker, remembered while a count runs.
type rowDelta struct {
	xid    uint64
	queue  string
	worker uuid.UUID
	kind   string // the type of the event
}

// maxRowDeltas is how many are remembered while a count runs.
const maxRowDeltas = 4096

// rowDeltaOf reads an event that is about no job; false: it changes no row that is looked at here.
func rowDeltaOf(e *Event) (d rowDelta, ok bool) {
	d = rowDelta{xid: e.XID, queue: e.Queue, kind: e.Type}
	switch e.Type {
	case "worker.online", "worker.draining", "worker.offline":
		var said struct {
			ID uuid.UUID `json:"worker_id"`
		}
		if err := json.Unmarshal(e.Data, &said); err != nil {
			return d, false
		}
		d.worker = said.ID
		return d, true
	}
	return d, e.Queue != ""
}

// foldRow takes in an event that is about no job, unless the base has it already. The caller holds the lock.
func (o *Overview) foldRow(e *Event) {
	d, ok := rowDeltaOf(e)
	if !ok {
		return
	}
	if o.recording {
		if len(o.rowDeltas) < maxRowDeltas {
			o.rowDeltas = append(o.rowDeltas, d)
		} else {
			o.tooMany = true
		}
	}
	if !o.based || !o.snap.sees(e.XID) {
		o.changeRow(d)
	}
}

// changeRow does what an event says. The caller holds the lock.
func (o *Overview) changeRow(d rowDelta) {
	switch d.kind {
	case "worker.online":
		o.workers[d.worker] = jobs.WorkerOnline
		return
	case "worker.draining":
		o.workers[d.worker] = jobs.WorkerDraining
		return
	case "worker.offline":
		delete(o.workers, d.worker)
		return
	}
	q := o.queue(d.queue)
	q.hasRow = true
	switch d.kind {
	case "queue.paused":
		q.paused = true
	case "queue.resumed":
		q.paused = false
	}
	if q.name == d.queue { // no row is of OtherQueue
		q.row = nil
		o.staleRows[d.queue] = struct{}{}
		o.wake()
	}
}

// installRows takes over the rows of a base, and what happened since its snapshot. The caller holds the lock.
func (o *Overview) installRows(b base, deltas []rowDelta) {
	o.staleRows = make(map[string]struct{})
	o.workers = maps.Clone(b.workers)
	if o.workers == nil {
		o.workers = make(map[uuid.UUID]jobs.WorkerState)
	}
	for _, row := range b.rows {
		q := o.queue(row.Name)
		q.hasRow, q.paused = true, row.Paused
		if q.name == row.Name {
			q.row = &row
		}
	}
	for _, d := range deltas {
		if !b.snap.sees(d.xid) {
			o.changeRow(d)
		}
	}
}

// rereadRows reads the rows again that events have told of. What fails is tried again with the next round of Run.
func (o *Overview) rereadRows(ctx context.Context) {
	o.mu.Lock()
	taken := o.staleRows
	generation := o.generation
	if len(taken) == 0 || !o.based {
		o.mu.Unlock()
		return
	}
	o.staleRows = make(map[string]struct{})
	o.mu.Unlock()

	within, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	rows, err := o.readRows(within, slices.Collect(maps.Keys(taken)))
	if err != nil && ctx.Err() == nil {
		o.config.Log.Warn().Err(err).Msg("overview could not read the rows of queues")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.generation != generation {
		return // a base comes
	}
	if err != nil {
		maps.Copy(o.staleRows, taken)
		return
	}
	for _, row := range rows {
		q := o.queues[row.Name]
		if _, again := o.staleRows[row.Name]; q != nil && !again {
			q.row = &row
		}
	}
}

// rowsFromDatabase reads the rows of queues.
func (o *Overview) rowsFromDatabase(ctx context.Context, names []string) ([]jobs.Queue, error) {
	rows, err := jobs.QueuesNamed(ctx, o.config.DB, names)
	if err != nil {
		return nil, fmt.Errorf("read the rows of queues: %w", err)
	}
	return rows, nil
}

// rowOf is what is known of a queue's row: the zero Queue if there is none; false while it has changed and was not read again,
// or was read and tells of what the stream has not told yet.
func (q *queueState) rowOf() (row jobs.Queue, known bool) {
	switch {
	case !q.hasRow:
		return row, true
	case q.row == nil || q.row.Paused != q.paused:
		return row, false
	}
	return *q.row, true
}
