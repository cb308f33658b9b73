package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// Scope is a right. The zero value is no right at all: what is open to everybody.
type Scope string

// The scopes.
const (
	ScopeEnqueue     Scope = "enqueue"      // post jobs
	ScopeWork        Scope = "work"         // the worker protocol
	ScopeRead        Scope = "read"         // everything outside /admin/ but payloads, results and stacks
	ScopeReadPayload Scope = "read:payload" // those
	ScopeOperate     Scope = "operate"      // what lies under /admin/
	ScopeAdmin       Scope = "admin"        // all of them

	open Scope = ""
)

// openScopes are those that a caller without credentials may be given.
var openScopes = []Scope{ScopeEnqueue, ScopeWork, ScopeRead, ScopeReadPayload}

// Principal is who calls.
type Principal struct {
	Name      string // for events, audit and log: basic:admin, anonymous
	Role      string // admin, operator, viewer; "" is none
	Local     bool   // the call came from this machine, passed on by nobody
	scopes    []Scope
	queues    []string // the only ones that exist for this caller; nil: all
	anonymous bool
}

// Allows tells whether the caller has a scope.
func (p Principal) Allows(scope Scope) bool {
	return slices.Contains(p.scopes, scope) || slices.Contains(p.scopes, ScopeAdmin)
}

// Sees tells whether a queue, and what is in it, exists for the caller.
func (p Principal) Sees(queue string) bool {
	return p.queues == nil || slices.Contains(p.queues, queue)
}

// Queues lists the only queues that exist for the caller; nil: all.
func (p Principal) Queues() []string { return slices.Clone(p.queues) }

// Scopes lists what the caller has.
func (p Principal) Scopes() []Scope { return slices.Clone(p.scopes) }

// Anonymous tells whether there is no credential behind the call.
func (p Principal) Anonymous() bool { return p.anonymous }

// forMounted lets handlers that live elsewhere find who calls (PrincipalOf) and which request it is (Refuse).
func forMounted(ctx context.Context, known *call) context.Context {
	return context.WithValue(context.WithValue(ctx, principalKey, known.principal), requestIDKey, known.id)
}

// PrincipalOf tells a mounted handler who calls; false where nobody was asked.
func PrincipalOf(r *http.Request) (Principal, bool) {
	p, ok := r.Context().Value(principalKey).(Principal)
	return p, ok
}

// credential is a name and a password, as hashes: equal lengths, so that the comparison takes the same time whatever
// was sent.
type credential struct {
	set            bool
	name, password [sha256.Size]byte
}

func newCredential(name, password string) credential {
	return credential{password != "", sha256.Sum256([]byte(name)), sha256.Sum256([]byte(password))}
}

// matches compares both parts always: a wrong name costs what a wrong password costs.
func (want credential) matches(name, password string) bool {
	got := newCredential(name, password)
	same := subtle.ConstantTimeCompare(want.name[:], got.name[:]) &
		subtle.ConstantTimeCompare(want.password[:], got.password[:])
	return same == 1 && want.set
}

// authenticate says who calls. A credential that is not valid is never taken for none.
func (s *Server) authenticate(c *gin.Context) (Principal, error) {
	given := c.Request.Header.Values("Authorization")
	known := callOf(c)
	if len(given) == 0 {
		return s.anonymous(known), nil
	}
	name, password, isBasic := c.Request.BasicAuth()
	// Failures are counted by address, and by address and account: never by account alone, or a stranger could lock
	// the admin out.
	keys := failureKeys(known.address, name)
	if wait := s.failures.blocked(keys); wait > 0 {
		p := refuse(rateLimited, "too many failed sign-ins from this address")
		p.again = min(wait, maxRetryAfter)
		return Principal{}, p
	}
	valid := s.admin.matches(name, password)
	usable := !s.config.DefaultPassword || s.config.Dev || known.local
	if len(given) == 1 && isBasic && !known.foreign && valid && usable {
		return Principal{Name: "basic:" + s.config.AdminUser, Role: "admin", scopes: []Scope{ScopeAdmin}}, nil
	}
	s.failures.add(keys)
	return Principal{}, s.challenge(c)
}

// anonymous is what a caller without credentials may do.
func (s *Server) anonymous(known *call) Principal {
	p := Principal{Name: "anonymous", anonymous: true}
	switch {
	case known.foreign:
	case s.config.Anonymous != nil:
		p.scopes = s.config.Anonymous
	case s.config.BindIsLoopback && known.local:
		p.scopes = openScopes
	}
	return p
}

// challenge is the same answer whatever was wrong. To a script of the dashboard it does not offer Basic, so that the
// browser opens no box of its own.
func (s *Server) challenge(c *gin.Context) error {
	header := c.Writer.Header()
	if !strings.EqualFold(c.GetHeader("Sec-Fetch-Mode"), "cors") {
		header.Add("WWW-Authenticate", `Basic realm="mini-asynq", charset="UTF-8"`)
	}
	header.Add("WWW-Authenticate", `Bearer realm="mini-asynq"`)
	return refuse(unauthorized, "a valid credential is needed")
}
