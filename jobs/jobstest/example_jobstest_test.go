package jobstest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/jobs/jobstest"
	"github.com/mini-asynq/mini-asynq/workers"
)

// Reminder is a payload.
type Reminder struct {
	User string `json:"user"`
}

// Remind is a kind of the program under test.
var Remind = jobs.Kind[Reminder]{Name: "user.remind"}

// signUp is what the program under test does.
func signUp(ctx context.Context, tx pgx.Tx, user string) error {
	_, err := Remind.Enqueue(ctx, tx, Reminder{User: user}, jobs.Params{Delay: 72 * time.Hour, Tags: []string{"signup"}})
	return err
}

// A test in a transaction, which it rolls back: nothing is left behind, and tests do not meet.
func ExampleRequireEnqueued() {
	t, pool := openTest()
	defer pool.Close()
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	check(err)
	defer tx.Rollback(ctx)

	check(signUp(ctx, tx, "ann"))

	job := jobstest.RequireEnqueued(t, tx, Remind, jobstest.Payload(Reminder{User: "ann"}), jobstest.Tag("signup"))
	fmt.Println(job.Payload.User, job.Status, job.RunAt.Sub(job.CreatedAt))
	jobstest.RequireNotEnqueued(t, tx, Remind, jobstest.Payload(Reminder{User: "bob"}))
	// Output: ann scheduled 72h0m0s
}

// One job, without a database: the handler with its middleware, and what comes out.
func ExampleWork() {
	t := exampleT{} // the *testing.T of a test
	registry := workers.NewRegistry()
	workers.Handle(registry, Remind, func(ctx context.Context, job *jobs.Claimed, r Reminder) error {
		if r.User == "" {
			return jobs.NonRetryable(errors.New("nobody to remind"))
		}
		return jobs.SetResult(ctx, "reminded "+r.User)
	})

	worked := jobstest.Work(t, registry, Remind.Params(Reminder{User: "ann"}))
	fmt.Println(worked.Outcome, string(worked.Result))
	worked = jobstest.Work(t, registry, Remind.Params(Reminder{}))
	fmt.Println(worked.Outcome, "for good:", worked.Final, worked.Err)
	// Output:
	// completed "reminded ann"
	// failed for good: true nobody to remind
}

// Everything to the end, in the test's transaction: the job that is due in three days, its retry, and the completion in
// the handler's own transaction.
func ExampleDrain() {
	t, pool := openTest()
	defer pool.Close()
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	check(err)
	defer tx.Rollback(ctx)
	_, err = tx.Exec(ctx, `CREATE TABLE reminded ("user" text)`)
	check(err)

	// In production db is the pool, here it is the test's transaction.
	handlers := func(db jobs.DB) *workers.Registry {
		registry := workers.NewRegistry()
		workers.Handle(registry, Remind, func(ctx context.Context, job *jobs.Claimed, r Reminder) error {
			if job.Attempt == 1 {
				return errors.New("the mail server is away")
			}
			return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `INSERT INTO reminded VALUES ($1)`, r.User); err != nil {
					return err
				}
				return jobs.CompleteTx(ctx, tx)
			})
		})
		return registry
	}
	check(signUp(ctx, tx, "ann"))

	fmt.Println("due now:", len(jobstest.Drain(t, tx, handlers(tx))))
	for _, worked := range jobstest.Drain(t, tx, handlers(tx), jobstest.AtOnce()) {
		fmt.Println(worked.Outcome, worked.Status, worked.Err)
	}
	// Output:
	// due now: 0
	// failed retrying the mail server is away
	// completed completed <nil>
}
