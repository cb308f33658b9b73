package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Bounds of keys.
const (
	maxKeyQueues   = 100
	maxOverlap     = 30 * 24 * time.Hour
	defaultOverlap = 24 * time.Hour
)

// knownScopes are what a key may hold.
var knownScopes = []Scope{ScopeEnqueue, ScopeWork, ScopeRead, ScopeReadPayload, ScopeOperate, ScopeAdmin}

type keyBody struct {
	ID         uuid.UUID `json:"id"`
	Name       string    `json:"name"`
	Role       text      `json:"role"`
	Scopes     []string  `json:"scopes"`
	Queues     []string  `json:"queues"` // null: all
	CreatedBy  string    `json:"created_by"`
	CreatedAt  stamp     `json:"created_at"`
	ExpiresAt  stamp     `json:"expires_at"`
	LastUsedAt stamp     `json:"last_used_at"`
	Secret     string    `json:"secret,omitempty"` // in the answer that makes the key, and never again
}

func keyOf(k jobs.APIKey) keyBody {
	return keyBody{
		ID: k.ID, Name: k.Name, Role: text(k.Role), Scopes: k.Scopes, Queues: k.Queues, CreatedBy: k.CreatedBy,
		CreatedAt: stamp(k.CreatedAt), ExpiresAt: stamp(k.ExpiresAt), LastUsedAt: stamp(k.LastUsedAt),
	}
}

func decodeKey(raw []byte) (k jobs.APIKey, err error) {
	named := false
	err = decodeObject(raw, jobDepth, func(key string, v value) bool {
		switch key {
		case "name":
			k.Name, named = plainText(v), !v.isNull()
		case "role":
			if s, ok := v.text(); ok {
				if k.Role = s; scopesOfRole(s) == nil {
					v.refuse("invalid_value", "viewer, operator or admin")
				}
			}
		case "scopes":
			k.Scopes = scopesIn(v)
		case "queues":
			k.Queues = queuesOf(v)
		case "expires_at":
			if s, ok := v.text(); ok {
				if k.ExpiresAt, ok = parseTime(s); !ok || k.ExpiresAt.Year() < 1 || k.ExpiresAt.IsZero() {
					v.refuse("invalid_time", "RFC 3339 with a time zone, as in 2026-03-01T12:00:00Z")
				} else if time.Until(k.ExpiresAt) > jobs.MaxAhead+clockSlack {
					v.refuse("out_of_range", "at most 10 years ahead")
				}
			}
		default:
			return false
		}
		return true
	})
	if err != nil {
		return k, err
	}
	var faults []fieldError
	if !named {
		faults = append(faults, fieldError{"/name", "missing", "what people call the key"})
	}
	if (k.Role == "") == (len(k.Scopes) == 0) {
		faults = append(faults, fieldError{"/scopes", "conflict", "scopes or a role, one of them"})
	}
	if k.Role != "" {
		for _, s := range scopesOfRole(k.Role) {
			k.Scopes = append(k.Scopes, string(s))
		}
	}
	if k.Queues != nil && slices.Contains(k.Scopes, string(ScopeAdmin)) {
		faults = append(faults, fieldError{"/queues", "conflict", "a key that may make keys cannot be held to some queues"})
	}
	if len(faults) > 0 {
		return k, refusedFields(faults)
	}
	return k, nil
}

func scopesIn(v value) (scopes []string) {
	if v.isNull() {
		return nil
	}
	v.array(func(_ int, item value) bool {
		s, ok := item.text()
		switch {
		case !ok:
			item.wrongType("a string")
		case !slices.Contains(knownScopes, Scope(s)):
			item.refuse("invalid_value", "enqueue, work, read, read:payload, operate or admin")
		case slices.Contains(scopes, s):
			item.refuse("repeated", "named twice")
		default:
			scopes = append(scopes, s)
		}
		return true
	})
	if len(scopes) == 0 && string(v.raw[:1]) == "[" {
		v.refuse("too_few", "at least one")
	}
	return scopes
}

func queuesOf(v value) (queues []string) {
	if v.isNull() {
		return nil
	}
	v.array(func(n int, item value) bool {
		if n == maxKeyQueues {
			v.refuse("too_many", "at most "+strconv.Itoa(maxKeyQueues))
			return false
		}
		if item.isNull() {
			item.wrongType("a string")
		} else if name := named(item); name != "" && !slices.Contains(queues, name) {
			queues = append(queues, name)
		}
		return true
	})
	if len(queues) == 0 && string(v.raw[:1]) == "[" {
		v.refuse("too_few", "1 to "+strconv.Itoa(maxKeyQueues)+"; leave it out for all queues")
	}
	return queues
}

func (s *Server) createKey(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	raw, err := readBody(c, s.jobBodyLimit())
	if err != nil {
		return err
	}
	k, err := decodeKey(raw)
	if err != nil {
		return err
	}
	secret := newSecret()
	hash := hashOf(secret)
	k.Hash = hash[:]
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	created, err := jobs.CreateAPIKey(ctx, s.config.DB, k, s.actOf(c, ""))
	if err != nil {
		return err
	}
	return s.replyNewKey(c, created, secret)
}

func (s *Server) replyNewKey(c *gin.Context, k jobs.APIKey, secret string) error {
	body := keyOf(k)
	body.Secret = keyText(k.ID, secret)
	c.Header("Location", s.config.BasePath+prefix+"/admin/keys/"+k.ID.String())
	return reply(c, http.StatusCreated, body)
}

func (s *Server) listKeys(c *gin.Context) error {
	return listByID(c, s, jobs.APIKeys, func(k jobs.APIKey) uuid.UUID { return k.ID },
		func(k jobs.APIKey) (keyBody, bool) { return keyOf(k), true })
}

// listByID answers with a page of a list that goes by id; read gives what comes after one. body says how a thing is shown, and
// whether it exists for the caller: a page may have fewer than its limit.
func listByID[T, B any](
	c *gin.Context, s *Server, read func(context.Context, jobs.DB, uuid.UUID, int) ([]T, error),
	id func(T) uuid.UUID, body func(T) (B, bool),
) error {
	q := queryOf(c.Request, "limit", "cursor")
	limit := q.whole("limit", defaultLimit, 1, maxLimit)
	who := callOf(c).principal
	after, err := idCursor(q, who)
	if err != nil {
		return err
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	found, err := read(ctx, s.config.DB, after, limit+1)
	if err != nil {
		return err
	}
	out := list[B]{Data: []B{}, AsOf: asOf}
	if len(found) > limit {
		found = found[:limit]
		out.NextCursor = sealID(id(found[limit-1]), who)
	}
	for _, item := range found {
		if b, visible := body(item); visible {
			out.Data = append(out.Data, b)
		}
	}
	return reply(c, http.StatusOK, out)
}

// idCursor reads the cursor of a list that goes by id, and says what else is wrong with the query.
func idCursor(q *query, who Principal) (after uuid.UUID, err error) {
	if cursor, ok := q.values["cursor"]; ok {
		inner, valid := openCursor(cursor, who)
		raw, err := base64.RawURLEncoding.DecodeString(inner)
		if !valid || err != nil || len(raw) != len(after) {
			return after, jobs.ErrCursor
		}
		after = uuid.UUID(raw)
	}
	return after, q.fault
}

func sealID(last uuid.UUID, who Principal) text {
	return text(sealCursor(base64.RawURLEncoding.EncodeToString(last[:]), who))
}

func (s *Server) revokeKey(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, _ actionBody, act jobs.Act) error {
		if err := jobs.RevokeAPIKey(ctx, s.config.DB, id, act); err != nil {
			return err
		}
		s.keys.revoke(id) // here at once; the others hear of it from the stream
		c.Status(http.StatusNoContent)
		return nil
	})
}

func (s *Server) rotateKey(c *gin.Context) error {
	return s.act(c, pathID, func(ctx context.Context, id uuid.UUID, a actionBody, act jobs.Act) error {
		secret := newSecret()
		hash := hashOf(secret)
		overlap := defaultOverlap
		if a.overlapGiven {
			overlap = a.overlap
		}
		created, err := jobs.RotateAPIKey(ctx, s.config.DB, id, hash[:], overlap, act)
		if err != nil {
			return err
		}
		return s.replyNewKey(c, created, secret)
	}, "overlap")
}
