package api

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// accepts picks the representation that a caller wants most out of those offered, which are full media types; the first
// one for who does not say. false: none of them.
func accepts(r *http.Request, offered ...string) (string, bool) {
	var ranges []string
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			if part = strings.TrimSpace(part); part != "" {
				ranges = append(ranges, part)
			}
		}
	}
	if len(ranges) == 0 {
		return offered[0], true
	}
	best, found := wish{}, ""
	for _, media := range offered {
		if w := wishFor(media, ranges); w.quality > 0 && (found == "" || w.before(best)) {
			best, found = w, media
		}
	}
	return found, found != ""
}

// wish is how much a caller wants a media type: by quality; else a type that is named counts more than a range that it lies
// in, and what stands first more than the rest.
type wish struct {
	quality  float64
	specific int // 0: */*, 1: type/*, 2: the type
	place    int
}

func (w wish) before(other wish) bool {
	switch {
	case w.quality != other.quality:
		return w.quality > other.quality
	case w.specific != other.specific:
		return w.specific > other.specific
	}
	return w.place < other.place
}

// wishFor is what the most specific range says of a media type. What cannot be read is passed over.
func wishFor(media string, ranges []string) wish {
	main, _, _ := strings.Cut(media, "/")
	best := wish{specific: -1}
	for place, text := range ranges {
		name, parameters, err := mime.ParseMediaType(text)
		if err != nil {
			continue
		}
		specific := -1
		switch name {
		case media:
			specific = 2
		case main + "/*":
			specific = 1
		case "*/*":
			specific = 0
		}
		if specific <= best.specific {
			continue
		}
		quality := 1.0
		if q, ok := parameters["q"]; ok {
			if quality, err = strconv.ParseFloat(q, 64); err != nil || quality < 0 || quality > 1 {
				continue
			}
		}
		best = wish{quality, specific, place}
	}
	return best
}
