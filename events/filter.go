package events

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Filter lets events through: the values of a field are ORed, the fields ANDed, an empty field lets all through. Read
// only after it was made. nil lets everything through.
type Filter struct {
	types, queues, kinds names
	jobs                 map[uuid.UUID]struct{}
	tags                 []string

	bound  bool
	within []string // when bound: the only queues that exist for the reader

	webhook uuid.UUID // what is about this one gets through, whatever the rest says; zero: none
}

// filterFields are the fields of a filter, in every door's spelling.
var filterFields = []string{"types", "queues", "kinds", "job_ids", "tags"}

// FilterFields lists the fields of a filter.
func FilterFields() []string { return slices.Clone(filterFields) }

// maxValues bounds the values of one field: each event is compared with them for each reader.
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

// Match tells whether an event gets through.
func (f *Filter) Match(e *Event) bool {
	if f == nil {
		return true
	}
	if f.webhook != uuid.Nil && f.webhook == webhookOf(e) {
		return true
	}
	if f.bound && !f.visible(e) {
		return false
	}
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

// visible tells whether an event exists for a reader that is held to some queues: those of his jobs and of his queues. What
// is of all queues (workers, keys, history, operations), and types that this version does not know, he does not see.
func (f *Filter) visible(e *Event) bool {
	return (strings.HasPrefix(e.Type, "job.") || strings.HasPrefix(e.Type, "queue.")) && slices.Contains(f.within, e.Queue)
}

// Within returns the filter for a reader for whom only these queues exist; nil: all of them.
func (f *Filter) Within(queues []string) *Filter {
	if queues == nil {
		return f
	}
	bound := Filter{}
	if f != nil {
		bound = *f
	}
	bound.bound, bound.within = true, slices.Clone(queues)
	return &bound
}

// withWebhook returns the filter for the reader of a webhook, which has to hear of other settings too.
func (f *Filter) withWebhook(id uuid.UUID) *Filter {
	with := *f
	with.webhook = id
	return &with
}

// FilterError names the field that cannot be read. Its text is for the client.
type FilterError struct{ Field, Detail string }

func (e *FilterError) Error() string { return e.Field + ": " + e.Detail }

// ParseFilter reads a filter out of the values of its fields. A field that is there has a value, and is one of
// FilterFields: who asks for less than a filter says would be told too much. *FilterError.
func ParseFilter(fields map[string][]string) (*Filter, error) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(filterFields, name) {
			return nil, &FilterError{shortened(name), "unknown"}
		}
	}
	f := &Filter{}
	for _, name := range filterFields {
		values, given := fields[name]
		if !given {
			continue
		}
		if len(values) > maxValues {
			return nil, &FilterError{name, fmt.Sprintf("at most %d values", maxValues)}
		}
		if len(values) == 0 || slices.Contains(values, "") {
			return nil, &FilterError{name, "one value or more, with commas between them"}
		}
		if detail := f.set(name, values); detail != "" {
			return nil, &FilterError{name, detail}
		}
	}
	return f, nil
}

// maxName bounds what an error repeats of a name that it does not know.
const maxName = 64

func shortened(name string) string {
	if len(name) <= maxName {
		return name
	}
	return strings.ToValidUTF8(name[:maxName], "") + ".."
}

// set takes the values of a field in; else it says what they should be.
func (f *Filter) set(name string, values []string) (refused string) {
	ok := true
	switch name {
	case "types":
		f.types, ok = parseNames(values, validType)
		refused = "event types, as job.completed, or job.*"
	case "queues":
		f.queues, ok = parseNames(values, jobs.ValidName)
		refused = "queue names; a * at the end stands for any"
	case "kinds":
		f.kinds, ok = parseNames(values, jobs.ValidName)
		refused = "kinds; a * at the end stands for any"
	case "job_ids":
		f.jobs, ok = parseIDs(values)
		refused = "ids of jobs, as 0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"
	case "tags":
		f.tags = values
		ok = !slices.ContainsFunc(values, func(tag string) bool {
			return !utf8.ValidString(tag) || utf8.RuneCountInString(tag) > 64
		})
		refused = "tags of 1 to 64 characters"
	}
	if ok {
		return ""
	}
	return refused
}

func parseNames(values []string, valid func(string) bool) (n names, ok bool) {
	for _, value := range values {
		prefix, wild := strings.CutSuffix(value, "*")
		switch {
		// A beginning is a name that goes on: "mail." must pass where "." alone is no name.
		case wild && (prefix == "" || valid(prefix+"x")):
			n.prefixes = append(n.prefixes, prefix)
		case !wild && valid(value):
			n.exact = append(n.exact, value)
		default:
			return n, false
		}
	}
	return n, true
}

func parseIDs(values []string) (map[uuid.UUID]struct{}, bool) {
	ids := make(map[uuid.UUID]struct{}, len(values))
	for _, text := range values {
		id, err := uuid.Parse(text)
		if err != nil || len(text) != 36 {
			return nil, false
		}
		ids[id] = struct{}{}
	}
	return ids, true
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
