package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// loginCookie holds a secret of ours, never the credential that it was given for.
const loginCookie = "miniasynq_login"

const (
	loginLife  = 12 * time.Hour
	ticketLife = 30 * time.Second
)

type loginRequest struct {
	username, password, apiKey string
}

func decodeLogin(raw []byte) (r loginRequest, err error) {
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		var into *string
		switch key {
		case "username":
			into = &r.username
		case "password":
			into = &r.password
		case "api_key":
			into = &r.apiKey
		default:
			return false
		}
		if s, ok := v.text(); ok {
			*into = s
		}
		return true
	})
	if err != nil {
		return r, err
	}
	if (r.apiKey == "") == (r.username == "" || r.password == "") || r.apiKey != "" && r.username+r.password != "" {
		return r, refusedFields([]fieldError{{"", "missing", "username and password, or api_key"}})
	}
	return r, nil
}

// login gives a browser a cookie that is as good as the credential, and ends with it.
func (s *Server) login(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	r, err := decodeLogin(raw)
	if err != nil {
		return err
	}
	known := callOf(c)
	id, secret, isKey := parseKey(r.apiKey)
	account := r.username
	if isKey {
		account = id.String()
	}
	keys := failureKeys(known.address, account)
	if wait := s.failures.blocked(keys); wait > 0 {
		p := refuse(rateLimited, "too many failed sign-ins from this address")
		p.again = min(wait, maxRetryAfter)
		return p
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	value := newSecret()
	hash := hashOf(value)
	l := jobs.Login{Hash: hash[:], ValidFor: loginLife}
	switch {
	case isKey:
		p, err := s.byKey(ctx, id, secret)
		if errors.Is(err, errNoCredential) {
			return s.refuseSignIn(c, keys, accountOf("", s.config.AdminUser, id))
		}
		if err != nil {
			return err
		}
		known.principal, l.KeyID = p, id
	case r.apiKey == "" && s.passwordValid(r.username, r.password, known):
		known.principal, l.Mark = s.adminByPassword(), s.markOf(value)
	default:
		return s.refuseSignIn(c, keys, accountOf(r.username, s.config.AdminUser, uuid.Nil))
	}
	if err := jobs.AddLogin(ctx, s.config.DB, l, s.actOf(c, "")); err != nil {
		if errors.Is(err, jobs.ErrNotFound) {
			return s.challenge(c) // the key was revoked at this moment
		}
		return err
	}
	s.setCookie(c, value, loginLife)
	c.Status(http.StatusNoContent)
	return nil
}

func (s *Server) setCookie(c *gin.Context, value string, life time.Duration) {
	http.SetCookie(c.Writer, &http.Cookie{ //nolint:gosec // Secure where the caller came by https
		Name: loginCookie, Value: value, Path: s.config.BasePath + "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: s.Scheme(c.Request) == "https",
	})
}

func (s *Server) clearCookie(c *gin.Context) { s.setCookie(c, "", -time.Second) }

// logout ends the login of the cookie. Without one there is nothing to end.
func (s *Server) logout(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	if cookie, err := c.Request.Cookie(loginCookie); err == nil && len(cookie.Value) == secretLength {
		act := s.actOf(c, "")
		if p, err := s.byLogin(c, cookie.Value); err == nil {
			act.Actor, act.KeyID = p.Name, p.keyID
			hash := hashOf(cookie.Value)
			ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
			defer cancel()
			if err := jobs.RemoveLogin(ctx, s.config.DB, hash[:], act); err != nil {
				return err
			}
			s.keys.signOut(hash)
		} else if jobs.Unavailable(err) {
			return err
		}
		c.Writer.Header().Del("WWW-Authenticate")
	}
	c.Writer.Header().Del("Set-Cookie")
	s.clearCookie(c)
	c.Status(http.StatusNoContent)
	return nil
}

type meBody struct {
	Name        string   `json:"name"`
	Role        text     `json:"role"`
	Scopes      []Scope  `json:"scopes"`
	Queues      []string `json:"queues"` // null: all
	Environment text     `json:"environment"`
	Dev         bool     `json:"dev"`
}

// me says who calls and what that is good for: the dashboard shows what is allowed, and this server decides.
func (s *Server) me(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	p := callOf(c).principal
	return reply(c, http.StatusOK, meBody{
		Name: p.Name, Role: text(p.Role), Scopes: emptyNotNull(p.Scopes()), Queues: p.Queues(),
		Environment: text(s.config.Environment), Dev: s.config.Dev,
	})
}

// streamTicket gives a page that cannot send headers with a socket something for its address: good once, and for a moment.
func (s *Server) streamTicket(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	if _, err := s.readAction(c); err != nil {
		return err
	}
	p := callOf(c).principal
	ticket := newSecret()
	hash := hashOf(ticket)
	l := jobs.Login{Hash: hash[:], Ticket: true, ValidFor: ticketLife}
	switch {
	case p.held != nil && p.held.id.key == uuid.Nil:
		l.Parent = p.held.id.login[:]
	case p.held != nil:
		l.KeyID = p.keyID
	}
	if p.held == nil && !p.anonymous || p.held != nil && p.held.mark != nil {
		l.Mark = s.markOf(ticket)
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	err := jobs.AddLogin(ctx, s.config.DB, l, jobs.Act{})
	if errors.Is(err, jobs.ErrNotFound) {
		return s.challenge(c) // the credential ended at this moment
	}
	if err != nil {
		return err
	}
	return reply(c, http.StatusCreated, struct {
		Ticket    string `json:"ticket"`
		ExpiresIn span   `json:"expires_in"`
	}{ticket, span(ticketLife)})
}
