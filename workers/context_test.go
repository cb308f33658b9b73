package workers

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

func newAttemptContext(deadline time.Time) *attemptContext {
	return &attemptContext{values: jobs.WithHandling(context.Background(), &jobs.Handling{}), deadline: deadline}
}

// TestAttemptContext: it is a context like those of the standard library, whether somebody looked before it ended or not,
// for itself and for the contexts made from it.
func TestAttemptContext(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, lookFirst := range []bool{true, false} {
		c := newAttemptContext(time.Now().Add(time.Hour))
		deadline, ok := c.Deadline()
		require.True(t, ok)
		require.Greater(t, time.Until(deadline), time.Minute)
		require.NotNil(t, jobs.HandlingOf(c))
		require.Nil(t, c.real, "nothing was made for it yet")
		var child context.Context
		if lookFirst {
			require.NoError(t, c.Err())
			var cancel context.CancelFunc
			child, cancel = context.WithCancel(c)
			defer cancel()
			require.NoError(t, child.Err())
		}
		c.end(cause)
		c.end(errors.New("another"))
		<-c.Done()
		require.ErrorIs(t, c.Err(), context.Canceled)
		require.ErrorIs(t, context.Cause(c), cause)
		if child != nil {
			<-child.Done()
			require.ErrorIs(t, context.Cause(child), cause)
		}
		late, cancel := context.WithTimeout(c, time.Hour)
		defer cancel()
		require.ErrorIs(t, context.Cause(late), cause)
		require.NotNil(t, jobs.HandlingOf(late))
	}
	late := newAttemptContext(time.Now().Add(-time.Second))
	require.ErrorIs(t, late.Err(), context.DeadlineExceeded)
	require.ErrorIs(t, context.Cause(late), jobs.ErrTimeout)
	late.end(nil)
	require.ErrorIs(t, context.Cause(late), jobs.ErrTimeout)
	plain := newAttemptContext(time.Now().Add(time.Hour))
	plain.end(nil)
	require.ErrorIs(t, context.Cause(plain), context.Canceled)
}
