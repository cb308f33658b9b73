package hub_test

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/jobs"
)

var codes = []hub.CloseCode{
	hub.CloseNormal, hub.CloseGoingAway, hub.CloseProtocol, hub.CloseBinary, hub.CloseBroken, hub.CloseBadText,
	hub.CloseTooBig, hub.CloseInternal, hub.CloseBadFrame, hub.CloseUnauthorized, hub.CloseForbidden, hub.CloseSilent,
	hub.CloseIDInUse, hub.CloseExpired, hub.CloseEpoch, hub.CloseFlood, hub.CloseSlow,
}

func TestCloseFramesFitAndHaveAdvice(t *testing.T) {
	t.Parallel()
	for _, code := range codes {
		require.NotEmpty(t, code.Advice())
		frame := hub.Goodbye(code)
		if code == hub.CloseBroken {
			require.Nil(t, frame)
			continue
		}
		require.LessOrEqual(t, len(frame), 2+125, "a control frame")
		if code == hub.CloseNormal {
			continue
		}
		require.EqualValues(t, code, binary.BigEndian.Uint16(frame[2:]))
		require.True(t, json.Valid(frame[4:]), string(frame[4:]))
	}
	require.Equal(t, hub.AdviceBackoff, hub.CloseCode(4999).Advice())
	require.Equal(t, hub.AdviceResume, hub.CloseSlow.Advice())
}

func event(seq int64, bytes int) *events.Event {
	return &events.Event{
		Position: events.Position{Epoch: 3, Seq: seq}, Type: "job.enqueued", Status: jobs.Pending, JobID: uuid.Nil,
		Queue: "q" + strings.Repeat("x", bytes), At: time.Unix(1, 0),
	}
}

// TestCutWriteGoesOnAtTheFrame: wherever a write stops, what is out and the rest of its frame are whole frames.
func TestCutWriteGoesOnAtTheFrame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var batch []*events.Event
		for i := range rapid.IntRange(1, 6).Draw(t, "events") {
			batch = append(batch, event(int64(i+1), rapid.SampledFrom([]int{0, 1, 100, 300, 66_000}).Draw(t, "bytes")))
		}
		all, _, _ := hub.CutOutbox(batch, 0)
		n := rapid.IntRange(0, len(all)).Draw(t, "out")
		_, whole, rest := hub.CutOutbox(batch, n)
		sent := slices.Concat(all[:n], rest)
		if len(rest) > 0 {
			whole++
		}
		for i := range whole {
			payload, more := firstFrame(t, sent)
			require.Equal(t, batch[i].JSON(), payload)
			sent = more
		}
		require.Empty(t, sent)
	})
}

func firstFrame(t require.TestingT, b []byte) (payload, rest []byte) {
	require.EqualValues(t, 0x81, b[0])
	n, at := int(b[1]), 2
	switch n {
	case 126:
		n, at = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		n, at = int(binary.BigEndian.Uint64(b[2:])), 10
	}
	return b[at : at+n], b[at+n:]
}

// BenchmarkSend compares ways to send a batch of 16 events over a loopback connection: the library's prepared messages,
// one write each, and frames put together for one write. The figures stand beside outbox.
func BenchmarkSend(b *testing.B) {
	const batch = 16
	all := make([]*events.Event, batch)
	for i := range all {
		all[i] = event(int64(i+1), 200)
		all[i].JSON()
	}
	pair := func(b *testing.B) *websocket.Conn {
		conns := make(chan *websocket.Conn, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
			if err != nil {
				b.Error(err)
			}
			conns <- conn
		}))
		b.Cleanup(server.Close)
		client, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
		require.NoError(b, err)
		go func() { _, _ = io.Copy(io.Discard, client.NetConn()) }() // ends with the connection
		conn := <-conns
		b.Cleanup(func() {
			_ = conn.Close()
			_ = client.Close()
		})
		return conn
	}
	b.Run("prepared", func(b *testing.B) {
		conn := pair(b)
		prepared := make([]*websocket.PreparedMessage, batch)
		for i, e := range all {
			var err error
			prepared[i], err = websocket.NewPreparedMessage(websocket.TextMessage, e.JSON())
			require.NoError(b, err)
		}
		for b.Loop() {
			for _, m := range prepared {
				_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
				if err := conn.WritePreparedMessage(m); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/event")
	})
	b.Run("together", func(b *testing.B) {
		conn := pair(b).NetConn()
		var out []byte
		for b.Loop() {
			out = out[:0]
			for _, e := range all {
				out = hub.AppendFrame(out, websocket.TextMessage, e.JSON())
			}
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write(out); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/event")
	})
	b.Run("prepared single", func(b *testing.B) {
		conn := pair(b)
		m, err := websocket.NewPreparedMessage(websocket.TextMessage, all[0].JSON())
		require.NoError(b, err)
		for b.Loop() {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			if err := conn.WritePreparedMessage(m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("own single", func(b *testing.B) {
		conn := pair(b).NetConn()
		var out []byte
		for b.Loop() {
			out = hub.AppendFrame(out[:0], websocket.TextMessage, all[0].JSON())
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write(out); err != nil {
				b.Fatal(err)
			}
		}
	})
}
