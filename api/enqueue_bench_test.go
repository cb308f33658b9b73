package api_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// instantDB stores at once what it is given: what is left to measure is the door.
type instantDB struct{ jobs.DB }

func (instantDB) QueryRow(context.Context, string, ...any) pgx.Row { return storedNow{} }

// storedNow is what an insert answers.
type storedNow struct{}

func (storedNow) Scan(into ...any) error {
	*into[0].(*time.Time), *into[1].(*int) = time.Unix(1_700_000_000, 123_456_000), 3
	return nil
}

// instantDoor is a door as a node has it, in front of an instantDB.
func instantDoor(b *testing.B) *api.Server {
	b.Helper()
	inserter := jobs.NewInserter(instantDB{}, jobs.InserterConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = inserter.Run(ctx) })
	b.Cleanup(func() { cancel(); running.Wait() })
	server, err := api.New(api.Config{
		DB: instantDB{}, Inserter: inserter, Stream: events.NewStream(events.StreamConfig{DB: instantDB{}}),
		Registerer: prometheus.NewRegistry(), BindIsLoopback: true, Log: zerolog.New(io.Discard).Level(zerolog.InfoLevel),
	})
	require.NoError(b, err)
	return server
}

// enqueueBody has a payload of 200 bytes.
var enqueueBody = `{"queue":"bench","payload":{"data":"` + strings.Repeat("x", 189) + `"}}`

// answerSink is what net/http gives a handler, without the connection.
type answerSink struct {
	header http.Header
	status int
}

func (s *answerSink) Header() http.Header              { return s.header }
func (s *answerSink) WriteHeader(status int)           { s.status = status }
func (s *answerSink) Write(p []byte) (int, error)      { return len(p), nil }
func (s *answerSink) SetReadDeadline(time.Time) error  { return nil }
func (s *answerSink) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkEnqueueHandler is the door's part of one POST /jobs.
func BenchmarkEnqueueHandler(b *testing.B) {
	handler := instantDoor(b).Handler()
	head := "POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n\r\n"
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	require.NoError(b, err)
	request.RemoteAddr, request.ContentLength = "127.0.0.1:51234", int64(len(enqueueBody))
	body := strings.NewReader("")
	request.Body = io.NopCloser(body)
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(enqueueBody)
		sink := &answerSink{header: make(http.Header)}
		handler.ServeHTTP(sink, request)
		if sink.status != http.StatusCreated {
			b.Fatal(sink.status)
		}
	}
}

// BenchmarkEnqueueOverHTTP is the same over 64 kept connections, net/http and a plain client included.
func BenchmarkEnqueueOverHTTP(b *testing.B) {
	line, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	server := instantDoor(b).HTTPServer()
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(line) })
	b.Cleanup(func() { _ = server.Close(); running.Wait() })
	var request bytes.Buffer
	request.WriteString("POST /api/v1/jobs HTTP/1.1\r\nHost: " + line.Addr().String() +
		"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(enqueueBody)) + "\r\n\r\n" + enqueueBody)
	b.ReportAllocs()
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", line.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		answers := make([]byte, 4<<10)
		for pb.Next() {
			if _, err := conn.Write(request.Bytes()); err != nil {
				b.Error(err)
				return
			}
			// An answer is one write of the server's.
			if n, err := conn.Read(answers); err != nil || !bytes.HasPrefix(answers[:n], []byte("HTTP/1.1 201 ")) {
				b.Errorf("%s %v", answers[:n], err)
				return
			}
		}
	})
}
