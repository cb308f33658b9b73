//go:build failpoints

package failpoint_test

import (
	"errors"
	"testing"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

func TestArmedPlaceStrikesAtItsHit(t *testing.T) {
	disarm := failpoint.Arm("place", func(hit int) error {
		if hit == 2 {
			return failpoint.ErrInjected
		}
		return nil
	})
	for hit, want := range []error{nil, failpoint.ErrInjected, nil} {
		if err := failpoint.Hit("place"); !errors.Is(err, want) {
			t.Fatalf("hit %d: %v", hit+1, err)
		}
	}
	disarm()
	if err := failpoint.Hit("place"); err != nil {
		t.Fatal(err)
	}
}
