package hub_test

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// countedNumbers are the numbers of two queues, and count how often they are read.
type countedNumbers struct{ reads atomic.Int64 }

func (n *countedNumbers) Queues() []events.QueueNumbers {
	return []events.QueueNumbers{
		{Name: "mail", Counts: map[jobs.Status]int64{jobs.Pending: n.reads.Add(1), jobs.Dead: 2}, EnqueuedPerSec: 0.1},
		{Name: "pdf", Counts: map[jobs.Status]int64{jobs.Dead: 5}, EnqueuedPerSec: 0.2},
	}
}

func (*countedNumbers) Pulse() (now time.Time, lag time.Duration) {
	return time.Date(2026, 3, 1, 12, 0, 0, 1000, time.UTC), 4 * time.Millisecond
}

func (*countedNumbers) Workers() (events.WorkerNumbers, bool) {
	return events.WorkerNumbers{Online: 2, Draining: 1}, true
}

// statsSaid is a stats frame as a client sees it.
type statsSaid struct {
	At     string `json:"at"`
	Cursor string `json:"cursor"`
	Totals struct {
		Counts map[string]int64   `json:"counts"`
		Rates  map[string]float64 `json:"rates_1m"`
	} `json:"totals"`
	Queues map[string]struct {
		Name string `json:"name"`
		Dead int64  `json:"dead"`
	} `json:"queues"`
	Workers map[string]int   `json:"workers"`
	Stream  map[string]int64 `json:"stream"`
}

func (f *framed) stats() (said statsSaid) {
	f.t.Helper()
	got, _ := f.until("stats", "")
	require.NoError(f.t, json.Unmarshal(got.raw, &said), "%s", got.raw)
	return said
}

// Numbers come as often as asked, about the queues that were asked for and that the caller may see, and are read once for
// all viewers.
func TestStatsComeFromMemoryForWhoMaySeeThem(t *testing.T) {
	t.Parallel()
	numbers := &countedNumbers{}
	d := open(t, func(c *hub.Config) {
		c.Numbers = numbers
		c.QueueBody = func(n events.QueueNumbers) any { return map[string]any{"name": n.Name, "dead": n.Counts[jobs.Dead]} }
		c.Principal = func(r *http.Request) hub.Caller {
			if r.Header.Get("X-Caller") == "bound" {
				return hub.Caller{Name: "bound", Queues: []string{"pdf"}}
			}
			return hub.Caller{}
		}
	})
	f := d.dialFramed("")
	f.say(`{"t":"stats","every":"500ms","queues":["pdf","nothing"]}`)
	said := f.stats()
	require.Equal(t, "2026-03-01T12:00:00.000001Z", said.At)
	require.Equal(t, d.head(), said.Cursor)
	require.EqualValues(t, 7, said.Totals.Counts["dead"], "also of the queues that are not shown")
	require.Contains(t, said.Totals.Counts, "blocked")
	require.InDelta(t, 0.3, said.Totals.Rates["enqueued"], 0)
	require.Len(t, said.Queues, 1)
	require.EqualValues(t, 5, said.Queues["pdf"].Dead)
	require.Equal(t, map[string]int64{"lag_ms": 4}, said.Stream)
	require.Equal(t, map[string]int{"online": 2, "draining": 1}, said.Workers)
	begin := time.Now()
	require.Greater(t, f.stats().Totals.Counts["pending"], said.Totals.Counts["pending"], "it is read anew")
	f.stats()
	require.Greater(t, time.Since(begin), 600*time.Millisecond)

	viewers := make([]*framed, 20)
	before := numbers.reads.Load()
	for n := range viewers {
		viewers[n] = d.dialFramed("")
		viewers[n].say(`{"t":"stats","every":"10s"}`)
	}
	for _, v := range viewers {
		require.Len(t, v.stats().Queues, 2)
	}
	require.Less(t, numbers.reads.Load()-before, int64(20))

	bound := d.dialFramed("bound")
	bound.say(`{"t":"stats","every":"1s","queues":["mail"]}`)
	said = bound.stats()
	require.Empty(t, said.Queues)
	require.EqualValues(t, 5, said.Totals.Counts["dead"])
	require.Nil(t, said.Workers, "of all queues")
	bound.say(`{"t":"stats","every":"1s"}`)
	require.Len(t, bound.stats().Queues, 1)

	f.say(`{"t":"stats","every":"0s"}`)
	f.say(`{"t":"ping","n":1}`)
	f.until("pong", "")
	for _, bad := range []string{
		`{"t":"stats","every":"100ms"}`, `{"t":"stats","every":"11s"}`, `{"t":"stats","every":"often"}`,
		`{"t":"stats","every":"-1s"}`, `{"t":"stats","every":"1s","queues":["a/b"]}`,
	} {
		f.say("%s", bad)
		said, others := f.until("err", "")
		require.Equal(t, "invalid_parameter", said.Code)
		require.Empty(t, others, "stopped")
	}
}

// lateNumbers are counted once somebody says so.
type lateNumbers struct {
	countedNumbers
	queues, workers atomic.Bool
}

func (n *lateNumbers) Queues() []events.QueueNumbers {
	if n.queues.Load() {
		return []events.QueueNumbers{}
	}
	return nil
}

func (n *lateNumbers) Workers() (events.WorkerNumbers, bool) {
	return events.WorkerNumbers{}, n.workers.Load()
}

// TestStatsWaitForTheFirstCount: zeros that nobody has counted are not said.
func TestStatsWaitForTheFirstCount(t *testing.T) {
	t.Parallel()
	numbers := &lateNumbers{}
	d := open(t, func(c *hub.Config) { c.Numbers = numbers })
	f := d.dialFramed("")
	f.say(`{"t":"stats","every":"500ms"}`)
	f.say(`{"t":"ping","n":1}`)
	_, others := f.until("pong", "")
	numbers.queues.Store(true)
	f.say(`{"t":"stats","every":"500ms"}`)
	f.say(`{"t":"ping","n":2}`)
	_, more := f.until("pong", "")
	require.Empty(t, append(others, more...))
	numbers.workers.Store(true)
	require.Empty(t, f.stats().Queues)
}
