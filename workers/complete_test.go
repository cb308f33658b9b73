package workers_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// effects makes a table of the handlers' own, with a row for each time that a handler's work took effect.
func (f *fixture) effects() {
	f.t.Helper()
	f.db.Exec(f.t, `CREATE TABLE effects (job uuid NOT NULL)`)
}

// effectsOf is how often the work of a job took effect.
func (f *fixture) effectsOf(id uuid.UUID) int {
	f.t.Helper()
	return pgtest.One[int](f.t, f.db, `SELECT count(*) FROM effects WHERE job = $1`, id)
}

// work is the work of a handler and the completion of its job, to be committed.
func work(ctx context.Context, tx pgx.Tx, job *jobs.Claimed) error {
	if _, err := tx.Exec(ctx, `INSERT INTO effects SELECT $1`, job.ID); err != nil {
		return err
	}
	return jobs.CompleteTx(ctx, tx)
}

// working is a handler that works and completes in one transaction.
func working(pool *pgxpool.Pool) workers.HandlerFunc {
	return func(ctx context.Context, job *jobs.Claimed) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return work(ctx, tx, job) })
	}
}

// TestOnlyTheCommitCompletes: whatever a handler returns after it has called CompleteTx counts if, and only if, its
// transaction did not commit.
func TestOnlyTheCommitCompletes(t *testing.T) {
	f := setup(t)
	f.effects()
	boom := errors.New("boom")
	steers := map[string]func() error{
		"nil":   func() error { return nil },
		"error": func() error { return boom },
		"never": func() error { return jobs.NonRetryable(boom) },
		"snooze": func() error {
			return jobs.Snooze(0)
		},
		"panic": func() error { panic("a handler's mistake") },
	}
	var log pgtest.Log
	f.start(workers.Config{Slots: 10, Log: zerolog.New(&log), Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		end, says, _ := strings.Cut(job.Kind, ".")
		if job.Attempt > 1 || job.Snoozes > 0 {
			return working(f.pool)(ctx, job)
		}
		tx, err := f.pool.Begin(ctx)
		if err != nil {
			return err
		}
		if err := work(ctx, tx, job); err != nil {
			return err
		}
		if end == "commit" {
			err = tx.Commit(ctx)
		} else {
			err = tx.Rollback(ctx)
		}
		if err != nil {
			return err
		}
		return steers[says]()
	})})
	ids := make(map[string]uuid.UUID)
	for says := range steers {
		for _, end := range []string{"commit", "rollback"} {
			kind := end + "." + says
			ids[kind] = f.enqueue(jobs.Params{Queue: "q", Kind: kind})[0]
		}
	}
	for says := range steers {
		done := f.await(ids["commit."+says], jobs.Completed)
		require.Equal(t, 1, done.Attempt, says)
		require.Equal(t, 1, f.effectsOf(done.ID), says)
		require.Zero(t, done.Snoozes, says)
		require.Equal(t, "completed", f.attempts(done.ID)[0].Status)
	}
	for says, message := range map[string]string{"nil": jobs.ErrNotCommitted.Error(), "error": "boom", "panic": "panic: a handler's mistake"} {
		done := f.await(ids["rollback."+says], jobs.Completed)
		attempts := f.attempts(done.ID)
		require.Len(t, attempts, 2, says)
		require.Equal(t, "failed", attempts[0].Status)
		require.Equal(t, message, attempts[0].ErrorMessage)
		require.Equal(t, 1, f.effectsOf(done.ID), says)
	}
	require.Equal(t, "not_retryable", f.await(ids["rollback.never"], jobs.Dead).Reason)
	require.Zero(t, f.effectsOf(ids["rollback.never"]))
	snoozed := f.await(ids["rollback.snooze"], jobs.Completed)
	require.Equal(t, 1, snoozed.Snoozes)
	require.Equal(t, 1, snoozed.Attempt)
	require.Equal(t, 1, f.effectsOf(snoozed.ID))
	f.requireInvariants(invariants.Always)

	// The four that failed after their commit, and no other.
	pgtest.Eventually(t, 10*time.Second, "the node says so", func() bool {
		return strings.Count(log.String(), "after its transaction had completed the job") == 4
	})
	require.NotContains(t, log.String(), "came too late")
}

// TestTransactionThatOutlivesItsHandlerDecides: the handler is gone, its slot free, and its transaction still open.
func TestTransactionThatOutlivesItsHandlerDecides(t *testing.T) {
	f := setup(t)
	f.effects()
	open := make(chan pgx.Tx, 2)
	n := f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		if job.Attempt > 1 {
			return working(f.pool)(ctx, job)
		}
		tx, err := f.pool.Begin(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		open <- tx
		return work(context.WithoutCancel(ctx), tx, job)
	})})
	for _, row := range []struct {
		end      func(pgx.Tx) error
		attempts int
	}{
		{func(tx pgx.Tx) error { return tx.Commit(context.Background()) }, 1},
		{func(tx pgx.Tx) error { return tx.Rollback(context.Background()) }, 2},
	} {
		id := f.enqueue(jobs.Params{Queue: "q"})[0]
		tx := pgtest.Receive(t, open, 10*time.Second, "the handler works")
		pgtest.Eventually(t, 10*time.Second, "it has returned", func() bool { return n.Pool.Busy() == 0 })
		require.Equal(t, jobs.Running, f.get(id).Status)
		require.NoError(t, row.end(tx))
		require.Equal(t, row.attempts, f.await(id, jobs.Completed).Attempt)
		require.Equal(t, 1, f.effectsOf(id))
		pgtest.Eventually(t, 10*time.Second, "the node lets go of it", func() bool { return n.Dispatcher.Running() == 0 })
	}
}

// TestUnknownCommitIsLookedUp: the connection goes down in the commit. The handler returns the error either way.
func TestUnknownCommitIsLookedUp(t *testing.T) {
	for name, row := range map[string]struct {
		action   pgtest.Action
		attempts int
	}{
		"it happened":  {pgtest.LoseAnswer, 1},
		"it never did": {pgtest.CutBefore, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			f.effects()
			proxy := pgtest.NewProxy(t, f.db.DSN())
			pool, err := pgxpool.New(t.Context(), proxy.DSN(f.db.DSN()))
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			failures := make(chan error, 2)
			f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
				armed := job.Attempt == 1
				proxy.OnClientMessage(func(kind byte, payload []byte) pgtest.Action {
					if armed && pgtest.IsCommit(kind, payload) {
						return row.action
					}
					return pgtest.Forward
				})
				err := working(pool)(ctx, job)
				failures <- err
				return err
			})})
			id := f.enqueue(jobs.Params{Queue: "q"})[0]
			require.Error(t, pgtest.Receive(t, failures, 10*time.Second, "the commit fails for the handler"))
			require.Equal(t, row.attempts, f.await(id, jobs.Completed).Attempt)
			require.Equal(t, 1, f.effectsOf(id))
			f.requireInvariants(invariants.Always)
		})
	}
}

// TestRequestToCancelWaitsForTheHandlersTransaction: it comes between the completion and the commit.
func TestRequestToCancelWaitsForTheHandlersTransaction(t *testing.T) {
	f := setup(t)
	f.effects()
	landed, commit := make(chan struct{}), make(chan struct{})
	f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		return pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
			if err := work(ctx, tx, job); err != nil {
				return err
			}
			close(landed)
			<-commit
			return nil
		})
	})})
	id := f.enqueue(jobs.Params{Queue: "q"})[0]
	pgtest.Receive(t, landed, 10*time.Second, "the job is completed, but not committed")
	said := make(chan error, 1)
	conn := f.db.Conn(t)
	pid := conn.PgConn().PID()
	go func() { // ends with the handler's transaction; received below
		_, _, err := jobs.CancelJob(context.Background(), conn, id, jobs.Act{Actor: "test"})
		said <- err
	}()
	pgtest.Eventually(t, 10*time.Second, "the request waits", func() bool {
		return pgtest.One[int](t, f.db, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'`, pid) == 1
	})
	close(commit)
	var refused *jobs.TransitionError
	require.ErrorAs(t, pgtest.Receive(t, said, 10*time.Second, "the answer"), &refused)
	require.Equal(t, jobs.Completed, refused.Status)
	require.Equal(t, 1, f.effectsOf(id))
}

// TestCommitInTheOvertimeCounts: the timeout ends the handler's context, and the handler commits all the same.
func TestCommitInTheOvertimeCounts(t *testing.T) {
	f := setup(t)
	f.effects()
	f.start(workers.Config{Registry: handler(func(ctx context.Context, job *jobs.Claimed) error {
		own := context.WithoutCancel(ctx)
		return pgx.BeginFunc(own, f.pool, func(tx pgx.Tx) error {
			<-ctx.Done()
			return work(own, tx, job)
		})
	})})
	id := f.enqueue(jobs.Params{Queue: "q", Timeout: time.Second})[0]
	require.Equal(t, 1, f.await(id, jobs.Completed).Attempt)
	require.Equal(t, 1, f.effectsOf(id))
}
