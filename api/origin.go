package api

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// whence finds out where a request comes from. Headers that proxies add count only when a listed proxy sent them; that
// they are there at all means that somebody passed the request on, so it is not local whatever its last hop is.
func (s *Server) whence(r *http.Request) (address netip.Addr, forwarded, local bool) {
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		address = at.Addr().Unmap().WithZone("")
	}
	for name := range r.Header {
		forwarded = forwarded || name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-")
	}
	local = address.IsLoopback() && !forwarded
	if !forwarded || !s.trusted(address) {
		return address, forwarded, local
	}
	// From the right: each listed proxy wrote down whom it heard; the first stranger is the caller.
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		at, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		if address = at.Unmap().WithZone(""); !s.trusted(address) {
			break
		}
	}
	return address, forwarded, local
}

func (s *Server) trusted(address netip.Addr) bool {
	return address.IsValid() && slices.ContainsFunc(s.config.TrustedProxies, func(p netip.Prefix) bool {
		return p.Contains(address)
	})
}

// hostAllowed tells whether this server answers for a Host. A page of a stranger can make a browser call a name that
// resolves to this machine (DNS rebinding), but it cannot make it state another name.
func (s *Server) hostAllowed(host string) bool {
	host = strings.ToLower(host)
	name := hostName(host)
	if name == "" {
		return false
	}
	if name == "localhost" {
		return true
	}
	if at, err := netip.ParseAddr(name); err == nil {
		if at.Unmap().IsLoopback() {
			return true
		}
		if bound, err := netip.ParseAddr(s.config.Bind); err == nil && !bound.IsUnspecified() && bound.Unmap() == at.Unmap() {
			return true
		}
	} else if name == strings.ToLower(s.config.Bind) {
		return true
	}
	return slices.ContainsFunc(s.config.AllowedHosts, func(allowed string) bool {
		allowed = strings.ToLower(allowed)
		return allowed == host || allowed == name
	})
}

// hostName is a host without its port and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// checkOrigin refuses writes and sockets that a browser makes for another site: basic auth and cookies come along by
// themselves. It also answers for the origins that may call with bearer keys, which never come along by themselves.
func (s *Server) checkOrigin(c *gin.Context) *problem {
	r := c.Request
	origins := r.Header.Values("Origin")
	site := r.Header.Get("Sec-Fetch-Site")
	if len(origins) == 1 && slices.Contains(s.config.CORSOrigins, origins[0]) && !s.ownOrigin(r, origins[0]) {
		return s.fromListedOrigin(c, origins[0])
	}
	if r.Method == http.MethodOptions || r.Method == http.MethodGet && c.FullPath() != s.config.BasePath+prefix+"/ws" {
		return nil
	}
	sameSite := site == "" || site == "same-origin" || site == "none"
	switch {
	case len(origins) == 0 && sameSite:
		return nil // no browser, or one that vouches
	case len(origins) == 1 && s.ownOrigin(r, origins[0]) && (sameSite || s.listedOrigin(r, origins[0])):
		return nil // to the browser a listed host is another site, and it says so
	}
	return refuse(crossOrigin, "a page of another origin may not do this")
}

// fromListedOrigin answers a preflight, and marks every other call as one that may only carry a bearer key.
func (s *Server) fromListedOrigin(c *gin.Context, origin string) *problem {
	header := c.Writer.Header()
	header.Add("Vary", "Origin")
	bearer := strings.HasPrefix(strings.ToLower(c.GetHeader("Authorization")), "bearer ")
	preflight := c.Request.Method == http.MethodOptions && c.GetHeader("Access-Control-Request-Method") != ""
	switch {
	case preflight:
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
		header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, "+
			"Last-Event-ID, X-Request-Id, traceparent")
		header.Set("Access-Control-Max-Age", "600")
		c.AbortWithStatus(http.StatusNoContent)
		return nil
	case bearer:
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers", "ETag, Location, Retry-After, X-Request-Id, Idempotency-Replayed, Allow, "+
			headerResumed+", "+headerUntil)
		callOf(c).foreign = true
		return nil
	case c.Request.Method == http.MethodGet:
		return nil // without the header above the page cannot read it
	}
	return refuse(crossOrigin, "another origin may call with bearer keys only")
}

// ownOrigin tells whether an Origin is this server's, or one of its listed hosts.
func (s *Server) ownOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false // "null" too
	}
	return u.Scheme == s.Scheme(r) && withPort(u.Host, u.Scheme) == withPort(r.Host, u.Scheme) || s.listedOrigin(r, origin)
}

// listedOrigin tells whether an Origin's host is in AllowedHosts: with the port that is listed, else with the default
// port or the one that this request names.
func (s *Server) listedOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	host, name := strings.ToLower(u.Host), strings.ToLower(u.Hostname())
	_, port, _ := net.SplitHostPort(r.Host)
	return slices.ContainsFunc(s.config.AllowedHosts, func(allowed string) bool {
		allowed = strings.ToLower(allowed)
		return allowed == host || allowed == name && (u.Port() == "" || u.Port() == port)
	})
}

// Scheme is how the caller reached this server, http or https, as far as anybody who may say so says.
func (s *Server) Scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && s.trusted(at.Addr().Unmap()) && r.Header.Get("X-Forwarded-Proto") == "https" {
		return "https"
	}
	return "http"
}

// withPort spells a host with its port, so that the default port is the same said and unsaid.
func withPort(host, scheme string) string {
	host = strings.ToLower(host)
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "80"
	if scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}
