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

	"github.com/mini-asynq/mini-asynq/hub"
)

// BenchmarkIdleSocket tells what an idle socket costs the server: heap and stacks. RELIABILITY.md LT6: 64 KiB at most.
func BenchmarkIdleSocket(b *testing.B) {
	const sockets = 2000
	for b.Loop() {
		d := open(b, func(c *hub.Config) { c.MaxSocketsPerPrincipal = sockets })
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
			conn, err := net.Dial("tcp", address)
			require.NoError(b, err)
			_, err = io.WriteString(conn, "GET /api/v1/ws?queues=nothing HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			require.NoError(b, err)
			response, err := http.ReadResponse(bufio.NewReaderSize(conn, 256), nil)
			require.NoError(b, err)
			require.Equal(b, http.StatusSwitchingProtocols, response.StatusCode)
			_ = response.Body.Close()
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
