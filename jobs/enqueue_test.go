package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func sqlState(t *testing.T, err error) string {
	t.Helper()
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	return pg.Code
}

func TestEnqueueStoresWhatWasGiven(t *testing.T) {
	f := setup(t)
	out := f.enqueue(jobs.Params{
		Queue: "mail", Kind: "email.send", Payload: map[string]any{"to": "a@example.com", "n": json.Number("9007199254740993")},
		Priority: jobs.High, MaxRetries: jobs.Retries(7), Delay: time.Hour, Timeout: 90 * time.Second,
		Tags: []string{`quo"te`, `back\slash`, "{}", "ünï"}, Metadata: map[string]string{"customer": "42"},
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Source: "api",
	})
	j := f.get(out[0].ID)
	require.Equal(t, "mail", j.Queue)
	require.Equal(t, "email.send", j.Kind)
	require.JSONEq(t, `{"to":"a@example.com","n":9007199254740993}`, string(j.Payload))
	require.Equal(t, jobs.High, j.Priority)
	require.Equal(t, 7, j.MaxRetries)
	require.Equal(t, 8, j.AttemptLimit)
	require.Equal(t, jobs.Scheduled, j.Status)
	require.WithinDuration(t, j.CreatedAt.Add(time.Hour), j.RunAt, 0)
	require.Equal(t, 90*time.Second, j.Timeout)
	require.Equal(t, []string{`quo"te`, `back\slash`, "{}", "ünï"}, j.Tags)
	require.JSONEq(t, `{"customer":"42"}`, string(j.Metadata))
	require.Equal(t, "api", j.Source)
	require.Equal(t, out[0].RunAt, j.RunAt)
	require.EqualValues(t, 1, j.Version)
	require.Equal(t, []string{"job.scheduled"}, f.events(j.ID))
}

func TestEnqueueDefaultsComeFromSettings(t *testing.T) {
	f := setup(t)
	require.Equal(t, 3, f.get(f.enqueue(jobs.Params{Queue: "q"})[0].ID).MaxRetries)
	_, err := jobs.Publish(t.Context(), f, jobs.Settings{MaxRetries: jobs.Retries(9), MaxPayload: 100, IdempotencyTTL: time.Hour})
	require.NoError(t, err)
	j := f.get(f.enqueue(jobs.Params{})[0].ID)
	require.Equal(t, 9, j.MaxRetries)
	require.Equal(t, "default", j.Queue)
	require.Equal(t, "default", j.Kind)
	require.JSONEq(t, `{}`, string(j.Payload))
	differed, err := jobs.Publish(t.Context(), f, jobs.Settings{MaxRetries: jobs.Retries(1), MaxPayload: 100, IdempotencyTTL: time.Hour})
	require.NoError(t, err)
	require.Len(t, differed, 1)
	require.Equal(t, "max_retries", differed[0].Name)
}

func TestEnqueueIsTheCallersTransaction(t *testing.T) {
	f := setup(t)
	errGiveUp := errors.New("give up")
	err := pgx.BeginFunc(t.Context(), f, func(tx pgx.Tx) error {
		_, err := jobs.Enqueue(t.Context(), tx, jobs.Params{Queue: "q"}, jobs.Params{Queue: "q", IdempotencyKey: "k"})
		require.NoError(t, err)
		return errGiveUp
	})
	require.ErrorIs(t, err, errGiveUp)
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.events`))
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.idempotency_keys`))
	err = pgx.BeginFunc(t.Context(), f, func(tx pgx.Tx) error {
		_, err := jobs.Enqueue(t.Context(), tx, jobs.Params{Queue: "q"})
		return err
	})
	require.NoError(t, err)
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
}

func TestBatchIsStoredWholeOrNotAtAll(t *testing.T) {
	f := setup(t)
	_, err := jobs.Enqueue(t.Context(), f, jobs.Params{Queue: "q"}, jobs.Params{Queue: "a/b"}, jobs.Params{Queue: "q", Priority: "urgent"})
	var invalid *jobs.ValidationError
	require.ErrorAs(t, err, &invalid)
	require.Len(t, invalid.Faults, 2)
	require.Equal(t, "/1/queue", invalid.Faults[0].Pointer)
	require.Equal(t, "/2/priority", invalid.Faults[1].Pointer)
	require.Zero(t, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
	many := make([]jobs.Params, 3000)
	for i := range many {
		many[i] = jobs.Params{Queue: "q", Payload: i}
	}
	out := f.enqueue(many...)
	for _, i := range []int{0, 1499, 2999} {
		require.JSONEq(t, fmt.Sprint(i), string(f.get(out[i].ID).Payload)) // answers are in the order of the call
	}
}

func TestPastIsNowAndTooFarAheadIsRefused(t *testing.T) {
	f := setup(t)
	out := f.enqueue(jobs.Params{Queue: "q", RunAt: time.Now().Add(-time.Hour)})
	require.Equal(t, jobs.Pending, out[0].Status)
	require.Equal(t, out[0].CreatedAt, out[0].RunAt) // nobody jumps the line
	for name, p := range map[string]jobs.Params{
		"run_at": {RunAt: time.Now().AddDate(11, 0, 0)},
		"delay":  {Delay: 11 * 365 * 24 * time.Hour},
		"both":   {Delay: time.Hour, RunAt: time.Now()},
		"year":   {RunAt: time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC)},
		"minus":  {Delay: -1},
	} {
		_, err := jobs.Enqueue(t.Context(), f, p)
		var invalid *jobs.ValidationError
		require.ErrorAs(t, err, &invalid, name)
	}
}

// TestJSONThatIsAcceptedIsStored is the promise of CheckJSON: what it lets pass PostgreSQL stores, and gives back equal.
func TestJSONThatIsAcceptedIsStored(t *testing.T) {
	f := setup(t)
	for _, raw := range []string{
		`null`, `"x"`, `[]`, `{"a":{"b":[1,2,{"c":null}]}}`, `"\\u0000"`, `"\ud83d\ude00"`, `"\ufffe"`, `9223372036854775808`,
		`1e400`, `0.1` + strings.Repeat("3", 399), `-0.5e-3`, `"` + strings.Repeat("ä", 1000) + `"`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64), `{"":"","\t":"\n"}`, "\"\u202e\"", `{"__proto__":"<script>"}`,
	} {
		out, err := jobs.Enqueue(t.Context(), f, jobs.Params{Queue: "q", Payload: json.RawMessage(raw)})
		require.NoError(t, err, raw)
		var same bool
		require.NoError(t, f.QueryRow(t.Context(), `SELECT payload = $2::jsonb FROM mini_asynq.jobs WHERE id = $1`,
			out[0].ID, raw).Scan(&same))
		require.True(t, same, raw)
	}
}

func TestJSONThatCannotBeStoredIsRefused(t *testing.T) {
	t.Parallel()
	for raw, code := range map[string]string{
		`{"a":1}{}`: "invalid_json", `{`: "invalid_json", "\"\xff\"": "invalid_json", `{"a":1,"a":2}`: "repeated_key",
		`[{"x":[{"b":1},{"b":2,"b":3}]}]`: "repeated_key", `"\u0000"`: "not_storable", `{"\u0000":1}`: "not_storable",
		`"\ud800"`: "not_storable", `"\udc00\ud800"`: "not_storable", `1e131071`: "not_storable", `1e-20000`: "not_storable",
		strings.Repeat("[", 65) + strings.Repeat("]", 65): "too_deep", strings.Repeat("[", 100_000): "too_deep",
		`"` + strings.Repeat("x", jobs.MaxPayload) + `"`: "too_long",
		"[" + strings.Repeat("1e300,", 2000) + "1]":      "too_long",
	} {
		got, _ := jobs.CheckJSON([]byte(raw), jobs.MaxPayload)
		require.Equal(t, code, got, raw[:min(len(raw), 60)])
	}
}

// The scan for repeated keys agrees with one that keeps a set for each object.
func TestRepeatedKeysAreFound(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", `\u0061`, `a\"`, `\\`, `{`, `,`, "ä"}
	for i := range 30 {
		names = append(names, fmt.Sprintf("k%d", i))
	}
	type set = map[string]struct{}
	random := rand.New(rand.NewPCG(1, 2))
	var value func(depth int) (text string, repeated bool)
	value = func(depth int) (string, bool) {
		switch kind := random.IntN(4); {
		case kind == 0 && depth > 0: // an array
			var items []string
			repeated := false
			for range random.IntN(4) {
				item, again := value(depth - 1)
				items, repeated = append(items, item), repeated || again
			}
			return "[" + strings.Join(items, " , ") + "]", repeated
		case kind <= 2 && depth > 0: // an object
			var members []string
			seen, repeated := make(set), false
			for range random.IntN(24) {
				name := names[random.IntN(len(names))]
				var key string
				require.NoError(t, json.Unmarshal([]byte(`"`+name+`"`), &key))
				if _, again := seen[key]; again && random.IntN(8) > 0 {
					continue
				}
				item, again := value(depth - 1)
				_, twice := seen[key]
				seen[key] = struct{}{}
				members, repeated = append(members, `"`+name+`" :`+item), repeated || again || twice
			}
			return "{" + strings.Join(members, ",") + "}", repeated
		}
		return []string{`1`, `"a"`, `"{\"a\":1,\"a\":2}"`, `null`, `""`}[random.IntN(5)], false
	}
	found := 0
	for range 3000 {
		text, repeated := value(3)
		code, detail := jobs.CheckJSON([]byte(text), jobs.MaxPayload)
		require.Equal(t, repeated, code == "repeated_key", "%s: %s %s", text, code, detail)
		if repeated {
			found++
		}
	}
	require.Greater(t, found, 300)
	require.Less(t, found, 2700)
}

func FuzzJSONThatIsAcceptedIsStorable(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e3,"\u00e9"]}`, `"\ud83d\ude00"`, `"\\u0000"`, `[[]]`, `{"a":{"a":1}}`, `-1e5`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if code, _ := jobs.CheckJSON(raw, 1<<16); code != "" {
			return
		}
		require.True(t, json.Valid(raw))
		require.Equal(t, string(raw), jobs.Storable(string(raw), len(raw)))
	})
}

func FuzzStorableIsIdempotent(f *testing.F) {
	f.Add("a\x00b", 10)
	f.Add("\xed\xa0\x80", 2)
	f.Add("ää", 3)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = min(max(limit, 0), 1<<16)
		once := jobs.Storable(s, limit)
		require.LessOrEqual(t, len(once), limit)
		require.Equal(t, once, jobs.Storable(once, limit))
		require.NotContains(t, once, "\x00")
	})
}

func TestIdempotencyKeyMakesOneJob(t *testing.T) {
	f := setup(t)
	var wg sync.WaitGroup
	ids := make([]string, 100)
	for i := range ids {
		wg.Go(func() {
			out, err := jobs.Enqueue(context.Background(), f, jobs.Params{Queue: "q", Payload: map[string]int{"b": 2, "a": 1}, IdempotencyKey: "k"})
			if err == nil {
				ids[i] = out[0].ID.String()
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
		require.NotEmpty(t, id)
	}
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs`))

	_, err := jobs.Enqueue(t.Context(), f, jobs.Params{Queue: "q", Payload: json.RawMessage(`{"a":1, "b":2}`), IdempotencyKey: "k"})
	require.NoError(t, err) // the order of members is not the request
	_, err = jobs.Enqueue(t.Context(), f, jobs.Params{Queue: "q", Payload: 2, IdempotencyKey: "k"})
	require.ErrorIs(t, err, jobs.ErrIdempotencyReused)
	_, err = f.Exec(t.Context(), `UPDATE mini_asynq.idempotency_keys SET expires_at = clock_timestamp()`)
	require.NoError(t, err)
	out := f.enqueue(jobs.Params{Queue: "q", Payload: 2, IdempotencyKey: "k"})
	require.False(t, out[0].Replayed)
	require.Equal(t, 2, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
}

func TestKeyInFlightIsToldAfterAWhile(t *testing.T) {
	f := setup(t)
	tx, err := f.Begin(t.Context())
	require.NoError(t, err)
	_, err = jobs.Enqueue(t.Context(), tx, jobs.Params{Queue: "q", IdempotencyKey: "k"})
	require.NoError(t, err)
	_, err = jobs.Enqueue(t.Context(), f, jobs.Params{Queue: "q", IdempotencyKey: "k"})
	require.ErrorIs(t, err, jobs.ErrIdempotencyInFlight)
	require.NoError(t, tx.Rollback(t.Context()))
	out := f.enqueue(jobs.Params{Queue: "q", IdempotencyKey: "k"})
	require.False(t, out[0].Replayed)
}

func TestOnceKeepsTheFirstAnswer(t *testing.T) {
	f := setup(t)
	calls := 0
	once := jobs.Once{Key: "k", Request: json.RawMessage(`{"queue":"q"}`), Answer: func(stored []jobs.Enqueued) (json.RawMessage, error) {
		calls++
		return json.Marshal(map[string]any{"n": len(stored)})
	}}
	first, err := jobs.EnqueueOnce(t.Context(), f, once, jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	again, err := jobs.EnqueueOnce(t.Context(), f, once, jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	require.Equal(t, 1, calls)
	require.True(t, again.Replayed)
	require.JSONEq(t, `{"n":2}`, string(again.Answer))
	require.Equal(t, first.Jobs[1].ID, again.Jobs[1].ID)
	require.Equal(t, 2, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
}

func TestInserterSharesCommitsAndIsolatesErrors(t *testing.T) {
	f := setup(t)
	stored := 0
	var mu sync.Mutex
	in := jobs.NewInserter(f, jobs.InserterConfig{Stored: func(s []jobs.Enqueued) {
		mu.Lock()
		defer mu.Unlock()
		stored += len(s)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- in.Run(ctx) }()
	var wg sync.WaitGroup
	errs := make([]error, 300)
	for i := range errs {
		wg.Go(func() {
			p := jobs.Params{Queue: "q", Payload: i}
			if i%100 == 7 {
				p.RunAt = time.Now().AddDate(12, 0, 0) // only the database can refuse it
			}
			_, errs[i] = in.Enqueue(ctx, p)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if i%100 == 7 {
			var invalid *jobs.ValidationError
			require.ErrorAs(t, err, &invalid)
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, 297, f.count(`SELECT count(*) FROM mini_asynq.jobs`))
	require.Equal(t, 297, stored)
	before := in.Stats()
	for i := range errs {
		wg.Go(func() { _, errs[i] = in.Enqueue(ctx, jobs.Params{Queue: "shared"}) })
	}
	wg.Wait()
	require.EqualValues(t, 300, in.Stats().Rows-before.Rows)
	require.Less(t, in.Stats().Batches-before.Batches, int64(150))
	cancel()
	require.NoError(t, <-done)
	_, err := in.Enqueue(t.Context(), jobs.Params{Queue: "q"})
	require.ErrorIs(t, err, jobs.ErrClosed)
}

// TestSQLDoorChecksLikeTheOthers covers mini_asynq.enqueue.
func TestSQLDoorChecksLikeTheOthers(t *testing.T) {
	f := setup(t)
	_, err := jobs.Publish(t.Context(), f, jobs.Settings{MaxRetries: jobs.Retries(5), MaxPayload: 1000, IdempotencyTTL: time.Hour})
	require.NoError(t, err)
	var id string
	require.NoError(t, f.QueryRow(t.Context(), `SELECT mini_asynq.enqueue('mail', '{"a":1}', 'email.send',
		'{"priority":"high","delay":"1h30m","timeout":"90s","tags":["x"],"metadata":{"k":"v"},"max_retries":0,"idempotency_key":null}')`).Scan(&id))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs WHERE kind = 'email.send' AND priority = 'high'
		AND status = 'scheduled' AND run_at - created_at = interval '90 min' AND timeout = interval '90 s' AND tags = '{x}'
		AND max_retries = 0 AND attempt_limit = 1 AND source = 'sql'`))
	require.NoError(t, f.QueryRow(t.Context(), `SELECT mini_asynq.enqueue('mail', 'null')`).Scan(&id))
	require.Equal(t, 1, f.count(`SELECT count(*) FROM mini_asynq.jobs WHERE kind = 'mail' AND max_retries = 5 AND status = 'pending'`))

	for name, call := range map[string]string{
		"queue":           `'a/b', '{}'`,
		"dots":            `'..', '{}'`,
		"null queue":      `NULL, '{}'`,
		"kind":            `'q', '{}', ''`,
		"unknown":         `'q', '{}', NULL, '{"retries":1}'`,
		"type":            `'q', '{}', NULL, '{"max_retries":"3"}'`,
		"fraction":        `'q', '{}', NULL, '{"max_retries":1.5}'`,
		"range":           `'q', '{}', NULL, '{"max_retries":1001}'`,
		"priority":        `'q', '{}', NULL, '{"priority":"urgent"}'`,
		"zone":            `'q', '{}', NULL, '{"run_at":"2026-01-01T00:00:00"}'`,
		"infinity":        `'q', '{}', NULL, '{"run_at":"infinity"}'`,
		"no such day":     `'q', '{}', NULL, '{"run_at":"2026-02-30T00:00:00Z"}'`,
		"far":             `'q', '{}', NULL, '{"run_at":"2099-01-01T00:00:00Z"}'`,
		"delay":           `'q', '{}', NULL, '{"delay":"soon"}'`,
		"both":            `'q', '{}', NULL, '{"delay":"1s","run_at":"2026-01-01T00:00:00Z"}'`,
		"timeout":         `'q', '{}', NULL, '{"timeout":"25h"}'`,
		"tags":            `'q', '{}', NULL, '{"tags":[1]}'`,
		"metadata":        `'q', '{}', NULL, '{"metadata":{"a":{}}}'`,
		"key":             `'q', '{}', NULL, '{"idempotency_key":""}'`,
		"trace":           `'q', '{}', NULL, '{"traceparent":"x"}'`,
		"options":         `'q', '{}', NULL, '[]'`,
		"size":            `'q', to_jsonb(repeat('x', 1001))`,
		"depth":           `'q', (repeat('[', 65) || repeat(']', 65))::jsonb`,
		"number":          `'q', '1e1000'`,
		"digits in parts": `'q', to_jsonb(('0.' || repeat('1', 500))::numeric)`,
	} {
		_, err := f.Exec(t.Context(), `SELECT mini_asynq.enqueue(`+call+`)`)
		require.Equal(t, "MA422", pgtest.SQLState(err), name)
	}
	require.Equal(t, 2, f.count(`SELECT count(*) FROM mini_asynq.jobs`))

	// One key, one job, on both doors and after a rollback.
	require.NoError(t, f.QueryRow(t.Context(), `SELECT mini_asynq.enqueue('q', '{}', NULL, '{"idempotency_key":"k"}')`).Scan(&id))
	var again string
	require.NoError(t, f.QueryRow(t.Context(), `SELECT mini_asynq.enqueue('q', '{}', NULL, '{"idempotency_key":"k"}')`).Scan(&again))
	require.Equal(t, id, again)
	_, err = f.Exec(t.Context(), `SELECT mini_asynq.enqueue('q', '{"other":1}', NULL, '{"idempotency_key":"k"}')`)
	require.Equal(t, "MA422", sqlState(t, err))
}

func TestRetryDelays(t *testing.T) {
	t.Parallel()
	exponential := jobs.RetryPolicy{Interval: 5 * time.Second}
	for n, want := range map[int]time.Duration{
		1: 5 * time.Second, 2: 10 * time.Second, 3: 20 * time.Second, 4: 40 * time.Second, 20: time.Hour, 1000: time.Hour,
	} {
		require.Equal(t, want*9/10, exponential.Delay(n, 0), "n=%d", n)
		require.InDelta(t, float64(want)*1.1, float64(exponential.Delay(n, 1)), 1e6)
	}
	fixed := jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: 5 * time.Second}
	require.Equal(t, fixed.Delay(1, 0.5), fixed.Delay(1000, 0.5))
	require.Zero(t, jobs.RetryPolicy{Immediate: true}.Next(3))
	require.Error(t, jobs.RetryPolicy{Strategy: "random"}.Validate())
	require.Error(t, jobs.RetryPolicy{Interval: 25 * time.Hour}.Validate())
}

func TestFingerprintGroupsWhatVaries(t *testing.T) {
	t.Parallel()
	a := jobs.Fingerprint("k", `user 42 not found: "bob" 0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e`)
	require.Equal(t, a, jobs.Fingerprint("k", `user 7 not found: "alice" 0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0f`))
	require.NotEqual(t, a, jobs.Fingerprint("other", `user 42 not found: "bob" 0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e`))
	require.NotEqual(t, a, jobs.Fingerprint("k", `order 42 not found`))
}
