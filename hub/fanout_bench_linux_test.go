package hub_test

import (
	"bytes"
	"encoding/binary"
	"errors"
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
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// The fan-out of the stream at the sizes that it is meant for, clients and database on the same cores: make bench
// BENCH_RUN=Fan. Times are from the event's own (nearly the commit) to the client.

// crowd are clients that read raw frames, all of them in one goroutine that asks the kernel whose turn it is: a library, a
// goroutine and two calls for each would be measured instead of the server.
type crowd struct {
	b       testing.TB
	poll    int               // epoll
	clients map[int32]*client // by descriptor. Owned by read once that runs
	reading sync.WaitGroup    // read
	left    atomic.Bool       // leave was called: read ends within its next wait
	frames  atomic.Int64

	mu   sync.Mutex // guards took
	took []time.Duration
}

// client is one connection and what has come of a frame.
type client struct {
	looks bool
	head  []byte
	body  []byte
	want  int // bytes of the body that have not come
}

func newCrowd(b testing.TB) *crowd {
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	require.NoError(b, err)
	return &crowd{b: b, poll: poll, clients: make(map[int32]*client)}
}

// join adds a client. first is what it says when the socket is open, "" for nothing; every event of one that looks is timed, the
// frames of the others are only read. Nothing is read before watch.
func (c *crowd) join(address, query, protocol, first string, looks bool) {
	var headers []string
	if protocol != "" {
		headers = []string{"Sec-WebSocket-Protocol: " + protocol}
	}
	conn, in := quietSocket(c.b, address, query, 1024, headers...)
	if first != "" {
		_, err := conn.Write(masked(0x80|text, []byte(first)))
		require.NoError(c.b, err)
	}
	tcp, ok := conn.(*net.TCPConn)
	require.True(c.b, ok)
	file, err := tcp.File() // a descriptor of its own, which the runtime does not watch
	require.NoError(c.b, err)
	defer func() { _ = file.Close() }()
	fd, err := syscall.Dup(int(file.Fd()))
	require.NoError(c.b, err)
	require.NoError(c.b, syscall.SetNonblock(fd, true))
	_ = conn.Close()
	member := &client{looks: looks}
	early := make([]byte, in.Buffered())
	_, err = io.ReadFull(in, early)
	require.NoError(c.b, err)
	c.take(member, early)
	c.clients[int32(fd)] = member
	require.NoError(c.b, syscall.EpollCtl(c.poll, syscall.EPOLL_CTL_ADD, fd,
		&syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}))
}

// watch begins to read; leave ends it.
func (c *crowd) watch() { c.reading.Go(c.read) }

func (c *crowd) read() {
	ready := make([]syscall.EpollEvent, 256)
	buffer := make([]byte, 256<<10)
	for !c.left.Load() {
		n, err := syscall.EpollWait(c.poll, ready, 50)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			c.b.Error(err)
			return
		}
		for _, at := range ready[:max(n, 0)] {
			got, err := syscall.Read(int(at.Fd), buffer)
			switch {
			case got > 0:
				c.take(c.clients[at.Fd], buffer[:got])
			case err == nil || !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR): // it has ended
				_ = syscall.EpollCtl(c.poll, syscall.EPOLL_CTL_DEL, int(at.Fd), nil)
			}
		}
	}
}

// take goes through what has come, frame by frame.
func (c *crowd) take(m *client, b []byte) {
	for len(b) > 0 {
		if m.want == 0 {
			m.head, b = append(m.head, b[0]), b[1:]
			n, whole := frameLength(m.head)
			if !whole {
				continue
			}
			m.head, m.want = m.head[:0], n
			if n > 0 {
				continue
			}
		} else {
			n := min(m.want, len(b))
			if m.looks {
				m.body = append(m.body, b[:n]...)
			}
			if m.want, b = m.want-n, b[n:]; m.want > 0 {
				return
			}
		}
		c.frames.Add(1)
		if m.looks {
			c.time(m.body)
			m.body = m.body[:0]
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

// frameLength is the length of the body behind a head, if that is whole.
func frameLength(head []byte) (n int, whole bool) {
	if len(head) < 2 {
		return 0, false
	}
	switch n := int(head[1] & 0x7f); {
	case n < 126:
		return n, true
	case n == 126 && len(head) == 4:
		return int(binary.BigEndian.Uint16(head[2:])), true
	case n == 127 && len(head) == 10:
		return int(binary.BigEndian.Uint64(head[2:])), true
	}
	return 0, false
}

// settle returns when nothing has come for a while.
func (c *crowd) settle() {
	for before := int64(-1); before != c.frames.Load(); {
		before = c.frames.Load()
		<-time.After(200 * time.Millisecond)
	}
}

func (c *crowd) leave() {
	c.left.Store(true)
	c.reading.Wait()
	for fd := range c.clients {
		_ = syscall.Close(int(fd))
	}
	_ = syscall.Close(c.poll)
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
		c := newCrowd(b)
		before := memoryInUse()
		for i := range sockets {
			c.join(strings.TrimPrefix(d.server.URL, "http://"), "", "miniasynq.v1", `{"t":"sub","id":"s","class":"view"}`, i%50 == 0)
		}
		c.watch()
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
		c := newCrowd(b)
		for i := range sockets {
			c.join(strings.TrimPrefix(d.server.URL, "http://"), "queues=q"+strconv.Itoa(i%queues), "", "", true)
		}
		c.watch()
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
		c := newCrowd(b)
		for range 20 {
			c.join(strings.TrimPrefix(d.server.URL, "http://"), "", "", "", true)
		}
		c.watch()
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
			c := newCrowd(b)
			began := time.Now()
			for range sockets {
				c.join(address, query, "", "", false)
			}
			c.watch()
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
