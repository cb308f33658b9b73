package web

import (
	"strconv"
	"strings"
)

// asset is a file in all the forms in which it is sent. It does not change.
type asset struct {
	kind   string // Content-Type
	plain  []byte
	packed map[string][]byte // by Content-Encoding; empty where packing gains nothing
}

// encodings by the ending of a packed file.
var encodings = map[string]string{".br": "br", ".gz": "gzip"}

// variant is the smallest form that the reader takes, and its Content-Encoding, "" for the plain one.
func (a *asset) variant(accepted []string) (body []byte, encoding string) {
	for _, encoding := range []string{"br", "gzip"} {
		if packed, found := a.packed[encoding]; found && accepts(accepted, encoding) {
			return packed, encoding
		}
	}
	return a.plain, ""
}

// accepts reads Accept-Encoding (RFC 9110, section 12.5.3) for one encoding. A star does not count: who does not name an
// encoding may well be unable to read it.
func accepts(headers []string, encoding string) bool {
	for _, choice := range strings.Split(strings.Join(headers, ","), ",") {
		name, parameter, _ := strings.Cut(choice, ";")
		if !strings.EqualFold(strings.TrimSpace(name), encoding) {
			continue
		}
		weight, weighted := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameter)), "q=")
		if !weighted {
			return true
		}
		q, err := strconv.ParseFloat(weight, 64)
		return err == nil && q > 0
	}
	return false
}
