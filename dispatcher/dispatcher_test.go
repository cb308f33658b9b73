package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mini-asynq/mini-asynq/dispatcher"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStore is a database in memory: the loops are tested without one, in time that only passes when all wait.
type fakeStore struct {
	mu       sync.Mutex
	pending  map[string][]*jobs.Claimed
	locked   map[string]bool // pending jobs of the queue are held by somebody else
	fence    int64
	outcomes []jobs.Outcome
	turns    []jobs.Turn
	fail     error // of every call
	stall    bool  // extensions wait for their deadline
	extended int
	cancel   bool // extensions say that the job is to stop
	due      jobs.Due
	promoted int
	known    []uuid.UUID // what the last LostClaims was told
	during   func()      // called once in the middle of the next turn
	asking   func()      // called in the middle of LostClaims
}

func newFakeStore() *fakeStore {
	return &fakeStore{pending: make(map[string][]*jobs.Claimed), locked: make(map[string]bool)}
}

func (s *fakeStore) add(queue string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		id, _ := uuid.NewV7()
		j := &jobs.Claimed{}
		j.ID, j.Queue, j.Priority, j.RunAt = id, queue, jobs.Normal, time.Now()
		s.pending[queue] = append(s.pending[queue], j)
	}
}

func (s *fakeStore) Turn(_ context.Context, t jobs.Turn) (jobs.TurnResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return jobs.TurnResult{}, s.fail
	}
	s.turns = append(s.turns, t)
	if s.during != nil {
		during := s.during
		s.during = nil
		s.mu.Unlock()
		during()
		s.mu.Lock()
	}
	result := jobs.TurnResult{
		Verdicts: make([]jobs.Verdict, len(t.Outcomes)), Claimed: make([][]*jobs.Claimed, len(t.Claims)), Left: make([]jobs.Left, len(t.Claims)),
	}
	for i := range t.Outcomes {
		result.Verdicts[i] = jobs.Verdict{Landed: true, Status: jobs.Completed}
	}
	s.outcomes = append(s.outcomes, t.Outcomes...)
	for i, c := range t.Claims {
		queue := s.pending[c.Queue]
		if !s.locked[c.Queue] {
			n := min(c.Limit, len(queue))
			for k, j := range queue[:n] {
				if len(c.Each) > 0 {
					j.Holder = c.Each[k]
				}
				s.fence++
				j.Fence, j.ClaimedAt, j.LeaseFor = s.fence, time.Now(), c.Lease
				result.Claimed[i] = append(result.Claimed[i], j)
			}
			s.pending[c.Queue] = queue[n:]
		}
		result.Left[i].Pending = c.Probe && len(s.pending[c.Queue]) > 0
	}
	return result, nil
}

func (s *fakeStore) Finish(ctx context.Context, o []jobs.Outcome) ([]jobs.Verdict, error) {
	result, err := s.Turn(ctx, jobs.Turn{Outcomes: o})
	return result.Verdicts, err
}

func (s *fakeStore) Extend(ctx context.Context, leases []jobs.Lease, _ time.Duration) ([]jobs.Extension, error) {
	s.mu.Lock()
	stall, cancel := s.stall, s.cancel
	s.extended++
	s.mu.Unlock()
	if stall {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	out := make([]jobs.Extension, len(leases))
	for i := range out {
		out[i] = jobs.Extension{Held: true, CancelRequested: cancel}
	}
	return out, nil
}

func (s *fakeStore) LostClaims(_ context.Context, _ string, known []uuid.UUID) ([]*jobs.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = append([]uuid.UUID{}, known...)
	if s.asking != nil {
		s.mu.Unlock()
		s.asking()
		s.mu.Lock()
	}
	return nil, s.fail
}

func (s *fakeStore) ExpiredLeases(context.Context, int, time.Duration) ([]jobs.Expired, error) {
	return nil, nil
}

func (s *fakeStore) Promote(context.Context, int) ([]jobs.Ready, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promoted++
	return nil, nil
}

func (s *fakeStore) NextDue(context.Context) (jobs.Due, error)       { return s.due, nil }
func (s *fakeStore) ResumeDue(context.Context) ([]string, error)     { return nil, nil }
func (s *fakeStore) PendingQueues(context.Context) ([]string, error) { return nil, nil }

func (s *fakeStore) snapshot() (turns []jobs.Turn, outcomes []jobs.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]jobs.Turn{}, s.turns...), append([]jobs.Outcome{}, s.outcomes...)
}

// in runs a test in a bubble, with a dispatcher that works until the test ends.
func in(t *testing.T, store *fakeStore, fn func(*testing.T, *dispatcher.Dispatcher)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d, err := dispatcher.New(dispatcher.Config{Store: store, Node: "n", Lease: 3 * time.Second, Sweep: -1})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = d.Run(ctx)
		}()
		synctest.Wait()
		fn(t, d)
		cancel()
		<-done
	})
}

// pass lets time go by in the bubble, where it costs nothing.
func pass(d time.Duration) { <-time.After(d) }

// TestWeightedQueuesGetTheirShare: in any run of claims as long as the sum of the weights, each queue with work all along
// gets at least its weight.
func TestWeightedQueuesGetTheirShare(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		var order []string
		var demand *dispatcher.Demand
		finished := make(chan *dispatcher.Work, 1)
		demand = d.Join(dispatcher.Want{
			Queues:  map[string]int{"critical": 6, "default": 3, "*": 1},
			Deliver: func(works []*dispatcher.Work) { finished <- works[0] },
		})
		for _, queue := range []string{"critical", "default", "other"} {
			store.add(queue, 200)
			d.WakeWhole(queue)
		}
		demand.Add(1)
		for range 200 {
			w := <-finished
			order = append(order, w.Job.Queue)
			w.Finish(jobs.Complete(&w.Job.Job, nil), nil)
			demand.Add(1)
		}
		for from := 0; from+10 <= len(order); from++ {
			counts := make(map[string]int)
			for _, queue := range order[from : from+10] {
				counts[queue]++
			}
			require.GreaterOrEqual(t, counts["critical"], 6, "%v", order[from:from+10])
			require.GreaterOrEqual(t, counts["default"], 3)
			require.GreaterOrEqual(t, counts["other"], 1)
		}
		<-finished
	})
}

// TestQueueWithLockedJobsIsLookedAtAgain: what somebody else holds may come back without any event.
func TestQueueWithLockedJobsIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		got := make(chan *dispatcher.Work, 1)
		demand := d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) { got <- works[0] }})
		store.add("q", 1)
		store.mu.Lock()
		store.locked["q"] = true
		store.mu.Unlock()
		demand.Add(1)
		d.WakeWhole("q")
		pass(2 * time.Second) // of the bubble: the looks come after 20, 40 .. 1000 ms
		turns, _ := store.snapshot()
		require.Greater(t, len(turns), 5)
		require.Less(t, len(turns), 12, "not in a busy loop")
		store.mu.Lock()
		store.locked["q"] = false
		store.mu.Unlock()
		started := time.Now()
		<-got
		require.LessOrEqual(t, time.Since(started), time.Second)
	})
}

func TestEmptyQueueIsLeftAlone(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		d.Join(dispatcher.Want{Deliver: func([]*dispatcher.Work) {}}).Add(5)
		d.WakeWhole("q")
		pass(time.Hour) // of the bubble
		turns, _ := store.snapshot()
		require.Len(t, turns, 2, "a claim, and the look at the whole line")
	})
}

// TestOutcomesAndClaimsShareATurn: in steady state one round trip stores what has ended and claims for the slots that it
// leaves.
func TestOutcomesAndClaimsShareATurn(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		var demand *dispatcher.Demand
		delivered := make(chan []*dispatcher.Work, 10)
		demand = d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) { delivered <- works }})
		store.add("q", 100)
		demand.Add(10)
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{})
		for range 10 {
			works := <-delivered
			for _, w := range works {
				w.Finish(jobs.Complete(&w.Job.Job, nil), nil)
			}
			demand.Add(len(works))
		}
		synctest.Wait()
		turns, outcomes := store.snapshot()
		require.Len(t, outcomes, 100)
		both := 0
		for _, turn := range turns {
			if len(turn.Outcomes) > 0 && len(turn.Claims) > 0 {
				both++
			}
			for _, c := range turn.Claims {
				require.LessOrEqual(t, c.Limit, 10, "never more than the idle slots")
			}
		}
		require.GreaterOrEqual(t, both, 9)
	})
}

// TestAttemptStopsBeforeItsLeaseEnds: while the database does not answer, the node fences itself, by its own clock.
func TestAttemptStopsBeforeItsLeaseEnds(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	store.stall = true
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		stopped := make(chan error, 1)
		started := time.Now()
		demand := d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) {
			works[0].OnStop(func(cause error) { stopped <- cause })
		}})
		store.add("q", 1)
		demand.Add(1)
		d.WakeWhole("q")
		require.ErrorIs(t, <-stopped, jobs.ErrLeaseLost)
		age := time.Since(started)
		require.Less(t, age, 3*time.Second)
		require.GreaterOrEqual(t, age, 2600*time.Millisecond, "not long before, either")
	})
}

func TestHeartbeatKeepsTheLeaseAndHearsOfACancel(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		stopped := make(chan error, 1)
		var work *dispatcher.Work
		demand := d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) {
			work = works[0]
			work.OnStop(func(cause error) { stopped <- cause })
		}})
		store.add("q", 1)
		demand.Add(1)
		d.WakeWhole("q")
		pass(30 * time.Second) // ten leases
		require.Empty(t, stopped)
		store.mu.Lock()
		require.InDelta(t, 30, store.extended, 12, "about at a third of the lease")
		store.cancel = true
		store.mu.Unlock()
		require.ErrorIs(t, <-stopped, jobs.ErrCancelled)
		work.Finish(jobs.CancelByWorker(&work.Job.Job, nil), nil)
		synctest.Wait()
		require.Zero(t, d.Running())
	})
}

// TestOutcomesSurviveAnOutage: what could not be stored is stored later, once, and claims that may have got lost with
// the connection are asked for.
func TestOutcomesSurviveAnOutage(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		delivered := make(chan []*dispatcher.Work, 1)
		demand := d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) { delivered <- works }})
		store.add("q", 3)
		demand.Add(3)
		d.WakeWhole("q")
		works := <-delivered
		store.mu.Lock()
		store.fail = fmt.Errorf("gone: %w", context.DeadlineExceeded)
		store.mu.Unlock()
		verdicts := make(chan jobs.Verdict, 3)
		for _, w := range works {
			w.Finish(jobs.Complete(&w.Job.Job, nil), func(_ *dispatcher.Work, v jobs.Verdict) { verdicts <- v })
			w.Finish(jobs.Fail(&w.Job.Job, nil, 0), nil) // only the first report counts
		}
		demand.Add(3)
		pass(2 * time.Second)
		require.Empty(t, verdicts)
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		require.NoError(t, d.Flush(t.Context()))
		require.Len(t, verdicts, 3)
		_, outcomes := store.snapshot()
		require.Len(t, outcomes, 3)
		require.NotNil(t, store.known, "lost claims were asked for")
	})
}

func TestFlushTellsWhenItCannot(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		delivered := make(chan []*dispatcher.Work, 1)
		demand := d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) { delivered <- works }})
		store.add("q", 1)
		demand.Add(1)
		d.WakeWhole("q")
		works := <-delivered
		store.mu.Lock()
		store.fail = fmt.Errorf("gone: %w", context.DeadlineExceeded)
		store.mu.Unlock()
		works[0].Finish(jobs.Complete(&works[0].Job.Job, nil), nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, d.Flush(ctx), context.DeadlineExceeded)
		require.Equal(t, 1, d.Running())
	})
}

// TestDeadlinesAreServedOnceTheyCome: nothing is asked before, and the nearest one wins.
func TestDeadlinesAreServedOnceTheyCome(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		store.mu.Lock()
		store.promoted = 0 // the sweep of the start looks, too
		store.mu.Unlock()
		d.JobDueIn(time.Hour)
		d.JobDueIn(time.Minute)
		pass(59 * time.Second)
		store.mu.Lock()
		before := store.promoted
		store.mu.Unlock()
		require.Zero(t, before)
		pass(2 * time.Second)
		store.mu.Lock()
		after := store.promoted
		store.mu.Unlock()
		require.Equal(t, 1, after)
	})
}

func TestDispatcherRefusesBadSettings(t *testing.T) {
	t.Parallel()
	_, err := dispatcher.New(dispatcher.Config{Lease: time.Millisecond, Retry: jobs.RetryPolicy{Strategy: "x"}})
	for _, part := range []string{"Store", "Node", "lease", "strategy"} {
		require.ErrorContains(t, err, part)
	}
	require.False(t, errors.Is(err, jobs.ErrNotFound))
}

// TestNothingIsClaimedWhileLostClaimsAreLookedFor: a claim beside the search would look lost to it.
func TestNothingIsClaimedWhileLostClaimsAreLookedFor(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		demand := d.Join(dispatcher.Want{Deliver: func([]*dispatcher.Work) {}})
		store.add("q", 10)
		store.mu.Lock()
		store.fail = fmt.Errorf("gone: %w", context.DeadlineExceeded)
		between := -1
		store.asking = func() {
			before, _ := store.snapshot()
			pass(5 * time.Second) // a slow search
			after, _ := store.snapshot()
			between = len(after) - len(before)
		}
		store.mu.Unlock()
		demand.Add(5)
		d.WakeWhole("q")
		pass(10 * time.Millisecond)
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		for range 100 {
			pass(100 * time.Millisecond)
			d.WakeWhole("q")
		}
		require.Zero(t, between)
		turns, _ := store.snapshot()
		require.NotEmpty(t, turns, "afterwards it claims again")
	})
}

// TestWakeDuringAClaimStands: a place in line that is named while a claim is under way is where the next one starts, even
// if the claim came back full from further down.
func TestWakeDuringAClaimStands(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		delivered := make(chan []*dispatcher.Work, 10)
		demand := d.Join(dispatcher.Want{Deliver: func(works []*dispatcher.Work) { delivered <- works }})
		early := jobs.Key{RunAt: time.Now().Add(-time.Hour)}
		store.add("q", 100)
		demand.Add(1)
		d.WakeQueue("q", "", jobs.Normal, jobs.Key{RunAt: time.Now()})
		<-delivered // over the full range
		store.mu.Lock()
		store.during = func() { d.WakeQueue("q", "", jobs.Normal, early) }
		store.mu.Unlock()
		demand.Add(1)
		<-delivered
		demand.Add(1)
		<-delivered
		turns, _ := store.snapshot()
		last := turns[len(turns)-1].Claims[0]
		require.False(t, early.Less(last.From[jobs.Normal.Index()]), "the next claim starts at the early place, or before")
	})
}

// TestWakeUpsAreForThoseWhoHandleTheKind: a job of a kind that nobody here handles causes no claim.
func TestWakeUpsAreForThoseWhoHandleTheKind(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	in(t, store, func(t *testing.T, d *dispatcher.Dispatcher) {
		demand := d.Join(dispatcher.Want{Kinds: []string{"mine"}, Deliver: func([]*dispatcher.Work) {}})
		defer demand.Close()
		demand.Add(1)
		synctest.Wait()
		before, _ := store.snapshot()
		d.WakeQueue("q", "theirs", jobs.Normal, jobs.Key{})
		synctest.Wait()
		after, _ := store.snapshot()
		require.Len(t, after, len(before))
		d.WakeQueue("q", "mine", jobs.Normal, jobs.Key{})
		synctest.Wait()
		after, _ = store.snapshot()
		require.Len(t, after, len(before)+1)
	})
}
