package api

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// A page cursor is bound to the caller it was given to, beside the filter and the order that the domain binds it to: a
// cursor tells where rows lie, and another caller may not see those rows. The mark is no secret; it guards against
// mistakes and damage. What may be seen is decided by the query, never by the cursor.

func sealCursor(inner string, p Principal) string {
	if inner == "" {
		return ""
	}
	return inner + "." + cursorMark(inner, p)
}

func openCursor(cursor string, p Principal) (inner string, ok bool) {
	inner, mark, found := strings.Cut(cursor, ".")
	return inner, found && inner != "" && mark == cursorMark(inner, p)
}

func cursorMark(inner string, p Principal) string {
	sum := sha256.Sum256([]byte(p.Name + "\x00" + inner))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
