package events_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// TestForkIsNoExpiry: a node that has not heard of a new history yet says, to who reads on from the table, that there is one:
// not that retention took the events, with a floor that its own cursors cannot be compared with.
func TestForkIsNoExpiry(t *testing.T) {
	t.Parallel()
	p := newPast(t, 1)
	unaware := follow(t, p.db.DSN(), options{noSweeps: true, noListener: true, noPacer: true})
	head := unaware.ready(t)
	floor := unaware.Floor()
	first, err := unaware.Read(t.Context(), floor, 7)
	require.NoError(t, err)
	require.Len(t, first, 7)

	// As after a restore, by a node that knows of it.
	p.live.stop()
	p.db.Exec(t, `UPDATE mini_asynq.epochs SET identity = 'elsewhere'`)
	other := follow(t, p.db.DSN(), options{})
	other.ready(t)
	var now events.Position
	pgtest.Eventually(t, 10*time.Second, "there is a new history", func() bool {
		now, err = other.Head()
		return err == nil && now.Epoch > head.Epoch
	})

	at, err := unaware.Head()
	require.NoError(t, err)
	require.Equal(t, head, at, "nobody has told it")
	_, err = unaware.Read(t.Context(), first[6].Position, 7)
	var changed *events.EpochError
	require.ErrorAs(t, err, &changed)
	require.Equal(t, now.Epoch, changed.Head.Epoch)
	pgtest.Eventually(t, 10*time.Second, "from then on it knows", func() bool {
		at, err := unaware.Head()
		return err == nil && at == now && unaware.Floor().Epoch == now.Epoch
	})
}
