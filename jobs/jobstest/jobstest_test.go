package jobstest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/jobs/jobstest"
	"github.com/mini-asynq/mini-asynq/workers"
)

type Email struct {
	To string `json:"to"`
}

type Invoice struct {
	Order int `json:"order"`
}

var (
	SendEmail = jobs.Kind[Email]{Name: "email.send", Defaults: jobs.Params{Queue: "mail"}}
	Bill      = jobs.Kind[Invoice]{Name: "invoice.make"}
)

type fixture struct {
	t  *testing.T
	db *pgtest.DB
	*pgxpool.Pool
	registry *workers.Registry
}

func setup(t *testing.T) *fixture {
	t.Helper()
	t.Parallel()
	db := pgtest.NewDB(t)
	return &fixture{t: t, db: db, Pool: db.Pool(t), registry: workers.NewRegistry()}
}

// inTx is a transaction that the test rolls back.
func (f *fixture) inTx() pgx.Tx {
	f.t.Helper()
	tx, err := f.Begin(f.t.Context())
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func (f *fixture) email(db jobs.DB, to string, with ...jobs.Params) {
	f.t.Helper()
	_, err := SendEmail.Enqueue(f.t.Context(), db, Email{To: to}, with...)
	require.NoError(f.t, err)
}

// onEmail sets the handler of emails.
func (f *fixture) onEmail(fn func(ctx context.Context, job *jobs.Claimed, email Email) error) {
	workers.Handle(f.registry, SendEmail, fn)
}

// failing stands in for a test that is to fail.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failure runs what must fail its test and gives the message.
func failure(t *testing.T, run func(testing.TB)) string {
	t.Helper()
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() { // ends with run, or with Goexit in it; the receive waits
		defer close(done)
		run(f)
	}()
	<-done
	require.NotEmpty(t, f.message, "the test did not fail")
	return f.message
}

func TestJobsOfATransactionAreSeenInIt(t *testing.T) {
	f := setup(t)
	tx := f.inTx()
	f.email(tx, "ann@example.com", jobs.Params{Tags: []string{"welcome"}})
	f.email(tx, "bob@example.com", jobs.Params{Queue: "bulk", Delay: time.Hour})
	require.Len(t, jobstest.Enqueued(t, tx, SendEmail), 2)
	found := jobstest.RequireEnqueued(t, tx, SendEmail, jobstest.Payload(Email{To: "ann@example.com"}))
	require.Equal(t, "ann@example.com", found.Payload.To)
	require.Equal(t, "mail", found.Queue)
	jobstest.RequireEnqueued(t, tx, SendEmail, jobstest.Tag("welcome"), jobstest.Queue("mail"))
	later := jobstest.RequireEnqueued(t, tx, SendEmail, jobstest.Status(jobs.Scheduled),
		jobstest.That("a delay", func(job *jobs.Job) bool { return job.RunAt.After(job.CreatedAt) }))
	require.Equal(t, "bulk", later.Queue)
	jobstest.RequireNotEnqueued(t, tx, SendEmail, jobstest.Payload(Email{To: "eve@example.com"}))
	jobstest.RequireNotEnqueued(t, tx, Bill)
	jobstest.RequireNotEnqueued(t, f, SendEmail) // outside of the transaction
}

func TestFailureSaysWhatIsThereInstead(t *testing.T) {
	f := setup(t)
	f.email(f, "ann@example.com", jobs.Params{Tags: []string{"welcome"}})
	f.email(f, "bob@example.com")
	message := failure(t, func(tb testing.TB) {
		jobstest.RequireEnqueued(tb, f, SendEmail, jobstest.Payload(Email{To: "eve@example.com"}), jobstest.Queue("mail"))
	})
	require.Contains(t, message, `0 jobs of kind email.send with payload {"to":"eve@example.com"}, queue mail, want 1`)
	require.Contains(t, message, `queue mail, pending, payload {"to": "ann@example.com"}, tags welcome`)
	require.Contains(t, message, "bob@example.com")
	message = failure(t, func(tb testing.TB) { jobstest.RequireEnqueued(tb, f, SendEmail) })
	require.Contains(t, message, "2 jobs of kind email.send, want 1")
	message = failure(t, func(tb testing.TB) { jobstest.RequireNotEnqueued(tb, f, SendEmail, jobstest.Tag("welcome")) })
	require.Contains(t, message, "1 jobs of kind email.send with tag welcome, want none")
	require.NotContains(t, message, "bob@example.com")
	require.Contains(t, failure(t, func(tb testing.TB) { jobstest.RequireEnqueued(tb, f, Bill) }), "there is none of that kind")

	for i := range 600 {
		f.enqueue(Bill.Params(Invoice{Order: i}))
	}
	require.Len(t, jobstest.Enqueued(t, f, Bill), 600, "more than one page")
	require.Contains(t, failure(t, func(tb testing.TB) { jobstest.RequireEnqueued(tb, f, Bill) }), "and 580 more")
	f.enqueue(jobs.Params{Kind: Bill.Name, Payload: "of another shape"})
	require.Contains(t, failure(t, func(tb testing.TB) { jobstest.Enqueued(tb, f, Bill) }), "decode the payload")
}

func (f *fixture) enqueue(params ...jobs.Params) {
	f.t.Helper()
	_, err := jobs.Enqueue(f.t.Context(), f, params...)
	require.NoError(f.t, err)
}

func TestWorkJudgesAHandlerAsANodeDoes(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, row := range map[string]struct {
		handle  func(ctx context.Context) error
		outcome jobs.OutcomeKind
		final   bool
		delay   time.Duration
		err     string
	}{
		"nil":           {func(context.Context) error { return nil }, jobs.OutcomeCompleted, false, 0, ""},
		"error":         {func(context.Context) error { return boom }, jobs.OutcomeFailed, false, 5 * time.Second, "boom"},
		"retry after":   {func(context.Context) error { return jobs.RetryAfter(time.Hour, boom) }, jobs.OutcomeFailed, false, time.Hour, "boom"},
		"non-retryable": {func(context.Context) error { return jobs.NonRetryable(boom) }, jobs.OutcomeFailed, true, 0, "boom"},
		"cancel":        {func(context.Context) error { return jobs.Cancel(boom) }, jobs.OutcomeCancelled, false, 0, "boom"},
		"snooze":        {func(context.Context) error { return jobs.Snooze(time.Minute) }, jobs.OutcomeSnoozed, false, time.Minute, "snoozed"},
		"panic":         {func(context.Context) error { panic("a mistake") }, jobs.OutcomeFailed, false, 5 * time.Second, "panic: a mistake"},
		"timeout": {func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}, jobs.OutcomeTimedOut, false, 5 * time.Second, jobs.ErrTimeout.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := workers.NewRegistry()
			workers.Handle(registry, SendEmail, func(ctx context.Context, _ *jobs.Claimed, _ Email) error { return row.handle(ctx) })
			worked := jobstest.Work(t, registry, SendEmail.Params(Email{}, jobs.Params{Timeout: time.Second}))
			require.Equal(t, row.outcome, worked.Outcome)
			require.Equal(t, row.final, worked.Final)
			require.InDelta(t, row.delay, worked.Delay, float64(row.delay)/10)
			if row.err == "" {
				require.NoError(t, worked.Err)
			} else {
				require.ErrorContains(t, worked.Err, row.err)
			}
		})
	}
}

func TestWorkGivesTheHandlerARealContext(t *testing.T) {
	t.Parallel()
	registry := workers.NewRegistry()
	workers.Handle(registry, SendEmail, func(ctx context.Context, job *jobs.Claimed, email Email) error {
		require.Error(t, jobs.ReportProgress(ctx, 101, ""))
		for _, percent := range []float64{10, 90} {
			if err := jobs.ReportProgress(ctx, percent, "sending"); err != nil {
				return err
			}
		}
		require.Same(t, job, jobs.HandlingOf(ctx).Job)
		return jobs.SetResult(ctx, map[string]any{"to": email.To, "attempt": job.Attempt, "left": job.AttemptsLeft(), "queue": job.Queue})
	})
	worked := jobstest.Work(t, registry, SendEmail.Params(Email{To: "ann@example.com"}, jobs.Params{MaxRetries: jobs.Retries(2)}))
	require.NoError(t, worked.Err)
	require.JSONEq(t, `{"to":"ann@example.com","attempt":1,"left":2,"queue":"mail"}`, string(worked.Result))
	require.Equal(t, []jobs.Progress{{Percent: 10, Message: "sending"}, {Percent: 90, Message: "sending"}}, worked.Progress)

	// What no node could have stored is no job to work on.
	message := failure(t, func(tb testing.TB) { jobstest.Work(tb, registry, jobs.Params{Kind: "no kind"}) })
	require.Contains(t, message, "kind: 1 to 255 letters")
	// A payload of another shape is dead, as on a node.
	worked = jobstest.Work(t, registry, jobs.Params{Kind: SendEmail.Name, Payload: 7})
	require.True(t, worked.Final)
}

func TestDrainWorksInATransactionAndLeavesNothing(t *testing.T) {
	f := setup(t)
	f.onEmail(func(ctx context.Context, _ *jobs.Claimed, email Email) error { return jobs.SetResult(ctx, email.To) })
	tx := f.inTx()
	f.email(tx, "ann@example.com")
	f.email(tx, "bob@example.com", jobs.Params{Queue: "bulk"})
	f.email(tx, "eve@example.com", jobs.Params{Delay: time.Hour})
	_, err := Bill.Enqueue(t.Context(), tx, Invoice{Order: 1})
	require.NoError(t, err)

	worked := jobstest.Drain(t, tx, f.registry, jobstest.OnlyQueues("bulk"))
	require.Len(t, worked, 1)
	worked = jobstest.Drain(t, tx, f.registry)
	require.Len(t, worked, 1, "what is not due, and what nobody handles, stays")
	require.Equal(t, jobs.Completed, worked[0].Status)
	require.JSONEq(t, `"ann@example.com"`, string(worked[0].Result))
	done := jobstest.RequireEnqueued(t, tx, SendEmail, jobstest.Queue("mail"), jobstest.Status(jobs.Completed))
	require.JSONEq(t, `"ann@example.com"`, string(done.Result))
	jobstest.RequireEnqueued(t, tx, Bill, jobstest.Status(jobs.Pending))

	require.Len(t, jobstest.Drain(t, tx, f.registry, jobstest.AtOnce()), 1)
	_, err = tx.Exec(t.Context(), `DELETE FROM mini_asynq.jobs`)
	require.ErrorContains(t, err, "a live job is not deleted", "the guard is on in the test's transaction")
	require.NoError(t, tx.Rollback(t.Context()))
	jobstest.RequireNotEnqueued(t, f, SendEmail)
}

func TestDrainLetsTimePass(t *testing.T) {
	f := setup(t)
	var order []string
	f.onEmail(func(_ context.Context, job *jobs.Claimed, email Email) error {
		order = append(order, fmt.Sprintf("%s %d", email.To, job.Attempt))
		switch {
		case email.To == "fails" && job.Attempt < 3:
			return errors.New("boom")
		case email.To == "dies":
			return errors.New("boom")
		case email.To == "snoozes" && job.Snoozes < 1:
			return jobs.Snooze(time.Hour)
		}
		return nil
	})
	f.email(f, "late", jobs.Params{Delay: 24 * time.Hour})
	f.email(f, "fails")
	f.email(f, "snoozes")
	f.email(f, "dies", jobs.Params{MaxRetries: jobs.Retries(0)})
	worked := jobstest.Drain(t, f, f.registry, jobstest.AtOnce())
	require.Equal(t, []string{"fails 1", "snoozes 1", "dies 1", "fails 2", "fails 3", "snoozes 1", "late 1"}, order)
	statuses := make([]jobs.Status, len(worked))
	for i, w := range worked {
		statuses[i] = w.Status
	}
	require.Equal(t, []jobs.Status{
		jobs.Retrying, jobs.Scheduled, jobs.Dead, jobs.Retrying, jobs.Completed, jobs.Completed, jobs.Completed,
	}, statuses)
	require.Equal(t, "boom", worked[0].Err.Error())
	found, err := invariants.Check(t.Context(), f.db.Conn(t), invariants.Always, invariants.Rest)
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestDrainFollowsJobsThatHandlersEnqueueUpToALimit(t *testing.T) {
	f := setup(t)
	workers.Handle(f.registry, Bill, func(ctx context.Context, _ *jobs.Claimed, invoice Invoice) error {
		_, err := SendEmail.Enqueue(ctx, f, Email{To: fmt.Sprint(invoice.Order)})
		return err
	})
	f.onEmail(func(ctx context.Context, _ *jobs.Claimed, email Email) error {
		if email.To != "1" {
			return jobs.Snooze(0) // for ever
		}
		return nil
	})
	f.enqueue(Bill.Params(Invoice{Order: 1}))
	require.Len(t, jobstest.Drain(t, f, f.registry), 2)
	f.enqueue(Bill.Params(Invoice{Order: 2}))
	message := failure(t, func(tb testing.TB) { jobstest.Drain(tb, f, f.registry, jobstest.AtOnce(), jobstest.AtMost(5)) })
	require.Contains(t, message, "still work after 5 attempts: a job of kind email.send")
	require.Contains(t, failure(t, func(tb testing.TB) { jobstest.Drain(tb, f, workers.NewRegistry()) }), "no handler")
}

// TestDrainSeesCompletionsInTheHandlersTransaction: in a savepoint of the test's transaction, and in one of its own.
func TestDrainSeesCompletionsInTheHandlersTransaction(t *testing.T) {
	f := setup(t)
	_, err := f.Exec(t.Context(), `CREATE TABLE sent (address text)`)
	require.NoError(t, err)
	handlers := func(db jobs.DB) *workers.Registry {
		registry := workers.NewRegistry()
		workers.Handle(registry, SendEmail, func(ctx context.Context, job *jobs.Claimed, email Email) error {
			if err := jobs.ReportProgress(ctx, 50, "half"); err != nil {
				return err
			}
			tx, err := db.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO sent VALUES ($1)`, email.To); err != nil {
				return err
			}
			if err := jobs.CompleteTx(ctx, tx); err != nil {
				return err
			}
			switch {
			case email.To == "open":
				return nil
			case job.Attempt == 1:
				return tx.Rollback(ctx) // and no error
			}
			return tx.Commit(ctx)
		})
		return registry
	}
	for name, db := range map[string]jobs.DB{"in the test's transaction": f.inTx(), "in the database": f} {
		f.email(db, name)
		worked := jobstest.Drain(t, db, handlers(db), jobstest.AtOnce())
		require.Len(t, worked, 2, name)
		require.ErrorIs(t, worked[0].Err, jobs.ErrNotCommitted, name)
		require.Equal(t, jobs.Retrying, worked[0].Status, name)
		require.NoError(t, worked[1].Err, name)
		require.Equal(t, jobs.OutcomeCompleted, worked[1].Outcome, name)
		require.Equal(t, jobs.Completed, worked[1].Status, name)
		var sent int
		require.NoError(t, db.QueryRow(t.Context(), `SELECT count(*) FROM sent WHERE address = $1`, name).Scan(&sent))
		require.Equal(t, 1, sent, name)
	}
	open, err := f.Acquire(t.Context())
	require.NoError(t, err)
	defer open.Release()
	f.email(f, "open")
	message := failure(t, func(tb testing.TB) { jobstest.Drain(tb, f, handlers(open.Conn())) })
	require.Contains(t, message, "left a transaction open")
	_, err = open.Exec(t.Context(), `ROLLBACK`)
	require.NoError(t, err)

	// Without a database there is no job to complete.
	tx := f.inTx()
	worked := jobstest.Work(t, handlers(tx), SendEmail.Params(Email{To: "ann@example.com"}))
	require.ErrorIs(t, worked.Err, jobs.ErrLeaseLost)
}
