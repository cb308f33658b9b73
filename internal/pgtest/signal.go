package pgtest

import (
	"fmt"
	"testing"
	"time"
)

// Signal carries values from the code under test, where a hook calls Send, to the test, which waits for them. A nil
// Signal takes what is sent and does nothing, so a hook may be left without.
type Signal[T any] struct {
	c chan T // capacity: that of NewSignal; sent by Send, closed by nobody
}

// NewSignal makes one that holds up to capacity values.
func NewSignal[T any](capacity int) *Signal[T] { return &Signal[T]{c: make(chan T, capacity)} }

// Send never blocks, as it would change what it watches. It panics when the values that nobody took fill the signal: a
// lost one would make the test pass or hang by chance. Any goroutine may call it.
func (s *Signal[T]) Send(value T) {
	if s == nil {
		return
	}
	select {
	case s.c <- value:
	default:
		panic(fmt.Sprintf("pgtest: %d values wait in a signal and here is one more: %v", cap(s.c), value))
	}
}

// C is for a select.
func (s *Signal[T]) C() <-chan T { return s.c }

// Wait takes the oldest value, or fails the test with the reason.
func (s *Signal[T]) Wait(t testing.TB, limit time.Duration, reason string) T {
	t.Helper()
	return Receive(t, s.c, limit, reason)
}

// Quiet fails the test when a value waits. It says nothing about the future: call it when something else has shown that
// the value would have come.
func (s *Signal[T]) Quiet(t testing.TB, reason string) {
	t.Helper()
	select {
	case value := <-s.c:
		t.Fatalf("unexpected %v: %s", value, reason)
	default:
	}
}

// Receive takes a value from a channel, or fails the test with the reason. A closed channel gives zero values.
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

// Eventually waits until condition holds, looking often, and fails the test with the reason when it does not within the
// limit. For what no signal tells; a test that can wait for a signal does.
func Eventually(t testing.TB, limit time.Duration, reason string, condition func() bool) {
	t.Helper()
	if !look(limit, condition) {
		t.Fatalf("not within %s: %s", limit, reason)
	}
}

// EventuallyNoError is Eventually for a condition that says what is amiss.
func EventuallyNoError(t testing.TB, limit time.Duration, reason string, condition func() error) {
	t.Helper()
	var last error
	if !look(limit, func() bool { last = condition(); return last == nil }) {
		t.Fatalf("not within %s: %s: %v", limit, reason, last)
	}
}

// look calls condition at once and then often, in the caller's goroutine, which may be that of a test: it may require.
func look(limit time.Duration, condition func() bool) bool {
	end := time.NewTimer(limit)
	defer end.Stop()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !condition() {
		select {
		case <-end.C:
			return false
		case <-again.C:
		}
	}
	return true
}
