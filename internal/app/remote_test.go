package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// remote is a worker that keeps one connection, from its first call on: the server closes one that says nothing for 5 s.
type remote struct {
	t    testing.TB
	id   string
	base string
	conn net.Conn
	read *bufio.Reader
}

func (s *server) remote(name string, slots int) *remote {
	s.t.Helper()
	status, w := s.call(http.MethodPost, "/api/v1/workers", fmt.Sprintf(`{"name":%q,"queues":{"remote":1},"slots":%d}`, name, slots))
	require.Equal(s.t, http.StatusCreated, status, w)
	return &remote{t: s.t, id: w["id"].(string), base: s.base}
}

func (r *remote) dial() {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", strings.TrimPrefix(r.base, "http://"))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	r.conn, r.read = conn, bufio.NewReaderSize(conn, 512)
}

func (r *remote) send(path, body string) {
	if r.conn == nil {
		r.dial()
	}
	_, err := fmt.Fprintf(r.conn, "POST /api/v1%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, len(body), body)
	if err != nil {
		r.t.Error(err)
	}
}

// answer reads an answer into out; false when there is none.
func (r *remote) answer(out any) bool {
	response, err := http.ReadResponse(r.read, nil)
	if err != nil {
		r.t.Error(err)
		return false
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || json.Unmarshal(raw, out) != nil {
		r.t.Errorf("%d %s %v", response.StatusCode, raw, err)
		return false
	}
	return true
}

type claimed struct {
	Jobs []struct {
		ID    string
		Fence int64
	}
}

// work claims and completes until n jobs are done by all.
func (r *remote) work(most int, done *atomic.Int64, n int64) {
	for done.Load() < n {
		r.send("/workers/"+r.id+"/claim", fmt.Sprintf(`{"max":%d,"wait":"1s"}`, most))
		var c claimed
		if !r.answer(&c) {
			return
		}
		if len(c.Jobs) == 0 {
			continue
		}
		if most == 1 {
			r.send("/jobs/"+c.Jobs[0].ID+"/complete", fmt.Sprintf(`{"fence":%d}`, c.Jobs[0].Fence))
			var job struct{ Status string }
			if !r.answer(&job) {
				return
			}
			done.Add(1)
			continue
		}
		items := make([]string, len(c.Jobs))
		for i, j := range c.Jobs {
			items[i] = fmt.Sprintf(`{"job_id":%q,"fence":%d,"outcome":"complete"}`, j.ID, j.Fence)
		}
		r.send("/workers/"+r.id+"/outcomes", `{"outcomes":[`+strings.Join(items, ",")+`]}`)
		var answer struct{ Results []struct{ Status string } }
		if !r.answer(&answer) {
			return
		}
		for _, result := range answer.Results {
			if result.Status == "completed" {
				done.Add(1)
			}
		}
	}
}

func (s *server) fillRemote(n int) {
	s.t.Helper()
	for stored := 0; stored < n; stored += 1000 {
		items := slices.Repeat([]string{`{"queue":"remote"}`}, min(1000, n-stored))
		status, answer := s.call(http.MethodPost, "/api/v1/jobs/batch", `{"jobs":[`+strings.Join(items, ",")+`]}`)
		require.Equal(s.t, http.StatusCreated, status, answer)
	}
}

// memory is what this process holds after a collection: server and callers.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// TestThousandParkedClaimsCostLittle: less than 64 KiB each, both ends of the connection included, and no query; and all are
// woken when there is work.
func TestThousandParkedClaimsCostLittle(t *testing.T) {
	const n = 1000
	s := serve(t, pgtest.NewDB(t).DSN(), func(c *app.Config) { c.Slots, c.DemoHandlers = 1, "false" })
	workers := make([]*remote, n)
	for i := range workers {
		workers[i] = s.remote(fmt.Sprintf("w%d", i), 1)
	}
	before := memory()
	for _, w := range workers {
		w.send("/workers/"+w.id+"/claim", `{"max":1,"wait":"60s"}`)
	}
	pgtest.Eventually(t, 30*time.Second, "all are parked", func() bool { return s.metric("parked_claims") == n })
	each := (memory() - before) / n
	t.Logf("a parked claim takes %d bytes", each)
	require.Less(t, each, int64(64<<10))
	require.LessOrEqual(t, s.metric("claims_empty_total"), 20, "parked claims ask nothing")

	s.fillRemote(n)
	var got atomic.Int64
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			var c claimed
			if w.answer(&c) {
				got.Add(int64(len(c.Jobs)))
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, n, got.Load())
}

// metric is a value that the server shows.
func (s *server) metric(name string) int {
	s.t.Helper()
	_, m := s.call(http.MethodGet, "/api/v1/metrics", "")
	for line := range strings.Lines(m["text"].(string)) {
		if text, ok := strings.CutPrefix(line, "miniasynq_"+name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			require.NoError(s.t, err)
			return int(value)
		}
	}
	require.Fail(s.t, "no such metric", name)
	return 0
}

// BenchmarkRemoteWork drains a backlog over HTTP: workers that claim and complete a hundred at a time, and one at a time.
func BenchmarkRemoteWork(b *testing.B) {
	for name, shape := range map[string]struct{ workers, most, jobs int }{
		"Batches": {16, 100, 50_000}, "Singles": {256, 1, 20_000},
	} {
		b.Run(name, func(b *testing.B) {
			n := benchJobs(b, shape.jobs)
			for range b.N {
				b.StopTimer()
				asServer(b)
				s := serve(b, pgtest.NewCluster(b, nil).DSN(), func(c *app.Config) {
					c.Slots, c.DemoHandlers, c.Lease = 1, "false", 30*time.Second
				})
				s.fillRemote(n)
				workers := make([]*remote, shape.workers)
				for i := range workers {
					workers[i] = s.remote(fmt.Sprintf("w%d", i), shape.most)
				}
				b.StartTimer()
				started := time.Now()
				var done atomic.Int64
				var wg sync.WaitGroup
				for _, w := range workers {
					wg.Go(func() { w.work(shape.most, &done, int64(n)) })
				}
				wg.Wait()
				require.EqualValues(b, n, done.Load())
				b.ReportMetric(float64(n)/time.Since(started).Seconds(), "jobs/s")
			}
		})
	}
}

// BenchmarkRemoteWake measures from before the enqueue to the answer of a parked claim, on a node that sleeps in between.
func BenchmarkRemoteWake(b *testing.B) {
	n := benchJobs(b, 200)
	for range b.N {
		b.StopTimer()
		s := serve(b, pgtest.NewCluster(b, nil).DSN(), func(c *app.Config) { c.Slots, c.DemoHandlers = 1, "false" })
		w := s.remote("w", 1)
		b.StartTimer()
		spans := make([]time.Duration, n)
		for i := range spans {
			w.send("/workers/"+w.id+"/claim", `{"max":1,"wait":"60s"}`)
			asleep := time.NewTimer(60 * time.Millisecond) // long enough for the pacer to park
			<-asleep.C
			started := time.Now()
			s.enqueue(`{"queue":"remote"}`)
			var c claimed
			if !w.answer(&c) || len(c.Jobs) != 1 {
				b.Fatal("no job")
			}
			spans[i] = time.Since(started)
			w.send("/jobs/"+c.Jobs[0].ID+"/complete", fmt.Sprintf(`{"fence":%d}`, c.Jobs[0].Fence))
			var job struct{ Status string }
			w.answer(&job)
		}
		slices.Sort(spans)
		b.ReportMetric(float64(spans[n/2].Microseconds())/1000, "p50_ms")
		b.ReportMetric(float64(spans[n*99/100].Microseconds())/1000, "p99_ms")
	}
}
