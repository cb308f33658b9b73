package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Why not encoding/json into structs: it takes `Queue` for `queue`, the last of two equal fields, and half a surrogate
// pair for U+FFFD, all in silence. Here a body is looked at as bytes first (UTF-8, depth, syntax; none of them recurses
// into what was sent), then walked once; each member is taken by its exact name or is a fault with a pointer.

// maxFaults is how many faults an answer lists; the walk ends there.
const maxFaults = 20

// decoder collects what is wrong with a body: malformed (it cannot be read as documented, 400) and refused (a value
// that is read and not taken, 422).
type decoder struct {
	malformed, refused []fieldError
}

// value is a part of a valid JSON text, without surrounding blanks.
type value struct {
	d     *decoder
	place place
	raw   []byte
}

// place is where a value stands. Few values have a fault, so its pointer is put together when it is asked for.
type place struct {
	around string // the pointer to the container
	name   string // the member's, or the element's number
	inside bool   // false: the body itself
}

func (p place) pointer() string {
	if !p.inside {
		return p.around
	}
	return p.around + "/" + escapePointer(jobs.Storable(p.name, 64))
}

// decodeObject reads a body that is one object. depth is how deep it may nest.
func decodeObject(raw []byte, depth int, member func(key string, v value) bool) error {
	if err := checkText(raw, depth); err != nil {
		return err
	}
	d := &decoder{}
	value{d: d, raw: bytes.TrimSpace(raw)}.object(member)
	return d.err()
}

// err is the problem, nil if there is none. Malformed goes first: what cannot be read cannot be judged.
func (d *decoder) err() error {
	switch {
	case len(d.malformed) > 0:
		return malformedFields(d.malformed)
	case len(d.refused) > 0:
		return refusedFields(d.refused)
	}
	return nil
}

// full tells that there is nothing to gain from reading on.
func (d *decoder) full() bool { return len(d.malformed)+len(d.refused) >= maxFaults }

// checkText looks at the bytes: UTF-8, depth, syntax, one value.
func checkText(raw []byte, depth int) error {
	whole := func(code, detail string) error {
		return malformedFields([]fieldError{{Pointer: "", Code: code, Detail: detail}})
	}
	switch {
	case len(bytes.TrimSpace(raw)) == 0:
		return whole("empty", "the body is empty")
	case bytes.HasPrefix(raw, []byte("\xEF\xBB\xBF")):
		return whole("byte_order_mark", "JSON begins without a byte order mark")
	case !utf8.Valid(raw):
		return whole("invalid_utf8", "the body is not valid UTF-8")
	}
	if wellFormed(raw, depth) {
		return nil
	}
	// From here on it is about what to say.
	if pointer, deep := tooDeep(raw, depth); deep {
		return refusedFields([]fieldError{{pointer, "too_deep", fmt.Sprintf("nested deeper than %d levels", jobs.MaxDepth)}})
	}
	var syntax *json.SyntaxError
	var scratch json.RawMessage
	if errors.As(json.Unmarshal(raw, &scratch), &syntax) {
		return whole("invalid_json", fmt.Sprintf("not one JSON value: the fault is at byte %d", syntax.Offset))
	}
	return whole("invalid_json", "not one JSON value")
}

// tooDeep finds nesting beyond a limit in any text, valid or not, and the field that it is in: of a job, or of a job in
// a batch.
func tooDeep(raw []byte, limit int) (pointer string, deep bool) {
	type container struct {
		object bool
		index  int
		member string // the one that is read
	}
	outer := make([]container, 3) // as deep as /jobs/17/payload
	around := func(level int) *container {
		if level >= 1 && level <= len(outer) {
			return &outer[level-1]
		}
		return &container{}
	}
	level, text := 0, ""
	for i := 0; i < len(raw); i++ {
		in := around(level)
		switch raw[i] {
		case '"':
			end := stringEnd(raw, i)
			if level <= len(outer) {
				text = string(raw[i+1 : max(i+1, min(end-1, i+1+64))])
			}
			i = end - 1
		case ':':
			in.member = escapePointer(jobs.Storable(text, 64))
		case ',':
			if in.index++; !in.object {
				in.member = strconv.Itoa(in.index)
			}
		case '{', '[':
			level++
			if level <= len(outer) {
				*around(level) = container{object: raw[i] == '{', member: "0"}
			}
			if level > limit {
				switch first := outer[0]; {
				case !first.object:
					return "", true
				case first.member == "jobs":
					return "/jobs/" + outer[1].member + "/" + outer[2].member, true
				default:
					return "/" + first.member, true
				}
			}
		case '}', ']':
			level--
		}
	}
	return "", false
}

// stringEnd is the index after the string that begins at raw[i].
func stringEnd(raw []byte, i int) int {
	// Where no backslash is, the next quote ends it, and finding both is much faster than looking at each byte.
	if n := bytes.IndexByte(raw[i+1:], '"'); n >= 0 && bytes.IndexByte(raw[i+1:i+1+n], '\\') < 0 {
		return i + n + 2
	}
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
}

// valueEnd is the index after the value that begins at raw[i], in a valid text.
func valueEnd(raw []byte, i int) int {
	level := 0
	for ; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = stringEnd(raw, i) - 1
			if level == 0 {
				return i + 1
			}
		case '{', '[':
			level++
		case '}', ']':
			if level--; level == 0 {
				return i + 1
			}
			if level < 0 {
				return i // the end of the container around a scalar
			}
		case ',', ' ', '\t', '\n', '\r':
			if level == 0 {
				return i
			}
		}
	}
	return len(raw)
}

func skipBlanks(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\n' || raw[i] == '\r') {
		i++
	}
	return i
}

func escapePointer(s string) string { return pointerEscapes.Replace(s) }

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

func (v value) isNull() bool { return string(v.raw) == "null" }

// malformed notes a fault that makes the body unreadable.
func (v value) malformed(code, detail string) {
	v.d.malformed = append(v.d.malformed, fieldError{v.place.pointer(), code, detail})
}

// refuse notes a value that is readable and not taken.
func (v value) refuse(code, detail string) {
	v.d.refused = append(v.d.refused, fieldError{v.place.pointer(), code, detail})
}

func (v value) wrongType(want string) { v.malformed("wrong_type", "must be "+want) }

// object walks the members. member says false for a name that it does not know.
func (v value) object(member func(key string, v value) bool) {
	if v.raw[0] != '{' {
		v.wrongType("an object")
		return
	}
	var seen keySet
	around := v.place.pointer()
	for i := skipBlanks(v.raw, 1); v.raw[i] != '}' && !v.d.full(); {
		keyEnd := stringEnd(v.raw, i)
		name := value{v.d, v.place, v.raw[i:keyEnd]}
		i = skipBlanks(v.raw, skipBlanks(v.raw, keyEnd)+1)
		end := valueEnd(v.raw, i)
		if key, ok := name.textOf(); ok {
			of := value{v.d, place{around, key, true}, v.raw[i:end]}
			switch {
			case !seen.add(key):
				of.malformed("repeated_field", "the field appears twice")
			case !member(key, of):
				of.malformed("unknown_field", "there is no such field")
			}
		}
		if i = skipBlanks(v.raw, end); v.raw[i] == ',' {
			i = skipBlanks(v.raw, i+1)
		}
	}
}

// keySet tells new names from repeated ones. Bodies have few names; a hostile one must not make that quadratic.
type keySet struct {
	few  [16]string
	n    int // of few
	many map[string]struct{}
}

func (s *keySet) add(key string) bool {
	if s.many == nil {
		if slices.Contains(s.few[:s.n], key) {
			return false
		}
		if s.n < len(s.few) {
			s.few[s.n] = key
			s.n++
			return true
		}
		s.many = make(map[string]struct{}, 2*len(s.few))
		for _, k := range s.few {
			s.many[k] = struct{}{}
		}
	}
	_, known := s.many[key]
	s.many[key] = struct{}{}
	return !known
}

// array walks the elements until element says false.
func (v value) array(element func(n int, v value) bool) {
	if v.raw[0] != '[' {
		v.wrongType("an array")
		return
	}
	i, around := skipBlanks(v.raw, 1), v.place.pointer()
	for n := 0; v.raw[i] != ']' && !v.d.full(); n++ {
		end := valueEnd(v.raw, i)
		if !element(n, value{v.d, place{around, strconv.Itoa(n), true}, v.raw[i:end]}) {
			return
		}
		if i = skipBlanks(v.raw, end); v.raw[i] == ',' {
			i = skipBlanks(v.raw, i+1)
		}
	}
}

// text reads a string. ok is false for null, which means not given, and for a fault, which is noted.
func (v value) text() (s string, ok bool) {
	switch {
	case v.isNull():
		return "", false
	case v.raw[0] != '"':
		v.wrongType("a string")
		return "", false
	}
	return v.textOf()
}

func (v value) textOf() (s string, ok bool) {
	inner := v.raw[1 : len(v.raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	if bytes.Contains(inner, []byte(`\u`)) {
		if code, detail := jobs.CheckJSON(v.raw, math.MaxInt); code != "" {
			v.refuse(code, detail)
			return "", false
		}
	}
	if err := json.Unmarshal(v.raw, &s); err != nil {
		v.malformed("invalid_json", "not a string")
		return "", false
	}
	return s, true
}

// integer reads a whole number, written as one. One too large for the machine is out of every range.
func (v value) integer() (n int, ok bool) {
	if v.isNull() {
		return 0, false
	}
	digits := bytes.TrimPrefix(v.raw, []byte("-"))
	if len(digits) == 0 || bytes.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }) >= 0 {
		v.wrongType("a whole number")
		return 0, false
	}
	n, err := strconv.Atoi(string(v.raw))
	if err != nil {
		n = math.MaxInt
		if v.raw[0] == '-' {
			n = math.MinInt
		}
	}
	return n, true
}

// decimal reads a number that is small enough for one.
func (v value) decimal() (x float64, ok bool) {
	if v.isNull() {
		return 0, false
	}
	if c := v.raw[0]; c != '-' && (c < '0' || c > '9') {
		v.wrongType("a number")
		return 0, false
	}
	x, err := strconv.ParseFloat(string(v.raw), 64)
	if err != nil {
		v.refuse("out_of_range", "not a number that can be used")
		return 0, false
	}
	return x, true
}

// truth reads true or false; null is false.
func (v value) truth() bool {
	switch string(v.raw) {
	case "true":
		return true
	case "false", "null":
	default:
		v.wrongType("true or false")
	}
	return false
}
