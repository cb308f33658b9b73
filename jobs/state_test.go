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
	_, err = f.Exec(t.Context(), `INSERT INTO mini_asynq.outbox (code, job_id, job_version) VALUES (99, $1, 9)`, id)
	require.Equal(t, "23514", sqlState(t, err))
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

func TestLiveJobIsNotDeleted(t *testing.T) {
	f := setup(t)
	f.enqueue(jobs.Params{Queue: "q"})
	_, err := f.Exec(t.Context(), `DELETE FROM mini_asynq.jobs`)
	require.Equal(t, "MA409", sqlState(t, err))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
}
