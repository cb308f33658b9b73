package jobs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Limits of what a failure may hold, in bytes. Longer texts are cut, never refused: an attempt that failed must be able
// to say so.
const (
	maxErrorType    = 128
	maxErrorMessage = 8 << 10
	maxErrorStack   = 64 << 10
)

// Storable makes a text that PostgreSQL can hold in text and jsonb: NUL and invalid UTF-8 (lone surrogates, overlong
// forms) become U+FFFD, and what exceeds limit bytes is cut at a rune. Storable(Storable(s)) = Storable(s).
func Storable(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// NewFailure describes a failed attempt in texts that can be stored. kind is the job's: it is part of the fingerprint.
func NewFailure(kind, errType, message, stack string) *Failure {
	f := &Failure{
		Type:    Storable(errType, maxErrorType),
		Message: Storable(message, maxErrorMessage),
		Stack:   Storable(stack, maxErrorStack),
	}
	f.Fingerprint = Fingerprint(kind, f.Message)
	return f
}

// varying is what differs between two occurrences of the same fault: quoted text, ids and hex words, numbers.
var varying = regexp.MustCompile(`"[^"]*"|'[^']*'|` + "`[^`]*`" +
	`|\b[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\b|\b0x[0-9a-fA-F]+\b|\b[0-9a-fA-F]*[0-9][0-9a-fA-F]*\b|[0-9]+`)

// Fingerprint groups failures: the kind and the message without what varies. 16 hex digits.
func Fingerprint(kind, message string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + varying.ReplaceAllString(message, "?")))
	return hex.EncodeToString(sum[:8])
}

// storableJSON tells whether PostgreSQL's jsonb takes the text. It looks for what is valid JSON for Go and not for
// jsonb: the escape \u0000 and lone surrogates. The caller has checked the syntax.
func storableJSON(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++ // the escaped character, so that \\u0000 is text
		if i+4 >= len(raw) || raw[i] != 'u' {
			continue
		}
		switch unit := hex4(raw[i+1 : i+5]); {
		case unit == 0, unit >= 0xDC00 && unit <= 0xDFFF:
			return false
		case unit >= 0xD800 && unit <= 0xDBFF:
			if i+10 >= len(raw) || !bytes.Equal(raw[i+5:i+7], []byte(`\u`)) {
				return false
			}
			if low := hex4(raw[i+7 : i+11]); low < 0xDC00 || low > 0xDFFF {
				return false
			}
			i += 6
		}
		i += 4
	}
	return true
}

func hex4(b []byte) (n int) {
	for _, c := range b {
		n <<= 4
		switch {
		case c >= '0' && c <= '9':
			n |= int(c - '0')
		case c >= 'a' && c <= 'f':
			n |= int(c-'a') + 10
		case c >= 'A' && c <= 'F':
			n |= int(c-'A') + 10
		}
	}
	return n
}
