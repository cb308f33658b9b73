package jobs_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

type mail struct {
	To string `json:"to"`
}

var sendMail = jobs.Kind[mail]{Name: "mail.send", Defaults: jobs.Params{
	Queue: "mail", MaxRetries: jobs.Retries(7), Delay: time.Hour, Tags: []string{"usual"}, Payload: "means nothing",
}}

func TestKindEnqueuesWithItsNameAndDefaults(t *testing.T) {
	f := setup(t)
	stored, err := sendMail.Enqueue(t.Context(), f, mail{To: "ann@example.com"})
	require.NoError(t, err)
	job := f.get(stored.ID)
	require.Equal(t, "mail.send", job.Kind)
	require.Equal(t, "mail", job.Queue)
	require.Equal(t, 7, job.MaxRetries)
	require.Equal(t, jobs.Scheduled, job.Status)
	require.Equal(t, []string{"usual"}, job.Tags)
	payload, err := sendMail.Decode(job)
	require.NoError(t, err)
	require.Equal(t, mail{To: "ann@example.com"}, payload)
}

func TestWhatOneJobSaysTakesThePlaceOfTheDefaults(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(time.Minute)
	params := sendMail.Params(mail{To: "bob@example.com"},
		jobs.Params{Kind: "means nothing", Queue: "bulk", Priority: jobs.Low, MaxRetries: jobs.Retries(0), IdempotencyKey: "k"},
		jobs.Params{RunAt: soon, Timeout: time.Minute, Tags: []string{}, Metadata: map[string]string{"a": "b"},
			Traceparent: "t", Source: "s", MaxPayload: 9})
	require.Equal(t, jobs.Params{
		Kind: "mail.send", Queue: "bulk", Priority: jobs.Low, MaxRetries: jobs.Retries(0), IdempotencyKey: "k", RunAt: soon,
		Timeout: time.Minute, Tags: []string{}, Metadata: map[string]string{"a": "b"}, Traceparent: "t", Source: "s", MaxPayload: 9,
		Payload: mail{To: "bob@example.com"},
	}, params, "a time of its own takes the place of the usual delay")
	require.Equal(t, "mail", sendMail.Defaults.Queue, "the declaration stays as it was")
}

func TestKindEnqueuesManyInTheCallersTransactionOrNone(t *testing.T) {
	f := setup(t)
	tx, err := f.Begin(t.Context())
	require.NoError(t, err)
	stored, err := sendMail.EnqueueMany(t.Context(), tx, []mail{{To: "a"}, {To: "b"}, {To: "c"}}, jobs.Params{Queue: "bulk"})
	require.NoError(t, err)
	require.Len(t, stored, 3)
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.jobs`), "nobody sees them before the commit")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, 3, f.count(`SELECT count(*) FROM mini_asynq.jobs WHERE kind = 'mail.send' AND queue = 'bulk'`))

	_, err = sendMail.EnqueueMany(t.Context(), f, []mail{{To: "d"}}, jobs.Params{Priority: "urgent"})
	var invalid *jobs.ValidationError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, "/priority", invalid.Faults[0].Pointer)
	_, err = sendMail.Enqueue(t.Context(), f, mail{}, jobs.Params{Timeout: time.Millisecond})
	require.ErrorAs(t, err, &invalid)
	none, err := sendMail.EnqueueMany(t.Context(), f, nil)
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestPayloadOfAnotherShapeIsAnError(t *testing.T) {
	t.Parallel()
	_, err := sendMail.Decode(&jobs.Job{Payload: []byte(`"no object"`)})
	require.ErrorContains(t, err, "decode the payload")
}
