package jobstest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// exampleT stands in for the t of a test, which examples do not have.
type exampleT struct{ testing.TB }

func (exampleT) Helper()                  {}
func (exampleT) Context() context.Context { return context.Background() }

func (exampleT) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// openTest gives an example what a test begins with: its t, and a database with the schema.
func openTest() (testing.TB, *pgxpool.Pool) {
	pool, err := pgxpool.New(context.Background(), pgtest.ExampleDB().DSN())
	if err != nil {
		panic(err)
	}
	return exampleT{}, pool
}

// check ends an example that cannot go on.
func check(err error) {
	if err != nil {
		panic(fmt.Sprintf("an example failed: %v", err))
	}
}
