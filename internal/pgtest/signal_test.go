package pgtest_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// failing stands in for a test that is to fail.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failure runs what must fail its test and gives the message.
func failure(t *testing.T, run func(testing.TB)) string {
	t.Helper()
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() { // ends with run, or with Goexit in it; the receive waits
		defer close(done)
		run(f)
	}()
	<-done
	require.NotEmpty(t, f.message, "the test did not fail")
	return f.message
}

func TestSignalKeepsOrder(t *testing.T) {
	t.Parallel()
	s := pgtest.NewSignal[int](2)
	s.Quiet(t, "nothing was sent")
	s.Send(0)
	require.Equal(t, "unexpected 0: too soon", failure(t, func(tb testing.TB) { s.Quiet(tb, "too soon") }))
	s = pgtest.NewSignal[int](2)
	s.Send(1)
	s.Send(2)
	require.Panics(t, func() { s.Send(3) })
	require.Equal(t, 1, s.Wait(t, wait, "first"))
	require.Equal(t, 2, <-s.C())
	require.Equal(t, "not within 1ms: third", failure(t, func(tb testing.TB) { s.Wait(tb, time.Millisecond, "third") }))
	var none *pgtest.Signal[int]
	none.Send(1)
}

func TestEventuallyNamesTheReason(t *testing.T) {
	t.Parallel()
	n := 0
	pgtest.Eventually(t, wait, "counts", func() bool { n++; return n == 3 })
	require.Equal(t, 3, n)
	pgtest.Eventually(t, 0, "true at once needs no time", func() bool { return true })
	require.Equal(t, "not within 1ms: never", failure(t, func(tb testing.TB) {
		pgtest.Eventually(tb, time.Millisecond, "never", func() bool { return false })
	}))
	pgtest.EventuallyNoError(t, wait, "counts down", func() error {
		if n--; n > 0 {
			return errors.New("more")
		}
		return nil
	})
	require.Equal(t, "not within 1ms: never: amiss", failure(t, func(tb testing.TB) {
		pgtest.EventuallyNoError(tb, time.Millisecond, "never", func() error { return errors.New("amiss") })
	}))
}
