package jobs_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

const longLease = time.Minute

// dead makes dead jobs of a queue in one statement, and returns their ids in order.
func (f fixture) dead(queue string, n int) []uuid.UUID {
	f.t.Helper()
	rows, err := f.Query(f.t.Context(), `
		INSERT INTO mini_asynq.jobs_finished (id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at,
		       source, attempt, attempt_base, attempt_limit, lease_losses, snoozes, redrives, version, fence, reason, from_status,
		       event_xid, finished_at)
		SELECT mini_asynq.uuid_v7(), $1, 'k', '{}', 'dead', 'normal', 0, now, now, now, 'sql', 1, 0, 1, 0, 0, 0, 1, n, 'exhausted',
		       'running', pg_current_xact_id(), now
		  FROM (SELECT clock_timestamp() AS now, n FROM generate_series(1, $2) n) s
		RETURNING id`, queue, n)
	require.NoError(f.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(f.t, err)
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

func (f fixture) match(s jobs.Selection) jobs.Match {
	f.t.Helper()
	m, err := jobs.MatchJobs(f.t.Context(), f, s, 10)
	require.NoError(f.t, err)
	return m
}

func (f fixture) operate(n jobs.NewOperation) *jobs.Operation {
	f.t.Helper()
	op, err := jobs.CreateOperation(f.t.Context(), f, n, byHand)
	require.NoError(f.t, err)
	return op
}

// held claims the only free operation for a node.
func (f fixture) held(node string, lease time.Duration) *jobs.Operation {
	f.t.Helper()
	ops, _, err := jobs.ClaimOperations(f.t.Context(), f, node, lease, 8)
	require.NoError(f.t, err)
	require.Len(f.t, ops, 1)
	return ops[0]
}

func (f fixture) carryOn(op *jobs.Operation, node string) jobs.Portion {
	f.t.Helper()
	p, err := op.CarryOn(f.t.Context(), f, node, longLease)
	require.NoError(f.t, err)
	return p
}

// finishAll carries an operation to its end.
func (f fixture) finishAll(op *jobs.Operation, node string) *jobs.Operation {
	f.t.Helper()
	for range 1000 {
		if f.carryOn(op, node).Over {
			return f.operation(op.ID)
		}
	}
	require.Fail(f.t, "the operation does not end")
	return nil
}

func (f fixture) operation(id uuid.UUID) *jobs.Operation {
	f.t.Helper()
	op, err := jobs.GetOperation(f.t.Context(), f, id, nil)
	require.NoError(f.t, err)
	return op
}

// numbers are total, done, skipped, failed.
func numbers(op *jobs.Operation) [4]int64 { return [4]int64{op.Total, op.Done, op.Skipped, op.Failed} }

// redriven is how many jobs of a queue have so many redrives.
func (f fixture) redriven(queue string, times int) int {
	return f.count(`SELECT count(*) FROM mini_asynq.all_jobs WHERE queue = $1 AND redrives = $2`, queue, times)
}

func TestOperationDoesWhatItsDryRunSaid(t *testing.T) {
	f := setup(t)
	dead := f.dead("mail", 2100)
	f.dead("other", 3)
	f.enqueue(jobs.Params{Queue: "mail"})
	all := jobs.Selection{Action: jobs.ActionRetry, Filter: jobs.Filter{Queues: []string{"mail"}}}
	m := f.match(all)
	require.Equal(t, 2100, m.Count)
	require.Len(t, m.Sample, 10)
	require.Equal(t, dead[0], m.Sample[0].ID, "oldest first")

	// Between the dry run and the end: five are changed by others, and one more dies.
	all.Before = m.Before
	op := f.operate(jobs.NewOperation{Selection: all, Expected: &m.Count})
	require.Equal(t, [4]int64{2100, 0, 0, 0}, numbers(op))
	for _, id := range dead[2000:2003] {
		require.NoError(t, jobs.DeleteJob(t.Context(), f, id, jobs.Act{}))
	}
	for _, id := range dead[:2] {
		_, err := jobs.RetryJob(t.Context(), f, id, 0, jobs.Act{})
		require.NoError(t, err)
	}
	late := f.dead("mail", 1)[0]
	held := f.held("n1", longLease)
	require.Equal(t, jobs.Portion{Jobs: 500}, f.carryOn(held, "n1"))
	require.Equal(t, [4]int64{2100, 500, 0, 0}, numbers(f.operation(op.ID)))
	op = f.finishAll(held, "n1")
	require.Equal(t, jobs.OperationCompleted, op.Status)
	require.Equal(t, [4]int64{2100, 2095, 5, 0}, numbers(op))
	require.False(t, op.FinishedAt.IsZero())
	require.Equal(t, 2097, f.redriven("mail", 1))
	require.Equal(t, jobs.Dead, f.get(late).Status)
	require.Equal(t, 3, f.redriven("other", 0))
	require.Equal(t, []string{"job.dead", "job.redriven"}, f.events(dead[7]))
	require.Equal(t, 2097, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'job.redriven'`))
	require.Equal(t, 2095, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'job.redriven' AND actor = 'basic:admin' AND comment = 'asked for'`))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'operation.finished'
		AND data @> '{"operation_status": "completed", "done": 2095, "skipped": 5, "total": 2100}'`))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.audit WHERE action = 'operation.create' AND target = $1`, op.ID.String()))

	// Those that die again are not taken twice; more than the dry run saw is refused.
	m = f.match(all)
	require.Zero(t, m.Count)
	one := 0
	var changed *jobs.CountChangedError
	all.Before = time.Time{}
	_, err := jobs.CreateOperation(t.Context(), f, jobs.NewOperation{Selection: all, Expected: &one}, byHand)
	require.ErrorAs(t, err, &changed)
	require.Equal(t, 1, changed.Matched)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.operations`))
	require.Equal(t, jobs.Dead, f.get(late).Status)
}

// A node dies in the middle: another carries on from there, and what the first still tries changes nothing.
func TestOperationSurvivesItsNode(t *testing.T) {
	f := setup(t)
	f.dead("q", 1200)
	f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionRetry, Filter: jobs.Filter{Queues: []string{"q"}}}})
	first := f.held("n1", longLease)
	f.carryOn(first, "n1")
	ops, next, err := jobs.ClaimOperations(t.Context(), f, "n2", longLease, 8)
	require.NoError(t, err)
	require.Empty(t, ops)
	require.InDelta(t, longLease.Seconds(), next.Seconds(), 5, "when the lease runs out")

	_, err = f.Exec(t.Context(), `UPDATE mini_asynq.operations SET held_until = clock_timestamp() - interval '1 s'`)
	require.NoError(t, err)
	second := f.held("n2", longLease)
	f.carryOn(second, "n2")
	require.True(t, f.carryOn(first, "n1").Over, "it is the other's now")
	op := f.finishAll(second, "n2")
	require.Equal(t, [4]int64{1200, 1200, 0, 0}, numbers(op))
	require.Equal(t, 1200, f.redriven("q", 1))
	require.Equal(t, 1200, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'job.redriven'`))
	ops, next, err = jobs.ClaimOperations(t.Context(), f, "n1", longLease, 8)
	require.NoError(t, err)
	require.Empty(t, ops)
	require.Zero(t, next)
}

func TestReleasedOperationIsTakenAtOnce(t *testing.T) {
	f := setup(t)
	f.dead("q", 10)
	f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionDelete}})
	f.held("n1", longLease)
	require.NoError(t, jobs.ReleaseOperations(t.Context(), f, "n1"))
	op := f.finishAll(f.held("n2", longLease), "n2")
	require.EqualValues(t, 10, op.Done)
	require.Equal(t, 2, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'operation.progress'`), "its release wakes others")
}

func TestCancelledOperationChangesNothingMore(t *testing.T) {
	f := setup(t)
	f.dead("q", 1200)
	id := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionRetry}}).ID
	held := f.held("n1", longLease)
	f.carryOn(held, "n1")
	op, err := jobs.CancelOperation(t.Context(), f, id, nil, byHand)
	require.NoError(t, err)
	require.Equal(t, jobs.OperationCancelled, op.Status)
	require.True(t, f.carryOn(held, "n1").Over)
	require.Equal(t, 500, f.redriven("q", 1))
	op, err = jobs.CancelOperation(t.Context(), f, id, nil, byHand)
	require.NoError(t, err, "it is so already")
	require.EqualValues(t, 500, op.Done)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'operation.finished'`))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.audit WHERE action = 'operation.cancel'`))

	done := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionRunNow}}).ID
	f.finishAll(f.held("n1", longLease), "n1")
	var over *jobs.OperationOverError
	_, err = jobs.CancelOperation(t.Context(), f, done, nil, byHand)
	require.ErrorAs(t, err, &over)
	require.Equal(t, jobs.OperationCompleted, over.Status)
	_, err = jobs.CancelOperation(t.Context(), f, uuid.New(), nil, byHand)
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

func TestEachActionTakesTheJobsThatItIsPossibleFor(t *testing.T) {
	f := setup(t)
	one := func(queue string, params jobs.Params) uuid.UUID {
		params.Queue = queue
		return f.enqueue(params)[0].ID
	}
	all := jobs.Filter{Queues: []string{"a"}}
	pending, scheduled := one("a", jobs.Params{}), one("a", jobs.Params{Delay: time.Hour})
	one("retrying", jobs.Params{MaxRetries: jobs.Retries(1)})
	dead := f.dead("a", 2)
	run := func(action jobs.Action, filter jobs.Filter, want int) {
		t.Helper()
		require.Equal(t, want, f.match(jobs.Selection{Action: action, Filter: filter}).Count)
		f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: action, Filter: filter}})
		op := f.finishAll(f.held("n", longLease), "n")
		require.Equal(t, [4]int64{int64(want), int64(want), 0, 0}, numbers(op), action)
	}
	run(jobs.ActionRunNow, all, 1)
	require.Equal(t, []string{"job.scheduled", "job.ready"}, f.events(scheduled))
	f.finish(jobs.Fail(&f.claim("retrying", 1)[0].Job, failure(), time.Hour))
	run(jobs.ActionRetry, jobs.Filter{Queues: []string{"retry*"}}, 1)

	running := one("run", jobs.Params{})
	f.claim("run", 1)
	run(jobs.ActionCancel, jobs.Filter{Queues: []string{"a", "run"}}, 3)
	require.Equal(t, []string{"job.enqueued", "job.cancelled"}, f.events(pending))
	require.Equal(t, "operator", f.get(pending).Reason)
	require.Equal(t, []string{"job.enqueued", "job.started", "job.cancel_requested"}, f.events(running))
	run(jobs.ActionDelete, jobs.Filter{Queues: []string{"a"}, Statuses: []jobs.Status{jobs.Dead, jobs.Pending}}, 2)
	require.Equal(t, []string{"job.dead", "job.deleted"}, f.events(dead[0]))
	require.Equal(t, jobs.Cancelled, f.get(pending).Status)
	run(jobs.ActionDelete, jobs.Filter{Queues: []string{"a"}, Statuses: []jobs.Status{jobs.Running}}, 0)
	require.False(t, jobs.ActionClone.Bulk())
}

func TestNamedJobsAreTakenOnceAndOnlyOfOnesQueues(t *testing.T) {
	f := setup(t)
	mine, foreign := f.dead("mine", 600), f.dead("foreign", 2)
	ids := slices.Concat(mine, foreign, mine[:5], []uuid.UUID{uuid.New()})
	slices.Reverse(ids)
	named := jobs.Selection{Action: jobs.ActionRetry, IDs: ids, Filter: jobs.Filter{Within: []string{"mine"}}}
	require.Equal(t, 600, f.match(named).Count)
	f.operate(jobs.NewOperation{Selection: named})
	op := f.finishAll(f.held("n", longLease), "n")
	require.Equal(t, [4]int64{603, 600, 3, 0}, numbers(op))
	require.Equal(t, 2, f.redriven("foreign", 0))

	// The same by a filter; and who may see the operation.
	op = f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionDelete, Filter: jobs.Filter{Within: []string{"mine"}}}})
	require.Equal(t, [4]int64{0, 0, 0, 0}, numbers(f.finishAll(f.held("n", longLease), "n")))
	require.Equal(t, 2, f.redriven("foreign", 0))
	for _, c := range []struct {
		within []string
		sees   bool
	}{{nil, true}, {[]string{"mine"}, true}, {[]string{"mine", "x"}, true}, {[]string{"x"}, false}, {[]string{}, false}} {
		_, err := jobs.GetOperation(t.Context(), f, op.ID, c.within)
		list, listErr := jobs.ListOperations(t.Context(), f, c.within, "", uuid.Nil, 10)
		require.NoError(t, listErr)
		if c.sees {
			require.NoError(t, err)
			require.Len(t, list, 2)
		} else {
			require.ErrorIs(t, err, jobs.ErrNotFound)
			require.Empty(t, list)
		}
	}
	unbound := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionDelete}})
	_, err := jobs.CancelOperation(t.Context(), f, unbound.ID, []string{"mine"}, byHand)
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

// The rate is a schedule: the time of the next portion moves by what was done, whoever does it.
func TestRateIsKept(t *testing.T) {
	f := setup(t)
	f.dead("q", 300)
	op := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionRetry}, Rate: 400})
	held := f.held("n1", longLease)
	p := f.carryOn(held, "n1")
	require.Equal(t, 100, p.Jobs)
	require.Positive(t, p.Wait)
	require.LessOrEqual(t, p.Wait, 250*time.Millisecond)
	require.Equal(t, 100, f.redriven("q", 1))
	_, err := f.Exec(t.Context(), `UPDATE mini_asynq.operations SET next_at = clock_timestamp() + interval '10 s'`)
	require.NoError(t, err)
	require.NoError(t, jobs.ReleaseOperations(t.Context(), f, "n1"))
	second := f.held("n2", longLease)
	p = f.carryOn(second, "n2")
	require.Zero(t, p.Jobs)
	require.InDelta(t, 10, p.Wait.Seconds(), 2, "the rate is the operation's, not the node's")
	_, err = f.Exec(t.Context(), `UPDATE mini_asynq.operations SET next_at = clock_timestamp() - interval '1 h'`)
	require.NoError(t, err)
	p = f.carryOn(second, "n2")
	require.Equal(t, 100, p.Jobs)
	require.Zero(t, p.Wait, "a lost second is made up for")
	require.EqualValues(t, 200, f.operation(op.ID).Done)
}

func TestOperationStopsWhenItsJobsFailAgain(t *testing.T) {
	f := setup(t)
	f.dead("q", 100)
	op := f.operate(jobs.NewOperation{
		Selection: jobs.Selection{Action: jobs.ActionRetry}, Rate: 80, Stop: &jobs.StopWhen{Ratio: 0.5, Sample: 4},
	})
	held := f.held("n", longLease)
	due := func() {
		_, err := f.Exec(t.Context(), `UPDATE mini_asynq.operations SET next_at = clock_timestamp()`)
		require.NoError(t, err)
	}
	require.Equal(t, 20, f.carryOn(held, "n").Jobs)
	running := f.claim("q", 20)
	require.Len(t, running, 20)
	for _, j := range running[:2] {
		f.finish(jobs.Complete(&j.Job, nil))
	}
	for _, j := range running[2:4] {
		f.finish(jobs.FailFinally(&j.Job, failure()))
	}
	due()
	require.False(t, f.carryOn(held, "n").Over, "half of four is not more than half")
	f.finish(jobs.FailFinally(&running[4].Job, failure()))
	due()
	require.True(t, f.carryOn(held, "n").Over)
	op = f.operation(op.ID)
	require.Equal(t, jobs.OperationStopped, op.Status)
	require.Equal(t, [4]int64{100, 40, 0, 0}, numbers(op))
	require.Equal(t, jobs.StopWhen{Ratio: 0.5, Sample: 4}, *op.Stop)
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.operation_jobs`))
	require.Equal(t, 60, f.count(`SELECT count(*) FROM mini_asynq.jobs_finished WHERE status = 'dead' AND redrives = 0`))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'operation.finished' AND data @> '{"operation_status": "stopped"}'`))
}

// One row that the database refuses to change, and one that somebody holds, keep nothing else from being done.
func TestOneJobNeverWedgesAnOperation(t *testing.T) {
	f := setup(t)
	dead := f.dead("q", 20)
	_, err := f.Exec(t.Context(), `
		CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'a secret: %', NEW.payload USING ERRCODE = '23514'; END $$`)
	require.NoError(t, err)
	_, err = f.Exec(t.Context(), `CREATE TRIGGER refuse_one BEFORE INSERT ON mini_asynq.jobs FOR EACH ROW
		WHEN (NEW.id = '`+dead[3].String()+`') EXECUTE FUNCTION refuse_one()`)
	require.NoError(t, err)
	f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionRetry}})
	op := f.finishAll(f.held("n", longLease), "n")
	require.Equal(t, [4]int64{20, 19, 0, 1}, numbers(op))
	require.Equal(t, []jobs.OperationError{{JobID: dead[3], Code: "23514", Detail: "the database refused to change the job"}}, op.Errors)
	require.Equal(t, jobs.Dead, f.get(dead[3]).Status)
	require.Equal(t, []string{"job.dead", "job.redriven"}, f.events(dead[4]))

	held := f.enqueue(jobs.Params{Queue: "h"}, jobs.Params{Queue: "h"})
	tx, err := f.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM mini_asynq.jobs WHERE id = $1 FOR UPDATE`, held[0].ID)
	require.NoError(t, err)
	f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionCancel, Filter: jobs.Filter{Queues: []string{"h"}}}})
	op = f.finishAll(f.held("n", longLease), "n")
	require.Equal(t, [4]int64{2, 1, 1, 0}, numbers(op))
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, jobs.Pending, f.get(held[0].ID).Status)
	require.Equal(t, jobs.Cancelled, f.get(held[1].ID).Status)
}

func TestOperationsAreListedFailedAndForgotten(t *testing.T) {
	f := setup(t)
	filter := jobs.Filter{
		Queues: []string{"q*"}, Tags: []string{"a,b"}, Metadata: map[string]string{"k": "v"}, AttemptMin: 2,
		Payload: json.RawMessage(`{"a": 1.50}`), CreatedAfter: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
	first := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionRetry, Filter: filter}})
	require.Equal(t, filter, *f.operation(first.ID).Filter, "as it was given")
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.audit WHERE after::text LIKE '%1.5%'`), "no payload in the audit log")
	f.held("n", longLease)
	require.NoError(t, jobs.FailOperation(t.Context(), f, first.ID, "other", "not its own"))
	require.Equal(t, jobs.OperationRunning, f.operation(first.ID).Status)
	require.NoError(t, jobs.FailOperation(t.Context(), f, first.ID, "n", "too slow"))
	require.Equal(t, jobs.OperationFailed, f.operation(first.ID).Status)
	second := f.operate(jobs.NewOperation{Selection: jobs.Selection{Action: jobs.ActionDelete}})
	list, err := jobs.ListOperations(t.Context(), f, nil, "", uuid.Nil, 1)
	require.NoError(t, err)
	require.Equal(t, second.ID, list[0].ID)
	list, err = jobs.ListOperations(t.Context(), f, nil, "", second.ID, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "too slow", list[0].Errors[0].Detail)
	list, err = jobs.ListOperations(t.Context(), f, nil, jobs.OperationRunning, uuid.Nil, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	n, err := jobs.ForgetOperations(t.Context(), f, time.Hour, 10)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = jobs.ForgetOperations(t.Context(), f, -time.Hour, 10)
	require.NoError(t, err)
	require.EqualValues(t, 1, n, "one that runs is kept")
}
