package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/workloads"
)

func planned(t *testing.T, kept *figures.Results, args ...string) []string {
	t.Helper()
	o, err := readOptions(args)
	require.NoError(t, err)
	var cells []string
	for _, s := range plan([]workloads.Workload{
		{Name: "drain", Peers: []string{"mini-asynq", "river-tuned", "asynq"}},
		{Name: "batch", Peers: []string{"mini-asynq", "river-tuned"}},
	}, o, kept) {
		cells = append(cells, s.cell())
	}
	return cells
}

func nothing(t *testing.T) *figures.Results {
	t.Helper()
	r, err := figures.Load(filepath.Join(t.TempDir(), "results.json"))
	require.NoError(t, err)
	return r
}

func TestOrderOfContendersTurnsFromRoundToRound(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{
		"drain/mini-asynq", "drain/river-tuned", "drain/asynq", "batch/mini-asynq", "batch/river-tuned",
		"drain/asynq", "drain/river-tuned", "drain/mini-asynq", "batch/river-tuned", "batch/mini-asynq",
	}, planned(t, nothing(t), "-runs", "2"))
}

func TestMeasuredRunsAreNotRepeated(t *testing.T) {
	t.Parallel()
	kept := nothing(t)
	require.NoError(t, kept.Add("drain/mini-asynq", figures.Run{}))
	require.NoError(t, kept.Add("drain/mini-asynq", figures.Run{}))
	require.NoError(t, kept.Add("drain/river-tuned", figures.Run{}))
	require.NoError(t, kept.Skip("drain/asynq", "no redis-server"))
	require.Equal(t, []string{
		"drain/asynq", "drain/asynq", "drain/river-tuned",
	}, planned(t, kept, "-runs", "2", "-cell", "drain/*"), "what was left out is tried again")
}

func TestCellsRunSingly(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string][]string{
		"drain/river-tuned":            {"drain/river-tuned"},
		"batch":                        {"batch/mini-asynq", "batch/river-tuned"},
		"*/mini-asynq":                 {"drain/mini-asynq", "batch/mini-asynq"},
		"drain/asynq,batch/mini-asynq": {"drain/asynq", "batch/mini-asynq"},
		"nowhere":                      nil,
	} {
		require.Equal(t, want, planned(t, nothing(t), "-runs", "1", "-cell", pattern), pattern)
	}
}

func TestSmokeLeavesOutWhatNeedsOtherPrograms(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"drain/mini-asynq", "drain/river-tuned", "batch/mini-asynq", "batch/river-tuned"},
		planned(t, nothing(t), "-smoke"))
}

func TestWrongFlagsAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-runs", "0"}, {"-cell", "[x"}, {"drain"}, {"-seconds", "-1"}} {
		_, err := readOptions(args)
		require.Error(t, err, args)
	}
}

// A target whose cell is in no workload would never be measured, and so never fail.
func TestTargetsNameCellsThatExist(t *testing.T) {
	t.Parallel()
	cells := map[string]bool{}
	for _, w := range workloads.All() {
		for _, peer := range w.Peers {
			cells[w.Name+"/"+peer] = true
		}
	}
	for _, target := range figures.Targets() {
		require.True(t, cells[target.Cell], target.Cell)
		if target.Reference != "" {
			require.True(t, cells[target.Reference], target.Reference)
		}
	}
}
