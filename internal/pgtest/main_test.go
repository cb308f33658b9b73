package pgtest_test

import (
	"os"
	"testing"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("PGTEST_ACT") != "" {
		// The child of a test of killed binaries: one test of its own.
		if err := runOnly(os.Getenv("PGTEST_ACT")); err != nil {
			panic(err)
		}
	}
	pgtest.Main(m)
}
