package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Each decoder has a target of its own. What is common to all: a body that is refused is refused with 400, 413 or 422 and
// faults that point into it; one that is accepted is JSON, and what was read of it keeps the documented bounds.

func fuzzBody[T any](f *testing.F, decode func([]byte) (T, error), check func(t *testing.T, raw []byte, got T), seeds ...string) {
	f.Helper()
	for _, seed := range append(seeds, `{}`, `[]`, `null`, `{}{}`, ` { } `, "{\"\xff\":1}", `{"a":"\ud800"}`, `{"a":{"b":[1,{"c":null}]}}`) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decode(raw)
		if err != nil {
			p := problemOf(err)
			require.Contains(t, []int{400, 413, 422}, p.kind.status, "%v", err)
			for _, fault := range p.errors {
				require.True(t, fault.Pointer == "" || fault.Pointer[0] == '/', fault.Pointer)
				require.NotEmpty(t, fault.Code)
			}
			return
		}
		require.True(t, json.Valid(raw), "%q", raw)
		check(t, raw, got)
	})
}

func FuzzBatchBody(f *testing.F) {
	fuzzBody(f, func(raw []byte) ([]jobs.Params, error) { return decodeBatch(raw, jobs.MaxPayload) },
		func(t *testing.T, _ []byte, got []jobs.Params) {
			require.NotEmpty(t, got)
			require.LessOrEqual(t, len(got), 1000)
		},
		`{"jobs":[{"queue":"a"},{"payload":{"x":1}}]}`, `{"jobs":[]}`, `{"jobs":{}}`, `{"jobs":[null]}`, `{"jobs":[{}],"jobs":[{}]}`)
}

func FuzzWorkerBody(f *testing.F) {
	fuzzBody(f, decodeWorker, func(t *testing.T, _ []byte, w jobs.Worker) {
		require.True(t, w.Name != "" && len(w.Name) <= maxWorkerText && storable(w.Name) && storable(w.Version))
		require.True(t, w.Slots >= 1 && w.Slots <= maxSlots)
		require.NotEmpty(t, w.Queues)
		for queue, weight := range w.Queues {
			require.True(t, (queue == "*" || jobs.ValidName(queue)) && weight >= 1 && weight <= maxWeight)
		}
		for _, kind := range w.Kinds {
			require.True(t, jobs.ValidName(kind))
		}
		for k, v := range w.Labels {
			require.True(t, storable(k) && storable(v))
		}
	},
		`{"name":"w","queues":{"a":3,"*":1},"kinds":["k"],"slots":4,"version":"1","labels":{"zone":"a"}}`, `{"name":"w","queues":{}}`,
		`{"name":"w","queues":null,"kinds":[]}`, `{"name":"w\u0000"}`, `{"name":"w","slots":1e3}`)
}

func FuzzClaimBody(f *testing.F) {
	fuzzBody(f, decodeClaim, func(t *testing.T, _ []byte, r claimRequest) {
		require.True(t, r.most >= 0 && r.most <= maxClaim)
		require.True(t, r.wait >= 0 && r.wait <= maxWait)
		for queue := range r.queues {
			require.True(t, queue == "*" || jobs.ValidName(queue))
		}
	}, `{"max":4,"wait":"20s","queues":{"a":1},"kinds":["k"]}`, `{"max":0}`, `{"wait":"-1s"}`, `{"wait":"1h"}`, `{"max":null,"queues":null}`)
}

func FuzzHeartbeatBody(f *testing.F) {
	fuzzBody(f, decodeHeartbeat, func(t *testing.T, _ []byte, h heartbeat) {
		require.LessOrEqual(t, len(h.leases), maxLeases)
		require.Len(t, h.progress, len(h.leases))
		require.True(t, h.busy >= 0 && h.busy <= maxSlots)
		for _, l := range h.leases {
			require.True(t, l.JobID != uuid.Nil && l.Fence > 0)
		}
	},
		`{"leases":[{"job_id":"0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e","fence":3,"progress":{"percent":5,"message":"x"}}],"busy":1}`,
		`{"leases":[{"job_id":"0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e","fence":3,"progress":{"percent":"x","message":7}}]}`,
		`{"leases":[]}`, `{"leases":null}`, `{"leases":[{}]}`, `{"leases":[{"fence":-1}]}`)
}

// FuzzOutcomesBody: a batch may be taken with faults of its items, which keep to themselves.
func FuzzOutcomesBody(f *testing.F) {
	type decoded struct {
		all    []*statement
		faults []error
	}
	decode := func(raw []byte) (decoded, error) {
		all, faults, err := decodeOutcomes(raw)
		return decoded{all, faults}, err
	}
	for _, seed := range []string{"{\"outcomes\":[{\"error\":{\"message\":\"\xff\"}}]}", "{\"outcomes\":[{\"result\":\"\xff\"}]}"} {
		f.Add([]byte(seed))
	}
	const id = `"job_id":"0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e","fence":3`
	for _, seed := range []string{
		`{"outcomes":[{` + id + `,"outcome":"complete","result":{"a":1}}]}`, `{"outcomes":[{` + id + `,"outcome":"snooze","delay":"1h"}]}`,
		`{"outcomes":[{` + id + `,"outcome":"fail","error":{"type":"E","message":"m","stack":"s"},"retry":"after","retry_after":"1s"}]}`,
		`{"outcomes":[{` + id + `,"outcome":"release"},{"outcome":"x"}]}`, `{"outcomes":[]}`, `{"outcomes":[1]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decode(raw)
		if err != nil {
			require.Contains(t, []int{400, 413, 422}, problemOf(err).kind.status)
			return
		}
		require.Len(t, got.faults, len(got.all))
		require.True(t, len(got.all) >= 1 && len(got.all) <= maxLeases)
		for i, o := range got.all {
			if got.faults[i] != nil {
				require.Contains(t, []int{400, 413, 422}, problemOf(got.faults[i]).kind.status)
				continue
			}
			require.True(t, o.job != uuid.Nil && o.fence > 0 && o.kind != "")
			require.True(t, o.after >= 0 && o.after <= maxWorkerDelay && o.delay >= 0 && o.delay <= jobs.MaxSnooze)
			if o.result != nil {
				code, detail := jobs.CheckJSON(o.result, jobs.MaxResult)
				require.Empty(t, code, detail)
			}
			// Whatever was said becomes an outcome; texts are cleaned there.
			require.NotPanics(t, func() { o.outcome(nil, jobs.RetryPolicy{Strategy: jobs.Fixed, Interval: time.Second}) })
		}
	})
}

func FuzzActionBody(f *testing.F) {
	decode := func(raw []byte) (actionBody, error) { return decodeAction(raw, "delay", "for", "until", "overlap") }
	fuzzBody(f, decode, func(t *testing.T, _ []byte, a actionBody) {
		require.True(t, len(a.reason) <= maxReason && storable(a.reason))
		require.True(t, a.delay >= 0 && a.delay <= jobs.MaxAhead && a.span >= 0 && a.overlap >= 0 && a.overlap <= maxOverlap)
	}, `{"reason":"x","for":"30m"}`, `{"until":"2030-03-01T12:00:00Z"}`, `{"for":"1s","until":"2030-03-01T12:00:00Z"}`, `{"delay":"5m"}`,
		`{"overlap":"0s"}`, `{"until":"0001-01-01T00:00:00Z"}`)
}

func FuzzKeyBody(f *testing.F) {
	fuzzBody(f, decodeKey, func(t *testing.T, _ []byte, k jobs.APIKey) {
		require.True(t, k.Name != "" && storable(k.Name) && len(k.Scopes) > 0)
		for _, s := range k.Scopes {
			require.Contains(t, knownScopes, Scope(s))
		}
		for _, q := range k.Queues {
			require.True(t, jobs.ValidName(q))
		}
	}, `{"name":"k","scopes":["read"],"queues":["a"],"expires_at":"2030-03-01T12:00:00Z"}`, `{"name":"k","role":"admin"}`,
		`{"name":"k","role":"admin","queues":["a"]}`, `{"name":"k","scopes":[]}`)
}

func FuzzLoginBody(f *testing.F) {
	fuzzBody(f, decodeLogin, func(t *testing.T, _ []byte, r loginRequest) {
		require.True(t, (r.apiKey != "") != (r.username != "" && r.password != ""))
	}, `{"username":"a","password":"b"}`, `{"api_key":"mak_x"}`, `{"username":"a","password":"b","api_key":"c"}`)
}

// FuzzKeyText: what is taken for a key is one, and says so again.
func FuzzKeyText(f *testing.F) {
	for _, seed := range []string{"", "mak_", keyText(uuid.Max, newSecret()), "mak_" + uuid.Max.String() + "_"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if id, secret, ok := parseKey(text); ok {
			require.Len(t, secret, secretLength)
			again, same, ok := parseKey(keyText(id, secret))
			require.True(t, ok && again == id && same == secret)
		}
	})
}

// FuzzPageCursor: a cursor that was not given out is refused, and never a panic.
func FuzzPageCursor(f *testing.F) {
	p := Principal{Name: "p"}
	for _, seed := range []string{"", ".", "a.b", sealCursor("inner", p)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		if inner, ok := openCursor(cursor, p); ok {
			require.Equal(t, cursor, sealCursor(inner, p))
		}
	})
}

// FuzzDuration: what is read is written so that it reads the same.
func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"0", "1h30m", "7d", "-1s", "1.5d", "1d12h", "9999999h", "1e3s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDuration(s)
		if err != nil {
			return
		}
		again, err := parseDuration(formatDuration(d))
		require.NoError(t, err, s)
		require.Equal(t, d, again, s)
	})
}
