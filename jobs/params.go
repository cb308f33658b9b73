package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits of the fields of a job. The SQL door (mini_asynq.enqueue) holds the same ones.
const (
	MaxName         = 255                   // bytes of queue and kind
	MaxRetriesLimit = 1000                  // of max_retries
	MaxPayload      = 256 << 10             // bytes of a payload as PostgreSQL writes it; the default
	MaxDepth        = 64                    // levels of arrays and objects in a payload
	MaxDigits       = 401                   // digits of a number written out: 1e400 has 401
	MaxTags         = 20                    // tags of a job
	MaxTag          = 64                    // characters of a tag
	MaxMetadata     = 8 << 10               // bytes of metadata
	MaxMetadataKeys = 50                    // members of metadata
	MaxKey          = 255                   // characters of an idempotency key
	MaxAhead        = 3653 * 24 * time.Hour // of run_at: ten years
	MinTimeout      = time.Second           // of an attempt
	MaxTimeout      = 24 * time.Hour        // of an attempt
	MaxResult       = 256 << 10             // bytes of a result
	DefaultQueue    = "default"             // of a job that names none
	defaultTTL      = 24 * time.Hour        // of an idempotency key
	defaultRetries  = 3                     // of a job that names none, before a server has published its own
)

// Params is a job to be. Only Queue, Kind or Payload matter to most; the zero value of each other field means the
// default.
type Params struct {
	Queue          string        // "" is DefaultQueue
	Kind           string        // the handler's name; "" is the queue's name
	Payload        any           // marshalled as JSON; a json.RawMessage is taken as it is; nil is {}
	Priority       Priority      // "" is Normal
	MaxRetries     *int          // nil: the server's default
	RunAt          time.Time     // not before; zero or past: now
	Delay          time.Duration // not before now + Delay; excludes RunAt
	Timeout        time.Duration // of one attempt; 0: the server's default
	IdempotencyKey string        // a repeat with the same key stores nothing
	Tags           []string
	Metadata       map[string]string
	Traceparent    string // W3C trace context
	Source         string // "" is go

	// MaxPayload replaces the limit of the same name; 0 keeps it.
	MaxPayload int
}

// Retries is a *int for Params.MaxRetries.
func Retries(n int) *int { return &n }

// row is a checked Params, as the columns want it.
type row struct {
	id       uuid.UUID
	params   Params
	payload  json.RawMessage
	metadata []byte
	timeout  *time.Duration
	runAt    *time.Time
	delay    *time.Duration
}

var tracePattern = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// ValidName tells whether s may name a queue or a kind: 1 to MaxName letters, digits and _ . : -, not . or .. alone.
func ValidName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == ':', c == '-':
		default:
			return false
		}
	}
	return s != "" && len(s) <= MaxName && s != "." && s != ".."
}

// ValidKey tells whether s may be an idempotency key.
func ValidKey(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= MaxKey && utf8.ValidString(s) &&
		strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// newRow checks p and gives it an id.
func newRow(p Params) (row, error) {
	if p.Queue == "" {
		p.Queue = DefaultQueue
	}
	if p.Priority == "" {
		p.Priority = Normal
	}
	if p.Source == "" {
		p.Source = "go"
	}
	var r row
	var faults []Fault
	refuse := func(pointer, code, format string, args ...any) {
		faults = append(faults, Fault{Pointer: pointer, Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	if !ValidName(p.Queue) {
		refuse("/queue", "invalid_name", "1 to 255 letters, digits and _ . : -, not . or ..")
	}
	if p.Kind == "" {
		p.Kind = p.Queue
	} else if !ValidName(p.Kind) {
		refuse("/kind", "invalid_name", "1 to 255 letters, digits and _ . : -, not . or ..")
	}
	if !p.Priority.Valid() {
		refuse("/priority", "invalid_value", "high, normal or low")
	}
	if n := p.MaxRetries; n != nil && (*n < 0 || *n > MaxRetriesLimit) {
		refuse("/max_retries", "out_of_range", "0 to %d", MaxRetriesLimit)
	}
	switch {
	case !p.RunAt.IsZero() && p.Delay != 0:
		refuse("/delay", "conflict", "run_at or delay, not both")
	case p.Delay < 0 || p.Delay > MaxAhead:
		refuse("/delay", "out_of_range", "from 0 to 10 years")
	case p.Delay > 0:
		r.delay = &p.Delay
	case !p.RunAt.IsZero():
		// What PostgreSQL can store; whether it is too far ahead is for the database's clock to say.
		if y := p.RunAt.UTC().Year(); y < 1 || y > 9999 {
			refuse("/run_at", "out_of_range", "at most 10 years ahead")
		}
		r.runAt = &p.RunAt
	}
	if p.Timeout != 0 {
		if p.Timeout < MinTimeout || p.Timeout > MaxTimeout {
			refuse("/timeout", "out_of_range", "1s to 24h")
		}
		r.timeout = &p.Timeout
	}
	if p.IdempotencyKey != "" && !ValidKey(p.IdempotencyKey) {
		refuse("/idempotency_key", "invalid_value", "1 to %d printable characters", MaxKey)
	}
	if len(p.Tags) > MaxTags {
		refuse("/tags", "too_many", "at most %d", MaxTags)
	}
	for i, tag := range p.Tags[:min(len(p.Tags), MaxTags)] {
		if n := utf8.RuneCountInString(tag); n < 1 || n > MaxTag || Storable(tag, len(tag)) != tag {
			refuse(fmt.Sprintf("/tags/%d", i), "invalid_value", "1 to %d characters", MaxTag)
		}
	}
	if len(p.Metadata) > 0 {
		r.metadata, faults = checkMetadata(p.Metadata, faults)
	}
	if p.Traceparent != "" && !tracePattern.MatchString(p.Traceparent) {
		refuse("/traceparent", "invalid_value", "a W3C traceparent")
	}
	payload, fault := payloadOf(p)
	if fault != nil {
		faults = append(faults, *fault)
	}
	if len(faults) > 0 {
		return row{}, &ValidationError{Faults: faults}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return row{}, fmt.Errorf("make a job id: %w", err)
	}
	r.id, r.params, r.payload = id, p, payload
	return r, nil
}

func checkMetadata(metadata map[string]string, faults []Fault) ([]byte, []Fault) {
	if len(metadata) > MaxMetadataKeys {
		faults = append(faults, Fault{"/metadata", "too_many", fmt.Sprintf("at most %d members", MaxMetadataKeys)})
	}
	for key, value := range metadata {
		if Storable(key, len(key)) != key || Storable(value, len(value)) != value {
			faults = append(faults, Fault{"/metadata", "invalid_value", "no NUL and valid UTF-8"})
			break
		}
	}
	raw, err := json.Marshal(metadata)
	if err != nil || len(raw) > MaxMetadata {
		faults = append(faults, Fault{"/metadata", "too_long", fmt.Sprintf("at most %d bytes as JSON", MaxMetadata)})
	}
	return raw, faults
}

// payloadOf marshals and checks the payload.
func payloadOf(p Params) (json.RawMessage, *Fault) {
	limit := p.MaxPayload
	if limit == 0 {
		limit = MaxPayload
	}
	var raw json.RawMessage
	switch v := p.Payload.(type) {
	case nil:
		return json.RawMessage(`{}`), nil
	case json.RawMessage:
		if len(v) == 0 {
			return json.RawMessage(`{}`), nil
		}
		raw = v
	default:
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return nil, &Fault{"/payload", "invalid_json", "cannot be written as JSON: " + err.Error()}
		}
	}
	if code, detail := CheckJSON(raw, limit); code != "" {
		return nil, &Fault{"/payload", code, detail}
	}
	return raw, nil
}

// CheckJSON tells whether raw is one JSON value that PostgreSQL stores and gives back equal: code and detail are empty
// then. It never recurses, so that depth costs nothing.
func CheckJSON(raw []byte, limit int) (code, detail string) {
	if len(raw) > limit {
		return "too_long", fmt.Sprintf("%d bytes, the limit is %d", len(raw), limit)
	}
	if !utf8.Valid(raw) {
		return "invalid_json", "not valid UTF-8"
	}
	if depth(raw) > MaxDepth {
		return "too_deep", fmt.Sprintf("nested deeper than %d levels", MaxDepth)
	}
	if !json.Valid(raw) {
		return "invalid_json", "not valid JSON"
	}
	if !storableJSON(raw) {
		return "not_storable", "contains \\u0000 or half of a surrogate pair"
	}
	scan := newNumberScan(raw)
	written, ok := scan.writtenSize()
	if !ok {
		return "not_storable", fmt.Sprintf("a number needs more than %d digits", MaxDigits)
	}
	if written > limit {
		return "too_long", fmt.Sprintf("%d bytes as stored, the limit is %d", written, limit)
	}
	if key, dup := repeatedKey(raw); dup {
		return "repeated_key", fmt.Sprintf("the key %q appears twice in one object", Storable(key, 64))
	}
	return "", ""
}

// depth is how deep arrays and objects nest, whatever else is wrong with the text.
func depth(raw []byte) (deepest int) {
	level, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString:
			if c == '\\' {
				i++
			} else if c == '"' {
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// repeatedKey finds an object with the same key twice in a text that json.Valid accepts: jsonb would keep the last in
// silence.
func repeatedKey(raw []byte) (string, bool) {
	var keys keyScopes
	expectKey := false
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '{':
			keys.enter(true)
			expectKey = true
		case '[':
			keys.enter(false)
			expectKey = false
		case '}', ']':
			keys.leave()
			expectKey = false
		case ',':
			expectKey = keys.inObject()
		case '"':
			start, escaped := i+1, false
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
					escaped = true
				}
			}
			if !expectKey {
				continue
			}
			expectKey = false
			key := raw[start:i]
			if escaped {
				var text string
				if err := json.Unmarshal(raw[start-1:i+1], &text); err == nil { // it is valid
					key = []byte(text)
				}
			}
			if !keys.add(key) {
				return string(key), true
			}
		}
	}
	return "", false
}

// keyScopes are the keys of the objects around a place, innermost last.
type keyScopes struct {
	keys   [][]byte
	scopes []keyScope
}

type keyScope struct {
	object bool
	first  int                 // its keys are keys[first:]
	many   map[string]struct{} // the same keys, once there are more than a comparison of each with each is good for
}

const manyKeys = 16

func (k *keyScopes) enter(object bool) {
	k.scopes = append(k.scopes, keyScope{object: object, first: len(k.keys)})
}

func (k *keyScopes) leave() {
	top := len(k.scopes) - 1
	k.keys = k.keys[:k.scopes[top].first]
	k.scopes = k.scopes[:top]
}

func (k *keyScopes) inObject() bool { return len(k.scopes) > 0 && k.scopes[len(k.scopes)-1].object }

// add takes in a key of the innermost object, and tells whether it is new there.
func (k *keyScopes) add(key []byte) bool {
	scope := &k.scopes[len(k.scopes)-1]
	mine := k.keys[scope.first:]
	if scope.many == nil && len(mine) == manyKeys {
		scope.many = make(map[string]struct{}, 2*manyKeys)
		for _, other := range mine {
			scope.many[string(other)] = struct{}{}
		}
	}
	if scope.many != nil {
		before := len(scope.many)
		scope.many[string(key)] = struct{}{}
		return len(scope.many) > before
	}
	for _, other := range mine {
		if bytes.Equal(other, key) {
			return false
		}
	}
	k.keys = append(k.keys, key)
	return true
}

// numberScan walks the numbers of a JSON text that json.Valid accepts.
type numberScan struct{ raw []byte }

func newNumberScan(raw []byte) numberScan { return numberScan{raw} }

// writtenSize is how many bytes PostgreSQL's text of the value has at most, and false if a number in it needs more than
// MaxDigits digits written out: jsonb keeps 1e131071 in a few bytes and writes it with 131,072.
func (s numberScan) writtenSize() (int, bool) {
	size, inString := 0, false
	for i := 0; i < len(s.raw); i++ {
		c := s.raw[i]
		switch {
		case inString:
			size++
			if c == '\\' {
				i++
				size++
			} else if c == '"' {
				inString = false
			}
		case c == '"':
			inString = true
			size++
		case c == '-' || c >= '0' && c <= '9':
			end := i + 1
			for end < len(s.raw) && isNumberByte(s.raw[end]) {
				end++
			}
			digits, ok := digitsOf(s.raw[i:end])
			if !ok {
				return 0, false
			}
			size += digits
			i = end - 1
		case c == ' ' || c == '\n' || c == '\r' || c == '\t':
		case c == ',' || c == ':':
			size += 2 // PostgreSQL writes a blank after each
		default:
			size++
		}
	}
	return size, true
}

func isNumberByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// digitsOf is the length of a JSON number as PostgreSQL's numeric writes it, without an exponent.
func digitsOf(number []byte) (int, bool) {
	exponentAt := bytes.IndexAny(number, "eE")
	mantissa, exponent := number, 0
	if exponentAt >= 0 {
		mantissa = number[:exponentAt]
		negative := false
		for _, c := range number[exponentAt+1:] {
			switch {
			case c == '-':
				negative = true
			case c == '+':
			case exponent < 1_000_000: // enough to be refused; it cannot overflow
				exponent = exponent*10 + int(c-'0')
			}
		}
		if negative {
			exponent = -exponent
		}
	}
	sign := 0
	if mantissa[0] == '-' {
		sign, mantissa = 1, mantissa[1:]
	}
	whole, fraction := len(mantissa), 0
	if dot := bytes.IndexByte(mantissa, '.'); dot >= 0 {
		whole, fraction = dot, len(mantissa)-dot-1
	}
	whole, fraction = max(whole+exponent, 1), max(fraction-exponent, 0)
	if whole+fraction > MaxDigits {
		return 0, false
	}
	return sign + whole + fraction + 1, true
}
