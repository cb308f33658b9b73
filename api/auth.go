package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
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

// Roles, and the scopes that each holds.
const (
	roleViewer   = "viewer"
	roleOperator = "operator"
	roleAdmin    = "admin"
)

// scopesOfRole is nil for what is no role.
func scopesOfRole(role string) []Scope {
	switch role {
	case roleViewer:
		return []Scope{ScopeRead}
	case roleOperator:
		return []Scope{ScopeEnqueue, ScopeRead, ScopeReadPayload, ScopeOperate}
	case roleAdmin:
		return []Scope{ScopeAdmin}
	}
	return nil
}

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
	keyID     uuid.UUID       // the key that calls, or is behind the login
	held      *heldCredential // nil: nobody, or a password
}

// Allows tells whether the caller has a scope.
func (p Principal) Allows(scope Scope) bool {
	return slices.Contains(p.scopes, scope) || slices.Contains(p.scopes, ScopeAdmin)
}

// Sees tells whether a queue, and what is in it, exists for the caller.
func (p Principal) Sees(queue string) bool {
	return p.queues == nil || slices.Contains(p.queues, queue)
}

// Ended is closed when the credential ends while a call lasts: its key was revoked, its login is over. nil: it never ends.
func (p Principal) Ended() <-chan struct{} {
	if p.held == nil {
		return nil
	}
	return p.held.ctx.Done()
}

// Hold says that the credential is in use beyond the call that it came with, until release: while it is, its end is noticed,
// and it is not forgotten.
func (p Principal) Hold() (release func()) {
	if p.held == nil {
		return func() {}
	}
	return p.held.ring.begin(p.held)
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

// newSecret makes what a caller is to keep: 256 random bits, in 43 characters.
func newSecret() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // it never fails; Go ends the program instead
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// secretLength is that of what newSecret makes.
const secretLength = 43

func hashOf(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// keyPrefix begins every key, so that tools that look for leaked secrets know one.
const keyPrefix = "mak_"

func keyText(id uuid.UUID, secret string) string { return keyPrefix + id.String() + "_" + secret }

// parseKey takes a key apart.
func parseKey(text string) (id uuid.UUID, secret string, ok bool) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	if !ok || len(rest) != 36+1+secretLength || rest[36] != '_' {
		return uuid.Nil, "", false
	}
	id, ok = parseID(rest[:36])
	return id, rest[37:], ok
}

// markOf binds a login to the admin's password: another password, and the login is over. Without the caller's secret,
// which is stored nowhere, the password cannot be guessed from it.
func (s *Server) markOf(secret string) []byte {
	sum := sha256.Sum256(slices.Concat([]byte(secret), s.admin.name[:], s.admin.password[:]))
	return sum[:]
}

// authenticate says who calls. A credential that is not valid is never taken for none.
func (s *Server) authenticate(c *gin.Context, r route) (Principal, error) {
	known := callOf(c)
	given := c.Request.Header.Values("Authorization")
	if len(given) > 0 {
		return s.byHeader(c, given)
	}
	if r.flags&opensSocket != 0 {
		if ticket, ok, err := takeParameter(c.Request, "ticket"); ok || err != nil {
			if err != nil {
				return Principal{}, err
			}
			return s.byTicket(c, ticket)
		}
	}
	if cookie, err := c.Request.Cookie(loginCookie); err == nil && !known.foreign {
		return s.byLogin(c, cookie.Value)
	}
	return s.anonymous(known), nil
}

// byHeader takes a password or a key. Failures are counted by address, and by address and account: never by account alone,
// or a stranger could lock the admin out.
func (s *Server) byHeader(c *gin.Context, given []string) (Principal, error) {
	known := callOf(c)
	name, password, isBasic := c.Request.BasicAuth()
	scheme, text, _ := strings.Cut(given[0], " ")
	var id uuid.UUID
	var secret string
	var isKey bool
	if strings.EqualFold(scheme, "Bearer") {
		if id, secret, isKey = parseKey(strings.TrimSpace(text)); isKey {
			name = id.String()
		}
	}
	keys := failureKeys(known.address, name)
	if wait := s.failures.blocked(keys); wait > 0 {
		p := refuse(rateLimited, "too many failed sign-ins from this address")
		p.again = min(wait, maxRetryAfter)
		return Principal{}, p
	}
	switch {
	case len(given) != 1:
	case isBasic && !known.foreign:
		if s.passwordValid(name, password, known) {
			return s.adminByPassword(), nil
		}
	case isKey:
		p, err := s.byKey(c.Request.Context(), id, secret)
		if !errors.Is(err, errNoCredential) {
			return p, err
		}
	}
	return Principal{}, s.refuseSignIn(c, keys, accountOf(name, s.config.AdminUser, id))
}

// passwordValid also asks whether the documented password counts here.
func (s *Server) passwordValid(name, password string, known *call) bool {
	valid := s.admin.matches(name, password)
	return valid && s.passwordCounts(known)
}

// passwordCounts: the documented password is for this machine, or for development.
func (s *Server) passwordCounts(known *call) bool {
	return !s.config.DefaultPassword || s.config.Dev || known.local
}

func (s *Server) adminByPassword() Principal {
	return Principal{Name: "basic:" + s.config.AdminUser, Role: roleAdmin, scopes: scopesOfRole(roleAdmin)}
}

// byKey compares hashes always: an unknown id costs what a wrong secret costs.
func (s *Server) byKey(ctx context.Context, id uuid.UUID, secret string) (Principal, error) {
	h, err := s.keys.find(ctx, credentialID{key: id})
	if err != nil && !errors.Is(err, errNoCredential) {
		return Principal{}, err
	}
	got := hashOf(secret)
	want := make([]byte, sha256.Size)
	if h != nil {
		want = h.hash
	}
	if subtle.ConstantTimeCompare(got[:], want) != 1 || h == nil {
		return Principal{}, errNoCredential
	}
	return h.principal(), nil
}

func (h *heldCredential) principal() Principal {
	key := h.id.key
	if key == uuid.Nil {
		key = h.behind
	}
	return Principal{Name: h.name, Role: h.role, scopes: h.scopes, queues: h.queues, keyID: key, held: h}
}

// loginAccount counts the failures of cookies and tickets. They cannot be guessed, so those are browsers that were signed
// out: they must not keep a person at the same address from signing in. It bounds the queries that strangers cause.
const loginAccount = "\x00login"

// byLogin takes what a browser was given when it signed in.
func (s *Server) byLogin(c *gin.Context, value string) (Principal, error) {
	known := callOf(c)
	keys := failureKeys(known.address, loginAccount)[1:]
	id := credentialID{login: hashOf(value)}
	if len(value) == secretLength && (s.keys.knows(id) || s.failures.blocked(keys) == 0) {
		h, err := s.keys.find(c.Request.Context(), id)
		switch {
		case err == nil:
			if p, ok := s.ofLogin(h, value, known); ok {
				return p, nil
			}
		case !errors.Is(err, errNoCredential):
			return Principal{}, err
		}
	}
	s.failures.add(keys)
	s.clearCookie(c)
	return Principal{}, s.challenge(c)
}

// ofLogin is who signed in.
func (s *Server) ofLogin(h *heldCredential, value string, known *call) (Principal, bool) {
	if h.mark == nil {
		return h.principal(), true
	}
	return s.ofMark(h, h.mark, value, known)
}

// ofMark is the admin, if the password is still the one that the mark was made with.
func (s *Server) ofMark(h *heldCredential, mark []byte, value string, known *call) (Principal, bool) {
	same := subtle.ConstantTimeCompare(mark, s.markOf(value)) == 1 && s.admin.set
	if !same || !s.passwordCounts(known) {
		return Principal{}, false
	}
	p := s.adminByPassword()
	p.held = h
	return p, true
}

// byTicket uses a ticket up. What it opens lives as long as the credential that it was asked with.
func (s *Server) byTicket(c *gin.Context, ticket string) (Principal, error) {
	known := callOf(c)
	keys := failureKeys(known.address, loginAccount)[1:]
	if len(ticket) == secretLength && s.failures.blocked(keys) == 0 {
		ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
		defer cancel()
		p, err := s.takeTicket(ctx, ticket, known)
		if !errors.Is(err, errNoCredential) {
			return p, err
		}
	}
	s.failures.add(keys)
	return Principal{}, s.challenge(c)
}

func (s *Server) takeTicket(ctx context.Context, ticket string, known *call) (p Principal, err error) {
	hash := hashOf(ticket)
	l, err := jobs.TakeTicket(ctx, s.config.DB, hash[:])
	if errors.Is(err, jobs.ErrNotFound) {
		return p, errNoCredential
	}
	if err != nil {
		return p, err
	}
	var h *heldCredential
	switch {
	case l.Parent != nil:
		h, err = s.keys.find(ctx, credentialID{login: [sha256.Size]byte(l.Parent)})
	case l.KeyID != uuid.Nil:
		h, err = s.keys.find(ctx, credentialID{key: l.KeyID})
	case l.Mark == nil:
		return s.anonymous(known), nil
	}
	if err != nil {
		return p, err
	}
	if l.Mark != nil {
		p, ok := s.ofMark(h, l.Mark, ticket, known)
		if !ok {
			return p, errNoCredential
		}
		return p, nil
	}
	return h.principal(), nil
}

// takeParameter takes a parameter out of the query: what stands behind it is not to be seen by anybody else.
func takeParameter(r *http.Request, name string) (value string, given bool, err error) {
	if !strings.Contains(r.URL.RawQuery, name) {
		return "", false, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", false, refuse(invalidParameter, "the query string is malformed")
	}
	values, given := query[name]
	if !given {
		return "", false, nil
	}
	if len(values) != 1 {
		return "", true, badParameter(name, "given twice")
	}
	query.Del(name)
	r.URL.RawQuery = query.Encode()
	return values[0], true, nil
}

// accountOf is what the audit log may say of a failed sign-in: a name that exists. Anything else may be a password that was
// typed into the wrong field.
func accountOf(name, admin string, key uuid.UUID) string {
	switch {
	case key != uuid.Nil:
		return "key:" + key.String()
	case name == admin:
		return "basic:" + admin
	}
	return ""
}

// auditDeadline bounds what a failed sign-in waits for the audit log.
const auditDeadline = time.Second

// refuseSignIn counts and records a failed sign-in. The answer is the same whatever was wrong.
func (s *Server) refuseSignIn(c *gin.Context, keys []failureKey, account string) error {
	s.failures.add(keys)
	act := s.actOf(c, "")
	act.Actor = "anonymous"
	ctx, cancel := context.WithTimeout(c.Request.Context(), auditDeadline)
	defer cancel()
	if err := act.Record(ctx, s.config.DB, jobs.Entry{Action: "login.failed", Target: account}); err != nil {
		s.config.Log.Warn().Err(err).Str("request_id", callOf(c).id).Msg("a failed sign-in is missing in the audit log")
	}
	return s.challenge(c)
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
