package pgtest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy stands between clients and PostgreSQL and puts in the faults of a network. It reads the messages of the
// protocol, so a fault can hit between two of them. Its methods may be called concurrently, also by hooks.
//
// A connection that turns to TLS is passed on as bytes: it stalls and is cut, and no hook sees it.
type Proxy struct {
	network, target string
	port            *reservation
	wg              sync.WaitGroup // of all goroutines

	mu       sync.Mutex    // guards the rest; nothing blocks under it
	listener net.Listener  // nil: new connections are refused
	closed   bool          // the test is over
	resume   chan struct{} // closed by Resume: messages pass
	links    map[*link]struct{}
	hooks    [2]func(kind byte, payload []byte) Action
	budget   [2]int // bytes until the cut, by direction; -1: no cut
	lose     bool   // the next message of the server
}

// Direction is that of a message.
type Direction int

const (
	// FromClient is towards PostgreSQL.
	FromClient Direction = iota
	// FromServer is towards the client.
	FromServer
)

// Action is what a hook wants done at a message, to its connection only.
type Action int

const (
	// Forward passes the message on.
	Forward Action = iota
	// Drop passes everything on but this message.
	Drop
	// CutBefore resets the connection on both sides instead of passing the message on.
	CutBefore
	// CutAfter passes the message on and cuts: its receiver gets it with the end of the connection, its sender a reset.
	// After a COMMIT nobody knows what happens: the server may see the end of the connection first.
	CutAfter
	// LoseAnswer, of a client's message, passes it on, swallows all that the server answers, and resets the client when
	// the server is done (ReadyForQuery). After a COMMIT the transaction is committed for certain and the client does not
	// know. Of a server's message it is CutBefore.
	LoseAnswer
	// Hold passes nothing on any more, this message included, and leaves the connection open on both sides.
	Hold
)

// NewProxy starts one in front of the server of an address, a URL or host:port. It ends with the test.
func NewProxy(t testing.TB, address string) *Proxy {
	t.Helper()
	p := &Proxy{network: "tcp", target: address, resume: make(chan struct{}), links: make(map[*link]struct{}), budget: [2]int{-1, -1}}
	if strings.Contains(address, "://") {
		u, err := url.Parse(address)
		require.NoError(t, err)
		p.target = u.Host
		if socket := u.Query().Get("host"); strings.HasPrefix(socket, "/") {
			port := u.Query().Get("port")
			if port == "" {
				port = "5432"
			}
			p.network, p.target = "unix", socket+"/.s.PGSQL."+port
		}
	}
	close(p.resume)
	port, err := reservePort()
	require.NoError(t, err)
	p.port = port
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Refuse(true)
		p.Cut()
		p.wg.Wait()
		port.close()
	})
	require.NoError(t, p.listen())
	return p
}

// Addr is host and port of the proxy, the same for its whole life.
func (p *Proxy) Addr() string { return p.port.addr() }

// DSN is an address with the proxy in place of its server.
func (p *Proxy) DSN(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // the caller's own address
	}
	u.Host = p.Addr()
	query := u.Query()
	query.Del("host")
	query.Del("port")
	u.RawQuery = query.Encode()
	return u.String()
}

// Stall makes every connection half open, new ones too: both ends are up, and nothing passes. A message that is being
// passed on at the time still arrives.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.resume:
		p.resume = make(chan struct{})
	default:
	}
}

// Resume ends Stall: what was held back arrives, in order.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.resume:
	default:
		close(p.resume)
	}
}

// Cut resets every connection on both sides. New ones are taken.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Refuse refuses new connections, as a server does that is down, or takes them again. Those that are there stay.
func (p *Proxy) Refuse(refuse bool) {
	if !refuse {
		if err := p.listen(); err != nil {
			panic(fmt.Sprintf("pgtest: proxy: listen again: %v", err)) // the port is reserved
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// LoseNextAnswer cuts every connection when the server next says something, on whichever, instead of passing it on: the
// client does not learn whether its statement took effect. For one certain statement take OnClientMessage and
// LoseAnswer.
func (p *Proxy) LoseNextAnswer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = true
}

// CutAfterBytes cuts the connection that carries the nth byte from now on in this direction, once: its receiver gets the
// n bytes, perhaps half a message, and then the end; its sender gets a reset.
func (p *Proxy) CutAfterBytes(direction Direction, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget[direction] = n
}

// OnClientMessage asks the hook before each message of a client; nil takes it away. The hook is called by one goroutine
// per connection. The kind is that of the protocol ('Q' query, 'P' parse, 'E' execute, 'X' terminate ...), 0 for the
// message that starts a connection. The payload is valid during the call.
func (p *Proxy) OnClientMessage(hook func(kind byte, payload []byte) Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks[FromClient] = hook
}

// OnServerMessage is OnClientMessage for the other direction ('C' command complete, 'Z' ready for query, 'A'
// notification ...).
func (p *Proxy) OnServerMessage(hook func(kind byte, payload []byte) Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks[FromServer] = hook
}

// Connections is how many are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// IsCommit tells whether a client's message commits: a simple query COMMIT or END, as pgx sends it, or the parsing of
// one. A prepared COMMIT that is executed again carries no text and is not seen.
func IsCommit(kind byte, payload []byte) bool {
	var sql string
	switch kind {
	case 'Q':
		sql, _, _ = strings.Cut(string(payload), "\x00")
	case 'P': // name of the statement, its text
		_, rest, _ := strings.Cut(string(payload), "\x00")
		sql, _, _ = strings.Cut(rest, "\x00")
	default:
		return false
	}
	word, _, _ := strings.Cut(strings.TrimSpace(sql), " ")
	word = strings.TrimRight(word, "; \t\n")
	return strings.EqualFold(word, "COMMIT") || strings.EqualFold(word, "END")
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.closed {
		return nil
	}
	listener, err := net.Listen("tcp", p.Addr())
	if err != nil {
		return err
	}
	p.listener = listener
	// Ends when Refuse closes the listener, at the latest with the test, which waits.
	p.wg.Go(func() { p.accept(listener) })
	return nil
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		l := &link{proxy: p, client: client, done: make(chan struct{}), held: make(chan struct{}), expected: 1}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			reset(client)
			return
		}
		p.links[l] = struct{}{}
		p.mu.Unlock()
		// Ends with the connection.
		p.wg.Go(l.run)
	}
}

// link is one connection with its two sockets.
type link struct {
	proxy  *Proxy
	client net.Conn

	mu       sync.Mutex // guards the rest; taken after Proxy.mu; nothing blocks under it
	server   net.Conn   // nil until dialled
	over     bool       // done is closed
	done     chan struct{}
	held     chan struct{} // closed by Hold
	isHeld   bool
	draining [2]bool // what comes in this direction is read and dropped
	// Answers of the server that end with ReadyForQuery: how many have come, how many will have been asked for. The first
	// is that to the start of the connection.
	ready, expected int
	losing          int // which of them to swallow; 0: none
}

// reset closes so that the peer gets an error and not an orderly end.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// cut resets both sides.
func (l *link) cut() { l.end(reset) }

func (l *link) end(how func(net.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	close(l.done)
	how(l.client)
	if l.server != nil {
		how(l.server)
	}
}

// endUnlessDraining ends the connection when one direction has ended, unless cutTail wants the other read to its end.
func (l *link) endUnlessDraining(other Direction, how func(net.Conn)) {
	if !l.isDraining(other) {
		l.end(how)
	}
}

func (l *link) run() {
	defer func() {
		l.proxy.mu.Lock()
		delete(l.proxy.links, l)
		l.proxy.mu.Unlock()
	}()
	orderly := func(conn net.Conn) { conn.Close() }
	defer l.end(orderly)
	if !l.pass() {
		return
	}
	server, err := net.Dial(l.proxy.network, l.proxy.target)
	if err != nil {
		l.cut()
		return
	}
	l.mu.Lock()
	l.server = server
	over := l.over
	l.mu.Unlock()
	if over {
		reset(server)
		return
	}
	fromClient := bufio.NewReader(l.client)
	readFrom, plain, err := l.greet(fromClient)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	// Ends with the connection; run waits for it.
	wg.Go(func() {
		l.pump(FromServer, bufio.NewReader(server), l.client, plain)
		l.endUnlessDraining(FromClient, orderly)
	})
	l.pump(FromClient, readFrom, server, plain)
	l.endUnlessDraining(FromServer, orderly)
	wg.Wait()
}

// greet passes on what comes before the messages have a kind. plain is false when the connection turned to TLS or GSS.
func (l *link) greet(client *bufio.Reader) (rest *bufio.Reader, plain bool, err error) {
	const sslRequest, gssRequest = 80877103, 80877104
	for {
		message, err := readMessage(client, false)
		if err != nil {
			return nil, false, err
		}
		if !l.forward(FromClient, 0, message, message[4:], l.server) {
			return nil, false, net.ErrClosed
		}
		code := binary.BigEndian.Uint32(message[4:8])
		if code != sslRequest && code != gssRequest {
			return client, true, nil
		}
		var answer [1]byte
		if _, err := io.ReadFull(l.server, answer[:]); err != nil {
			return nil, false, err
		}
		if !l.pass() || !l.write(FromServer, l.client, answer[:]) {
			return nil, false, net.ErrClosed
		}
		if answer[0] != 'N' {
			return client, false, nil
		}
	}
}

// maxMessage is beyond what tests send; longer is taken for a fault in the reading.
const maxMessage = 256 << 20

// readMessage reads one message: its kind (unless it is a start), its length, its payload.
func readMessage(from *bufio.Reader, typed bool) ([]byte, error) {
	head := 4
	if typed {
		head = 5
	}
	start := make([]byte, head)
	if _, err := io.ReadFull(from, start); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint32(start[head-4:]))
	least := 4
	if !typed {
		least = 8 // a start has at least a code
	}
	if length < least || length > maxMessage {
		return nil, errors.New("bad length of a message")
	}
	message := make([]byte, head-4+length)
	copy(message, start)
	_, err := io.ReadFull(from, message[head:])
	return message, err
}

// pump passes one direction on until the connection ends.
func (l *link) pump(direction Direction, from *bufio.Reader, to net.Conn, plain bool) {
	for {
		if l.isDraining(direction) {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if !plain {
			chunk := make([]byte, 32<<10)
			n, err := from.Read(chunk)
			if n > 0 && (!l.pass() || !l.write(direction, to, chunk[:n])) || err != nil {
				return
			}
			continue
		}
		message, err := readMessage(from, true)
		if err != nil {
			return
		}
		if !l.forward(direction, message[0], message, message[5:], to) && !l.isDraining(direction) {
			return
		}
	}
}

// forward does with a message what faults and hooks want; false ends the pump.
func (l *link) forward(direction Direction, kind byte, message, payload []byte, to net.Conn) bool {
	p := l.proxy
	p.mu.Lock()
	hook := p.hooks[direction]
	lose := p.lose && direction == FromServer
	if lose {
		p.lose = false
	}
	p.mu.Unlock()
	if lose {
		p.Cut()
		return false
	}
	if direction == FromServer {
		swallow, end := l.answered(kind)
		if end {
			l.cut()
			return false
		}
		if swallow {
			return true
		}
	}
	action := Forward
	if hook != nil {
		action = hook(kind, payload)
	}
	if action == LoseAnswer && direction == FromServer {
		action = CutBefore
	}
	switch action {
	case Drop:
		return true
	case CutBefore:
		l.cut()
		return false
	case Hold:
		l.hold()
	}
	if !l.pass() {
		return false
	}
	if direction == FromClient {
		l.asked(kind, action == LoseAnswer)
	}
	if action == CutAfter {
		l.drain(1 - direction) // first: an answer may be fast
	}
	if !l.write(direction, to, message) {
		return false
	}
	if action == CutAfter {
		l.cutTail(direction)
		return false
	}
	return true
}

// asked counts the answers to come. Before the message is written: the answer may be fast.
func (l *link) asked(kind byte, lose bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lose && l.losing == 0 {
		// For a message of the extended protocol it is the answer that its Sync will get.
		l.losing = l.expected + 1
	}
	switch kind {
	case 'Q', 'S', 'F':
		l.expected++
	}
}

// answered tells whether a message belongs to a lost answer, and whether it ends it.
func (l *link) answered(kind byte) (swallow, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kind == 'Z' {
		l.ready++
	}
	if l.losing == 0 {
		return false, false
	}
	if kind == 'Z' && l.ready == l.losing {
		return true, true
	}
	// The ready message of the answer before still belongs to that one.
	return l.ready == l.losing-1 && kind != 'Z', false
}

func (l *link) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isHeld {
		l.isHeld = true
		close(l.held)
	}
}

// pass waits until messages may pass; false when the connection has ended.
func (l *link) pass() bool {
	l.proxy.mu.Lock()
	resume := l.proxy.resume
	l.proxy.mu.Unlock()
	select {
	case <-l.held:
		<-l.done
		return false
	default:
	}
	select {
	case <-l.done:
		return false
	case <-l.held:
		<-l.done
		return false
	case <-resume:
		return true
	}
}

// write sends bytes, or as many as CutAfterBytes leaves.
func (l *link) write(direction Direction, to net.Conn, data []byte) bool {
	p := l.proxy
	p.mu.Lock()
	cut := false
	if budget := p.budget[direction]; budget >= 0 {
		if cut = len(data) >= budget; cut {
			data = data[:budget]
			p.budget[direction] = -1
			l.drain(1 - direction)
		} else {
			p.budget[direction] -= len(data)
		}
	}
	p.mu.Unlock()
	if l.isDraining(direction) {
		return false
	}
	if _, err := to.Write(data); err != nil {
		return false
	}
	if cut {
		l.cutTail(direction)
	}
	return !cut
}

// cutTail ends the connection after what was passed on in this direction. The receiver gets an orderly end: a reset
// might throw away what it has not read yet. For the same reason drain has its side read until it closes.
func (l *link) cutTail(direction Direction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	sender, receiver := l.client, l.server
	if direction == FromServer {
		sender, receiver = receiver, sender
	}
	reset(sender)
	if half, ok := receiver.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// drain has all that comes in a direction from now on read and dropped.
func (l *link) drain(direction Direction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining[direction] = true
}

func (l *link) isDraining(direction Direction) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining[direction]
}
