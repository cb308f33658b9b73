package api_test

import (
	"testing"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func newDatabase(t testing.TB) string {
	t.Helper()
	return pgtest.NewDB(t).DSN()
}
