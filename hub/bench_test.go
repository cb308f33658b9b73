package hub_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
			conn, _ := quietSocket(b, address, "queues=nothing", 1024)
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
func quietSocket(b testing.TB, address, query string, buffer int, headers ...string) (net.Conn, *bufio.Reader) {
	conn, err := net.Dial("tcp", address)
	require.NoError(b, err)
	_, err = io.WriteString(conn, "GET /api/v1/ws?"+query+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+strings.Join(append(headers, "\r\n"), "\r\n"))
	require.NoError(b, err)
	in := bufio.NewReaderSize(conn, buffer)
	response, err := http.ReadResponse(in, nil)
	require.NoError(b, err)
	require.Equal(b, http.StatusSwitchingProtocols, response.StatusCode)
	_ = response.Body.Close()
	return conn, in
}
