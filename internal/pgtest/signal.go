package pgtest

import (
	"testing"
	"time"
)

// Eventually waits until condition holds, looking often, and fails the test with the reason when it does not within the
// limit. For what no signal tells; a test that can wait for a signal does.
func Eventually(t testing.TB, limit time.Duration, reason string, condition func() bool) {
	t.Helper()
	end := time.NewTimer(limit)
	defer end.Stop()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !condition() {
		select {
		case <-end.C:
			t.Fatalf("not within %s: %s", limit, reason)
		case <-look.C:
		}
	}
}

// Receive takes a value from a channel, or fails the test with the reason.
func Receive[T any](t testing.TB, c <-chan T, limit time.Duration, reason string) T {
	t.Helper()
	end := time.NewTimer(limit)
	defer end.Stop()
	select {
	case value := <-c:
		return value
	case <-end.C:
		t.Fatalf("not within %s: %s", limit, reason)
		panic("unreachable")
	}
}
