package hub

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// filter lets events through: the values of a field are ORed, the fields ANDed, an empty field lets all through. Read
// only after it was made.
type filter struct {
	types, queues, kinds names
	jobs                 map[uuid.UUID]struct{}
	tags                 []string
}

// maxValues bounds the values of one field: each event is compared with them for each client.
const maxValues = 200

// names are exact names and beginnings of names.
type names struct{ exact, prefixes []string }

func (n names) empty() bool { return len(n.exact) == 0 && len(n.prefixes) == 0 }

func (n names) match(s string) bool {
	if n.empty() || slices.Contains(n.exact, s) {
		return true
	}
	for _, prefix := range n.prefixes {
		if s != "" && strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// match tells whether an event gets through.
func (f *filter) match(e *events.Event) bool {
	if !f.types.match(e.Type) || !f.queues.match(e.Queue) || !f.kinds.match(e.Kind) {
		return false
	}
	if len(f.jobs) > 0 {
		if _, ok := f.jobs[e.JobID]; !ok {
			return false
		}
	}
	return len(f.tags) == 0 || slices.ContainsFunc(e.Tags, func(tag string) bool { return slices.Contains(f.tags, tag) })
}

// filterError names the field that cannot be read. Its text is for the client.
type filterError struct{ field, detail string }

func (e *filterError) Error() string { return e.field + ": " + e.detail }

// parseFilter reads the filter fields of a query; others are not its business.
func parseFilter(query url.Values) (*filter, error) {
	f := &filter{}
	for _, field := range []struct {
		name  string
		into  *names
		valid func(string) bool
		shape string
	}{
		{"types", &f.types, validType, "event types, as job.completed, or job.*"},
		{"queues", &f.queues, jobs.ValidName, "queue names; a * at the end stands for any"},
		{"kinds", &f.kinds, jobs.ValidName, "kinds; a * at the end stands for any"},
	} {
		values, err := splitValues(query, field.name)
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			prefix, wild := strings.CutSuffix(value, "*")
			// A beginning is a name that goes on: "mail." must pass where "." alone is no name.
			if wild && (prefix == "" || field.valid(prefix+"x")) {
				field.into.prefixes = append(field.into.prefixes, prefix)
			} else if !wild && field.valid(value) {
				field.into.exact = append(field.into.exact, value)
			} else {
				return nil, &filterError{field.name, field.shape}
			}
		}
	}
	ids, err := splitValues(query, "job_ids")
	if err != nil {
		return nil, err
	}
	for _, text := range ids {
		id, err := uuid.Parse(text)
		if err != nil || len(text) != 36 {
			return nil, &filterError{"job_ids", "ids of jobs, as 0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"}
		}
		if f.jobs == nil {
			f.jobs = make(map[uuid.UUID]struct{}, len(ids))
		}
		f.jobs[id] = struct{}{}
	}
	if f.tags, err = splitValues(query, "tags"); err != nil {
		return nil, err
	}
	for _, tag := range f.tags {
		if !utf8.ValidString(tag) || utf8.RuneCountInString(tag) > 64 {
			return nil, &filterError{"tags", "tags of 1 to 64 characters"}
		}
	}
	return f, nil
}

// splitValues splits a parameter at its commas. One that is there has a value.
func splitValues(query url.Values, name string) ([]string, error) {
	given, ok := query[name]
	if !ok {
		return nil, nil
	}
	values := strings.Split(given[0], ",")
	if len(values) > maxValues {
		return nil, &filterError{name, fmt.Sprintf("at most %d values", maxValues)}
	}
	if slices.Contains(values, "") {
		return nil, &filterError{name, "one value or more, with commas between them"}
	}
	return values, nil
}

// validType tells whether s has the shape of an event type. Types that this version does not know have it too.
func validType(s string) bool {
	if len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && c != '_' && c != '.' {
			return false
		}
	}
	return true
}
