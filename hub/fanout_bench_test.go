package hub_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// The fan-out of the stream at the sizes that it is meant for, clients and database on the same cores: make bench
// BENCH_RUN=Fan. Times are from the event's own (nearly the commit) to the client.

// crowd are clients that read raw frames: a library for each would be measured instead of the server.
type crowd struct {
	b       testing.TB
	conns   []net.Conn
	reading sync.WaitGroup
	frames  atomic.Int64
	bytes   atomic.Int64

	mu   sync.Mutex // guards took
	took []time.Duration
}

// join adds a client. first is what it says when the socket is open, "" for nothing; every event of one that looks is timed, the
// frames of the others are only read.
func (c *crowd) join(address, query, protocol, first string, looks bool) {
	var headers []string
	if protocol != "" {
		headers = []string{"Sec-WebSocket-Protocol: " + protocol}
	}
	conn, in := quietSocket(c.b, address, query, 16<<10, headers...)
	if first != "" {
		_, err := conn.Write(masked(0x80|text, []byte(first)))
		require.NoError(c.b, err)
	}
	c.conns = append(c.conns, conn)
	c.reading.Go(func() { c.read(in, looks) }) // ends with the connection
}

func (c *crowd) read(in *bufio.Reader, looks bool) {
	var body bytes.Buffer
	for {
		n, err := frameLength(in)
		if err != nil {
			return
		}
		if !looks {
			_, err = in.Discard(n)
		} else {
			body.Reset()
			_, err = io.CopyN(&body, in, int64(n))
		}
		if err != nil {
			return
		}
		c.frames.Add(1)
		c.bytes.Add(int64(n))
		if looks {
			c.time(body.Bytes())
		}
	}
}

// time notes how old the events of a frame are.
func (c *crowd) time(frame []byte) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		_, rest, found := bytes.Cut(frame, []byte(`"timestamp":"`))
		if !found {
			return
		}
		if at, err := time.Parse(time.RFC3339, string(rest[:bytes.IndexByte(rest, '"')])); err == nil {
			c.took = append(c.took, now.Sub(at))
		}
		frame = rest
	}
}

func frameLength(in *bufio.Reader) (int, error) {
	var head [10]byte
	if _, err := io.ReadFull(in, head[:2]); err != nil {
		return 0, err
	}
	switch n := int(head[1] & 0x7f); n {
	case 126:
		_, err := io.ReadFull(in, head[2:4])
		return int(binary.BigEndian.Uint16(head[2:])), err
	case 127:
		_, err := io.ReadFull(in, head[2:10])
		return int(binary.BigEndian.Uint64(head[2:])), err
	default:
		return n, nil
	}
}

// settle returns when nothing has come for a while.
func (c *crowd) settle() {
	for before := int64(-1); before != c.frames.Load(); {
		before = c.frames.Load()
		<-time.After(200 * time.Millisecond)
	}
}

func (c *crowd) leave() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.reading.Wait()
}

func (c *crowd) report(b *testing.B) {
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NotEmpty(b, c.took)
	slices.Sort(c.took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(c.took[len(c.took)/2]), "p50-ms")
	b.ReportMetric(ms(c.took[len(c.took)*99/100]), "p99-ms")
	b.ReportMetric(ms(c.took[len(c.took)-1]), "worst-ms")
	b.ReportMetric(float64(c.frames.Load()), "frames")
}

// load enqueues so many jobs a second for a while, over queues in turn.
func (d *door) load(b *testing.B, perSecond, queues int, during time.Duration) {
	batch := max(1, perSecond/100)
	every := time.NewTicker(time.Second * time.Duration(batch) / time.Duration(perSecond))
	defer every.Stop()
	n := 0
	for end := time.Now().Add(during); time.Now().Before(end); {
		<-every.C
		params := make([]jobs.Params, batch)
		for i := range params {
			params[i] = jobs.Params{Queue: "q" + strconv.Itoa(n%queues)}
			n++
		}
		_, err := jobs.Enqueue(b.Context(), d.pool, params...)
		require.NoError(b, err)
	}
}

func memoryInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkFanOutViews: 5,000 dashboards on the whole stream at 200 events/s. p99 250 ms at most, of which 100 are for putting
// together what comes close together; 64 KiB a socket at most, both ends.
func BenchmarkFanOutViews(b *testing.B) {
	const sockets = 5000
	for b.Loop() {
		d := open(b)
		c := &crowd{b: b}
		before := memoryInUse()
		for i := range sockets {
			c.join(strings.TrimPrefix(d.server.URL, "http://"), "", "miniasynq.v1", `{"t":"sub","id":"s","class":"view"}`, i%50 == 0)
		}
		d.load(b, 200, 10, 8*time.Second)
		c.settle()
		b.ReportMetric(float64(memoryInUse()-before)/sockets/1024, "KiB/socket")
		d.stop()
		c.leave()
		c.report(b)
	}
}

// BenchmarkFanOutFiltered: 5,000 plain sockets of which each wants one event in a hundred, at 500 events/s. p99 150 ms at most.
func BenchmarkFanOutFiltered(b *testing.B) {
	const sockets, queues = 5000, 100
	for b.Loop() {
		d := open(b)
		c := &crowd{b: b}
		for i := range sockets {
			c.join(strings.TrimPrefix(d.server.URL, "http://"), "queues=q"+strconv.Itoa(i%queues), "", "", true)
		}
		d.load(b, 500, queues, 8*time.Second)
		d.stop()
		c.leave()
		c.report(b)
	}
}

// BenchmarkFanOutConsumers: 20 lossless readers at 5,000 events/s each; none more than 2 s behind.
func BenchmarkFanOutConsumers(b *testing.B) {
	for b.Loop() {
		d := open(b)
		c := &crowd{b: b}
		for range 20 {
			c.join(strings.TrimPrefix(d.server.URL, "http://"), "", "", "", true)
		}
		d.load(b, 5000, 10, 8*time.Second)
		d.stop()
		c.leave()
		c.report(b)
	}
}

// BenchmarkFanOutRate compares the rate at which 20 sockets get a history with a plain loop of the library that broadcasts the
// same frames: 0.8 of its rate at least.
func BenchmarkFanOutRate(b *testing.B) {
	const sockets, events = 20, 50_000
	for b.Loop() {
		d := open(b)
		for range events / 1000 {
			d.enqueue(1000, "q")
		}
		d.mark("end")
		frames := make([][]byte, 0, events)
		probe := d.dial("unlimited", "after=earliest")
		for {
			_, raw, err := probe.ReadMessage()
			require.NoError(b, err)
			if frames = append(frames, raw); bytes.Contains(raw, []byte(`"queue":"end"`)) {
				break
			}
		}
		_ = probe.Close()

		deliver := func(address, query string) float64 {
			c := &crowd{b: b}
			began := time.Now()
			for range sockets {
				c.join(address, query, "", "", false)
			}
			for c.frames.Load() < int64(sockets*len(frames)) && time.Since(began) < time.Minute {
				<-time.After(time.Millisecond)
			}
			rate := float64(c.frames.Load()) / time.Since(began).Seconds()
			c.leave()
			require.GreaterOrEqual(b, c.frames.Load(), int64(sockets*len(frames)), "all got everything")
			return rate
		}
		plain := httptest.NewServer(broadcast(b, sockets, frames))
		base := deliver(strings.TrimPrefix(plain.URL, "http://"), "")
		plain.Close()
		ours := deliver(strings.TrimPrefix(d.server.URL, "http://"), "after=earliest")
		d.stop()
		b.ReportMetric(ours, "events/s")
		b.ReportMetric(base, "plain-events/s")
		b.ReportMetric(ours/base, "ratio")
	}
}

// broadcast is the loop that the library's examples have: one goroutine writes each frame to each socket.
func broadcast(b *testing.B, sockets int, frames [][]byte) http.Handler {
	var mu sync.Mutex // guards conns
	var conns []*websocket.Conn
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			b.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if conns = append(conns, conn); len(conns) < sockets {
			return
		}
		for _, frame := range frames {
			prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, frame)
			if err != nil {
				b.Error(err)
			}
			for _, conn := range conns {
				if err := conn.WritePreparedMessage(prepared); err != nil {
					b.Error(err)
				}
			}
		}
	})
}
