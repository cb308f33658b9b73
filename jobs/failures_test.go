package jobs_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestFailuresAreGroupedByFaultAndKind(t *testing.T) {
	f := setup(t)
	end := func(queue, kind, message string, outcome func(*jobs.Job, *jobs.Failure) jobs.Outcome) *jobs.Job {
		t.Helper()
		f.enqueue(jobs.Params{Queue: queue, Kind: kind, MaxRetries: jobs.Retries(3)})
		job := &f.claim(queue, 1)[0].Job
		f.finish(outcome(job, jobs.NewFailure(kind, "SMTPError", message, "a stack")))
		return job
	}
	retry := func(j *jobs.Job, why *jobs.Failure) jobs.Outcome { return jobs.Fail(j, why, time.Hour) }
	end("a", "mail", "421 from host 17", jobs.FailFinally)
	end("b", "mail", "421 from host 18", retry)
	last := end("b", "mail", "421 from host 19", jobs.FailFinally)
	end("a", "sms", "421 from host 17", jobs.FailFinally)
	end("a", "mail", "no such user", jobs.FailFinally)
	long := end("c", "mail", "no such user", jobs.FailFinally)
	f.enqueue(jobs.Params{Queue: "a", Kind: "mail"})
	// One of them died two hours ago, and one before the window.
	move := func(sql string, args ...any) {
		_, err := f.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	move(`UPDATE mini_asynq.jobs_finished SET finished_at = finished_at - interval '2 h' WHERE kind = 'sms'`)
	move(`UPDATE mini_asynq.jobs_finished SET finished_at = finished_at - interval '8 days' WHERE id = $1`, long.ID)

	all := jobs.MaxFailureWindow
	groups, more, err := jobs.Failures(t.Context(), f, jobs.Filter{}, all, 10)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, groups, 3)
	g := groups[0]
	require.Equal(t, []any{"mail", 3, 3, 3, 2, []string{"a", "b"}}, []any{g.Kind, g.Count, g.Hour, g.Day, g.Dead, g.Queues})
	require.Equal(t, jobs.Fingerprint("mail", "421 from host 1"), g.Fingerprint)
	require.Equal(t, jobs.FailureSample{JobID: last.ID, Type: "SMTPError", Message: "421 from host 19"}, g.Sample)
	require.True(t, g.First.Before(g.Last))
	require.Equal(t, []any{"mail", 1, []string{"a"}}, []any{groups[1].Kind, groups[1].Count, groups[1].Queues})
	require.Equal(t, []any{"sms", 1, 0, 1}, []any{groups[2].Kind, groups[2].Count, groups[2].Hour, groups[2].Day})

	for name, c := range map[string]struct {
		filter jobs.Filter
		window time.Duration
		counts []int
	}{
		"retrying":  {jobs.Filter{Statuses: []jobs.Status{jobs.Retrying}}, all, []int{1}},
		"dead":      {jobs.Filter{Statuses: []jobs.Status{jobs.Dead}}, all, []int{2, 1, 1}},
		"queue":     {jobs.Filter{Queues: []string{"b"}}, all, []int{2}},
		"kind":      {jobs.Filter{Kinds: []string{"sm*"}}, all, []int{1}},
		"window":    {jobs.Filter{}, time.Hour, []int{3, 1}},
		"own queue": {jobs.Filter{Within: []string{"b"}}, all, []int{2}},
		"no queue":  {jobs.Filter{Within: []string{}}, all, nil},
		"fault":     {jobs.Filter{Fingerprints: []string{g.Fingerprint}}, all, []int{3}},
	} {
		groups, _, err := jobs.Failures(t.Context(), f, c.filter, c.window, 10)
		require.NoError(t, err, name)
		var counts []int
		for _, g := range groups {
			counts = append(counts, g.Count)
		}
		require.Equal(t, c.counts, counts, name)
	}
	groups, more, err = jobs.Failures(t.Context(), f, jobs.Filter{}, all, 1)
	require.NoError(t, err)
	require.True(t, more)
	require.Len(t, groups, 1)
}
