package miniasynq_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestDashboardKnowsWhatAJobAllows: between an event and the next answer the dashboard offers what its own copy of the table
// of states says (web/src/store/fold.ts); the copy is the table.
func TestDashboardKnowsWhatAJobAllows(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("web/src/store/fold.ts")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(source), "const actionsOf")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "};")
	rows := regexp.MustCompile(`(?m)^\s+(\w+): \[(.*)\],$`).FindAllStringSubmatch(table, -1)
	statuses := make(map[jobs.Status]bool)
	for _, step := range jobs.Steps() {
		if step.To != "" {
			statuses[step.To] = true
		}
	}
	require.Len(t, rows, len(statuses))
	for _, row := range rows {
		var want, got []string
		for _, action := range jobs.Status(row[1]).AllowedActions() {
			want = append(want, string(action))
		}
		for _, action := range strings.Split(row[2], ",") {
			got = append(got, strings.Trim(strings.TrimSpace(action), `"`))
		}
		require.ElementsMatch(t, want, got, row[1])
	}
}
