package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/sinks/nats/relay"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// requireEqualStreams: JetStream holds the server's stream, event by event, byte by byte, and nothing else.
func requireEqualStreams(t *testing.T, s *server, c *natsCluster) {
	t.Helper()
	lines, all := s.log(), c.messages()
	require.Len(t, all, len(lines))
	for i, m := range all {
		var e struct{ Cursor, Type string }
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &e))
		require.Equal(t, message{"miniasynq." + e.Type, e.Cursor, lines[i], uint64(i + 1)}, m)
	}
}

// settled waits until nothing more happens at the server and all of it is in JetStream.
func settled(t *testing.T, s *server, c *natsCluster) {
	t.Helper()
	s.finished()
	events := uint64(len(s.log()))
	pgtest.Eventually(t, 60*time.Second, "JetStream has every event", func() bool { return c.last() >= events })
}

// TestJetStreamHoldsTheStreamExactlyOnce: while jobs run the relay is killed, the leader of the stream stops, the server
// restarts, and for a while two relays run at once. In the end JetStream holds what the server's log holds.
func TestJetStreamHoldsTheStreamExactlyOnce(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	// It forgets ids as soon as it may, so that they hide no double.
	c.make(jetstream.StreamConfig{Replicas: nodes, Duplicates: 100 * time.Millisecond})
	p := build(t, s, c)
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	load, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{}) // closed by the goroutine below, which ends with load
	go func() {
		defer close(done)
		pace := time.NewTicker(100 * time.Millisecond)
		defer pace.Stop()
		for load.Err() == nil {
			_ = s.enqueue(10) // the server may be away
			<-pace.C
		}
	}()
	moves := func(by uint64) {
		t.Helper()
		from := c.last()
		pgtest.Eventually(t, 60*time.Second, "events arrive in JetStream", func() bool { return c.last() >= from+by })
	}
	kill := p.start()
	moves(1)
	faults := []func(){
		func() {
			require.NoError(t, kill(), p.log.String())
			kill = p.start()
		},
		func() {
			leader := c.leader()
			c.stop(leader)
			moves(50)
			c.start(leader)
		},
		func() {
			s.stop()
			s.start()
		},
		func() {
			second := p.start()
			moves(200)
			require.NoError(t, second(), p.log.String())
		},
	}
	for round := range 6 {
		which := random.IntN(len(faults))
		if round < len(faults) {
			which = round // each once
		}
		moves(uint64(1 + random.IntN(300)))
		faults[which]()
	}
	cancel()
	<-done
	settled(t, s, c)
	require.NoError(t, kill(), p.log.String())
	requireEqualStreams(t, s, c)
}

// local starts a relay in this process; stop ends it and returns what Run returned.
func local(t *testing.T, s *server, c *natsCluster, change func(*relay.Config)) (stop func() error, ended <-chan error) {
	t.Helper()
	conn, err := nats.Connect(c.url(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	require.NoError(t, err)
	config := relay.Config{
		Server: s.url(), NATS: conn, Replicas: nodes, AckWait: 2 * time.Second, Registerer: prometheus.NewRegistry(), Log: zerolog.Nop(),
	}
	if change != nil {
		change(&config)
	}
	r, err := relay.New(config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1) // what Run returned
	go func() { done <- r.Run(ctx) }()
	stop = func() error {
		cancel()
		defer conn.Close()
		return pgtest.Receive(t, done, 30*time.Second, "the relay ends")
	}
	t.Cleanup(func() { cancel(); conn.Close() })
	return stop, done
}

// TestNothingIsStoredBehindARefusedEvent: while JetStream refuses an event, none after it is stored, although they were
// on their way. Once it is taken, the others follow it.
func TestNothingIsStoredBehindARefusedEvent(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	config := jetstream.StreamConfig{Replicas: nodes, MaxMsgSize: 1500}
	c.make(config)
	registry := prometheus.NewRegistry()
	require.NoError(t, s.enqueue(5))
	tags := make([]string, 20)
	for i := range tags {
		tags[i] = fmt.Sprintf("%064d", i)
	}
	_, err := s.call(http.MethodPost, "/jobs", `{"queue":"mail","tags":["`+strings.Join(tags, `","`)+`"]}`, "")
	require.NoError(t, err)
	require.NoError(t, s.enqueue(50))
	s.finished()
	stop, _ := local(t, s, c, func(config *relay.Config) { config.Registerer = registry })
	pgtest.Eventually(t, 30*time.Second, "the event was tried again", func() bool {
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, family := range families {
			if family.GetName() == "miniasynq_relay_sessions_failed_total" {
				return family.GetMetric()[0].GetCounter().GetValue() >= 3
			}
		}
		return false
	})
	require.Less(t, int(c.last()), len(s.log()))
	for i, m := range c.messages() {
		require.Less(t, len(m.body), 1500)
		require.Contains(t, s.log()[i], `{"cursor":"`+m.id+`"`)
	}
	config.MaxMsgSize = -1
	c.make(config)
	settled(t, s, c)
	require.NoError(t, stop())
	requireEqualStreams(t, s, c)
}

// forget takes all history of the server away, and lets it notice.
func (s *server) forget() {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.dsn)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, conn.Close(s.t.Context())) }()
	// Not so old that the server itself would retire them, at a time of its own.
	_, err = conn.Exec(s.t.Context(), `UPDATE mini_asynq.ticks SET at = at - interval '2 days'`)
	require.NoError(s.t, err)
	require.NoError(s.t, events.Retire(s.t.Context(), conn, events.Keep{Age: 24 * time.Hour}))
}

// TestLostHistoryIsSaid: a relay that was away for longer than the server keeps events ends with the cursor and the floor,
// and so does one whose server was restored; unless it is told to go on, which it does from the oldest event.
func TestLostHistoryIsSaid(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	require.NoError(t, s.enqueue(10))
	stop, _ := local(t, s, c, nil)
	settled(t, s, c)
	require.NoError(t, stop())
	had := c.last()
	require.Positive(t, had)

	for name, lose := range map[string]func(){
		"retention": s.forget,
		"restore": func() {
			conn, err := pgx.Connect(t.Context(), s.dsn)
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), `UPDATE mini_asynq.epochs SET identity = 'another'`)
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
		},
	} {
		require.NoError(t, s.enqueue(10))
		s.finished()
		s.stop()
		lose()
		s.start()
		require.NoError(t, s.enqueue(1))

		_, ended := local(t, s, c, nil)
		err := pgtest.Receive(t, ended, 30*time.Second, "the relay stops")
		var floor relay.Cursor
		if name == "retention" {
			var expired *relay.ExpiredError
			require.ErrorAs(t, err, &expired)
			require.Greater(t, expired.Floor.Seq, expired.At.Seq)
			floor = expired.Floor
		} else {
			var epoch *relay.EpochError
			require.ErrorAs(t, err, &epoch)
			require.Greater(t, epoch.Floor.Epoch, epoch.At.Epoch)
			floor = epoch.Floor
		}
		require.Equal(t, had, c.last(), "nothing was published")

		stop, _ := local(t, s, c, func(config *relay.Config) { config.OnLost = relay.GoOn })
		pgtest.Eventually(t, 30*time.Second, "it goes on", func() bool { return c.last() > had })
		require.NoError(t, stop())
		first, err := relay.ParseCursor(c.messages()[had].id)
		require.NoError(t, err)
		require.Equal(t, relay.Cursor{Epoch: floor.Epoch, Seq: floor.Seq + 1}, first)
		had = c.last()
	}
}

// TestFilteredEventsMoveTheCursor: with a filter only what it lets through is copied, and a relay that comes back does not
// need what was held back.
func TestFilteredEventsMoveTheCursor(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	dead := func(config *relay.Config) { config.Types = []string{"job.completed"} }
	stop, _ := local(t, s, c, dead)
	require.NoError(t, s.enqueue(30))
	pgtest.Eventually(t, 30*time.Second, "the filtered events are there", func() bool { return c.last() == 30 })
	require.NoError(t, stop())
	for _, m := range c.messages() {
		require.Equal(t, "miniasynq.job.completed", m.subject)
	}
	// The stream is emptied, as by consumers: the cursor is in the bucket.
	stream, err := c.jetstream().Stream(t.Context(), "MINIASYNQ")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()))
	stop, _ = local(t, s, c, dead)
	require.NoError(t, s.enqueue(5))
	pgtest.Eventually(t, 30*time.Second, "the next ones are there", func() bool { return c.last() == 35 })
	require.NoError(t, stop())
	require.Len(t, c.messages(), 5)
}

func TestAStreamOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	stop, _ := local(t, s, c, nil)
	require.NoError(t, s.enqueue(1))
	settled(t, s, c)
	require.NoError(t, stop())
	_, err := c.jetstream().Publish(t.Context(), "miniasynq.mine", []byte("hello"))
	require.NoError(t, err)
	_, ended := local(t, s, c, nil)
	err = pgtest.Receive(t, ended, 30*time.Second, "the relay stops")
	require.ErrorContains(t, err, "a stream of its own")
}

func TestBadSettingsAreRefusedAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := relay.New(relay.Config{
		Server: "here", From: "yesterday", OnLost: "maybe", Prefix: "a..b", Stream: "x.y", Bucket: "*", Replicas: 9, Window: -1,
		AckWait: time.Millisecond, MaxAge: -1,
	})
	for _, says := range []string{
		"server", "connection", "from", "on-lost", "prefix", "stream", "bucket", "replicas", "window", "ack-wait", "max-age",
	} {
		require.ErrorContains(t, err, says)
	}
}

func TestCursorsReadBackEqual(t *testing.T) {
	t.Parallel()
	c, err := relay.ParseCursor("3-918273")
	require.NoError(t, err)
	require.Equal(t, relay.Cursor{Epoch: 3, Seq: 918273}, c)
	require.Equal(t, "3-918273", c.String())
	for _, bad := range []string{"", "3", "-", "3-", "-3-1", "3--1", "03-1", "3-1-1", "a-b", "0-1"} {
		_, err := relay.ParseCursor(bad)
		require.Error(t, err, bad)
	}
}
