package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
)

// maxWait is how long a call may stay parked.
const maxWait = time.Minute

// Limits of lists.
const (
	defaultLimit   = 50
	maxLimit       = 500
	maxEventsLimit = 1000
	maxIDs         = 100
)

// query is the query string of a call, read strictly: unknown and repeated parameters are refused, so that a typing
// error is no filter that silently selects all.
type query struct {
	values map[string]string
	fault  error // the first one; the handler asks once, at the end
}

// queryOf reads the query string. known lists the parameters; one that ends in a dot is a prefix.
func queryOf(r *http.Request, known ...string) *query {
	q := &query{values: make(map[string]string)}
	parsed, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		q.fault = refuse(invalidParameter, "the query string is malformed")
		return q
	}
	for name, values := range parsed {
		shown := limitedName(name)
		isKnown := slices.ContainsFunc(known, func(k string) bool {
			if strings.HasSuffix(k, ".") {
				return strings.HasPrefix(name, k) && len(name) > len(k)
			}
			return k == name
		})
		switch {
		case !isKnown:
			q.refuse(shown, "there is no such parameter here")
		case len(values) > 1:
			q.refuse(shown, "given twice; a comma is OR")
		case !storable(name) || !storable(values[0]):
			q.refuse(shown, "not valid UTF-8, or holds NUL")
		case values[0] == "":
			q.refuse(shown, "empty")
		default:
			q.values[name] = values[0]
		}
	}
	return q
}

func storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// limitedName is a parameter's name as an answer may repeat it.
func limitedName(name string) string {
	return strings.ToValidUTF8(name[:min(len(name), 64)], "\uFFFD")
}

func (q *query) refuse(name, detail string) {
	if q.fault == nil {
		q.fault = badParameter(name, detail)
	}
}

func (q *query) list(name string) []string {
	if v, ok := q.values[name]; ok {
		return strings.Split(v, ",")
	}
	return nil
}

// whole reads a number from lowest to highest, written in plain digits.
func (q *query) whole(name string, fallback, lowest, highest int) int {
	v, ok := q.values[name]
	if !ok {
		return fallback
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < lowest || n > highest || v[0] == '+' {
		q.refuse(name, "a whole number from "+strconv.Itoa(lowest)+" to "+strconv.Itoa(highest))
		return fallback
	}
	return n
}

// duration reads a span from lowest to highest.
func (q *query) duration(name string, fallback, lowest, highest time.Duration) time.Duration {
	v, ok := q.values[name]
	if !ok {
		return fallback
	}
	d, err := parseDuration(v)
	if err != nil || d < lowest || d > highest {
		q.refuse(name, "a duration from "+formatDuration(lowest)+" to "+formatDuration(highest))
		return fallback
	}
	return d
}

func (q *query) time(name string) time.Time {
	v, ok := q.values[name]
	if !ok {
		return time.Time{}
	}
	at, ok := parseTime(v)
	if !ok {
		q.refuse(name, "RFC 3339 with a time zone, as in 2026-03-01T12:00:00Z")
	}
	return at
}

// oneOf reads values of a closed set.
func oneOf[T ~string](q *query, name string, valid func(T) bool) []T {
	var out []T
	for _, v := range q.list(name) {
		if !valid(T(v)) {
			q.refuse(name, "not one of its values")
			return nil
		}
		out = append(out, T(v))
	}
	return out
}

func (q *query) ids(name string) []uuid.UUID {
	given := q.list(name)
	if len(given) > maxIDs {
		q.refuse(name, "at most "+strconv.Itoa(maxIDs))
		return nil
	}
	out := make([]uuid.UUID, 0, len(given))
	for _, v := range given {
		id, ok := parseID(v)
		if !ok {
			q.refuse(name, "a UUID")
			return nil
		}
		out = append(out, id)
	}
	return out
}

func (q *query) json(name string) json.RawMessage {
	v, ok := q.values[name]
	if !ok {
		return nil
	}
	return json.RawMessage(v)
}

// timePattern is what RFC 3339 allows; Go's parser takes one-digit hours and commas too. The SQL door has the same one.
var timePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$`)

// parseTime reads RFC 3339.
func parseTime(s string) (time.Time, bool) {
	if len(s) > 64 || !timePattern.MatchString(s) {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	return at, err == nil
}

// parseID reads a UUID in its 36 characters, in any case; the parser alone takes braces and URNs too.
func parseID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// param is a parameter of the address, unescaped.
func param(c *gin.Context, name string) string {
	s, err := url.PathUnescape(c.Param(name))
	if err != nil {
		return ""
	}
	return s
}

// noQuery refuses parameters where there are none.
func noQuery(c *gin.Context) error {
	if c.Request.URL.RawQuery == "" {
		return nil
	}
	return queryOf(c.Request).fault
}
