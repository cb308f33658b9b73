package jobs_test

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

func ptr[T any](v T) *T { return &v }

var byHand = jobs.Act{Actor: "basic:admin", Reason: "asked for", Audit: true}

func (f fixture) edit(id uuid.UUID, e jobs.Edit) *jobs.Job {
	f.t.Helper()
	j, err := jobs.EditJob(f.t.Context(), f, id, jobs.AnyVersion, e, byHand)
	require.NoError(f.t, err)
	return j
}

func TestEditChangesWhatItNamesAndSaysSo(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q", Tags: []string{"a"}, Metadata: map[string]string{"k": "v"}, Payload: json.RawMessage(`{"n":1}`)})[0].ID
	j := f.edit(id, jobs.Edit{
		Priority: ptr(jobs.High), MaxRetries: ptr(9), Timeout: ptr(time.Minute), Tags: ptr([]string{"b", "c"}), Metadata: ptr(map[string]string{}),
	})
	require.Equal(t, jobs.High, j.Priority)
	require.Equal(t, 10, j.AttemptLimit)
	require.Equal(t, time.Minute, j.Timeout)
	require.Equal(t, []string{"b", "c"}, j.Tags)
	require.Empty(t, j.Metadata)
	require.JSONEq(t, `{"n":1}`, string(j.Payload))
	require.EqualValues(t, 2, j.Version)
	require.Equal(t, []string{"job.enqueued", "job.updated"}, f.events(id))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.events WHERE job_id = $1 AND job_version = 2 AND actor = 'basic:admin'
		AND data @> '{"changed": ["priority", "max_retries", "timeout", "tags", "metadata"]}' AND comment = 'asked for' AND cause IS NULL`, id))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.audit WHERE action = 'job.edit' AND target = $1
		AND before @> '{"priority": "normal", "tags": ["a"], "metadata": {"k": "v"}, "timeout": null}'
		AND after @> '{"priority": "high", "tags": ["b", "c"], "timeout": "1m0s"}'`, id.String()))

	// The same again changes nothing: no version, no event, no line.
	same := f.edit(id, jobs.Edit{Priority: ptr(jobs.High), Tags: ptr([]string{"b", "c"}), Metadata: ptr(map[string]string{})})
	require.EqualValues(t, 2, same.Version)
	require.Len(t, f.events(id), 2)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.audit`))
}

func TestEditOfRunAtFollowsTheTableOfSteps(t *testing.T) {
	f := setup(t)
	hour := time.Hour
	pending := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	j := f.edit(pending, jobs.Edit{Delay: &hour})
	require.Equal(t, jobs.Scheduled, j.Status)
	require.WithinDuration(t, j.UpdatedAt.Add(time.Hour), j.RunAt, time.Second)
	j = f.edit(pending, jobs.Edit{RunAt: ptr(j.RunAt.Add(time.Hour))})
	require.Equal(t, jobs.Scheduled, j.Status)
	j = f.edit(pending, jobs.Edit{RunAt: ptr(j.RunAt)})
	require.EqualValues(t, 3, j.Version, "the time that it has already")
	j = f.edit(pending, jobs.Edit{RunAt: ptr(time.Unix(0, 0))})
	require.Equal(t, jobs.Pending, j.Status)
	require.WithinDuration(t, j.UpdatedAt, j.RunAt, time.Second, "nobody jumps the line")
	require.Equal(t, []string{"job.enqueued", "job.scheduled", "job.updated", "job.ready"}, f.events(pending))

	retrying := f.enqueue(jobs.Params{Queue: "r", MaxRetries: jobs.Retries(3)})[0].ID
	f.finish(jobs.Fail(&f.claim("r", 1)[0].Job, failure(), time.Hour))
	require.Equal(t, jobs.Retrying, f.edit(retrying, jobs.Edit{Priority: ptr(jobs.Low)}).Status)
	require.Equal(t, jobs.Scheduled, f.edit(retrying, jobs.Edit{Delay: &hour}).Status)
	require.Equal(t, []string{"job.enqueued", "job.started", "job.retrying", "job.updated", "job.scheduled"}, f.events(retrying))

	var refused *jobs.ValidationError
	_, err := jobs.EditJob(t.Context(), f, retrying, jobs.AnyVersion, jobs.Edit{MaxRetries: ptr(0)}, byHand)
	require.ErrorAs(t, err, &refused, "an attempt was made already: it could never start")
	_, err = jobs.EditJob(t.Context(), f, retrying, jobs.AnyVersion, jobs.Edit{RunAt: ptr(time.Now().AddDate(10, 1, 0))}, byHand)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "/run_at", refused.Faults[0].Pointer)
	require.Len(t, f.events(retrying), 5)
}

func TestEditIsRefusedWhereTheJobIsNotWaitingOrNotWhatItWas(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	edit := jobs.Edit{Priority: ptr(jobs.High)}
	var version *jobs.VersionError
	_, err := jobs.EditJob(t.Context(), f, id, 7, edit, byHand)
	require.ErrorAs(t, err, &version)
	require.EqualValues(t, 1, version.Version)

	job := &f.claim("q", 1)[0].Job
	var transition *jobs.TransitionError
	_, err = jobs.EditJob(t.Context(), f, id, 2, edit, byHand)
	require.ErrorAs(t, err, &transition)
	require.Equal(t, jobs.Running, transition.Status)
	f.finish(jobs.Complete(job, nil))
	_, err = jobs.EditJob(t.Context(), f, id, 2, edit, byHand)
	require.ErrorAs(t, err, &version, "the precondition is asked first")
	_, err = jobs.EditJob(t.Context(), f, id, 3, edit, byHand)
	require.ErrorAs(t, err, &transition)
	_, err = jobs.EditJob(t.Context(), f, uuid.New(), jobs.AnyVersion, edit, byHand)
	require.ErrorIs(t, err, jobs.ErrNotFound)
}

// Two who saw the same version: one edit lands.
func TestOneOfManyEditsOfAVersionLands(t *testing.T) {
	f := setup(t)
	id := f.enqueue(jobs.Params{Queue: "q"})[0].ID
	landed := make(chan bool, 8)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			_, err := jobs.EditJob(t.Context(), f, id, 1, jobs.Edit{MaxRetries: ptr(10 + n)}, byHand)
			var version *jobs.VersionError
			landed <- err == nil
			if err != nil && !errors.As(err, &version) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	close(landed)
	count := 0
	for ok := range landed {
		if ok {
			count++
		}
	}
	require.Equal(t, 1, count)
	require.EqualValues(t, 2, f.get(id).Version)
}

func TestCloneIsANewJobOfTheStoredOne(t *testing.T) {
	f := setup(t)
	first := f.enqueue(jobs.Params{
		Queue: "q", Kind: "k", Payload: json.RawMessage(`{"big":12345678901234567890.5}`), Priority: jobs.High, MaxRetries: jobs.Retries(7),
		Timeout: time.Minute, IdempotencyKey: "once", Tags: []string{"a"}, Metadata: map[string]string{"k": "v"},
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	})[0].ID
	f.finish(jobs.Complete(&f.claim("q", 1)[0].Job, json.RawMessage(`1`)))
	clone, err := jobs.CloneJob(t.Context(), f, first, jobs.Params{}, byHand)
	require.NoError(t, err)
	was := f.get(first)
	require.Equal(t, jobs.Completed, was.Status)
	require.NotEqual(t, first, clone.ID)
	require.Equal(t, first, clone.ClonedFrom)
	require.Equal(t, "clone", clone.Source)
	require.Equal(t, jobs.Pending, clone.Status)
	require.EqualValues(t, 1, clone.Version)
	require.Empty(t, clone.IdempotencyKey)
	require.Nil(t, clone.Result)
	require.Zero(t, clone.Attempt)
	require.Equal(t, []any{was.Queue, was.Kind, was.Priority, was.MaxRetries, was.Timeout, was.Tags, was.Traceparent, string(was.Payload), string(was.Metadata)},
		[]any{clone.Queue, clone.Kind, clone.Priority, clone.MaxRetries, clone.Timeout, clone.Tags, clone.Traceparent, string(clone.Payload), string(clone.Metadata)})
	require.Equal(t, []string{"job.enqueued"}, f.events(clone.ID))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.audit WHERE action = 'job.clone' AND target = $1 AND after->>'id' = $2`,
		first.String(), clone.ID.String()))

	other, err := jobs.CloneJob(t.Context(), f, clone.ID, jobs.Params{
		Queue: "other", Payload: json.RawMessage(`[]`), Priority: jobs.Low, MaxRetries: jobs.Retries(0), Delay: time.Hour, Tags: []string{},
		Metadata: map[string]string{},
	}, byHand)
	require.NoError(t, err)
	require.Equal(t, []any{"other", "k", jobs.Low, 0, jobs.Scheduled, "[]"},
		[]any{other.Queue, other.Kind, other.Priority, other.MaxRetries, other.Status, string(other.Payload)})
	require.Empty(t, other.Tags)
	require.Empty(t, other.Metadata)

	// A copy of a scheduled job is due with it. Where it came from is kept to the end.
	again, err := jobs.CloneJob(t.Context(), f, other.ID, jobs.Params{}, byHand)
	require.NoError(t, err)
	require.Equal(t, other.RunAt, again.RunAt)
	now, err := jobs.CloneJob(t.Context(), f, other.ID, jobs.Params{RunAt: time.Unix(0, 0)}, byHand)
	require.NoError(t, err)
	require.Equal(t, jobs.Pending, now.Status)
	f.finish(jobs.FailFinally(&f.claim("other", 1)[0].Job, failure()))
	require.Equal(t, other.ID, f.get(now.ID).ClonedFrom)
	dead, err := jobs.RetryJob(t.Context(), f, now.ID, 0, byHand)
	require.NoError(t, err)
	require.Equal(t, other.ID, dead.ClonedFrom)

	_, err = jobs.CloneJob(t.Context(), f, uuid.New(), jobs.Params{}, byHand)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	var refused *jobs.ValidationError
	_, err = jobs.CloneJob(t.Context(), f, first, jobs.Params{RunAt: time.Now().AddDate(10, 1, 0)}, byHand)
	require.ErrorAs(t, err, &refused)
}
