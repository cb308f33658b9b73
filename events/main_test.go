package events_test

import (
	"testing"
	"time"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// pass lets time go by inside a bubble of testing/synctest, where the clock stands still until everybody waits.
func pass(d time.Duration) { <-time.After(d) }
