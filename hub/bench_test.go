package hub_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// BenchmarkIdleSocket tells what an idle socket costs the server: heap and stacks. RELIABILITY.md LT6: 64 KiB at most.
func BenchmarkIdleSocket(b *testing.B) {
	const sockets = 2000
	for b.Loop() {
		d := open(b)
		address := strings.TrimPrefix(d.server.URL, "http://")
		used := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc + m.StackInuse
		}
		before := used()
		conns := make([]net.Conn, sockets)
		for i := range conns {
			conn, _ := quietSocket(b, address, "queues=nothing")
			conns[i] = conn
		}
		for range conns {
			d.await("parked", "")
		}
		b.ReportMetric(float64(used()-before)/sockets/1024, "KiB/socket")
		for _, conn := range conns {
			_ = conn.Close()
		}
		d.stop()
	}
}

// quietSocket opens a socket without a library and without a goroutine.
func quietSocket(b *testing.B, address, query string) (net.Conn, *bufio.Reader) {
	conn, err := net.Dial("tcp", address)
	require.NoError(b, err)
	_, err = io.WriteString(conn, "GET /api/v1/ws?"+query+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(b, err)
	in := bufio.NewReaderSize(conn, 1024)
	response, err := http.ReadResponse(in, nil)
	require.NoError(b, err)
	require.Equal(b, http.StatusSwitchingProtocols, response.StatusCode)
	_ = response.Body.Close()
	return conn, in
}

// BenchmarkFanOut is RELIABILITY.md LT6 in small, clients and database beside the hub on the same cores: filtered sockets
// that each get one event in a hundred, and a few that get all, at 500 events/s. It tells the time from the commit
// (nearly: from the event's own time) to the client, and how many cores the process used, clients included.
func BenchmarkFanOut(b *testing.B) {
	const filtered, whole, queues, perSecond, seconds = 3000, 50, 100, 500, 4
	for b.Loop() {
		d := open(b)
		address := strings.TrimPrefix(d.server.URL, "http://")
		var mu sync.Mutex
		var took []time.Duration
		var readers sync.WaitGroup
		var conns []net.Conn
		for i := range filtered + whole {
			query := "queues=q" + strconv.Itoa(i%queues)
			if i >= filtered {
				query = ""
			}
			conn, in := quietSocket(b, address, query)
			conns = append(conns, conn)
			readers.Go(func() { // ends with the connection
				r := &raw{Conn: conn, in: in}
				for {
					at, err := r.eventTime()
					if err != nil {
						return
					}
					mu.Lock()
					took = append(took, time.Since(at))
					mu.Unlock()
				}
			})
		}
		cpu := func() time.Duration {
			var u syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
			return time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		began, used := time.Now(), cpu()
		every := time.NewTicker(time.Second * 5 / perSecond)
		for n := range perSecond * seconds / 5 {
			<-every.C
			params := make([]jobs.Params, 5)
			for i := range params {
				params[i] = jobs.Params{Queue: "q" + strconv.Itoa((n*5+i)%queues)}
			}
			_, err := jobs.Enqueue(b.Context(), d.pool, params...)
			require.NoError(b, err)
		}
		every.Stop()
		cores := float64(cpu()-used) / float64(time.Since(began))
		d.mark("end")
		d.dial("probe", "after=earliest&queues=end").next()
		d.stop()
		for _, conn := range conns {
			_ = conn.Close()
		}
		readers.Wait()
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		b.ReportMetric(cores, "cores")
		b.ReportMetric(float64(len(took)), "received")
	}
}

// eventTime reads an event and returns its time.
func (r *raw) eventTime() (time.Time, error) {
	head := make([]byte, 4)
	for {
		if _, err := io.ReadFull(r.in, head[:2]); err != nil {
			return time.Time{}, err
		}
		n := int(head[1])
		if n == 126 {
			if _, err := io.ReadFull(r.in, head[2:]); err != nil {
				return time.Time{}, err
			}
			n = int(head[2])<<8 | int(head[3])
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(r.in, payload); err != nil {
			return time.Time{}, err
		}
		if head[0]&0x0f != text {
			continue
		}
		_, rest, found := strings.Cut(string(payload), `"timestamp":"`)
		if !found {
			continue
		}
		stamp, _, _ := strings.Cut(rest, `"`)
		return time.Parse(time.RFC3339, stamp)
	}
}
