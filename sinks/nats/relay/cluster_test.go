package relay_test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// nodes of a cluster: one may go.
const nodes = 3

// natsCluster is JetStream on three servers in this process.
type natsCluster struct {
	t       *testing.T
	options [nodes]natsserver.Options
	servers [nodes]*natsserver.Server
	conn    *nats.Conn // of the test
}

func newCluster(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t}
	dir := t.TempDir()
	ports := freePorts(t, 2*nodes)
	routes := ""
	for _, port := range ports[nodes:] {
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", port)
	}
	for i := range nodes {
		c.options[i] = natsserver.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: ports[i], NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: filepath.Join(dir, fmt.Sprint(i)), JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 64 << 20,
			Cluster: natsserver.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[nodes+i]},
			Routes:  natsserver.RoutesFromStr(routes[1:]),
		}
	}
	t.Cleanup(func() {
		for i := range nodes {
			c.stop(i)
		}
	})
	for i := range nodes {
		c.start(i)
	}
	var err error
	c.conn, err = nats.Connect(c.url(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	require.NoError(t, err)
	t.Cleanup(c.conn.Close)
	pgtest.EventuallyNoError(t, 30*time.Second, "the cluster has a leader", func() error {
		_, err := c.jetstream().AccountInfo(t.Context())
		return err
	})
	return c
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }() // all at once, so that no port comes twice
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports
}

func (c *natsCluster) start(i int) {
	c.t.Helper()
	options := c.options[i]
	server, err := natsserver.NewServer(&options)
	require.NoError(c.t, err)
	server.Start()
	c.servers[i] = server
	require.True(c.t, server.ReadyForConnections(20*time.Second))
}

func (c *natsCluster) stop(i int) {
	if c.servers[i] != nil {
		c.servers[i].Shutdown()
		c.servers[i].WaitForShutdown()
		c.servers[i] = nil
	}
}

func (c *natsCluster) url() string {
	all := ""
	for _, o := range c.options {
		all += fmt.Sprintf(",nats://127.0.0.1:%d", o.Port)
	}
	return all[1:]
}

func (c *natsCluster) jetstream() jetstream.JetStream {
	js, err := jetstream.New(c.conn)
	require.NoError(c.t, err)
	return js
}

// make makes the stream before a relay would.
func (c *natsCluster) make(config jetstream.StreamConfig) {
	c.t.Helper()
	config.Name, config.Subjects = "MINIASYNQ", []string{"miniasynq.>"}
	pgtest.EventuallyNoError(c.t, 30*time.Second, "the stream is made", func() error {
		_, err := c.jetstream().CreateOrUpdateStream(c.t.Context(), config)
		return err
	})
}

// leader is the server that leads the stream.
func (c *natsCluster) leader() int {
	c.t.Helper()
	found := -1
	pgtest.Eventually(c.t, 30*time.Second, "the stream has a leader", func() bool {
		stream, err := c.jetstream().Stream(c.t.Context(), "MINIASYNQ")
		if err != nil {
			return false
		}
		for i, o := range c.options {
			if info := stream.CachedInfo().Cluster; info != nil && info.Leader == o.ServerName {
				found = i
			}
		}
		return found >= 0
	})
	return found
}

// last is the sequence of the last message of the stream; 0 while nobody says.
func (c *natsCluster) last() uint64 {
	stream, err := c.jetstream().Stream(c.t.Context(), "MINIASYNQ")
	if err != nil {
		return 0
	}
	return stream.CachedInfo().State.LastSeq
}

// message is what a consumer gets.
type message struct {
	subject, id, body string
	sequence          uint64
}

// messages reads the whole stream, as any consumer would.
func (c *natsCluster) messages() []message {
	c.t.Helper()
	var stream jetstream.Stream
	var consumer jetstream.Consumer
	pgtest.EventuallyNoError(c.t, 30*time.Second, "the stream can be read", func() (err error) {
		if stream, err = c.jetstream().Stream(c.t.Context(), "MINIASYNQ"); err == nil {
			consumer, err = stream.OrderedConsumer(c.t.Context(), jetstream.OrderedConsumerConfig{})
		}
		return err
	})
	all := make([]message, stream.CachedInfo().State.Msgs)
	if len(all) == 0 {
		return nil
	}
	iterator, err := consumer.Messages() // it comes back by itself when a server is not ready yet
	require.NoError(c.t, err)
	defer iterator.Stop()
	for i := range all {
		m, err := iterator.Next(jetstream.NextMaxWait(30 * time.Second))
		require.NoError(c.t, err)
		meta, err := m.Metadata()
		require.NoError(c.t, err)
		all[i] = message{m.Subject(), m.Headers().Get(nats.MsgIdHdr), string(m.Data()), meta.Sequence.Stream}
	}
	return all
}
