package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// Deposit is money for an account.
type Deposit struct {
	Account int `json:"account"`
	Cents   int `json:"cents"`
}

// BookDeposit books one.
var BookDeposit = jobs.Kind[Deposit]{Name: "deposit.book"}

// What the handler writes and the end of its job are one transaction: the deposit is booked exactly once, even if the
// process dies in the middle, or if two of them work on the job because one was taken for dead.
func ExampleCompleteTx() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	_, err := pool.Exec(ctx, `CREATE TABLE accounts (id integer, cents integer); INSERT INTO accounts VALUES (7, 0)`)
	check(err)

	registry := workers.NewRegistry()
	workers.Handle(registry, BookDeposit, func(ctx context.Context, job *jobs.Claimed, d Deposit) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE accounts SET cents = cents + $1 WHERE id = $2`, d.Cents, d.Account); err != nil {
				return err
			}
			return jobs.CompleteTx(ctx, tx)
		})
	})
	job, err := BookDeposit.Enqueue(ctx, pool, Deposit{Account: 7, Cents: 1250})
	check(err)
	runUntilDone(pool, registry)

	done, err := jobs.Get(ctx, pool, job.ID)
	check(err)
	var cents int
	check(pool.QueryRow(ctx, `SELECT cents FROM accounts WHERE id = 7`).Scan(&cents))
	fmt.Println(done.Status, cents)
	// Output: completed 1250
}

// A result is stored with the completion; progress is seen while the handler works.
func ExampleSetResult() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	type Import struct{ Rows int }
	importRows := jobs.Kind[Import]{Name: "rows.import"}

	registry := workers.NewRegistry()
	workers.Handle(registry, importRows, func(ctx context.Context, job *jobs.Claimed, in Import) error {
		for row := range in.Rows {
			if err := jobs.ReportProgress(ctx, 100*float64(row+1)/float64(in.Rows), fmt.Sprintf("row %d", row+1)); err != nil {
				return err
			}
		}
		return jobs.SetResult(ctx, map[string]int{"imported": in.Rows})
	})
	job, err := importRows.Enqueue(ctx, pool, Import{Rows: 40})
	check(err)
	runUntilDone(pool, registry)

	done, err := jobs.Get(ctx, pool, job.ID)
	check(err)
	fmt.Println(string(done.Result))
	fmt.Println(done.Progress.Percent, done.Progress.Message)
	// Output:
	// {"imported": 40}
	// 100 row 40
}

// The error of a handler says what becomes of its job.
func ExampleSnooze() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	type Order struct{ Number int }
	ship := jobs.Kind[Order]{Name: "order.ship"}

	registry := workers.NewRegistry()
	workers.Handle(registry, ship, func(ctx context.Context, job *jobs.Claimed, o Order) error {
		switch {
		case o.Number == 0:
			return jobs.NonRetryable(errors.New("an order has a number")) // dead, whatever is left of its budget
		case job.Snoozes == 0:
			return jobs.Snooze(100 * time.Millisecond) // not yet: back later, and no attempt is counted
		case job.Attempt == 1:
			return jobs.RetryAfter(50*time.Millisecond, errors.New("the carrier is busy")) // an attempt that failed
		}
		return nil
	})
	stored, err := ship.EnqueueMany(ctx, pool, []Order{{Number: 0}, {Number: 1}})
	check(err)
	runUntilDone(pool, registry)

	for _, job := range stored {
		done, err := jobs.Get(ctx, pool, job.ID)
		check(err)
		fmt.Println(done.Status, done.Reason, "attempts:", done.Attempt, "snoozes:", done.Snoozes)
	}
	// Output:
	// dead not_retryable attempts: 1 snoozes: 0
	// completed  attempts: 2 snoozes: 1
}
