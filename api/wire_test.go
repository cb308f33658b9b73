package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// documentedJob is a jobBody with the names of its members beside them, for encoding/json to write.
type documentedJob struct {
	ID                uuid.UUID       `json:"id"`
	Queue             string          `json:"queue"`
	Kind              string          `json:"kind"`
	Payload           json.RawMessage `json:"payload,omitempty"`
	Priority          jobs.Priority   `json:"priority"`
	Status            jobs.Status     `json:"status"`
	Reason            text            `json:"reason"`
	MaxRetries        int             `json:"max_retries"`
	Attempt           int             `json:"attempt"`
	AttemptsLeft      int             `json:"attempts_left"`
	Snoozes           int             `json:"snoozes"`
	Redrives          int             `json:"redrives"`
	RunAt             stamp           `json:"run_at"`
	Timeout           span            `json:"timeout"`
	IdempotencyKey    text            `json:"idempotency_key"`
	Tags              []string        `json:"tags"`
	Metadata          json.RawMessage `json:"metadata"`
	Fence             *int64          `json:"fence"`
	LockedBy          text            `json:"locked_by"`
	LockedAt          stamp           `json:"locked_at"`
	LeaseExpiresAt    stamp           `json:"lease_expires_at"`
	CancelRequestedAt stamp           `json:"cancel_requested_at"`
	Progress          *progressBody   `json:"progress"`
	Result            json.RawMessage `json:"result,omitempty"`
	Error             *failureBody    `json:"error"`
	Source            string          `json:"source"`
	ClonedFrom        text            `json:"cloned_from"`
	Traceparent       text            `json:"traceparent"`
	Version           int64           `json:"version"`
	AllowedActions    []jobs.Action   `json:"allowed_actions"`
	CreatedAt         stamp           `json:"created_at"`
	UpdatedAt         stamp           `json:"updated_at"`
	StartedAt         stamp           `json:"started_at"`
	FinishedAt        stamp           `json:"finished_at"`
	Attempts          []attemptBody   `json:"attempts,omitempty"`
}

// Times at both ends of what PostgreSQL takes from us, with and without microseconds, in and out of UTC.
var wireTimes = []time.Time{
	{}, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
	time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 1_000, time.FixedZone("", -3600)),
	time.Date(2024, 2, 29, 1, 2, 3, 40_506_789, time.FixedZone("", 7*3600)), time.Date(1969, 1, 1, 0, 0, 0, 120_000, time.UTC),
}

func TestJobsAreWrittenAsDocumented(t *testing.T) {
	t.Parallel()
	texts := []string{"", "a", "default", "Grüße", `<&>"\`, "\x00\n\x7f", "\u2028", "\xff", "emoji 😀"}
	statuses := []jobs.Status{jobs.Scheduled, jobs.Pending, jobs.Running, jobs.Retrying, jobs.Blocked, jobs.Completed,
		jobs.Cancelled, jobs.Dead}
	for i := range 8 * 9 * 7 {
		s, at := texts[i%len(texts)], wireTimes[i%len(wireTimes)]
		job := jobs.Job{
			ID: uuid.New(), Queue: s, Kind: "kind" + s, Payload: json.RawMessage(`{"a": "<b>"}`), Status: statuses[i%len(statuses)],
			Priority: jobs.High, MaxRetries: i, Attempt: i * i, AttemptLimit: 100, Snoozes: i % 3, Redrives: i % 5, Reason: s,
			RunAt: at, CreatedAt: at, UpdatedAt: at, StartedAt: at, FinishedAt: at, LockedAt: at, CancelRequestedAt: at,
			LeaseExpiresAt: at, IdempotencyKey: s, LockedBy: s, Source: s, Traceparent: s, Version: int64(i) << 40, Fence: int64(i),
		}
		if i%2 == 0 {
			job.Tags, job.Metadata, job.Timeout = []string{s, "b"}, []byte(`{"a": "<b>", "c": "`+"\u2028"+`"}`), 90*time.Second
		}
		if i%3 == 0 {
			job.Progress, job.Result = &jobs.Progress{Percent: 12.5, Message: s, At: at}, json.RawMessage(`[1, 2]`)
			job.Error = jobs.NewFailure("kind", "Type", s, "stack")
		}
		body := bodyOf(&job, show{payload: i%5 == 0, result: i%5 < 2, stack: i%5 < 3})
		if i%7 == 0 {
			body.Attempts = []attemptBody{attemptOf(jobs.Attempt{Number: 1, Worker: s}, true)}
		}
		want, err := json.Marshal(documentedJob(body))
		require.NoError(t, err)
		got, err := json.Marshal(body)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))

		// The answer to an enqueue goes out as it is, so it must be compact by itself.
		want, err = json.Marshal(documentedJob(bodyOf(&job, show{})))
		require.NoError(t, err)
		answer, err := (&Server{config: Config{BasePath: "/base"}}).storedAnswer(&job)
		require.NoError(t, err)
		require.Equal(t, string(want), string(answer.Body))
		require.Equal(t, "/base/api/v1/jobs/"+job.ID.String(), answer.Location)

		kept, err := json.Marshal(answer)
		require.NoError(t, err)
		var again *keptAnswer
		require.NoError(t, json.Unmarshal(kept, &again))
		require.Equal(t, answer, again)
	}
}

func TestTimesAreWrittenInMicroseconds(t *testing.T) {
	t.Parallel()
	for _, at := range wireTimes[1:] {
		require.Equal(t, at.UTC().Format(`"2006-01-02T15:04:05.000000Z"`), string(appendStamp(nil, stamp(at))))
	}
}

// TestFaultyDocumentIsAnError: what the database should never hold does not become a broken answer.
func TestFaultyDocumentIsAnError(t *testing.T) {
	t.Parallel()
	_, err := (&Server{}).storedAnswer(&jobs.Job{Metadata: []byte(`{"a"`)})
	require.Error(t, err)
}

func TestStrangePathsAreSeen(t *testing.T) {
	t.Parallel()
	for path, strange := range map[string]bool{
		"": false, "/": true, "/api/v1/jobs": false, "/api/v1/jobs/": true, "/a//b": true, "//a": true, "/a/.": true, "/a/./b": true,
		"/a/..": true, "/../a": true, "/a/.b": false, "/a/b.": false, "/a/..b": false, ".": true, "..": true, "./a": true, ".a": false,
		"/a%2fb": true, "/a%2Fb": true, "/a%5cb": true, "/a/%2e": true, "/a/%2E%2e/b": true, "/a/.%2e": true, "/a%20b": false, "/%2e%2eb": false,
	} {
		require.Equal(t, strange, strangePath(path), path)
	}
}
