package jobs_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// claimOne enqueues a job and claims it; the context is that of its handler.
func (f fixture) claimOne(lease time.Duration) (context.Context, *jobs.Handling) {
	f.t.Helper()
	f.enqueue(jobs.Params{Queue: "q"})
	claimed := f.claimFor("q", 1, lease)
	require.Len(f.t, claimed, 1)
	h := &jobs.Handling{Job: claimed[0]}
	return jobs.WithHandling(f.t.Context(), h), h
}

// own makes a table of the handler's.
func (f fixture) own() {
	f.t.Helper()
	_, err := f.Exec(f.t.Context(), `CREATE TABLE effects (job uuid)`)
	require.NoError(f.t, err)
}

const effect = `INSERT INTO effects SELECT $1`

func TestHandlersWritesAndTheEndOfItsJobAreOne(t *testing.T) {
	f := setup(t)
	f.own()
	ctx, h := f.claimOne(time.Minute)
	require.NoError(t, jobs.SetResult(ctx, map[string]int{"n": 1}))
	require.False(t, h.CompletedInTx())

	// Rolled back, neither has happened.
	tx, err := f.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, effect, h.Job.ID)
	require.NoError(t, err)
	require.NoError(t, jobs.CompleteTx(ctx, tx))
	require.Equal(t, jobs.Running, f.get(h.Job.ID).Status, "nobody else sees it before the commit")
	require.NoError(t, tx.Rollback(ctx))
	require.Equal(t, jobs.Running, f.get(h.Job.ID).Status)
	require.True(t, h.CompletedInTx())

	// Once more, and committed: both have.
	require.NoError(t, pgx.BeginFunc(ctx, f, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, effect, h.Job.ID); err != nil {
			return err
		}
		return jobs.CompleteTx(ctx, tx)
	}))
	job := f.get(h.Job.ID)
	require.Equal(t, jobs.Completed, job.Status)
	require.JSONEq(t, `{"n":1}`, string(job.Result))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM effects`))
	require.Equal(t, []string{"job.enqueued", "job.started", "job.completed"}, f.events(h.Job.ID), "as with any outcome")
	require.Equal(t, "completed", f.attempts(h.Job.ID)[0].Status)

	// What the node says afterwards changes nothing.
	verdicts := f.finish(jobs.Fail(&h.Job.Job, failure(), 0).Patient())
	require.Equal(t, jobs.Verdict{}, verdicts[0])
}

func TestStaleFenceAbortsTheHandlersTransaction(t *testing.T) {
	f := setup(t)
	f.own()
	ctx, h := f.claimOne(time.Microsecond)
	verdicts := f.finish(jobs.ExpireLease(&h.Job.Job, failure(), 0))
	require.True(t, verdicts[0].Landed)

	tx, err := f.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, effect, h.Job.ID)
	require.NoError(t, err)
	require.ErrorIs(t, jobs.CompleteTx(ctx, tx), jobs.ErrLeaseLost)
	require.ErrorIs(t, tx.Commit(ctx), pgx.ErrTxCommitRollback, "even a handler that overlooks the error commits nothing")
	require.Zero(t, f.count(`SELECT count(*) FROM effects`))
	require.Equal(t, jobs.Retrying, f.get(h.Job.ID).Status)
}

// TestReaperAndHandlerMeetAtTheRow: the reaper ends the lease in a transaction that is still open when the handler comes.
func TestReaperAndHandlerMeetAtTheRow(t *testing.T) {
	f := setup(t)
	ctx, h := f.claimOne(time.Microsecond)
	reaper, err := f.Begin(t.Context())
	require.NoError(t, err)
	verdicts, err := jobs.Finish(t.Context(), reaper, []jobs.Outcome{jobs.ExpireLease(&h.Job.Job, failure(), 0)})
	require.NoError(t, err)
	require.True(t, verdicts[0].Landed)
	tx, err := f.Begin(ctx)
	require.NoError(t, err)
	pid := tx.Conn().PgConn().PID()
	said := make(chan error, 1)
	go func() { said <- jobs.CompleteTx(ctx, tx) }() // ends with the reaper's transaction; received below
	pgtest.Eventually(t, 10*time.Second, "the handler waits for the row", func() bool {
		return f.count(`SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'`, pid) == 1
	})
	require.NoError(t, reaper.Commit(t.Context()))
	require.ErrorIs(t, <-said, jobs.ErrLeaseLost)
	require.NoError(t, tx.Rollback(ctx))

	// The other way round the reaper passes over the row, and the handler wins.
	ctx, h = f.claimOne(time.Microsecond)
	tx, err = f.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, jobs.CompleteTx(ctx, tx))
	require.True(t, f.finish(jobs.ExpireLease(&h.Job.Job, failure(), 0))[0].Busy)
	require.NoError(t, tx.Commit(ctx))
	require.Equal(t, jobs.Completed, f.get(h.Job.ID).Status)
}

func TestSuccessInATransactionBeatsARequestToCancel(t *testing.T) {
	f := setup(t)
	ctx, h := f.claimOne(time.Minute)
	_, requested, err := jobs.CancelJob(t.Context(), f, h.Job.ID, jobs.Act{Actor: "test"})
	require.NoError(t, err)
	require.True(t, requested)
	require.NoError(t, pgx.BeginFunc(ctx, f, func(tx pgx.Tx) error { return jobs.CompleteTx(ctx, tx) }))
	require.Equal(t, jobs.Completed, f.get(h.Job.ID).Status)
}

// TestCompletingKeepsTheGuardOfLiveJobs: the setting with which jobs move must not outlive the statement in the handler's
// transaction.
func TestCompletingKeepsTheGuardOfLiveJobs(t *testing.T) {
	f := setup(t)
	ctx, _ := f.claimOne(time.Minute)
	other := f.enqueue(jobs.Params{Queue: "other"})[0].ID
	err := pgx.BeginFunc(ctx, f, func(tx pgx.Tx) error {
		if err := jobs.CompleteTx(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM mini_asynq.jobs WHERE id = $1`, other)
		return err
	})
	require.ErrorContains(t, err, "a live job is not deleted")
	require.Equal(t, jobs.Pending, f.get(other).Status)
}

func TestReportThatWaitsIsStoredWithTheCompletion(t *testing.T) {
	f := setup(t)
	ctx, h := f.claimOne(time.Minute)
	h.Flush = func(ctx context.Context, db jobs.DB) error {
		return jobs.SetProgress(ctx, db, jobs.Lease{JobID: h.Job.ID, Fence: h.Job.Fence}, 100, "done", 0)
	}
	require.NoError(t, pgx.BeginTxFunc(ctx, f, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
		return jobs.CompleteTx(ctx, tx)
	}))
	job := f.get(h.Job.ID)
	require.Equal(t, jobs.Completed, job.Status)
	require.Equal(t, "done", job.Progress.Message)
	require.Equal(t, []string{"job.enqueued", "job.started", "job.progress", "job.completed"}, f.events(h.Job.ID))

	stale, err := f.Begin(ctx)
	require.NoError(t, err)
	require.ErrorIs(t, jobs.CompleteTx(ctx, stale), jobs.ErrLeaseLost)
	require.ErrorIs(t, stale.Commit(ctx), pgx.ErrTxCommitRollback)
}

func TestCompleteTxIsForHandlers(t *testing.T) {
	f := setup(t)
	tx, err := f.Begin(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, jobs.CompleteTx(t.Context(), tx), "not that of a handler")
	require.NoError(t, tx.Rollback(t.Context()))
	require.Error(t, jobs.SetResult(t.Context(), json.RawMessage(`1`)))
}

// TestStrictTransactionIsTornByAnExtensionOfItsLease: what the documents warn of. It is worth a retry, and nothing happened.
func TestStrictTransactionIsTornByAnExtensionOfItsLease(t *testing.T) {
	f := setup(t)
	ctx, h := f.claimOne(time.Minute)
	err := pgx.BeginTxFunc(ctx, f, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT count(*) FROM mini_asynq.jobs`); err != nil { // its snapshot
			return err
		}
		extensions, err := jobs.Extend(ctx, f, []jobs.Lease{{JobID: h.Job.ID, Fence: h.Job.Fence}}, time.Minute, 0)
		if err != nil || !extensions[0].Held {
			return err
		}
		return jobs.CompleteTx(ctx, tx)
	})
	require.True(t, jobs.Transient(err), "%v", err)
	require.NotErrorIs(t, err, jobs.ErrLeaseLost)
	require.NotErrorIs(t, err, jobs.ErrCommitUnknown)
	require.Equal(t, jobs.Running, f.get(h.Job.ID).Status)
}
