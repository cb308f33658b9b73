package pgtest

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// reservation keeps a port of 127.0.0.1 for a listener that comes and goes, such as a server that a test restarts: the
// system would soon give a free port to another test that asks for any.
//
// A socket that is bound and does not listen does that. It refuses connections by itself, SO_REUSEADDR lets a listener
// that names the port bind beside it, and the system passes the port over when it chooses one.
type reservation struct {
	port int
	fd   int // -1: this system does not let two sockets bind so (macOS); the port is only likely to stay free
}

func reservePort() (*reservation, error) {
	// No fork may happen between making the descriptor and marking it.
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	r := &reservation{fd: fd}
	if err := r.bind(); err != nil {
		r.close()
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	listener, err := net.Listen("tcp", r.addr())
	if err != nil {
		r.close()
		return r, nil
	}
	_ = listener.Close()
	return r, nil
}

func (r *reservation) bind() error {
	if err := syscall.SetsockoptInt(r.fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := syscall.Bind(r.fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	name, err := syscall.Getsockname(r.fd)
	if err != nil {
		return err
	}
	r.port = name.(*syscall.SockaddrInet4).Port
	return nil
}

func (r *reservation) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

func (r *reservation) close() {
	if r.fd >= 0 {
		_ = syscall.Close(r.fd)
		r.fd = -1
	}
}
