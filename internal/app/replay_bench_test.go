package app_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// BenchmarkReplay reads the whole log of a server as lines, from the table to the end of a connection, and says how many
// events a second that is and by how much the heap grew meanwhile.
func BenchmarkReplay(b *testing.B) {
	n := benchJobs(b, 1_000_000)
	asServer(b)
	cluster := pgtest.NewCluster(b, nil)
	conn, err := pgx.Connect(context.Background(), cluster.DSN())
	require.NoError(b, err)
	b.Cleanup(func() { _ = conn.Close(context.Background()) })
	quiet := func(c *app.Config) { c.Queues = map[string]int{"nobody": 1} }
	s := serve(b, cluster.DSN(), quiet)
	fill(b, conn, n)
	_, err = conn.Exec(context.Background(), `VACUUM ANALYZE mini_asynq.outbox`)
	require.NoError(b, err)
	pgtest.Eventually(b, time.Minute, "every event is published", func() bool {
		_, position := s.call(http.MethodGet, "/api/v1/events/position", "")
		_, seq, _ := strings.Cut(position["cursor"].(string), "-")
		head, err := strconv.Atoi(seq)
		require.NoError(b, err)
		return head >= n
	})
	_, _ = s.stop()
	s = serve(b, cluster.DSN(), quiet) // with nothing in memory
	for b.Loop() {
		before := heap()
		started := time.Now()
		lines, most := replay(b, s, before)
		b.ReportMetric(float64(lines)/time.Since(started).Seconds(), "events/s")
		b.ReportMetric(float64(most)/(1<<20), "MiB-growth")
		require.GreaterOrEqual(b, lines, n)
	}
}

// replay reads the log and counts the lines; most is by how much the heap was above a size at the worst moment.
func replay(b *testing.B, s *server, before uint64) (lines int, most uint64) {
	b.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.base+"/api/v1/events?after=earliest", http.NoBody)
	require.NoError(b, err)
	request.Header.Set("Accept", "application/x-ndjson")
	answer, err := (&http.Client{Transport: client.Transport}).Do(request)
	require.NoError(b, err)
	defer func() { _ = answer.Body.Close() }()
	require.Equal(b, http.StatusOK, answer.StatusCode)
	buffer := make([]byte, 256<<10)
	for looked := 0; err == nil; {
		var read int
		read, err = answer.Body.Read(buffer)
		for _, c := range buffer[:read] {
			if c == '\n' {
				lines++
			}
		}
		if lines >= looked+20_000 {
			looked = lines
			if size := heap(); size > before {
				most = max(most, size-before)
			}
		}
	}
	require.ErrorIs(b, err, io.EOF)
	return lines, most
}

// heap is how much of it is in use.
func heap() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
