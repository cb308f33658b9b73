package jobs_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestClaimFollowsPriorityAndAge(t *testing.T) {
	f := setup(t)
	var want []uuid.UUID
	low := f.enqueue(jobs.Params{Queue: "q", Priority: jobs.Low})
	normal := f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	high := f.enqueue(jobs.Params{Queue: "q", Priority: jobs.High})
	f.enqueue(jobs.Params{Queue: "other"}, jobs.Params{Queue: "q", Delay: time.Hour})
	for _, j := range append(append(high, normal...), low...) {
		want = append(want, j.ID)
	}
	var got []uuid.UUID
	for range 5 {
		for _, j := range f.claim("q", 1) {
			got = append(got, j.ID)
		}
	}
	require.Equal(t, want, got)
}

func TestClaimGrowsTheFenceAndSetsTheLease(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	first := f.claim("q", 1)[0]
	second := f.claim("q", 1)[0]
	require.Greater(t, second.Fence, first.Fence)
	j := f.get(first.ID)
	require.Equal(t, jobs.Running, j.Status)
	require.Equal(t, "w", j.LockedBy)
	require.Equal(t, 1, j.Attempt)
	require.WithinDuration(t, j.LockedAt.Add(time.Minute), j.LeaseExpiresAt, 10*time.Millisecond)
	require.Equal(t, []string{"job.enqueued", "job.started"}, f.events(first.ID))
	f.finish(jobs.SnoozeFor(&first.Job, 0))
	require.Equal(t, first.Fence, f.get(first.ID).Fence) // never reset
}

func TestClaimsByManyTakeEachJobOnce(t *testing.T) {
	f := setup(t)
	params := make([]jobs.Params, 500)
	for i := range params {
		params[i] = jobs.Params{Queue: "q"}
	}
	f.enqueue(params...)
	var mu sync.Mutex
	seen := make(map[uuid.UUID]int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				turn := jobs.Turn{Claims: []jobs.Claim{{Queue: "q", Limit: 7, Worker: "w", Lease: time.Minute, Probe: true}}}
				result, err := turn.Do(context.Background(), f)
				if err != nil || len(result.Claimed[0]) == 0 && !result.Left[0].Pending {
					return
				}
				mu.Lock()
				for _, j := range result.Claimed[0] {
					seen[j.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 500)
	for _, n := range seen {
		require.Equal(t, 1, n)
	}
}

func TestClaimTakesOnlyKindsItKnows(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q", Kind: "a"}, jobs.Params{Queue: "q", Kind: "b"})
	turn := jobs.Turn{Claims: []jobs.Claim{{
		Queue: "q", Limit: 10, Kinds: []string{"b"}, Worker: "w", Lease: time.Minute, Probe: true,
	}}}
	result, err := turn.Do(t.Context(), f)
	require.NoError(t, err)
	require.Len(t, result.Claimed[0], 1)
	require.Equal(t, "b", result.Claimed[0][0].Kind)
	require.False(t, result.Left[0].Pending)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs WHERE status = 'pending'`))
}

func TestEachOutcomeEndsAsItShould(t *testing.T) {
	f := setup(t)
	for name, c := range map[string]struct {
		retries int
		outcome func(*jobs.Job) jobs.Outcome
		status  jobs.Status
		reason  string
		attempt int
		row     string // status of the attempt row, "" for none
	}{
		"completed": {1, func(j *jobs.Job) jobs.Outcome {
			return jobs.Complete(j, json.RawMessage(`{"x":1}`))
		}, jobs.Completed, "", 1, "completed"},
		"failed": {1, func(j *jobs.Job) jobs.Outcome {
			return jobs.Fail(j, failure(), time.Minute)
		}, jobs.Retrying, "", 1, "failed"},
		"exhausted": {0, func(j *jobs.Job) jobs.Outcome {
			return jobs.Fail(j, failure(), time.Minute)
		}, jobs.Dead, "exhausted", 1, "failed"},
		"not retryable": {9, func(j *jobs.Job) jobs.Outcome {
			return jobs.FailFinally(j, failure())
		}, jobs.Dead, "not_retryable", 1, "failed"},
		"timed out": {1, func(j *jobs.Job) jobs.Outcome {
			return jobs.TimeOut(j, failure(), time.Minute)
		}, jobs.Retrying, "", 1, "timed_out"},
		"cancelled": {1, func(j *jobs.Job) jobs.Outcome {
			return jobs.CancelByWorker(j, failure())
		}, jobs.Cancelled, "worker", 1, "cancelled"},
		"snoozed": {0, func(j *jobs.Job) jobs.Outcome {
			return jobs.SnoozeFor(j, time.Minute)
		}, jobs.Scheduled, "", 0, ""},
		"released": {0, func(j *jobs.Job) jobs.Outcome {
			return jobs.Release(j, "shutdown")
		}, jobs.Pending, "", 0, ""},
	} {
		queue := "q-" + uuid.NewString()
		id := f.enqueue(jobs.Params{Queue: queue, MaxRetries: jobs.Retries(c.retries)})[0].ID
		claimed := f.claim(queue, 1)[0]
		verdict := f.finish(c.outcome(&claimed.Job))[0]
		require.True(t, verdict.Landed, name)
		require.Equal(t, c.status, verdict.Status, name)
		j := f.get(id)
		require.Equal(t, c.status, j.Status, name)
		require.Equal(t, c.reason, j.Reason, name)
		require.Equal(t, c.attempt, j.Attempt, name)
		require.Equal(t, "w", j.LastWorker, name)
		attempts := f.attempts(id)
		if c.row == "" {
			require.Empty(t, attempts, name)
		} else {
			require.Len(t, attempts, 1, name)
			require.Equal(t, c.row, attempts[0].Status, name)
			require.Equal(t, claimed.Fence, attempts[0].Fence, name)
		}
		if c.status == jobs.Retrying || c.status == jobs.Scheduled {
			require.WithinDuration(t, j.UpdatedAt.Add(time.Minute), j.RunAt, time.Millisecond, name)
			require.InDelta(t, time.Minute, verdict.DueIn, float64(time.Second), name)
		}
	}
}

// TestStaleOutcomeChangesNothing: every kind of late word about an attempt that is not the current one is refused, per
// job, and leaves no event.
func TestStaleOutcomeChangesNothing(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	old := f.claim("q", 1)[0]
	f.finish(jobs.Release(&old.Job, "shutdown"))
	current := f.claim("q", 1)[0]
	before := f.get(id)
	for _, o := range []jobs.Outcome{
		jobs.Complete(&old.Job, nil), jobs.Fail(&old.Job, failure(), 0), jobs.FailFinally(&old.Job, failure()),
		jobs.TimeOut(&old.Job, failure(), 0), jobs.ExpireLease(&old.Job, failure(), 0), jobs.SnoozeFor(&old.Job, 0),
		jobs.Release(&old.Job, "worker"), jobs.CancelByWorker(&old.Job, failure()),
		jobs.ExpireLease(&current.Job, failure(), 0), // the current one, but its lease has not run out
	} {
		require.False(t, f.finish(o)[0].Landed, o.Kind)
	}
	extended, err := jobs.Extend(t.Context(), f, []jobs.Lease{{JobID: id, Fence: old.Fence}}, time.Minute, 0)
	require.NoError(t, err)
	require.False(t, extended[0].Held)
	err = jobs.SetProgress(t.Context(), f, jobs.Lease{JobID: id, Fence: old.Fence}, 1, "", 0)
	require.ErrorIs(t, err, jobs.ErrLeaseLost)
	require.Equal(t, before, f.get(id))
	require.Equal(t, []string{"job.enqueued", "job.started", "job.released", "job.started"}, f.events(id))

	// In a batch the others are stored.
	other := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	claimed := f.claim("q", 1)[0]
	verdicts := f.finish(jobs.Complete(&old.Job, nil), jobs.Complete(&claimed.Job, nil), jobs.Complete(&current.Job, nil))
	require.Equal(t, []bool{false, true, true}, []bool{verdicts[0].Landed, verdicts[1].Landed, verdicts[2].Landed})
	require.Equal(t, jobs.Completed, f.get(other).Status)
}

func TestSnoozesCostNothing(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(0)})[0].ID
	fences := make(map[int64]bool)
	for range 50 {
		j := f.claim("q", 1)[0]
		fences[j.Fence] = true
		f.finish(jobs.SnoozeFor(&j.Job, 0))
		f.makeDue()
	}
	j := f.claim("q", 1)[0]
	fences[j.Fence] = true
	require.Equal(t, 50, j.Snoozes)
	f.finish(jobs.Complete(&j.Job, nil))
	require.Len(t, f.attempts(id), 1)
	require.Len(t, fences, 51)
	require.Equal(t, jobs.Completed, f.get(id).Status)
}

// makeDue lets every waiting job become pending now.
func (f fixture) makeDue() {
	f.t.Helper()
	_, err := f.Exec(f.t.Context(), `UPDATE mini_asynq.jobs SET run_at = clock_timestamp()
		WHERE status IN ('scheduled', 'retrying')`)
	require.NoError(f.t, err)
	_, err = jobs.Promote(f.t.Context(), f, 1000)
	require.NoError(f.t, err)
}

// TestPoisonEndsDead: a job that takes its process down with it is counted, and ends in the dead letter queue.
func TestPoisonEndsDead(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(2)})[0].ID
	for n := range 3 {
		require.Len(t, f.claimFor("q", 1, time.Microsecond), 1, "attempt %d", n+1)
		expired, err := jobs.ExpiredLeases(t.Context(), f, 10, time.Hour)
		require.NoError(t, err)
		require.Len(t, expired, 1)
		require.Equal(t, n, expired[0].LeaseLosses)
		require.True(t, f.finish(jobs.ExpireLease(expired[0].Job, failure(), 0))[0].Landed)
		f.makeDue()
	}
	j := f.get(id)
	require.Equal(t, jobs.Dead, j.Status)
	require.Equal(t, "poison", j.Reason)
	attempts := f.attempts(id)
	require.Len(t, attempts, 3)
	for i, a := range attempts {
		require.Equal(t, i+1, a.Number)
		require.Equal(t, "lease_expired", a.Status)
	}
}

func TestAttemptsLiveAndDieWithTheirJob(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(1)})[0].ID
	ended := func() int { return f.count(`SELECT count(*) FROM mini_asynq.job_attempts WHERE job_id = $1`, id) }
	fail := func() { f.finish(jobs.Fail(&f.claim("q", 1)[0].Job, failure(), time.Hour)) }
	fail()
	require.Equal(t, 1, ended())
	f.makeDue()
	fail()
	require.Equal(t, 2, ended())
	j, err := jobs.RetryJob(t.Context(), f, id, 0, jobs.Act{Actor: "me", Reason: "fixed"})
	require.NoError(t, err)
	require.Equal(t, jobs.Pending, j.Status)
	require.Equal(t, 2, j.AttemptsLeft()) // a full new budget, and the numbers go on
	require.Equal(t, 2, ended())
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	require.Equal(t, 3, ended())
	attempts := f.attempts(id)
	require.Len(t, attempts, 3)
	for i, a := range attempts {
		require.Equal(t, i+1, a.Number)
		require.Equal(t, []string{"failed", "failed", "completed"}[i], a.Status)
		require.NotEmpty(t, a.Worker)
		require.Equal(t, i < 2, a.ErrorMessage != "")
		require.False(t, a.CompletedAt.Before(a.StartedAt))
		require.True(t, i == 0 || a.Fence > attempts[i-1].Fence && !a.StartedAt.Before(attempts[i-1].CompletedAt))
	}
	require.NoError(t, jobs.DeleteJob(t.Context(), f, id, jobs.Act{}))
	require.Zero(t, ended())
	require.Equal(t, []string{
		"job.enqueued", "job.started", "job.retrying", "job.ready", "job.started", "job.dead", "job.redriven", "job.started",
		"job.completed", "job.deleted",
	}, f.events(id))
}

// TestLongHistoryOfAttemptsIsBounded: hundreds of attempts with long errors do not make a row of megabytes; the newest one
// keeps its stack, all keep who ran when and how it ended.
func TestLongHistoryOfAttemptsIsBounded(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(200)})[0].ID
	noise := rand.New(rand.NewPCG(1, 2)) // what compresses badly
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('a' + noise.IntN(26))
		}
		return string(b)
	}
	for range 60 {
		f.finish(jobs.Fail(&f.claim("q", 1)[0].Job, jobs.NewFailure("k", "TestError", text(4000), text(30_000)), 0))
		f.makeDue()
	}
	attempts := f.attempts(id)
	require.Len(t, attempts, 60)
	for i, a := range attempts {
		require.Equal(t, i+1, a.Number)
		require.Equal(t, "failed", a.Status)
		require.GreaterOrEqual(t, len(a.ErrorMessage), 1024)
	}
	require.Len(t, attempts[59].ErrorStack, 30_000)
	require.Empty(t, attempts[0].ErrorStack)
	require.Less(t, f.count(`SELECT pg_column_size(attempts) FROM mini_asynq.jobs WHERE id = $1`, id), 600_000)
}

func TestOneBadOutcomeDoesNotWedgeTheOthers(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	claimed := f.claim("q", 3)
	bad := jobs.Complete(&claimed[1].Job, json.RawMessage(`"`+`\`+`u0000"`)) // CheckJSON would have refused it
	verdicts := f.finish(jobs.Complete(&claimed[0].Job, nil), bad, jobs.Complete(&claimed[2].Job, nil))
	require.Equal(t, jobs.Completed, verdicts[0].Status)
	require.Equal(t, jobs.Completed, verdicts[2].Status)
	require.Equal(t, jobs.Retrying, verdicts[1].Status)
	require.Error(t, verdicts[1].Fault)
	require.Equal(t, "UnstorableOutcome", f.get(claimed[1].ID).Error.Type)
}

func TestErrorTextsAreMadeStorable(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"})
	j := f.claim("q", 1)[0]
	bad := jobs.NewFailure("q", "T"+string(rune(0)), "nul "+string(rune(0))+" bad "+string([]byte{0xff})+" <script>",
		strings.Repeat("x", 400<<10))
	f.finish(jobs.Fail(&j.Job, bad, time.Hour))
	got := f.get(j.ID)
	require.Equal(t, "nul \uFFFD bad \uFFFD <script>", got.Error.Message)
	require.LessOrEqual(t, len(got.Error.Stack), 64<<10)
	require.NotEmpty(t, got.Error.Fingerprint)
	require.False(t, got.Error.At.IsZero())
}

func TestCancelStopsWaitingAndAsksRunning(t *testing.T) {
	f := setup(t)
	waiting := f.enqueue(jobs.Params{Queue: "q", Delay: time.Hour})[0].ID
	j, requested, err := jobs.CancelJob(t.Context(), f, waiting, jobs.Act{Actor: "me", Reason: "why"})
	require.NoError(t, err)
	require.False(t, requested)
	require.Equal(t, jobs.Cancelled, j.Status)
	require.Equal(t, "operator", j.Reason)
	_, _, err = jobs.CancelJob(t.Context(), f, waiting, jobs.Act{})
	require.NoError(t, err)
	require.Equal(t, []string{"job.scheduled", "job.cancelled"}, f.events(waiting)) // true already: no event

	running := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	claimed := f.claim("q", 1)[0]
	j, requested, err = jobs.CancelJob(t.Context(), f, running, jobs.Act{Actor: "me"})
	require.NoError(t, err)
	require.True(t, requested)
	require.Equal(t, jobs.Running, j.Status)
	require.False(t, j.CancelRequestedAt.IsZero())
	extended, err := jobs.Extend(t.Context(), f, []jobs.Lease{{JobID: running, Fence: claimed.Fence}}, time.Minute, 0)
	require.NoError(t, err)
	require.True(t, extended[0].CancelRequested) // the request is a column: no lost message loses it
	verdict := f.finish(jobs.Fail(&claimed.Job, failure(), time.Minute))[0]
	require.Equal(t, jobs.Cancelled, verdict.Status) // beats all but success
	require.Equal(t, "operator", f.get(running).Reason)

	done := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	var transition *jobs.TransitionError
	_, _, err = jobs.CancelJob(t.Context(), f, done, jobs.Act{})
	require.ErrorAs(t, err, &transition)
	require.Equal(t, jobs.Completed, transition.Status)
	_, _, err = jobs.CancelJob(t.Context(), f, uuid.New(), jobs.Act{})
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

// TestCancelAgainstClaim: whoever gets the row lock decides, and the answer says how. Never a cancel that was confirmed
// and a start of the same job.
func TestCancelAgainstClaim(t *testing.T) {
	f := setup(t)
	const races = 300
	params := make([]jobs.Params, races)
	for i := range params {
		params[i] = jobs.Params{Queue: "q"}
	}
	ids := f.enqueue(params...)
	requested, errs := make([]bool, races), make([]error, races)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i, j := range ids {
			_, requested[i], errs[i] = jobs.CancelJob(context.Background(), f, j.ID, jobs.Act{})
		}
	})
	wg.Go(func() {
		for range races {
			turn := jobs.Turn{Claims: []jobs.Claim{{Queue: "q", Limit: 1, Worker: "w", Lease: time.Minute}}}
			if _, err := turn.Do(context.Background(), f); err != nil {
				return
			}
		}
	})
	wg.Wait()
	for i, j := range ids {
		require.NoError(t, errs[i])
		started := f.count(`SELECT count(*) FROM mini_asynq.events WHERE job_id = $1 AND type = 'job.started'`, j.ID)
		if requested[i] {
			require.Equal(t, 1, started)
			continue
		}
		require.Zero(t, started)
		require.Equal(t, jobs.Cancelled, f.get(j.ID).Status)
	}
}

func TestRetryRunNowAndDelete(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	var transition *jobs.TransitionError
	id := f.enqueue(jobs.Params{Queue: "q", Delay: time.Hour})[0].ID
	_, err := jobs.RetryJob(ctx, f, id, 0, jobs.Act{})
	require.ErrorAs(t, err, &transition)
	j, err := jobs.RunJobNow(ctx, f, id, jobs.Act{})
	require.NoError(t, err)
	require.Equal(t, jobs.Pending, j.Status)
	_, err = jobs.RunJobNow(ctx, f, id, jobs.Act{})
	require.ErrorAs(t, err, &transition)
	require.ErrorAs(t, jobs.DeleteJob(ctx, f, id, jobs.Act{}), &transition)
	f.finish(jobs.FailFinally(&f.claim("q", 1)[0].Job, failure()))
	j, err = jobs.RetryJob(ctx, f, id, time.Hour, jobs.Act{})
	require.NoError(t, err)
	require.Equal(t, jobs.Scheduled, j.Status)
	require.Equal(t, 1, j.Redrives)
	_, _, err = jobs.CancelJob(ctx, f, id, jobs.Act{})
	require.NoError(t, err)
	require.NoError(t, jobs.DeleteJob(ctx, f, id, jobs.Act{Actor: "me"}))
	_, err = jobs.Get(ctx, f, id)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.job_attempts WHERE job_id = $1`, id))
	require.ErrorIs(t, jobs.DeleteJob(ctx, f, id, jobs.Act{}), jobs.ErrNotFound)
	events := f.events(id)
	require.Equal(t, "job.deleted", events[len(events)-1])
}

func TestPausedQueueStartsNothing(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	f.enqueue(jobs.Params{Queue: "q"})
	q, err := jobs.PauseQueue(ctx, f, "q", jobs.Pause{For: time.Hour}, jobs.Act{Actor: "me", Reason: "why"})
	require.NoError(t, err)
	require.True(t, q.Paused)
	require.NoError(t, jobs.ConfirmPause(ctx, f))
	require.Empty(t, f.claim("q", 1))
	q, err = jobs.PauseQueue(ctx, f, "q", jobs.Pause{}, jobs.Act{}) // replaces reason and end
	require.NoError(t, err)
	require.True(t, q.PausedUntil.IsZero())
	_, err = jobs.PauseQueue(ctx, f, "q", jobs.Pause{Until: time.Now().Add(-time.Hour)}, jobs.Act{})
	var invalid *jobs.ValidationError
	require.ErrorAs(t, err, &invalid)
	_, err = jobs.ResumeQueue(ctx, f, "q", jobs.Act{Actor: "me"})
	require.NoError(t, err)
	version := f.count(`SELECT version FROM mini_asynq.queues WHERE name = 'q'`)
	_, err = jobs.ResumeQueue(ctx, f, "q", jobs.Act{Actor: "me"})
	require.NoError(t, err)
	require.Equal(t, version, f.count(`SELECT version FROM mini_asynq.queues WHERE name = 'q'`))
	require.Len(t, f.claim("q", 1), 1)
	_, err = jobs.ResumeQueue(ctx, f, "none", jobs.Act{Actor: "me"})
	require.ErrorIs(t, err, jobs.ErrNotFound)

	_, err = jobs.PauseQueue(ctx, f, "q", jobs.Pause{Until: time.Now().Add(time.Hour)}, jobs.Act{})
	require.NoError(t, err)
	_, err = f.Exec(ctx, `UPDATE mini_asynq.queues SET paused_until = clock_timestamp()`)
	require.NoError(t, err)
	names, err := jobs.ResumeDue(ctx, f)
	require.NoError(t, err)
	require.Equal(t, []string{"q"}, names)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'queue.resumed' AND reason = 'until'`))
}

// TestPauseWaitsForClaimsUnderWay: a claim whose snapshot is older than the pause is waited for, and the caller is told
// if it does not end in time.
func TestPauseWaitsForClaimsUnderWay(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"})
	claimer := f.db.Conn(t)
	_, err := claimer.Exec(t.Context(), `SET application_name = '`+jobs.ClaimApplicationName+`'`)
	require.NoError(t, err)
	tx, err := claimer.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT count(*) FROM mini_asynq.queues`)
	require.NoError(t, err)
	_, err = jobs.PauseQueue(t.Context(), f, "q", jobs.Pause{}, jobs.Act{})
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, jobs.ConfirmPause(short, f), jobs.ErrPauseUnconfirmed)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, jobs.ConfirmPause(t.Context(), f))
}

func TestDueJobsBecomePending(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	f.enqueue(jobs.Params{Queue: "a", Delay: time.Hour}, jobs.Params{Queue: "b", Delay: time.Minute})
	due, err := jobs.NextDue(ctx, f)
	require.NoError(t, err)
	require.InDelta(t, time.Minute, *due.Job, float64(10*time.Second))
	require.Nil(t, due.Lease)
	ready, err := jobs.Promote(ctx, f, 10)
	require.NoError(t, err)
	require.Empty(t, ready)
	_, err = f.Exec(ctx, `UPDATE mini_asynq.jobs SET run_at = clock_timestamp() - interval '1 s' WHERE queue = 'b'`)
	require.NoError(t, err)
	ready, err = jobs.Promote(ctx, f, 10)
	require.NoError(t, err)
	require.Len(t, ready, 1)
	require.Equal(t, "b", ready[0].Queue)
	require.Equal(t, 1, ready[0].Jobs)
}

func TestListPagesThroughEverythingOnce(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	for range 7 {
		f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "r", Tags: []string{"x"}, Metadata: map[string]string{"c": "1"}})
	}
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	for _, sort := range []jobs.Sort{jobs.ByCreated, jobs.ByCreatedDesc, jobs.ByRunAt, jobs.ByRunAtDesc} {
		seen := make(map[uuid.UUID]bool)
		cursor, pages := "", 0
		for {
			page, next, err := jobs.List(ctx, f, jobs.Filter{}, jobs.Page{Sort: sort, Limit: 4, Cursor: cursor})
			require.NoError(t, err)
			for _, j := range page {
				require.False(t, seen[j.ID])
				seen[j.ID] = true
			}
			pages++
			if cursor = next; cursor == "" {
				break
			}
		}
		require.Len(t, seen, 14)
		require.Equal(t, 4, pages)
	}
	for want, filter := range map[int]jobs.Filter{
		1:  {Statuses: []jobs.Status{jobs.Completed}},
		6:  {Queues: []string{"q"}, Statuses: []jobs.Status{jobs.Pending}},
		14: {Queues: []string{"q", "r*"}},
		7:  {Tags: []string{"x", "y"}, Metadata: map[string]string{"c": "1"}, Kinds: []string{"r"}},
		0:  {Queues: []string{"%"}, Workers: []string{"' or 1=1--"}},
	} {
		n, capped, err := jobs.Count(ctx, f, filter)
		require.NoError(t, err)
		require.False(t, capped)
		require.Equal(t, want, n)
	}
	_, next, err := jobs.List(ctx, f, jobs.Filter{Queues: []string{"q"}}, jobs.Page{Limit: 1})
	require.NoError(t, err)
	_, _, err = jobs.List(ctx, f, jobs.Filter{Queues: []string{"r"}}, jobs.Page{Limit: 1, Cursor: next})
	require.ErrorIs(t, err, jobs.ErrCursor) // a cursor belongs to its filter
	_, _, err = jobs.List(ctx, f, jobs.Filter{}, jobs.Page{Limit: 1, Cursor: "x"})
	require.ErrorIs(t, err, jobs.ErrCursor)
}

func TestPartitionsComeAndGo(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	n, err := jobs.CreatePartitions(ctx, f, 10*24*time.Hour)
	require.NoError(t, err)
	require.Positive(t, n)
	n, err = jobs.CreatePartitions(ctx, f, 10*24*time.Hour)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = f.Exec(ctx, `SELECT mini_asynq.create_partition('jobs_done', '2024-05-01')`)
	require.NoError(t, err)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	_, err = f.Exec(ctx, `UPDATE mini_asynq.jobs_finished SET finished_at = '2024-05-01 12:00+00' WHERE id = $1`, id)
	require.NoError(t, err)
	old, err := jobs.OldPartitions(ctx, f, jobs.ClassDone, 24*time.Hour)
	require.NoError(t, err)
	require.Equal(t, []string{"jobs_done_p20240501"}, old)

	// A reader that holds the parent makes the last step wait, not the inserts behind it.
	reader, err := f.Begin(ctx)
	require.NoError(t, err)
	_, err = reader.Exec(ctx, `SELECT count(*) FROM mini_asynq.jobs_finished WHERE finished_at > '2025-01-01'`)
	require.NoError(t, err)
	_, err = jobs.DropPartition(ctx, f, old[0], "")
	require.True(t, jobs.Transient(err))
	require.NoError(t, reader.Rollback(ctx))
	dropped, err := jobs.DropPartition(ctx, f, old[0], "")
	require.NoError(t, err)
	require.True(t, dropped)
	old, err = jobs.OldPartitions(ctx, f, jobs.ClassDone, 24*time.Hour)
	require.NoError(t, err)
	require.Empty(t, old)
	_, err = jobs.Get(ctx, f, id)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events
		WHERE type = 'history.dropped' AND data->>'day' = '2024-05-01' AND data->>'table' = 'jobs_done'`))
}

// TestTriggerPlansHoldForBatches is the guard of a trap: a trigger's statement is planned once a session; planned for one
// row it must still serve thousands.
func TestTriggerPlansHoldForBatches(t *testing.T) {
	f := setup(t)
	conn := f.db.Conn(t)
	claim := func(limit int) time.Duration {
		started := time.Now()
		turn := jobs.Turn{Claims: []jobs.Claim{{Queue: "q", Limit: limit, Worker: "w", Lease: time.Minute}}}
		result, err := turn.Do(t.Context(), conn)
		require.NoError(t, err)
		require.Len(t, result.Claimed[0], limit)
		return time.Since(started)
	}
	for range 7 { // past the fifth run PostgreSQL may choose a generic plan
		_, err := jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "q"})
		require.NoError(t, err)
		claim(1)
	}
	params := make([]jobs.Params, 5000)
	for i := range params {
		params[i] = jobs.Params{Queue: "q"}
	}
	_, err := jobs.Enqueue(t.Context(), conn, params...)
	require.NoError(t, err)
	require.Less(t, claim(5000), 3*time.Second) // the bound of a hang: a quadratic plan takes far longer
}

// TestForeignRowLockHoldsUpOneJobOnly: a stranger's transaction that keeps the row of one running job costs neither the
// leases nor the outcomes of the others, and that job's own word is asked for again.
func TestForeignRowLockHoldsUpOneJobOnly(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	claimed := f.claim("q", 2)
	held, free := &claimed[0].Job, &claimed[1].Job
	stranger, err := f.Begin(t.Context())
	require.NoError(t, err)
	_, _, err = jobs.CancelJob(t.Context(), stranger, held.ID, jobs.Act{})
	require.NoError(t, err)

	extended, err := jobs.Extend(t.Context(), f, []jobs.Lease{
		{JobID: held.ID, Fence: held.Fence}, {JobID: free.ID, Fence: free.Fence}, {JobID: free.ID, Fence: 1 << 40},
	}, time.Minute, 0)
	require.NoError(t, err)
	require.InDelta(t, time.Minute, extended[1].Remaining, float64(time.Second))
	extended[1].Remaining = 0
	require.Equal(t, []jobs.Extension{{Busy: true}, {Held: true}, {}}, extended)
	verdicts := f.finish(jobs.Complete(held, nil), jobs.Complete(free, nil))
	require.True(t, verdicts[0].Busy)
	require.False(t, verdicts[0].Landed)
	require.True(t, verdicts[1].Landed)

	require.NoError(t, stranger.Rollback(t.Context()))
	require.True(t, f.finish(jobs.Complete(held, nil))[0].Landed)
}

// TestPatientOutcomeNeverWaits: said again in a turn, the word about a held row must not wait for it once more.
func TestPatientOutcomeNeverWaits(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	claimed := f.claim("q", 2)
	stranger, err := f.Begin(t.Context())
	require.NoError(t, err)
	_, _, err = jobs.CancelJob(t.Context(), stranger, claimed[0].ID, jobs.Act{})
	require.NoError(t, err)
	result, err := jobs.Turn{Outcomes: []jobs.Outcome{
		jobs.Complete(&claimed[0].Job, nil).Patient(), jobs.Complete(&claimed[1].Job, nil),
	}}.Do(t.Context(), f)
	require.NoError(t, err)
	require.True(t, result.Verdicts[0].Busy)
	require.True(t, result.Verdicts[1].Landed)
	require.NoError(t, stranger.Rollback(t.Context()))
}

// TestOutcomeSaidTwiceEndsOneJob: also within one batch.
func TestOutcomeSaidTwiceEndsOneJob(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(0)})[0].ID
	dead := jobs.Fail(&f.claim("q", 1)[0].Job, failure(), 0)
	f.finish(dead, dead)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs_finished`))
	require.Len(t, f.attempts(id), 1)
	require.Equal(t, []string{"job.enqueued", "job.started", "job.dead"}, f.events(id))
}

// TestPublicationOfAllTablesIsNoHindrance: logical replication of the whole database refuses deletes from tables without
// a replica identity.
func TestPublicationOfAllTablesIsNoHindrance(t *testing.T) {
	f := setup(t)
	_, err := f.Exec(t.Context(), `CREATE PUBLICATION everything FOR ALL TABLES`)
	require.NoError(t, err)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(1)})[0].ID
	f.finish(jobs.Fail(&f.claim("q", 1)[0].Job, failure(), 0))
	_, err = jobs.Promote(t.Context(), f, 10)
	require.NoError(t, err)
	f.finish(jobs.Fail(&f.claim("q", 1)[0].Job, failure(), 0))
	require.Equal(t, jobs.Dead, f.get(id).Status)
	_, err = jobs.RetryJob(t.Context(), f, id, 0, jobs.Act{})
	require.NoError(t, err)
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	require.Equal(t, jobs.Completed, f.get(id).Status)
	require.Len(t, f.attempts(id), 3)
	require.NoError(t, jobs.DeleteJob(t.Context(), f, id, jobs.Act{}))
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.all_jobs`))
}

// TestReleaseByHandGivesTheAttemptBack: the row must be claimable again, also in its last attempt.
func TestReleaseByHandGivesTheAttemptBack(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(0)})[0].ID
	f.claim("q", 1)
	_, err := f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET status = 'pending' WHERE id = $1`, id)
	require.NoError(t, err)
	require.Zero(t, f.get(id).Attempt)
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	require.Len(t, f.attempts(id), 1)
	_, err = f.Exec(t.Context(), `INSERT INTO mini_asynq.jobs (queue, kind, attempt_limit, payload, run_at)
		VALUES ('hand', 'hand', 1, '{}', clock_timestamp() + interval '1 h')`)
	require.NoError(t, err)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs WHERE queue = 'hand' AND status = 'scheduled'`))
}

// TestCancelAndDeleteInOneTransactionTellBoth: the move that cancels hides no later event, and the guard of live jobs
// stays up.
func TestCancelAndDeleteInOneTransactionTellBoth(t *testing.T) {
	f := setup(t)
	ids := f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	tx, err := f.Begin(t.Context())
	require.NoError(t, err)
	_, _, err = jobs.CancelJob(t.Context(), tx, ids[0].ID, jobs.Act{})
	require.NoError(t, err)
	require.NoError(t, jobs.DeleteJob(t.Context(), tx, ids[0].ID, jobs.Act{Actor: "me", Reason: "why"}))
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, []string{"job.enqueued", "job.cancelled", "job.deleted"}, f.events(ids[0].ID))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'job.deleted' AND comment = 'why' AND actor = 'me'`))

	tx, err = f.Begin(t.Context())
	require.NoError(t, err)
	other := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	_, _, err = jobs.CancelJob(t.Context(), tx, other, jobs.Act{})
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `DELETE FROM mini_asynq.jobs`)
	require.Equal(t, "MA409", sqlState(t, err))
	require.NoError(t, tx.Rollback(t.Context()))
}

// TestProgressKeepsWhoAskedToStop: a report after the request must not hide who made it.
func TestProgressKeepsWhoAskedToStop(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"})
	j := &f.claim("q", 1)[0].Job
	_, _, err := jobs.CancelJob(t.Context(), f, j.ID, jobs.Act{Actor: "me", Reason: "why"})
	require.NoError(t, err)
	require.NoError(t, jobs.SetProgress(t.Context(), f, jobs.Lease{JobID: j.ID, Fence: j.Fence}, 1, "", 0))
	f.finish(jobs.Fail(j, failure(), 0))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE type = 'job.cancelled' AND actor = 'me' AND comment = 'why'`))
}

func TestRefusedConnectIsNoUnknownCommit(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig("postgres://127.0.0.1:1/none")
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	_, err = jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "q"})
	require.True(t, jobs.Unavailable(err))
	require.NotErrorIs(t, err, jobs.ErrCommitUnknown)
}

// TestRowsThatNobodyCouldReadAreRefused: what psql may store, programs can read back.
func TestRowsThatNobodyCouldReadAreRefused(t *testing.T) {
	f := setup(t)
	for name, columns := range map[string][2]string{
		"two dimensions": {"tags", `'{{a,b},{c,d}}'`}, "null tag": {"tags", `ARRAY[NULL]::text[]`},
		"run_at": {"run_at", `'-infinity'`}, "created_at": {"created_at", `'infinity'`}, "long ago": {"run_at", `'4000-01-01 BC'`},
	} {
		_, err := f.Exec(t.Context(), `INSERT INTO mini_asynq.jobs (queue, `+columns[0]+`) VALUES ('q', `+columns[1]+`)`)
		require.Equal(t, "23514", pgtest.SQLState(err), name)
	}
	_, err := f.Exec(t.Context(), `INSERT INTO mini_asynq.queues (name, paused, paused_until) VALUES ('q', true, 'infinity')`)
	require.Equal(t, "23514", pgtest.SQLState(err))
}

// TestFailureTakesTheFastWayOnlyIfNothingElseIsToBeDecided: what the row knows and the node did not (a cancel, a lost lease)
// is decided by the careful statement, whose word is the same for the rest.
func TestFailureTakesTheFastWayOnlyIfNothingElseIsToBeDecided(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q", MaxRetries: jobs.Retries(3)}, jobs.Params{Queue: "q", MaxRetries: jobs.Retries(3)},
		jobs.Params{Queue: "q", MaxRetries: jobs.Retries(3)}, jobs.Params{Queue: "q", MaxRetries: jobs.Retries(0)})
	claimed := f.claim("q", 4)
	fast, cancelled, stale, last := &claimed[0].Job, &claimed[1].Job, &claimed[2].Job, &claimed[3].Job
	_, _, err := jobs.CancelJob(t.Context(), f, cancelled.ID, jobs.Act{})
	require.NoError(t, err)
	stale.Fence--
	outcomes := make([]jobs.Outcome, 0, 4)
	for _, j := range []*jobs.Job{fast, cancelled, stale, last} {
		outcomes = append(outcomes, jobs.Fail(j, failure(), time.Hour))
	}
	result, err := jobs.Turn{Outcomes: outcomes}.Do(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, jobs.Verdict{Landed: true, Status: jobs.Retrying, DueIn: time.Hour}, result.Verdicts[0])
	require.Equal(t, jobs.Verdict{Undecided: true}, result.Verdicts[1])
	require.Equal(t, jobs.Verdict{Undecided: true}, result.Verdicts[2])
	require.Equal(t, jobs.Verdict{Landed: true, Status: jobs.Dead}, result.Verdicts[3])
	for i := range outcomes {
		outcomes[i] = outcomes[i].Patient()
	}
	result, err = jobs.Turn{Outcomes: outcomes}.Do(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, []jobs.Verdict{{}, {Landed: true, Status: jobs.Cancelled}, {}, {}}, result.Verdicts)

	// Both ways leave the same row.
	careful := f.enqueue(jobs.Params{Queue: "slow", MaxRetries: jobs.Retries(3)})[0].ID
	f.finish(jobs.Fail(&f.claim("slow", 1)[0].Job, failure(), time.Hour))
	row := func(id uuid.UUID) map[string]any {
		rows, err := f.Query(t.Context(), `SELECT status::text, version, attempt, lease_losses, last_worker,
			last_started_at < updated_at AS started, run_at - updated_at AS delay, error - 'at' AS error, error ? 'at' AS at,
			locked_by, locked_at, lease_expires_at, progress, from_status::text, cause, actor, comment,
			prev_event_xid < event_xid AS chained, cardinality(attempts) AS n, attempts[1].status::text AS how,
			attempts[1].error_message AS message, attempts[1].error_stack AS stack, attempts[1].worker AS worker
			FROM mini_asynq.jobs WHERE id = $1`, id)
		require.NoError(t, err)
		found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToMap)
		require.NoError(t, err)
		return found
	}
	require.Equal(t, row(careful), row(fast.ID))
	require.Equal(t, f.events(careful), f.events(fast.ID))
}

// TestOneClaimServesSeveralWorkers: each gets as many jobs as it has slots, in their order.
func TestOneClaimServesSeveralWorkers(t *testing.T) {
	f := setup(t)
	for range 5 {
		f.enqueue(jobs.Params{Queue: "q"})
	}
	a, b := jobs.Holder{Name: "a", ID: uuid.New()}, jobs.Holder{Name: "b", ID: uuid.New()}
	turn := jobs.Turn{Claims: []jobs.Claim{{Queue: "q", Limit: 4, Each: []jobs.Holder{a, b, b, a}, Lease: time.Minute, Probe: true}}}
	result, err := turn.Do(t.Context(), f)
	require.NoError(t, err)
	require.True(t, result.Left[0].Pending)
	var holders []jobs.Holder
	for i, j := range result.Claimed[0] {
		holders = append(holders, j.Holder)
		require.Equal(t, j.Holder.Name, j.LockedBy)
		if i > 0 {
			require.True(t, j.RunAt.After(result.Claimed[0][i-1].RunAt))
		}
	}
	require.Equal(t, []jobs.Holder{a, b, b, a}, holders)
	held, err := jobs.HeldBy(t.Context(), f, b.ID)
	require.NoError(t, err)
	require.Len(t, held, 2)
}
