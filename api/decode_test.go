package api

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestDurationsAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "250ms": 250 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour,
		"1d12h": 36 * time.Hour, "1.5d": 36 * time.Hour, "-2d": -48 * time.Hour, "-0": 0,
	} {
		got, err := parseDuration(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, bad := range []string{"", "-", "1", "d", "1x", "1 h", "1h ", "+1h", "1h-1m", "1..5h", "1e3s", "999999d", "9999999999h",
		"200000000m200000000m", "1hd", strings.Repeat("1s", 100)} {
		_, err := parseDuration(bad)
		require.Error(t, err, bad)
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 90 * time.Second: "1m30s", time.Hour: "1h", 30 * time.Minute: "30m", 36 * time.Hour: "36h",
		168 * time.Hour: "7d", 24 * time.Hour: "24h", 250 * time.Millisecond: "250ms", 10 * time.Minute: "10m",
	} {
		require.Equal(t, want, formatDuration(d))
	}
}

// FuzzEnqueueBody: what the door accepts is what an independent reading of the same bytes accepts, and a payload that is
// accepted is one that PostgreSQL's cast accepts.
func FuzzEnqueueBody(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"queue":"a","payload":{"a":[1,2,{"b":null}]}}`, `{"payload":"\u0000"}`, `{"payload":"\ud800"}`, `{}{}`, `null`,
		`{"Queue":"x"}`, `{"queue":"a","queue":"b"}`, "{\"payload\":\"\xff\"}", `{"payload":1e400}`, `{"payload":1e131071}`,
		`{"run_at":"2026-03-01T12:00:00Z","delay":"1s"}`, `{"metadata":{"a":"b"},"tags":["x"]}`, `{"max_retries":1.5}`,
		strings.Repeat("[", 200), `{"payload":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`, "\xEF\xBB\xBF{}",
		`{"payload":{"a":1,"\u0061":2}}`, `{"\u0071ueue":"b"}`, `{"timeout":"90s"}`, `{"idempotency_key":"k"}`, ` { "queue" : null } `,
		`{"payload":-0}`, `{"payload":"\\u0000"}`, `{"payload":"\ud83d\ude00"}`,
	} {
		f.Add([]byte(seed))
	}
	pool := pgtest.NewEmptyDB(f).Pool(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		params, err := decodeJob(raw, jobs.MaxPayload)
		if err != nil {
			p := problemOf(err)
			require.Contains(t, []int{400, 413, 422}, p.kind.status, "%v", err)
			return
		}
		require.True(t, json.Valid(raw))
		var members map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &members))
		payload, given := members["payload"]
		require.Equal(t, given, params.Payload != nil)
		if given {
			taken, ok := params.Payload.(json.RawMessage)
			require.True(t, ok)
			require.Equal(t, string(payload), string(taken))
			if code, _ := jobs.CheckJSON(taken, jobs.MaxPayload); code == "" {
				_, err := pool.Exec(t.Context(), `SELECT $1::text::jsonb`, string(taken))
				require.NoError(t, err, "%q", taken)
			}
		}
		for name := range members {
			require.Equal(t, strings.ToLower(name), name)
		}
	})
}

// FuzzTooDeep: the look at the depth agrees with a parser on whatever a parser accepts.
func FuzzTooDeep(f *testing.F) {
	for _, seed := range []string{`[[[]]]`, `{"a":{"b":[1,"[[["]}}`, `"\"["`, `[{"jobs":[{}]}]`, `[]`, `1`, `{"a":"\\"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		const limit = 3
		_, deep := tooDeep(raw, limit)
		if !json.Valid(raw) {
			return
		}
		dec, level, most := json.NewDecoder(strings.NewReader(string(raw))), 0, 0
		for {
			token, err := dec.Token()
			if err != nil {
				break
			}
			switch token {
			case json.Delim('{'), json.Delim('['):
				level++
				most = max(most, level)
			case json.Delim('}'), json.Delim(']'):
				level--
			}
		}
		require.Equal(t, most > limit, deep, "%q", raw)
	})
}

// FuzzWellFormed: the one look at the bytes says what the standard library and the look at the depth say.
func FuzzWellFormed(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `{}`, `[]`, ` [ ] `, `{"a":1}`, `{"a":1,}`, `{,}`, `[1,]`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`, `{"a" 1}`, `{a:1}`, `{1:2}`,
		`{"a":{"b":[{},[],1]}}`, `[[[[]]]]`, `[[[]]`, `[}`, `{]`, `]`, `}`, `,`, `:`, `1 1`, `{}{}`, `[1]]`, `{"a":1}}`, `[{"a":[1`,
		`"a"`, `"`, `"\`, `"\"`, `"\u"`, `"\u12"`, `"\u12g4"`, `"\u12aF"`, `"\x"`, `"\n\/\b\f\r\t\\"`, "\"\n\"", "\"\x1f\"", "\"\x7f\"",
		`0`, `-0`, `-`, `01`, `1.`, `.1`, `1.5`, `1e`, `1e+`, `1E-3`, `+1`, `1.5e10`, `--1`, `1a`, `-a`, `true`, `false`, `null`, `tru`,
		`truee`, `nul`, `True`, "\x00", "\xEF\xBB\xBF{}", "\v1", "\u00a01", "1\n", "\t\r\n 1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		const limit = 3
		_, deep := tooDeep(raw, limit)
		require.Equal(t, json.Valid(raw) && !deep, wellFormed(raw, limit), "%q", raw)
		if len(raw) <= deepest { // it cannot nest deeper than that
			require.Equal(t, json.Valid(raw), wellFormed(raw, deepest), "%q", raw)
		}
	})
}

func TestFaultsPointIntoTheBody(t *testing.T) {
	t.Parallel()
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	for body, want := range map[string]string{
		`{"queue":1}`:                       "/queue",
		`{"a/b~":1}`:                        "/a~1b~0",
		`{"":1}`:                            "/",
		`{"tags":["a",2]}`:                  "/tags/1",
		`{"metadata":{"a":"b","c":2}}`:      "/metadata/c",
		`{"metadata":{"a/":"b","a\/":"c"}}`: "/metadata/a~1",
		`{"queue":"a","\u0071ueue":"b"}`:    "/queue",
		`{"metadata":{` + strings.Join(many, ",") + `,"k0":"v"}}`:  "/metadata/k0",
		`{"metadata":{` + strings.Join(many, ",") + `,"k39":"v"}}`: "/metadata/k39",
		`[]`: "",
		`{"payload":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`: "/payload",
	} {
		_, err := decodeJob([]byte(body), jobs.MaxPayload)
		require.Error(t, err, body)
		faults := problemOf(err).errors
		require.Len(t, faults, 1, body)
		require.Equal(t, want, faults[0].Pointer, body)
	}
	_, err := decodeBatch([]byte(`{"jobs":[{},{"tags":[null]}]}`), jobs.MaxPayload)
	require.Error(t, err)
	require.Equal(t, "/jobs/1/tags/0", problemOf(err).errors[0].Pointer)
}

func TestStringsEndWhereTheyEnd(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int{
		`""`: 2, `"a"`: 3, `"a" "b"`: 3, `"\""`: 4, `"\\"`: 4, `"\\" "`: 4, `"a\"b"c`: 6, `"`: 1, `"a`: 2, `"\"`: 3, `"a\`: 3,
	} {
		require.Equal(t, want, min(stringEnd([]byte(raw), 0), len(raw)), raw)
	}
}

// FuzzListFilter: no query string makes more than a refusal or a filter of storable values.
func FuzzListFilter(f *testing.F) {
	for _, seed := range []string{"queue=a,b*&status=dead", "limit=5", "metadata.a=b", "id=x", "queue=%00", "%zz", "a=1;b=2",
		"created_after=2026-03-01T12:00:00Z", "attempt_min=3", "payload=%7B%22a%22:1%7D&queue=a", "queue=%ff", "tag=x&tag=y"} {
		f.Add(seed)
	}
	admin := Principal{Name: "basic:admin", scopes: []Scope{ScopeAdmin}}
	f.Fuzz(func(t *testing.T, raw string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = &url.URL{Path: "/", RawQuery: raw}
		filter, err := filterOf(queryOf(r, filterParameters...), admin)
		if err != nil {
			require.Equal(t, 400, problemOf(err).kind.status)
			return
		}
		for _, list := range [][]string{filter.Queues, filter.Kinds, filter.Tags, filter.Workers, filter.Fingerprints} {
			for _, v := range list {
				require.True(t, storable(v))
			}
		}
		for k, v := range filter.Metadata {
			require.True(t, k != "" && storable(k) && storable(v))
		}
		if len(filter.Payload) > 0 {
			code, _ := jobs.CheckJSON(filter.Payload, math.MaxInt)
			require.Empty(t, code)
		}
	})
}

func TestFailuresForgetTheOldestNotTheNewest(t *testing.T) {
	t.Parallel()
	f := newFailures()
	address := func(i int) []failureKey {
		return failureKeys(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "")
	}
	for i := range maxFailureKeys + 100 {
		f.add(address(i))
	}
	require.LessOrEqual(t, len(f.counts), maxFailureKeys)
	last := address(maxFailureKeys + 99)
	require.Equal(t, 1, f.counts[last[0]].n)
}

func TestPageCursorIsBoundToItsCaller(t *testing.T) {
	t.Parallel()
	a, b := Principal{Name: "a"}, Principal{Name: "b"}
	sealed := sealCursor("inner", a)
	inner, ok := openCursor(sealed, a)
	require.True(t, ok)
	require.Equal(t, "inner", inner)
	for _, bad := range []string{"", ".", "inner", "inner.", sealed + "x", "x" + sealed, strings.ToUpper(sealed)} {
		_, ok := openCursor(bad, a)
		require.False(t, ok, bad)
	}
	_, ok = openCursor(sealed, b)
	require.False(t, ok)
	require.Empty(t, sealCursor("", a))
}

func TestParkedCallsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWaiters()
	var first *waiter
	for i := range maxParked {
		one := w.add([16]byte{1}, untilFinished)
		require.NotNil(t, one)
		if i == 0 {
			first = one
		}
	}
	require.Nil(t, w.add([16]byte{2}, untilFinished))
	w.remove(first)
	require.NotNil(t, w.add([16]byte{2}, untilFinished))
}
