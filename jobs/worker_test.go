package jobs_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

func (f fixture) register(name string) jobs.Worker {
	f.t.Helper()
	w, err := jobs.RegisterWorker(f.t.Context(), f, jobs.Worker{Name: name, Queues: map[string]int{"*": 1}, Slots: 3})
	require.NoError(f.t, err)
	return w
}

// claimRemote claims for a remote worker.
func (f fixture) claimRemote(w jobs.Worker, queue string, limit int) []*jobs.Claimed {
	f.t.Helper()
	holders := make([]jobs.Holder, limit)
	for i := range holders {
		holders[i] = jobs.Holder{Name: w.Name, ID: w.ID}
	}
	turn := jobs.Turn{Claims: []jobs.Claim{{Queue: queue, Limit: limit, Each: holders, Lease: time.Minute}}}
	result, err := turn.Do(f.t.Context(), f)
	require.NoError(f.t, err)
	return result.Claimed[0]
}

// TestX2OutcomeAfterTheLeaseHasRunOutCounts: nobody took the job over, and the fence decides.
func TestX2OutcomeAfterTheLeaseHasRunOutCounts(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"})
	job := f.claimFor("q", 1, time.Microsecond)[0]
	v := f.finish(jobs.Complete(&job.Job, nil))[0]
	require.True(t, v.Landed)
	require.Equal(t, jobs.Completed, v.Status)
}

// TestLeaseEndsWithItsAttempt: a worker that keeps its lease alive does not run for longer than the job may.
func TestLeaseEndsWithItsAttempt(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q", Timeout: time.Second}, jobs.Params{Queue: "q"})
	for _, job := range f.claimRemote(f.register("w"), "q", 2) {
		if job.Timeout > 0 {
			require.Equal(t, job.Timeout+jobs.Overtime, job.LeaseFor)
		}
		// It was claimed an hour ago.
		_, err := f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET locked_at = locked_at - interval '1 hour' WHERE id = $1`, job.ID)
		require.NoError(t, err)
		lease := []jobs.Lease{{JobID: job.ID, Fence: job.Fence}}
		extended, err := jobs.Extend(t.Context(), f, lease, time.Minute, 0)
		require.NoError(t, err)
		require.Positive(t, extended[0].Remaining, "a node ends its attempts itself")
		extended, err = jobs.Extend(t.Context(), f, lease, time.Minute, 2*time.Hour)
		require.NoError(t, err)
		require.True(t, extended[0].Held)
		require.Equal(t, job.Timeout == 0, extended[0].Remaining > 0)
	}
	expired, err := jobs.ExpiredLeases(t.Context(), f, 10, 2*time.Hour)
	require.NoError(t, err)
	require.Len(t, expired, 1)
	require.True(t, expired[0].TimedOut)

	// The reaper's word counts only if the lease has run out by then.
	_, err = jobs.Extend(t.Context(), f, []jobs.Lease{{JobID: expired[0].ID, Fence: expired[0].Fence}}, time.Minute, 0)
	require.NoError(t, err)
	expire := jobs.ExpireAttempt(expired[0].Job, failure(), time.Hour)
	require.False(t, f.finish(expire)[0].Landed)
	_, err = f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET lease_expires_at = clock_timestamp() WHERE id = $1`, expired[0].ID)
	require.NoError(t, err)
	require.True(t, f.finish(expire)[0].Landed)
	require.Equal(t, "timed_out", f.attempts(expired[0].ID)[0].Status)
}

// TestLostNodeIsNoTimeout: however short the timeout of its job is, a node that dies has lost a lease.
func TestLostNodeIsNoTimeout(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q", Timeout: time.Second})
	f.claim("q", 1)
	_, err := f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET locked_at = locked_at - interval '1 hour', lease_expires_at = clock_timestamp()`)
	require.NoError(t, err)
	expired, err := jobs.ExpiredLeases(t.Context(), f, 10, time.Hour)
	require.NoError(t, err)
	require.Len(t, expired, 1)
	require.False(t, expired[0].TimedOut)
}

func TestWorkerFallsSilentAndComesBack(t *testing.T) {
	f := setup(t)
	w := f.register("w")
	silent := func() {
		_, err := f.Exec(t.Context(), `UPDATE mini_asynq.workers SET last_seen_at = clock_timestamp() - interval '1 hour'`)
		require.NoError(t, err)
	}
	state := func() jobs.WorkerState {
		got, err := jobs.GetWorker(t.Context(), f, w.ID)
		require.NoError(t, err)
		return got.State
	}
	silent()
	_, left, err := jobs.SeeWorkers(t.Context(), f, nil)
	require.NoError(t, err)
	require.False(t, left)
	require.Equal(t, jobs.WorkerOffline, state())
	asked, left, err := jobs.SeeWorkers(t.Context(), f, []uuid.UUID{w.ID, uuid.New()})
	require.NoError(t, err)
	require.True(t, left)
	require.Equal(t, map[uuid.UUID]jobs.Asked{w.ID: ""}, asked)
	require.Equal(t, jobs.WorkerOnline, state())

	_, err = jobs.AskWorker(t.Context(), f, w.ID, jobs.AskedDrain, jobs.Act{Actor: "me"})
	require.NoError(t, err)
	after, err := jobs.AskWorker(t.Context(), f, w.ID, jobs.AskedQuiet, jobs.Act{Actor: "me"})
	require.NoError(t, err)
	require.Equal(t, jobs.AskedDrain, after.Asked, "not taken back")
	silent()
	_, _, err = jobs.SeeWorkers(t.Context(), f, nil)
	require.NoError(t, err)
	beaten, err := jobs.Heartbeat(t.Context(), f, w.ID, nil, 0, 0)
	require.NoError(t, err)
	require.Equal(t, jobs.WorkerDraining, beaten.State)
	rows, err := f.Query(t.Context(), `SELECT type::text FROM mini_asynq.events WHERE worker = 'w' ORDER BY id, place`)
	require.NoError(t, err)
	told, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"worker.online", "worker.offline", "worker.online", "worker.draining", "worker.offline", "worker.draining"}, told)

	silent()
	n, err := jobs.DropWorkers(t.Context(), f, time.Minute, 10)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	_, err = jobs.GetWorker(t.Context(), f, w.ID)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	_, err = jobs.Heartbeat(t.Context(), f, w.ID, nil, 0, 0)
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

// TestClaimsOfANodeAreNotThoseOfItsNamesake: a remote worker may have the name of a node.
func TestClaimsOfANodeAreNotThoseOfItsNamesake(t *testing.T) {
	f := setup(t)
	w := f.register("w") // as the node of these tests
	f.enqueue(jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	f.claimRemote(w, "q", 1)
	own := f.claim("q", 1)[0]
	lost, err := jobs.LostClaims(t.Context(), f, "w", nil)
	require.NoError(t, err)
	require.Len(t, lost, 1)
	require.Equal(t, own.ID, lost[0].ID)
}
