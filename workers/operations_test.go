package workers_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

var byHand = jobs.Act{Actor: "basic:admin"}

// scheduled stores jobs that are due in an hour.
func (f *fixture) scheduled(queue string, n int) []uuid.UUID {
	params := make([]jobs.Params, n)
	for i := range params {
		params[i] = jobs.Params{Queue: queue, Delay: time.Hour}
	}
	return f.enqueue(params...)
}

func (f *fixture) operate(n jobs.NewOperation) uuid.UUID {
	f.t.Helper()
	op, err := jobs.CreateOperation(f.t.Context(), f.pool, n, byHand)
	require.NoError(f.t, err)
	return op.ID
}

func (f *fixture) operation(id uuid.UUID) *jobs.Operation {
	op, err := jobs.GetOperation(context.Background(), f.pool, id, nil)
	require.NoError(f.t, err)
	return op
}

func (f *fixture) awaitOperation(id uuid.UUID, what string, is func(*jobs.Operation) bool) *jobs.Operation {
	f.t.Helper()
	var op *jobs.Operation
	pgtest.Eventually(f.t, 20*time.Second, what, func() bool {
		op = f.operation(id)
		return is(op)
	})
	return op
}

func over(op *jobs.Operation) bool { return op.Status != jobs.OperationRunning }

func (f *fixture) cancelled() int {
	return pgtest.One[int](f.t, f.db, `SELECT count(*) FROM mini_asynq.events WHERE type = 'job.cancelled'`)
}

// Its event wakes the nodes. A large operation that is held to a rate holds up no other.
func TestOperationsAreCarriedOutInTurn(t *testing.T) {
	f := setup(t)
	f.start(workers.Config{NoSweeps: true})
	f.scheduled("slow", 100)
	f.scheduled("q", 1000)
	slow := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionCancel, Filter: jobs.Filter{Queues: []string{"slow"}}}, Rate: 1})
	f.awaitOperation(slow, "it has begun", func(op *jobs.Operation) bool { return op.Done > 0 })
	quick := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionCancel, Filter: jobs.Filter{Queues: []string{"q"}}}})
	op := f.awaitOperation(quick, "it ends", over)
	require.Equal(t, []any{jobs.OperationCompleted, int64(1000), int64(0)}, []any{op.Status, op.Done, op.Skipped})
	require.Equal(t, jobs.OperationRunning, f.operation(slow).Status)
	stopped, err := jobs.CancelOperation(t.Context(), f.pool, slow, nil, byHand)
	require.NoError(t, err)
	require.Equal(t, f.cancelled(), 1000+int(stopped.Done))
	f.requireInvariants()
}

// A node stops in the middle: the next one begins where it was.
func TestStoppedNodeHandsItsOperationsOver(t *testing.T) {
	f := setup(t)
	f.scheduled("q", 300)
	first := f.start(workers.Config{NoSweeps: true, Lease: time.Hour, Node: "first"})
	id := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionCancel}, Rate: 200})
	f.awaitOperation(id, "it is under way", func(op *jobs.Operation) bool { return op.Done > 0 })
	f.start(workers.Config{NoSweeps: true, Lease: time.Hour, Node: "second"})
	first.stop()
	op := f.awaitOperation(id, "it ends", over)
	require.Equal(t, []any{jobs.OperationCompleted, int64(300), int64(0)}, []any{op.Status, op.Done, op.Skipped})
	require.Equal(t, 300, f.cancelled())
}

// A node is gone without a word: others know when its lease runs out.
func TestOperationOfADeadNodeIsTakenOver(t *testing.T) {
	f := setup(t)
	f.scheduled("q", 50)
	id := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionCancel}})
	ops, _, err := jobs.ClaimOperations(t.Context(), f.pool, "dead", 2*time.Second, 1)
	require.NoError(t, err)
	require.Len(t, ops, 1)
	f.start(workers.Config{NoSweeps: true})
	op := f.awaitOperation(id, "another node ends it", over)
	require.EqualValues(t, 50, op.Done)
	p, err := ops[0].CarryOn(t.Context(), f.pool, "dead", time.Second)
	require.NoError(t, err)
	require.True(t, p.Over)
	require.Equal(t, 50, f.cancelled())
}

// A claim starts at a remembered key: a job that an edit puts before it must not be passed over.
func TestJobThatAnEditBringsForwardIsStarted(t *testing.T) {
	f := setup(t)
	started, release := make(chan uuid.UUID, 8), make(chan struct{})
	node := f.start(workers.Config{NoSweeps: true, Slots: 1, Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		started <- job.ID
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	})})
	next := func(want uuid.UUID) {
		t.Helper()
		require.Equal(t, want, pgtest.Receive(t, started, 10*time.Second, "a job starts"))
	}
	first := f.enqueue(jobs.Params{Queue: "q"})[0]
	next(first)
	low := f.enqueue(jobs.Params{Queue: "q", Priority: jobs.Low})[0]
	high := f.enqueue(jobs.Params{Queue: "q", Priority: jobs.High})[0]
	release <- struct{}{}
	next(high) // the line of high is remembered from here on
	behind := f.enqueue(jobs.Params{Queue: "q", Priority: jobs.High})[0]
	priority := jobs.High
	_, err := jobs.EditJob(t.Context(), f.pool, low, jobs.AnyVersion, jobs.Edit{Priority: &priority}, byHand)
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "the node has read of the edit", func() bool {
		head, err := node.Stream.Head()
		require.NoError(t, err)
		return head.Seq >= pgtest.One[int64](t, f.db, `SELECT count(*) FROM mini_asynq.outbox, unnest(job_ids)`)
	})
	release <- struct{}{}
	next(low)
	release <- struct{}{}
	next(behind)
	release <- struct{}{}
	f.await(behind, jobs.Completed)
}
