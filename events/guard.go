package events

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Guard decides which addresses this server calls on behalf of others: jobs of kind http, and webhooks. What a URL says is
// only half of it: the address is looked at once more when the connection is made, after the name was resolved, so a name
// that changes its address in between gains nothing. Read only after it was made; safe for concurrent use.
type Guard struct {
	listed   []listedHost
	open     bool
	resolver *net.Resolver // nil: the system's
}

// listedHost is a line of the allow list; a port, if only that one is allowed.
type listedHost struct {
	host, port string
	private    bool
}

// NewGuard reads an allow list: "api.example.com", "api.example.com:8443", "10.0.0.7", "localhost:9000",
// "private:billing.internal". Hosts that are not listed are refused, unless the guard is open: then they are refused only
// if they have an address that is not one of the internet. The same goes for listed names, but not for those marked
// private, nor for listed addresses.
func NewGuard(allow []string, open bool) (*Guard, error) {
	g := &Guard{open: open}
	for _, text := range allow {
		rest, private := strings.CutPrefix(strings.TrimSpace(text), "private:")
		entry := listedHost{host: strings.ToLower(rest), private: private}
		if host, port, err := net.SplitHostPort(rest); err == nil {
			entry.host, entry.port = strings.ToLower(host), port
		}
		entry.host = strings.Trim(entry.host, "[]")
		if entry.host == "" || strings.ContainsAny(entry.host, "/@*? ") {
			return nil, fmt.Errorf("allowed host %q: a host, or host:port", text)
		}
		// An address, or the name of this machine, names what it is.
		if _, err := netip.ParseAddr(entry.host); err == nil || entry.host == "localhost" {
			entry.private = true
		}
		g.listed = append(g.listed, entry)
	}
	return g, nil
}

// ErrNotListed means that a host is not on the allow list.
var ErrNotListed = errors.New("the host is not on the allow list")

// NotAllowedError is an address that this server may not be made to call.
type NotAllowedError struct{ Host string }

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("%s resolves to an address that this server may not be made to call", e.Host)
}

// Listed tells whether the allow list names a host and port.
func (g *Guard) Listed(host, port string) bool {
	_, ok := g.entry(host, port)
	return ok
}

func (g *Guard) entry(host, port string) (listedHost, bool) {
	i := slices.IndexFunc(g.listed, func(e listedHost) bool {
		return e.host == strings.ToLower(host) && (e.port == "" || e.port == port)
	})
	if i < 0 {
		return listedHost{}, false
	}
	return g.listed[i], true
}

// Client makes a client that the guard holds to its rules: no redirect is followed, no proxy is used, whatever the
// environment says. answer bounds the wait for the head of an answer.
func (g *Guard) Client(answer time.Duration) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            g.dial,
			Proxy:                  nil,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  answer,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
		},
	}
}

func (g *Guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	entry, ok := g.entry(host, port)
	if !ok && !g.open {
		return nil, ErrNotListed
	}
	dialer := net.Dialer{
		Timeout:  10 * time.Second,
		Resolver: g.resolver,
		// Control sees the resolved address, for each that is tried.
		Control: func(_, resolved string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			if !entry.private && !public(addr.Addr()) {
				return &NotAllowedError{Host: host}
			}
			return nil
		},
	}
	return dialer.DialContext(ctx, network, address)
}

// special are networks that are reachable and yet not the internet: RFC 6890 and the metadata services of clouds.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("::/96"),
}

// public tells whether an address is one of the internet.
func public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("") // no prefix contains an address with a zone
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(addr) })
}
