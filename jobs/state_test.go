package jobs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestStepsAgreeWithDatabase(t *testing.T) {
	f := setup(t)
	want := make(map[[2]string]jobs.Step)
	for _, s := range jobs.Steps() {
		want[[2]string{string(s.From), string(s.To)}] = s
	}
	// The table.
	rows, err := f.Query(t.Context(), `SELECT coalesce(from_status::text, ''), coalesce(to_status::text, ''), event::text, code
		FROM mini_asynq.legal_steps`)
	require.NoError(t, err)
	table := make(map[[2]string]jobs.Step)
	for rows.Next() {
		var s jobs.Step
		require.NoError(t, rows.Scan(&s.From, &s.To, &s.Event, &s.Code))
		table[[2]string{string(s.From), string(s.To)}] = s
	}
	require.NoError(t, rows.Err())
	require.Equal(t, want, table)

	// The function that triggers use, for every pair there is.
	rows, err = f.Query(t.Context(), `
		WITH statuses AS (SELECT unnest(enum_range(NULL::mini_asynq.job_status)) AS s UNION ALL SELECT NULL)
		SELECT coalesce(a.s::text, ''), coalesce(b.s::text, ''), coalesce(mini_asynq.step_code(a.s, b.s), 0)
		  FROM statuses a, statuses b`)
	require.NoError(t, err)
	pairs := 0
	for rows.Next() {
		var from, to string
		var code int16
		require.NoError(t, rows.Scan(&from, &to, &code))
		require.Equal(t, want[[2]string{from, to}].Code, code, "%s to %s", from, to)
		pairs++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 81, pairs)
}

func TestIllegalStepIsRefused(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	_, err := f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET status = 'retrying' WHERE id = $1`, id)
	require.Equal(t, "MA409", sqlState(t, err))
	_, err = f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET status = 'completed' WHERE id = $1`, id)
	require.Error(t, err)
	require.Equal(t, jobs.Pending, f.get(id).Status)
	require.Equal(t, []string{"job.enqueued"}, f.events(id))
}

func TestChangesByHandMakeEvents(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	_, err := f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET status = 'scheduled', run_at = clock_timestamp() + interval '1 h'
		WHERE id = $1`, id)
	require.NoError(t, err)
	_, err = f.Exec(t.Context(), `UPDATE mini_asynq.jobs SET tags = '{a}' WHERE id = $1`, id) // no step, no version, no event
	require.NoError(t, err)
	_, err = f.Exec(t.Context(), `INSERT INTO mini_asynq.jobs (queue, payload, run_at) VALUES ('hand', '{}', clock_timestamp() + interval '1 h')`)
	require.NoError(t, err)
	require.Equal(t, []string{"job.enqueued", "job.scheduled"}, f.events(id))
	require.EqualValues(t, 2, f.get(id).Version)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs WHERE queue = 'hand' AND kind = 'hand' AND attempt_limit = 1`))
}

// What a person writes into a row by hand, be it half of what our statements write, leaves a history without a gap.
func TestChangesByHandKeepTheHistoryWhole(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	f.claim("q", 1)
	by := func(sql string) {
		t.Helper()
		_, err := f.Exec(t.Context(), sql, id)
		require.NoError(t, err)
	}
	by(`UPDATE mini_asynq.jobs SET version = version + 1, tags = '{a}' WHERE id = $1`) // no step: no event, no version
	require.EqualValues(t, 2, f.get(id).Version)
	by(`UPDATE mini_asynq.jobs SET status = 'retrying', version = version + 1, run_at = clock_timestamp() WHERE id = $1`)
	by(`UPDATE mini_asynq.jobs SET status = 'pending' WHERE id = $1`)
	require.EqualValues(t, 4, f.get(id).Version)
	attempts := f.attempts(id)
	require.Len(t, attempts, 1)
	require.Equal(t, "failed", attempts[0].Status)
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, nil))
	require.Len(t, f.attempts(id), 2)
	require.Equal(t, []string{"job.enqueued", "job.started", "job.retrying", "job.ready", "job.started", "job.completed"}, f.events(id))
	// Each event names the transaction of the one before.
	require.Equal(t, 5, f.count(`
		SELECT count(*) FROM (SELECT xid, lag(xid) OVER (ORDER BY o.id) AS before, e.prev_xid
		                        FROM mini_asynq.outbox o, unnest(o.job_ids, o.events) AS e WHERE e.unnest = $1) e
		 WHERE prev_xid = before`, id))
}

func TestLiveJobIsNotDeleted(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"})
	_, err := f.Exec(t.Context(), `DELETE FROM mini_asynq.jobs`)
	require.Equal(t, "MA409", sqlState(t, err))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
}
