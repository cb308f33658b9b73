package pgtest

import (
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy stands between a client and PostgreSQL and injects faults of the network.
type Proxy struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex    // guards the rest
	resume  chan struct{} // closed: bytes pass
	refuse  bool
	open    map[net.Conn]struct{}
	onAfter func() // called once the next bytes from the server have come, instead of passing them on
}

// NewProxy starts one in front of the database of an address; it ends with the test.
func NewProxy(t testing.TB, dsn string) *Proxy {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{target: u.Host, listener: listener, resume: make(chan struct{}), open: make(map[net.Conn]struct{})}
	close(p.resume)
	// Ends when the listener is closed.
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.Resume()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// DSN is the address through the proxy.
func (p *Proxy) DSN(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // the caller's own address
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// Stall makes every connection half open: both ends are up, and nothing passes.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.resume:
		p.resume = make(chan struct{})
	default:
	}
}

// Resume lets bytes pass again.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.resume:
	default:
		close(p.resume)
	}
}

// Cut closes every connection at once, with a reset.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, not an orderly end
		}
		_ = conn.Close()
	}
}

// Refuse closes new connections as they come, or takes them again.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// LoseNextAnswer cuts everything when the server next answers, instead of passing the answer on: the client does not
// learn whether its statement took effect.
func (p *Proxy) LoseNextAnswer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onAfter = p.Cut
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		if refuse {
			client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.open[client], p.open[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		// Both end when either side is closed.
		p.wg.Go(func() { p.pump(server, client, false) })
		p.wg.Go(func() { p.pump(client, server, true) })
	}
}

// pump copies bytes, unless stalled.
func (p *Proxy) pump(to, from net.Conn, fromServer bool) {
	defer func() {
		p.mu.Lock()
		delete(p.open, to)
		delete(p.open, from)
		p.mu.Unlock()
		to.Close()
		from.Close()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			p.mu.Lock()
			resume := p.resume
			var after func()
			if fromServer {
				after, p.onAfter = p.onAfter, nil
			}
			p.mu.Unlock()
			<-resume
			if after != nil {
				after()
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
