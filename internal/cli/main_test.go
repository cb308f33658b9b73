package cli_test

import (
	"testing"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
