//go:build !failpoints

package failpoint_test

import (
	"testing"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

// TestReleasesHoldNoFailpoints: without the tag there is nothing to arm, and a hit allocates nothing and does nothing.
func TestReleasesHoldNoFailpoints(t *testing.T) {
	t.Setenv("MINIASYNQ_FAILPOINTS", "place=panic")
	if failpoint.Enabled {
		t.Fatal("failpoints are compiled in")
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := failpoint.Hit("place"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("a hit allocates %v times", n)
	}
}
