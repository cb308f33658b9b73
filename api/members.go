package api

import (
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// members writes a JSON object member by member, the same bytes as encoding/json. Documents are taken as they are: they
// are for a MarshalJSON, whose caller checks and compacts what it returns.
type members struct {
	out []byte
	err error // the first one
}

func (m *members) name(name string) {
	separator := byte(',')
	if len(m.out) == 0 {
		separator = '{'
	}
	m.out = append(m.out, separator, '"')
	m.out = append(m.out, name...)
	m.out = append(m.out, '"', ':')
}

func (m *members) text(name, s string) {
	m.name(name)
	m.out = appendText(m.out, s)
}

func (m *members) id(name string, id uuid.UUID) {
	m.name(name)
	m.out = append(appendID(append(m.out, '"'), id), '"')
}

func (m *members) textOrNull(name string, s text) {
	m.name(name)
	if s == "" {
		m.out = append(m.out, "null"...)
		return
	}
	m.out = appendText(m.out, string(s))
}

func (m *members) integer(name string, n int64) {
	m.name(name)
	m.out = strconv.AppendInt(m.out, n, 10)
}

func (m *members) stamp(name string, t stamp) {
	m.name(name)
	m.out = appendStamp(m.out, t)
}

func (m *members) document(name string, raw json.RawMessage) {
	m.name(name)
	m.out = append(m.out, raw...)
}

// value writes what is rarely there, null if it is not.
func (m *members) value(name string, v any, there bool) {
	m.name(name)
	if !there {
		m.out = append(m.out, "null"...)
		return
	}
	raw, err := json.Marshal(v)
	if m.err == nil {
		m.err = err
	}
	m.out = append(m.out, raw...)
}

func (m *members) end() ([]byte, error) { return append(m.out, '}'), m.err }

// writeTexts writes an array of strings. (A method cannot be generic.)
func writeTexts[T ~string](m *members, name string, items []T) {
	m.name(name)
	m.out = append(m.out, '[')
	for i, item := range items {
		if i > 0 {
			m.out = append(m.out, ',')
		}
		m.out = appendText(m.out, string(item))
	}
	m.out = append(m.out, ']')
}

// appendText writes a string. What needs escapes is left to encoding/json; names, ids and most keys need none.
func appendText(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			raw, _ := json.Marshal(s) // a string always marshals
			return append(out, raw...)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"')
}

// appendID writes an id as its String does.
func appendID(out []byte, id uuid.UUID) []byte {
	for i := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			out = append(out, '-')
		}
		out = hex.AppendEncode(out, id[i:i+1])
	}
	return out
}

// appendStamp writes a time, null when zero: RFC 3339, which package time writes without looking at a layout, and the
// microseconds before its Z.
func appendStamp(out []byte, t stamp) []byte {
	at := time.Time(t)
	if at.IsZero() {
		return append(out, "null"...)
	}
	out = append(out, '"')
	out = at.UTC().AppendFormat(out, time.RFC3339)
	out[len(out)-1] = '.'
	micros := at.Nanosecond() / 1000
	for unit := 100_000; unit > 0; unit /= 10 {
		out = append(out, "0123456789"[micros/unit%10])
	}
	return append(out, 'Z', '"')
}
