package api_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestStreamsThatAreNotReadDoNotGrow: server-sent events and lines whose reader takes nothing keep a batch each and nothing
// of what happens meanwhile, and others are served. It measures the heap, so it runs alone.
func TestStreamsThatAreNotReadDoNotGrow(t *testing.T) {
	numbers := prometheus.NewRegistry()
	d := setup(t, func(c *api.Config) { c.SlowAfter, c.Registerer = time.Hour, numbers })
	const readers = 16
	made := 0
	more := func(rounds int) {
		for range rounds {
			_, err := jobs.Enqueue(t.Context(), d.pool, make([]jobs.Params, 2000)...)
			require.NoError(t, err)
			made += 2000
			d.settled(made)
			id := d.enqueue(`{"queue":"quick"}`)
			made++
			require.Len(t, d.get("/events?wait=20s&queues=quick&types=job.*&job_ids="+id+"&after="+d.before(made)).page().events, 1)
		}
	}
	heap := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	// full returns when all of a kind are stuck in a write: nothing more was sent while events were made.
	full := func(transport string) {
		for last := -1.0; ; {
			sent := transports(t, numbers, "miniasynq_stream_events_sent_total")[transport]
			if sent == last && sent > 0 {
				return
			}
			last = sent
			more(1)
		}
	}
	more(9) // the ring in memory is full, so that what it holds does not grow either
	for range readers {
		d.sse(t, "after=earliest")
	}
	full("sse")
	before := heap()
	more(5)
	after := heap()
	// 10000 events of half a kilobyte for 16 readers would be 80 MB if anybody kept them.
	require.Less(t, after-before, int64(readers*64<<10), "before %d, after %d", before, after)

	before = heap()
	for range readers {
		d.lines(t, "after=earliest")
	}
	full("ndjson")
	after = heap()
	// Eight of them read ahead: two pages of 2000 events, about 2 MB each; the log is twice that for each of them.
	t.Logf("lines: %d KiB", (after-before)>>10)
	require.Less(t, after-before, int64(8*2*2<<20+readers*512<<10), "before %d, after %d", before, after)
}

// before is a cursor that lies before the event number n and everything after it.
func (d *door) before(n int) string {
	head := must(d.stream.Head())
	head.Seq = int64(n) - 1
	return head.String()
}
