package dispatcher_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func remote(name string) dispatcher.Want {
	return dispatcher.Want{Worker: name, Remote: uuid.New(), Queues: map[string]int{"q": 1}}
}

// TestOneJobForManyParkedPollsMakesOneClaim: and whoever came first gets it.
func TestOneJobForManyParkedPollsMakesOneClaim(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		var served []string
		var polls sync.WaitGroup
		for i := range 100 {
			want := remote(fmt.Sprintf("w%d", i))
			polls.Go(func() {
				for _, w := range d.Poll(ctx, want, 1) {
					mu.Lock()
					served = append(served, w.Job.Holder.Name)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		store.add("q", 1)
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{})
		pass(time.Minute)
		turns, _ := store.snapshot()
		require.Len(t, turns, 2, "a claim, and the look at the whole line")
		require.Len(t, turns[0].Claims, 1)
		require.Len(t, turns[0].Claims[0].Each, 100)
		require.Len(t, turns[1].Claims[0].Each, 99)
		cancel()
		polls.Wait()
		require.Equal(t, []string{"w0"}, served)
		require.Zero(t, d.Running(), "the node keeps no lease of them alive")
	})
}

// TestThousandParkedPollsAreNotNamedForOneJob: and many jobs still take few turns.
func TestThousandParkedPollsAreNotNamedForOneJob(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		ctx, cancel := context.WithCancel(context.Background())
		var served atomic.Int64
		var polls sync.WaitGroup
		for i := range 1000 {
			want := remote(fmt.Sprintf("w%d", i))
			polls.Go(func() { served.Add(int64(len(d.Poll(ctx, want, 1)))) })
		}
		synctest.Wait()
		store.add("q", 1)
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{})
		pass(time.Minute)
		turns, _ := store.snapshot()
		require.Len(t, turns[0].Claims[0].Each, 100)
		before := len(turns)
		store.add("q", 600)
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{})
		pass(time.Minute)
		turns, _ = store.snapshot()
		require.EqualValues(t, 601, served.Load())
		require.LessOrEqual(t, len(turns)-before, 5, "100, 200, 400, and the look at the whole line")
		cancel()
		polls.Wait()
	})
}

// TestPollThatLeavesGivesBackWhatComes: the claim was under way when it left.
func TestPollThatLeavesGivesBackWhatComes(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan struct{})
		store.mu.Lock()
		store.during = func() {
			cancel()
			<-left
		}
		store.mu.Unlock()
		store.add("q", 1)
		go func() {
			defer close(left)
			require.Empty(t, d.Poll(ctx, remote("w"), 5))
		}()
		synctest.Wait()
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{})
		synctest.Wait()
		_, outcomes := store.snapshot()
		require.Len(t, outcomes, 1)
		require.Equal(t, jobs.OutcomeReleased, outcomes[0].Kind)
		require.Equal(t, "lost_claim", outcomes[0].Cause)
	})
}

// TestPollFindsTheQueueAsItWas: what was said while nobody waited is not forgotten, and asks the database nothing.
func TestPollFindsTheQueueAsItWas(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.Empty(t, d.Poll(short, remote("w"), 1))
		store.add("q", 1)
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{})
		pass(time.Second)
		turns, _ := store.snapshot()
		require.Empty(t, turns, "nobody waits")
		require.Len(t, d.Poll(context.Background(), remote("w"), 1), 1)
	})
}

func TestSettleTellsWhatBecameOfEach(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		outcomes := make([]jobs.Outcome, 50)
		for i := range outcomes {
			outcomes[i] = jobs.Complete(&jobs.Job{ID: uuid.New(), Fence: int64(i + 1)}, nil)
		}
		verdicts, err := d.Settle(context.Background(), outcomes)
		require.NoError(t, err)
		for _, v := range verdicts {
			require.True(t, v.Landed)
		}
		store.mu.Lock()
		store.fail = context.DeadlineExceeded
		store.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = d.Settle(ctx, outcomes[:1])
		require.ErrorIs(t, err, context.DeadlineExceeded)
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
	})
}
