package jobstest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Job is a job of a kind, with its payload decoded.
type Job[T any] struct {
	*jobs.Job
	Payload T
}

// Match narrows down which jobs of a kind are meant.
type Match struct {
	says  string // after "with"
	holds func(job *jobs.Job) bool
}

// Payload means jobs whose payload is this one, compared as JSON.
func Payload(payload any) Match {
	raw, err := json.Marshal(payload)
	want, err2 := decode(raw)
	return Match{says: "payload " + string(raw), holds: func(job *jobs.Job) bool {
		got, err3 := decode(job.Payload)
		return err == nil && err2 == nil && err3 == nil && reflect.DeepEqual(want, got)
	}}
}

func decode(raw []byte) (value any, err error) { return value, json.Unmarshal(raw, &value) }

// Queue means jobs of this queue.
func Queue(name string) Match {
	return Match{says: "queue " + name, holds: func(job *jobs.Job) bool { return job.Queue == name }}
}

// Tag means jobs with this tag, among others.
func Tag(tag string) Match {
	return Match{says: "tag " + tag, holds: func(job *jobs.Job) bool { return slices.Contains(job.Tags, tag) }}
}

// Status means jobs that are in this state.
func Status(status jobs.Status) Match {
	return Match{says: "status " + string(status), holds: func(job *jobs.Job) bool { return job.Status == status }}
}

// That means jobs for which the function holds; says describes them in a failure: "a delay of an hour".
func That(says string, holds func(job *jobs.Job) bool) Match { return Match{says: says, holds: holds} }

// Enqueued returns the jobs of a kind that match, in whatever state they are by now, in the order in which they were
// enqueued. Given a transaction it sees what that has enqueued.
func Enqueued[T any](t testing.TB, db jobs.DB, kind jobs.Kind[T], match ...Match) []Job[T] {
	t.Helper()
	var found []Job[T]
	for _, job := range matching(all(t, db, kind.Name), match) {
		payload, err := kind.Decode(job)
		if err != nil {
			t.Fatalf("jobstest: job %s of kind %s: %v", job.ID, kind.Name, err)
		}
		found = append(found, Job[T]{job, payload})
	}
	return found
}

// RequireEnqueued returns the one job of a kind that matches; the test fails if there is none, or more than one.
func RequireEnqueued[T any](t testing.TB, db jobs.DB, kind jobs.Kind[T], match ...Match) Job[T] {
	t.Helper()
	found := Enqueued(t, db, kind, match...)
	if len(found) != 1 {
		t.Fatalf("jobstest: %d jobs of kind %s%s, want 1\n%s", len(found), kind.Name, saying(match), list(all(t, db, kind.Name)))
	}
	return found[0]
}

// RequireNotEnqueued fails the test if there is a job of a kind that matches.
func RequireNotEnqueued[T any](t testing.TB, db jobs.DB, kind jobs.Kind[T], match ...Match) {
	t.Helper()
	if found := matching(all(t, db, kind.Name), match); len(found) != 0 {
		t.Fatalf("jobstest: %d jobs of kind %s%s, want none\n%s", len(found), kind.Name, saying(match), list(found))
	}
}

// all reads the jobs of a kind, oldest first.
func all(t testing.TB, db jobs.DB, kind string) (found []*jobs.Job) {
	t.Helper()
	filter := jobs.Filter{Kinds: []string{kind}}
	page := jobs.Page{Sort: jobs.ByCreated, Limit: 500, Payload: true, Result: true}
	for {
		some, next, err := jobs.List(t.Context(), db, filter, page)
		if err != nil {
			t.Fatalf("jobstest: %v", err)
		}
		found = append(found, some...)
		if next == "" {
			return found
		}
		page.Cursor = next
	}
}

func matching(all []*jobs.Job, match []Match) (found []*jobs.Job) {
	for _, job := range all {
		if !slices.ContainsFunc(match, func(m Match) bool { return !m.holds(job) }) {
			found = append(found, job)
		}
	}
	return found
}

func saying(match []Match) string {
	if len(match) == 0 {
		return ""
	}
	says := make([]string, len(match))
	for i, m := range match {
		says[i] = m.says
	}
	return " with " + strings.Join(says, ", ")
}

// mostListed bounds what a failure lists.
const mostListed = 20

func list(found []*jobs.Job) string {
	if len(found) == 0 {
		return "there is none of that kind"
	}
	var b strings.Builder
	b.WriteString("there are:")
	for i, job := range found {
		if i == mostListed {
			fmt.Fprintf(&b, "\n  and %d more", len(found)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s  queue %s, %s, payload %s", job.ID, job.Queue, job.Status, job.Payload)
		if len(job.Tags) > 0 {
			fmt.Fprintf(&b, ", tags %s", strings.Join(job.Tags, " "))
		}
	}
	return b.String()
}
