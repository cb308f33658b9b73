package events_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

var someone = jobs.Act{Actor: "test", Audit: true}

// consumed is a stream with n events in n ticks, and a consumer named c that begins before them.
type consumed struct {
	*follower
	t    testing.TB
	pool *pgxpool.Pool
	ref  events.ConsumerRef
}

func consume(t testing.TB, n int) *consumed {
	t.Helper()
	db := pgtest.NewDB(t)
	k := &consumed{follow(t, db.DSN(), options{}), t, db.Pool(t), events.ConsumerRef{Name: "c"}}
	k.ready(t)
	for range n {
		k.publish(1)
	}
	_, created, err := events.PutConsumer(t.Context(), k.pool, k.ref, nil, events.Target{Cursor: "earliest"}, someone)
	require.NoError(t, err)
	require.True(t, created)
	return k
}

// publish makes a tick of n events.
func (k *consumed) publish(n int) {
	k.t.Helper()
	before := len(k.events())
	_, err := jobs.Enqueue(k.t.Context(), k.pool, make([]jobs.Params, n)...)
	require.NoError(k.t, err)
	pgtest.Eventually(k.t, 5*time.Second, "the events are published", func() bool { return len(k.events()) == before+n })
}

func (k *consumed) get() events.Consumer {
	k.t.Helper()
	c, err := events.GetConsumer(k.t.Context(), k.pool, k.ref)
	require.NoError(k.t, err)
	return c
}

func (k *consumed) claim(reader string) (events.Claimed, error) {
	return events.ClaimConsumer(k.t.Context(), k.pool, k.ref, reader, false, 0)
}

func (k *consumed) ack(reader string, seq int64) error {
	head, err := k.Head()
	require.NoError(k.t, err)
	return events.AckConsumer(k.t.Context(), k.pool, k.ref, reader, events.Position{Epoch: head.Epoch, Seq: seq})
}

// lapse lets the claim be over, as when its time has gone by.
func (k *consumed) lapse() {
	k.t.Helper()
	_, err := k.pool.Exec(k.t.Context(), `UPDATE mini_asynq.consumers SET held_until = clock_timestamp()`)
	require.NoError(k.t, err)
}

func (k *consumed) busy(err error) *events.BusyError {
	k.t.Helper()
	var busy *events.BusyError
	require.ErrorAs(k.t, err, &busy)
	return busy
}

// TestOneReaderAtATime: of many who race for a consumer that is free, one gets it, whoever had it before can say nothing
// more, and all that was not acknowledged is there for the next.
func TestOneReaderAtATime(t *testing.T) {
	t.Parallel()
	k := consume(t, 20)
	last := ""
	for round := range int64(20) {
		const readers = 6
		claims := make([]events.Claimed, readers)
		errs := make([]error, readers)
		var all sync.WaitGroup
		for i := range readers {
			all.Go(func() { claims[i], errs[i] = k.claim(fmt.Sprintf("reader-%d-%d", round, i)) })
		}
		all.Wait()
		var winner events.Claimed
		for i, err := range errs {
			if err == nil {
				require.Empty(t, winner.Reader, "two readers at once")
				winner = claims[i]
			}
		}
		require.NotEmpty(t, winner.Reader)
		require.Equal(t, round, winner.Cursor.Seq, "what nobody acknowledged is still there")
		for _, err := range errs {
			if err != nil {
				busy := k.busy(err)
				require.Equal(t, winner.Reader, busy.Reader)
				require.InDelta(t, events.ConsumerClaim, busy.FreeIn, float64(10*time.Second))
			}
		}
		if last != "" {
			require.Equal(t, winner.Reader, k.busy(k.ack(last, 20)).Reader, "a zombie acknowledges")
			_, err := events.ClaimConsumer(t.Context(), k.pool, k.ref, last, true, 0)
			require.Equal(t, winner.Reader, k.busy(err).Reader)
		}
		require.NoError(t, k.ack(winner.Reader, round+1))
		k.lapse()
		require.NoError(t, k.ack(winner.Reader, round+1), "late, and nobody has taken it")
		k.lapse()
		last = winner.Reader
	}
}

func TestClaimIsRenewedByReadingAndAcknowledging(t *testing.T) {
	t.Parallel()
	k := consume(t, 1)
	nwrongOver := func() {
		_, err := k.pool.Exec(t.Context(), `UPDATE mini_asynq.consumers SET held_until = clock_timestamp() + interval '5 s'`)
		require.NoError(t, err)
	}
	whole := func() { require.Greater(t, k.get().FreeIn, 20*time.Second) }
	claim, err := k.claim("a")
	require.NoError(t, err)
	for _, renew := range []func() error{
		func() error { _, err := k.claim("a"); return err },
		func() error { _, err := events.ClaimConsumer(t.Context(), k.pool, k.ref, "a", true, 0); return err },
		func() error { return k.ack("a", 0) },
		func() error { return claim.Settle(t.Context(), k.pool, events.Position{}) },
	} {
		nwrongOver()
		require.NoError(t, renew())
		whole()
	}
	// A wait is added to it, and taken off again at its end, or when its caller has gone.
	for _, end := range []func(events.Claimed) error{
		func(c events.Claimed) error { return c.Settle(t.Context(), k.pool, events.Position{}) },
		func(c events.Claimed) error { return c.Leave(t.Context(), k.pool) },
	} {
		waiting, err := events.ClaimConsumer(t.Context(), k.pool, k.ref, "a", false, time.Minute)
		require.NoError(t, err)
		require.Greater(t, k.get().FreeIn, 80*time.Second)
		require.NoError(t, end(waiting))
		require.LessOrEqual(t, k.get().FreeIn, events.ConsumerClaim)
	}
}

func TestAcknowledgementsOnlyMoveForward(t *testing.T) {
	t.Parallel()
	const n = 60
	k := consume(t, 0)
	k.publish(n)
	_, err := k.claim("a")
	require.NoError(t, err)
	done := make(chan struct{})
	var acks sync.WaitGroup
	for i := range int64(6) {
		acks.Go(func() {
			for j := range int64(n) {
				// Each goes its own way through all of them.
				if err := k.ack("a", (j*(2*i+7)+i)%n+1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { acks.Wait(); close(done) }()
	var last int64
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		now := k.get().Cursor.Seq
		require.GreaterOrEqual(t, now, last)
		last = now
	}
	require.EqualValues(t, n, last)
	require.NotZero(t, k.get().AckedAt)
}

func TestAcknowledgementsThatAreRefusedMoveNothing(t *testing.T) {
	t.Parallel()
	k := consume(t, 3)
	require.Zero(t, *k.busy(k.ack("a", 1)), "nobody has read")
	_, err := k.claim("a")
	require.NoError(t, err)
	require.Equal(t, "a", k.busy(k.ack("b", 1)).Reader)
	require.ErrorIs(t, k.ack("a", 4), events.ErrCursorInvalid)
	var epoch *events.EpochError
	require.ErrorAs(t, events.AckConsumer(t.Context(), k.pool, k.ref, "a", events.Position{Epoch: 1, Seq: 1}), &epoch)
	require.ErrorIs(t, events.AckConsumer(t.Context(), k.pool, events.ConsumerRef{Name: "x"}, "a", k.get().Cursor), jobs.ErrNotFound)
	require.Zero(t, k.get().Cursor.Seq)
	require.EqualValues(t, 3, k.get().LagEvents)
	require.Positive(t, k.get().Lag)
	require.NoError(t, k.ack("a", 3))
	require.Zero(t, k.get().LagEvents)
	require.Zero(t, k.get().Lag)
}

// TestResetEndsTheClaim: what the reader acknowledges from before must not undo the reset.
func TestResetEndsTheClaim(t *testing.T) {
	t.Parallel()
	k := consume(t, 3)
	claim, err := k.claim("a")
	require.NoError(t, err)
	require.NoError(t, k.ack("a", 3))
	c, err := events.ResetConsumer(t.Context(), k.pool, k.ref, events.Target{Cursor: "earliest"}, someone)
	require.NoError(t, err)
	require.Zero(t, c.Cursor.Seq)
	require.Zero(t, *k.busy(k.ack("a", 3)))
	require.Zero(t, *k.busy(claim.Settle(t.Context(), k.pool, claim.Cursor)))
	_, err = events.ClaimConsumer(t.Context(), k.pool, k.ref, "a", true, 0)
	require.Zero(t, *k.busy(err), "he read ahead, from where it was")
	require.NoError(t, claim.Leave(t.Context(), k.pool))
	require.Empty(t, k.get().Reader)
	again, err := k.claim("a")
	require.NoError(t, err)
	require.Zero(t, again.Cursor.Seq)

	require.NoError(t, events.DeleteConsumer(t.Context(), k.pool, k.ref, someone))
	require.ErrorIs(t, again.Settle(t.Context(), k.pool, again.Cursor), jobs.ErrNotFound)
	_, _, err = events.PutConsumer(t.Context(), k.pool, k.ref, nil, events.Target{}, someone)
	require.NoError(t, err)
	_, err = k.claim("a")
	require.NoError(t, err)
	require.Equal(t, "a", k.busy(again.Settle(t.Context(), k.pool, again.Cursor)).Reader, "of the one that was there before")
}

func TestResetFindsEachPlace(t *testing.T) {
	t.Parallel()
	k := consume(t, 0)
	sizes := []int{1, 3, 1, 2, 5, 1}
	for _, n := range sizes {
		k.publish(n)
	}
	all := k.events()
	start, head := k.get().Cursor, all[len(all)-1].Position
	reset := func(to events.Target) events.Position {
		c, err := events.ResetConsumer(t.Context(), k.pool, k.ref, to, someone)
		require.NoError(t, err)
		require.Equal(t, head.Seq-c.Cursor.Seq, c.LagEvents)
		return c.Cursor
	}
	require.Equal(t, start, reset(events.Target{Cursor: "earliest"}))
	require.Equal(t, head, reset(events.Target{Cursor: "latest"}))
	for _, e := range all {
		require.Equal(t, e.Position, reset(events.Target{Cursor: e.Position.String()}))
	}
	// By time: nothing that happened at that time or later lies before it, and all that was published before does.
	rapid.Check(t, func(rt *rapid.T) {
		at := all[0].At.Add(-time.Second).Add(time.Duration(rapid.Int64Range(0,
			int64(all[len(all)-1].At.Sub(all[0].At)+time.Second)).Draw(rt, "at")))
		if rapid.Bool().Draw(rt, "exact") {
			at = all[rapid.IntRange(0, len(all)-1).Draw(rt, "of")].At
		}
		got := reset(events.Target{Time: at}).Seq
		for _, e := range all {
			if !e.At.Before(at) {
				require.Greater(t, e.Seq, got)
			}
		}
		// Ticks as a whole are before it, or behind it.
		var wrong bool
		require.NoError(t, k.pool.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM mini_asynq.ticks WHERE (first_seq <= $1) <> (at < $2))`, got, at).Scan(&wrong))
		require.False(t, wrong, "a tick lies on the wrong side")
	})
	require.Equal(t, start, reset(events.Target{Time: all[0].At.Add(-time.Hour)}), "before all that is kept")
	var now time.Time
	require.NoError(t, k.pool.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now))
	require.Equal(t, head, reset(events.Target{Time: now}))

	for target, want := range map[events.Target]error{
		{Cursor: events.Position{Epoch: head.Epoch, Seq: head.Seq + 1}.String()}: events.ErrCursorInvalid,
		{Cursor: "yesterday"}:      events.ErrCursorInvalid,
		{Cursor: "1-0"}:            &events.EpochError{Head: head},
		{Time: now.Add(time.Hour)}: &jobs.ValidationError{Faults: []jobs.Fault{{Pointer: "/to", Code: "out_of_range", Detail: "lies ahead"}}},
	} {
		_, err := events.ResetConsumer(t.Context(), k.pool, k.ref, target, someone)
		require.Equal(t, want, err)
		require.Equal(t, head, k.get().Cursor)
	}
	_, err := events.ResetConsumer(t.Context(), k.pool, events.ConsumerRef{Name: "x"}, events.Target{}, someone)
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

func TestRetentionWaitsForNoConsumer(t *testing.T) {
	t.Parallel()
	k := consume(t, 3)
	_, err := k.pool.Exec(t.Context(), `UPDATE mini_asynq.ticks SET at = at - interval '2 days' WHERE first_seq <= 2`)
	require.NoError(t, err)
	require.NoError(t, events.Retire(t.Context(), k.pool, events.Keep{Age: 24 * time.Hour}))
	c := k.get()
	var expired *events.ExpiredError
	require.ErrorAs(t, c.Lost, &expired)
	require.EqualValues(t, 2, expired.Floor.Seq)
	require.EqualValues(t, 3, c.LagEvents)
	// It can be claimed and acknowledged as before; what is missing the reader hears when he reads.
	_, err = k.claim("a")
	require.NoError(t, err)
	require.NoError(t, k.ack("a", 1))
	require.EqualValues(t, 1, k.get().Cursor.Seq)
	_, err = events.ResetConsumer(t.Context(), k.pool, k.ref, events.Target{Cursor: k.get().Cursor.String()}, someone)
	require.ErrorAs(t, err, &expired)
	for _, to := range []events.Target{{Cursor: "earliest"}, {Time: time.Now().Add(-240 * time.Hour)}, {Cursor: expired.Floor.String()}} {
		c, err = events.ResetConsumer(t.Context(), k.pool, k.ref, to, someone)
		require.NoError(t, err)
		require.Equal(t, expired.Floor, c.Cursor)
		require.NoError(t, c.Lost)
	}
}

func TestConsumerOfAnotherHistoryIsTold(t *testing.T) {
	t.Parallel()
	k := consume(t, 3)
	_, err := k.claim("a")
	require.NoError(t, err)
	var epoch int64
	require.NoError(t, k.pool.QueryRow(t.Context(), `
		INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
		SELECT epoch + 1, pg_current_snapshot(), 3, 3, identity FROM mini_asynq.epochs RETURNING epoch`).Scan(&epoch))
	c := k.get()
	var changed *events.EpochError
	require.ErrorAs(t, c.Lost, &changed)
	require.Equal(t, epoch, changed.Head.Epoch)
	require.EqualValues(t, -1, c.LagEvents)
	for _, at := range []events.Position{{Epoch: c.Cursor.Epoch, Seq: 1}, {Epoch: epoch, Seq: 3}} {
		require.ErrorAs(t, events.AckConsumer(t.Context(), k.pool, k.ref, "a", at), &changed)
	}
	c, err = events.ResetConsumer(t.Context(), k.pool, k.ref, events.Target{Cursor: "earliest"}, someone)
	require.NoError(t, err)
	require.Equal(t, events.Position{Epoch: epoch, Seq: 3}, c.Cursor)
	require.NoError(t, c.Lost)
	require.Zero(t, c.LagEvents)
}

func TestThereAreAtMostAHundredConsumers(t *testing.T) {
	t.Parallel()
	k := consume(t, 0)
	put := func(db jobs.DB, name string) error {
		_, _, err := events.PutConsumer(t.Context(), db, events.ConsumerRef{Name: name}, nil, events.Target{}, someone)
		return err
	}
	for i := range events.MaxConsumers - 4 { // one is there
		require.NoError(t, put(k.pool, fmt.Sprintf("n%03d", i)))
	}
	refused := func(err error) bool {
		var refused *jobs.ValidationError
		if err != nil {
			require.ErrorAs(t, err, &refused)
		}
		return err != nil
	}
	errs := make(chan error, 20) // capacity: all of them
	for i := range cap(errs) {
		go func() { errs <- put(k.pool, fmt.Sprintf("late%d", i)) }()
	}
	made := 0
	for range cap(errs) {
		if !refused(pgtest.Receive(t, errs, 20*time.Second, "an answer")) {
			made++
		}
	}
	require.Equal(t, 3, made)
	require.NoError(t, events.DeleteConsumer(t.Context(), k.pool, events.ConsumerRef{Name: "n000"}, someone))
	// The last place is taken by one that has not committed yet: the next one waits for what becomes of it.
	tx, err := k.pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, put(tx, "last"))
	go func() { errs <- put(k.pool, "one too many") }()
	pgtest.Eventually(t, 10*time.Second, "it waits, or is through", func() bool {
		waiting := false
		err := k.pool.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'mini_asynq.consumers'::regclass)`).Scan(&waiting)
		return err == nil && (waiting || len(errs) > 0)
	})
	require.NoError(t, tx.Commit(t.Context()))
	require.True(t, refused(pgtest.Receive(t, errs, 10*time.Second, "an answer")))
	all, err := events.Consumers(t.Context(), k.pool, nil)
	require.NoError(t, err)
	require.Len(t, all, events.MaxConsumers)
	require.NoError(t, put(k.pool, "c"), "one that is there can be changed")
	require.NoError(t, events.DeleteConsumer(t.Context(), k.pool, k.ref, someone))
	require.NoError(t, put(k.pool, "new"))
}

// TestPutAgainMovesNothing: what is applied at every start of a program must not send its consumer back.
func TestPutAgainMovesNothing(t *testing.T) {
	t.Parallel()
	k := consume(t, 3)
	claim, err := k.claim("a")
	require.NoError(t, err)
	require.NoError(t, k.ack("a", 2))
	put := func(filter map[string][]string) events.Consumer {
		c, created, err := events.PutConsumer(t.Context(), k.pool, k.ref, filter, events.Target{Cursor: "earliest"}, jobs.Act{Actor: "other"})
		require.NoError(t, err)
		require.False(t, created)
		require.EqualValues(t, 2, c.Cursor.Seq)
		require.Equal(t, []string{"test", "other"}, []string{c.CreatedBy, c.UpdatedBy})
		require.Equal(t, "a", c.Reader)
		return c
	}
	require.Empty(t, put(nil).Filter)
	require.NoError(t, claim.Settle(t.Context(), k.pool, events.Position{}))
	filter := map[string][]string{"queues": {"mail"}}
	require.Equal(t, filter, put(filter).Filter)
	require.Equal(t, "a", k.busy(claim.Settle(t.Context(), k.pool, claim.Cursor)).Reader, "it was looking with another filter")
	require.NoError(t, k.ack("a", 3))
}

func TestConsumersOfOtherQueuesDoNotExist(t *testing.T) {
	t.Parallel()
	k := consume(t, 1)
	filters := map[string]map[string][]string{
		"mail": {"queues": {"mail"}}, "both": {"queues": {"mail", "video"}}, "wild": {"queues": {"mail*"}},
		"kinds": {"kinds": {"mail"}}, "other": {"queues": {"video"}, "types": {"job.*"}},
	}
	for name, filter := range filters {
		_, _, err := events.PutConsumer(t.Context(), k.pool, events.ConsumerRef{Name: name}, filter, events.Target{}, someone)
		require.NoError(t, err)
	}
	for _, of := range []struct{ within, see []string }{
		{nil, []string{"both", "c", "kinds", "mail", "other", "wild"}},
		{[]string{"mail"}, []string{"mail"}},
		{[]string{"mail", "video"}, []string{"both", "mail", "other"}},
	} {
		found, err := events.Consumers(t.Context(), k.pool, of.within)
		require.NoError(t, err)
		var names []string
		for _, c := range found {
			names = append(names, c.Name)
			filter, err := events.ParseFilter(c.Filter)
			require.NoError(t, err)
			require.True(t, filter.Confined(of.within), "%s %v", c.Name, of.within)
		}
		require.Equal(t, of.see, names)
	}
	hidden := events.ConsumerRef{Name: "other", Within: []string{"mail"}}
	_, err := events.ClaimConsumer(t.Context(), k.pool, hidden, "a", false, 0)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	require.ErrorIs(t, events.AckConsumer(t.Context(), k.pool, hidden, "a", k.get().Cursor), jobs.ErrNotFound)
	require.ErrorIs(t, events.DeleteConsumer(t.Context(), k.pool, hidden, someone), jobs.ErrNotFound)
	_, err = events.ResetConsumer(t.Context(), k.pool, hidden, events.Target{}, someone)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	_, _, err = events.PutConsumer(t.Context(), k.pool, hidden, filters["mail"], events.Target{}, someone)
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

func TestLagOfConsumersIsTheLeaders(t *testing.T) {
	t.Parallel()
	k := consume(t, 3)
	other := events.ConsumerRef{Name: "second"}
	_, _, err := events.PutConsumer(t.Context(), k.pool, other, nil, events.Target{Cursor: "latest"}, someone)
	require.NoError(t, err)
	leads := true
	m := events.NewMetrics(events.MetricsConfig{DB: k.pool, Leads: func() bool { return leads }, MaxLabels: 2})
	lags := func(lines string) {
		t.Helper()
		if lines != "" {
			lines = "# HELP miniasynq_consumer_lag_events Events behind what a named consumer has acknowledged; absent when they are of another history; on the leader.\n" +
				"# TYPE miniasynq_consumer_lag_events gauge\n" + lines
		}
		require.NoError(t, testutil.CollectAndCompare(m, strings.NewReader(lines), "miniasynq_consumer_lag_events"))
	}
	lags("miniasynq_consumer_lag_events{name=\"c\"} 3\nminiasynq_consumer_lag_events{name=\"second\"} 0\n")
	k.publish(2)
	lags("miniasynq_consumer_lag_events{name=\"c\"} 5\nminiasynq_consumer_lag_events{name=\"second\"} 2\n")
	// Names of a node's life beyond the bound are one: the furthest.
	_, _, err = events.PutConsumer(t.Context(), k.pool, events.ConsumerRef{Name: "third"}, nil, events.Target{Cursor: "earliest"}, someone)
	require.NoError(t, err)
	require.NoError(t, events.DeleteConsumer(t.Context(), k.pool, other, someone))
	lags("miniasynq_consumer_lag_events{name=\"_other\"} 5\nminiasynq_consumer_lag_events{name=\"c\"} 5\n")
	leads = false
	lags("")
}
