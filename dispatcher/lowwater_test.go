package dispatcher

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// line makes n jobs of normal priority, one second apart, from a second on.
func line(from, n int) []*jobs.Claimed {
	list := make([]*jobs.Claimed, n)
	for i := range list {
		list[i] = &jobs.Claimed{}
		list[i].ID, list[i].Priority, list[i].RunAt = uuid.New(), jobs.Normal, time.Unix(int64(from+i), 0)
	}
	return list
}

func place(second int) jobs.Key { return jobs.Key{RunAt: time.Unix(int64(second), 0)} }

var normal = jobs.Normal.Index()

// claimed sends a claim for n jobs and takes in what it brought after a while; during is called in between.
func claimed(q *queueState, now *time.Time, took time.Duration, n int, got []*jobs.Claimed, during func()) jobs.Claim {
	s := q.claim(slices.Repeat([]*Demand{{}}, n), nil, time.Minute, *now)
	if during != nil {
		during()
	}
	*now = now.Add(took)
	q.landed(s)
	q.learn(s, jobs.Left{}, got, *now)
	return s.claim
}

// TestLowWaterKeyFollowsABusyQueue: a backlog is not read again from its beginning, whatever hints and new jobs come in
// meanwhile (with every tick of the stream there is a hint).
func TestLowWaterKeyFollowsABusyQueue(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	q := &queueState{name: "q", weight: 1}
	q.wake(normal, place(1))
	first := claimed(q, &now, time.Millisecond, 10, line(1, 10), q.hint)
	require.Zero(t, first.From)
	for i := 1; i < 50; i++ {
		busy := func() {
			q.hint()
			q.wake(normal, place(10_000+i))
		}
		c := claimed(q, &now, time.Millisecond, 10, line(1+10*i, 10), busy)
		require.True(t, c.From[normal].RunAt.Equal(time.Unix(int64(10*i), 0)), "claim %d begins at %s", i, c.From[normal].RunAt)
		require.False(t, c.Probe)
	}
}

// TestPlaceNamedDuringAClaimIsNotPassedOver: a job that became pending while a claim was under way may not have been seen
// by it, so the next claim begins there, also if another one lands in between.
func TestPlaceNamedDuringAClaimIsNotPassedOver(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	q := &queueState{name: "q", weight: 1}
	q.wake(normal, place(1))
	claimed(q, &now, time.Millisecond, 10, line(1, 10), nil)
	slow := q.claim(slices.Repeat([]*Demand{{}}, 10), nil, time.Minute, now)
	q.wake(normal, place(15))
	claimed(q, &now, time.Millisecond, 10, line(21, 10), nil)
	q.landed(slow)
	q.learn(slow, jobs.Left{}, line(11, 10), now) // did not see 15
	require.Equal(t, place(15), q.low[normal])
}

// TestLookAtTheWholeLineGetsAShareOfTheTime: it is due once a second, and less often when an old transaction makes it slow.
func TestLookAtTheWholeLineGetsAShareOfTheTime(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	q := &queueState{name: "q", weight: 1}
	q.wake(normal, place(1))
	looks := func(took time.Duration) (whole int) {
		for end := now.Add(100 * time.Second); now.Before(end); {
			before := now
			c := claimed(q, &now, 0, 10, line(1, 10), nil)
			now = before.Add(50 * time.Millisecond)
			if c.From == [3]jobs.Key{} {
				whole++
				now = before
				s := &sent{queue: q, claim: c, at: before}
				now = now.Add(took)
				q.learn(s, jobs.Left{}, line(1, 10), now)
			}
		}
		return whole
	}
	require.InDelta(t, 100, looks(time.Millisecond), 7)
	require.InDelta(t, 10, looks(500*time.Millisecond), 2)
	require.InDelta(t, 3, looks(10*time.Second), 1)
}

// TestOnlyTheLastLookAsksWhatIsLeft: the question costs a look at all dead entries of the line. While somebody says that
// jobs come in, what is named is claimed at once, and nothing else is asked.
func TestOnlyTheLastLookAsksWhatIsLeft(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	q := &queueState{name: "q", weight: 1}
	q.wake(normal, place(1))
	require.False(t, claimed(q, &now, 0, 10, line(1, 10), nil).Probe)
	require.True(t, q.claimable(now), "it came back full")
	now = now.Add(2 * wholeEvery)
	full := claimed(q, &now, 0, 10, line(11, 10), nil)
	require.Zero(t, full.From)
	require.False(t, full.Probe)
	for second := 21; second < 30; second++ {
		require.False(t, claimed(q, &now, 0, 10, line(second, 1), nil).Probe)
		require.True(t, q.hot)
		require.False(t, q.claimable(now), "nobody says that there is more")
		q.wake(normal, place(second+1))
		require.True(t, q.claimable(now))
	}
	require.False(t, claimed(q, &now, 0, 10, nil, nil).Probe)
	now = now.Add(firstPause)
	require.True(t, q.claimable(now))
	last := claimed(q, &now, 0, 10, nil, nil)
	require.Zero(t, last.From)
	require.True(t, last.Probe)
	require.False(t, q.hot)
}

// TestLineOfOtherKindsIsNotReadForEachHint: a group with handlers for some kinds reads past a backlog of others once in a while,
// not for each hint and each job of its own kinds.
func TestLineOfOtherKindsIsNotReadForEachHint(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := &queueState{name: "q", weight: 1}
	look := func(took time.Duration, got []*jobs.Claimed) jobs.Claim {
		s := q.claim([]*Demand{{}}, []string{"mine"}, time.Minute, now)
		now = now.Add(took)
		q.landed(s)
		q.learn(s, jobs.Left{Took: took}, got, now)
		return s.claim
	}
	q.hint()
	require.Zero(t, look(50*time.Millisecond, nil).From, "what is left of the key is not known yet")
	now = now.Add(firstPause)
	require.True(t, q.claimable(now))
	require.True(t, look(50*time.Millisecond, nil).Probe)
	require.False(t, q.hot)

	whole := 0
	for range 500 { // over 10 s
		now = now.Add(20 * time.Millisecond)
		q.hint()
		for n := 0; q.claimable(now); n++ {
			require.Less(t, n, 3)
			c := look(0, nil)
			if c.From == [3]jobs.Key{} {
				whole++
				now = now.Add(50 * time.Millisecond)
				q.dear = true
				continue
			}
			require.False(t, c.From[normal].RunAt.Before(time.Unix(1000, 0).Add(-behindNow)), "the backlog is passed over")
		}
	}
	require.LessOrEqual(t, whole, 12)

	q.wake(normal, jobs.Key{RunAt: now.Add(-time.Minute)})
	require.True(t, q.claimable(now))
	require.Equal(t, now.Add(-time.Minute), look(0, line(1, 1)).From[normal].RunAt, "a job that is named is claimed at its place")
}

// TestLockedJobsAreLookedForSoonHoweverLongTheLine: what is pending and locked comes free without an event when its holder rolls
// back, so the look at a line that takes long comes again after 20, 40 .. 1000 ms all the same.
func TestLockedJobsAreLookedForSoonHoweverLongTheLine(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	q := &queueState{name: "q", weight: 1}
	look := func(left jobs.Left) {
		s := q.claim([]*Demand{{}}, []string{"mine"}, time.Minute, now)
		now = now.Add(200 * time.Millisecond)
		q.landed(s)
		q.learn(s, left, nil, now)
	}
	q.hint()
	look(jobs.Left{})
	now = now.Add(firstPause)
	for range 10 {
		look(jobs.Left{Pending: true, Took: 100 * time.Millisecond})
		require.True(t, q.hot)
		require.LessOrEqual(t, q.after.Sub(now), lastPause)
		now = q.after
	}
}
