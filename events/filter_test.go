package events_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
)

// TestFilterAgreesWithItsDefinition: values are ORed, fields ANDed, nothing lets all through.
func TestFilterAgreesWithItsDefinition(t *testing.T) {
	t.Parallel()
	types, queues := []string{"job.enqueued", "job.dead", "queue.paused", "worker.online", "key.revoked", "operation.progress", "later.type"}, []string{"mail", "mail.fast", "video"}
	ids := []string{"0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e", "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0f"}
	tags := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		e := &events.Event{
			Type: rapid.SampledFrom(types).Draw(t, "type"), Queue: rapid.SampledFrom(queues).Draw(t, "queue"),
			Kind: rapid.SampledFrom(queues).Draw(t, "kind"), JobID: uuid.MustParse(rapid.SampledFrom(ids).Draw(t, "id")),
			Tags: rapid.SliceOfN(rapid.SampledFrom(tags), 0, 2).Draw(t, "tags"),
		}
		query := make(map[string][]string)
		want := true
		field := func(name string, values []string, have func(string) bool) {
			if len(values) == 0 {
				return
			}
			query[name] = values
			want = want && slices.ContainsFunc(values, have)
		}
		wild := func(have string) func(string) bool {
			return func(pattern string) bool {
				if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
					return strings.HasPrefix(have, prefix)
				}
				return pattern == have
			}
		}
		some := func(values ...string) []string {
			return rapid.SliceOfN(rapid.SampledFrom(values), 0, 2).Draw(t, "values")
		}
		field("types", some("job.*", "job.dead", "queue.*", "worker.*", "*"), wild(e.Type))
		field("queues", some("mail*", "mail", "mail.*", "video", "v*"), wild(e.Queue))
		field("kinds", some("mail", "x*", "video"), wild(e.Kind))
		field("job_ids", some(ids...), func(id string) bool { return id == e.JobID.String() })
		field("tags", some(tags...), func(tag string) bool { return slices.Contains(e.Tags, tag) })
		f, err := events.ParseFilter(query)
		require.NoError(t, err)
		require.Equal(t, want, f.Match(e), query)
		// Whoever is held to queues sees what is of them, and no more.
		own := rapid.SliceOfN(rapid.SampledFrom(queues), 0, 2).Draw(t, "own")
		ofQueue := strings.HasPrefix(e.Type, "job.") || strings.HasPrefix(e.Type, "queue.")
		require.Equal(t, want && ofQueue && slices.Contains(own, e.Queue), f.Within(own).Match(e), "%v within %v", query, own)
		require.Equal(t, want, f.Within(nil).Match(e))
	})
}

// TestUnknownFieldsOfAFilterAreRefused: to pass over one would let more through than was asked for. What is repeated of its
// name is short.
func TestUnknownFieldsOfAFilterAreRefused(t *testing.T) {
	t.Parallel()
	for name, said := range map[string]string{
		"workflow_ids": "workflow_ids: unknown", "": ": unknown", "Types": "Types: unknown",
		strings.Repeat("ä", 40):  strings.Repeat("ä", 32) + "..: unknown",
		strings.Repeat("xä", 30): strings.Repeat("xä", 21) + "x..: unknown",
	} {
		for _, values := range [][]string{{"a"}, {}, nil} {
			_, err := events.ParseFilter(map[string][]string{"queues": {"mail"}, name: values})
			var fault *events.FilterError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, said, fault.Error())
		}
	}
}
