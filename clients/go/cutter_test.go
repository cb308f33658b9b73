package miniasynq_test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// cutter stands between a client and some nodes: each connection goes to one of them, as the dice say, and is cut after so
// many bytes from there, in the middle of whatever it is, until cuts of them were made.
type cutter struct {
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex // guards all below
	rng   *rand.Rand
	nodes []string // none: connections are refused
	most  int64    // bytes before a cut
	cuts  int      // still to make
	links map[net.Conn]struct{}
	over  chan struct{} // closed with the last cut
}

func newCutter(t *testing.T, rng *rand.Rand, cuts int, most int64, nodes ...string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{
		listener: listener, rng: rng, nodes: nodes, most: most, cuts: cuts, links: make(map[net.Conn]struct{}), over: make(chan struct{}),
	}
	if cuts == 0 {
		close(c.over)
	}
	// Ends with the listener; the cleanup waits for it and for its connections.
	c.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.running.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.lead()
		c.running.Wait()
	})
	return c
}

func (c *cutter) url() string { return "http://" + c.listener.Addr().String() }

// lead sends new connections to these nodes, and cuts those that there are.
func (c *cutter) lead(nodes ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = nodes
	for conn := range c.links {
		_ = conn.Close()
	}
}

// throw decides about a connection: its node, and its last byte; -1: it is not cut.
func (c *cutter) throw(conn net.Conn) (node string, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nodes) == 0 {
		return "", 0
	}
	c.links[conn] = struct{}{}
	node, bytes = c.nodes[c.rng.IntN(len(c.nodes))], -1
	if c.cuts > 0 {
		bytes = c.rng.Int64N(c.most)
	}
	return node, bytes
}

func (c *cutter) serve(client net.Conn) {
	defer func() {
		_ = client.Close()
		c.mu.Lock()
		delete(c.links, client)
		c.mu.Unlock()
	}()
	address, bytes := c.throw(client)
	if address == "" {
		return
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	// Ends when one side closes.
	c.running.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	defer func() { _ = server.Close() }()
	if bytes < 0 {
		_, _ = io.Copy(client, server)
		return
	}
	if _, err := io.CopyN(client, server, bytes); err != nil {
		return // the client was quicker, or the server
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts--; c.cuts == 0 {
		close(c.over)
	}
}
