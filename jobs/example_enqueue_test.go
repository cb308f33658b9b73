package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Welcome is a payload: any type that encoding/json writes and reads.
type Welcome struct {
	To string `json:"to"`
}

// SendWelcome is declared once, for whoever enqueues and for whoever works.
var SendWelcome = jobs.Kind[Welcome]{
	Name:     "welcome.send",
	Defaults: jobs.Params{Queue: "mail", Timeout: time.Minute, MaxRetries: jobs.Retries(5)},
}

// A kind is declared once and enqueued with a typed payload. What one job wants otherwise is said with it.
func ExampleKind_Enqueue() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	job, err := SendWelcome.Enqueue(ctx, pool, Welcome{To: "ann@example.com"})
	check(err)
	fmt.Println(job.Kind, job.Queue, job.Status)

	job, err = SendWelcome.Enqueue(ctx, pool, Welcome{To: "bob@example.com"}, jobs.Params{
		Priority: jobs.High, Delay: time.Hour, IdempotencyKey: "welcome-bob", Tags: []string{"signup"},
	})
	check(err)
	fmt.Println(job.Kind, job.Queue, job.Status, "in", job.RunAt.Sub(job.CreatedAt))
	// Output:
	// welcome.send mail pending
	// welcome.send mail scheduled in 1h0m0s
}

// In a transaction the job exists exactly if the transaction commits, together with what it is about.
func ExampleKind_Enqueue_transaction() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	_, err := pool.Exec(ctx, `CREATE TABLE users (email text PRIMARY KEY)`)
	check(err)

	signUp := func(email string) error {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := SendWelcome.Enqueue(ctx, tx, Welcome{To: email}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO users VALUES ($1)`, email); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
	fmt.Println("the first time:", signUp("ann@example.com"))
	fmt.Println("again:", signUp("ann@example.com") != nil)

	n, _, err := jobs.Count(ctx, pool, jobs.Filter{Kinds: []string{SendWelcome.Name}})
	check(err)
	fmt.Println("jobs:", n)
	// Output:
	// the first time: <nil>
	// again: true
	// jobs: 1
}

// Thousands are one statement, all or none.
func ExampleKind_EnqueueMany() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	guests := make([]Welcome, 2000)
	for i := range guests {
		guests[i] = Welcome{To: fmt.Sprintf("guest%d@example.com", i)}
	}
	stored, err := SendWelcome.EnqueueMany(ctx, pool, guests, jobs.Params{Queue: "bulk", Priority: jobs.Low})
	check(err)
	fmt.Println(len(stored), stored[0].Queue)
	// Output: 2000 bulk
}

// Jobs of several kinds, or of none that is declared, go together, too; what is refused is told at once.
func ExampleEnqueue() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	stored, err := jobs.Enqueue(ctx, pool,
		SendWelcome.Params(Welcome{To: "ann@example.com"}),
		jobs.Params{Queue: "reports", Kind: "report.make", Payload: map[string]int{"year": 2026}},
	)
	check(err)
	fmt.Println(stored[0].Kind, stored[1].Kind)

	_, err = jobs.Enqueue(ctx, pool, jobs.Params{Queue: "no queue", Timeout: time.Millisecond})
	var refused *jobs.ValidationError
	if errors.As(err, &refused) {
		for _, fault := range refused.Faults {
			fmt.Println(fault.Pointer, fault.Code)
		}
	}
	// Output:
	// welcome.send report.make
	// /queue invalid_name
	// /timeout out_of_range
}
