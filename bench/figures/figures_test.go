package figures_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/bench/figures"
)

func fixture(t *testing.T) *figures.Results {
	t.Helper()
	r, err := figures.Load(filepath.Join("testdata", "results.json"))
	require.NoError(t, err)
	return r
}

func TestSpreadIsMedianWithExtremes(t *testing.T) {
	t.Parallel()
	r := fixture(t)
	require.Equal(t, figures.Spread{Median: 66_000, Min: 60_000, Max: 72_000, N: 3}, r.Spread("drain/mini-asynq", "jobs_per_s"))
	require.Equal(t, figures.Spread{Median: 22_000, Min: 20_000, Max: 24_000, N: 2}, r.Spread("drain/river-tuned", "jobs_per_s"))
	require.Zero(t, r.Spread("drain/asynq", "jobs_per_s"), "a cell that was left out")
	require.Zero(t, r.Spread("nowhere/mini-asynq", "jobs_per_s"))
	require.Zero(t, r.Spread("drain/mini-asynq", "no_such_metric"))
}

func TestTargetsAreJudgedByTheMedians(t *testing.T) {
	t.Parallel()
	verdicts := fixture(t).Judge([]figures.Target{
		{Cell: "drain/mini-asynq", Metric: "jobs_per_s", Reference: "drain/river-tuned", Bound: 3},
		{Cell: "drain/mini-asynq", Metric: "jobs_per_s", Reference: "drain/river-tuned", Bound: 3.1},
		{Cell: "latency-idle/mini-asynq", Metric: "p99_ms", AtMost: true, Bound: 3},
		{Cell: "latency-idle/mini-asynq", Metric: "p99_ms", AtMost: true, Bound: 2},
		{Cell: "drain/mini-asynq", Metric: "jobs_per_s", Reference: "drain/asynq", Bound: 3},
		{Cell: "nowhere/mini-asynq", Metric: "p99_ms", AtMost: true, Bound: 3},
	})
	for i, want := range []struct{ known, holds bool }{
		{true, true}, {true, false}, {true, true}, {true, false}, {false, false}, {false, false},
	} {
		require.Equal(t, want.known, verdicts[i].Known, "target %d", i)
		require.Equal(t, want.holds, verdicts[i].Holds, "target %d", i)
	}
	require.InDelta(t, 3.0, verdicts[0].Value, 1e-9)
	require.InDelta(t, 2.5, verdicts[2].Value, 1e-9)
}

func TestPageTellsFiguresTargetsAndWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	page := figures.Page(fixture(t), []figures.Row{
		{Name: "drain", Title: "Drain", Peers: []string{"mini-asynq", "river-tuned", "asynq"}},
		{Name: "batch", Title: "Batch", Peers: []string{"mini-asynq"}},
	})
	for _, line := range []string{
		"| drain, against River tuned | 66,000 (60,000 to 72,000) | 22,000 (20,000 to 24,000) | 3.00 x | at least 3 x | yes |",
		"| drain, against graphile-worker | 66,000 (60,000 to 72,000) | - | not measured | at least 1.6 x | - |",
		"| drain/mini-asynq | 3 | jobs_per_s | 66,000 (60,000 to 72,000) |",
		"| drain/asynq | - | left out | no redis-server was found |",
		"### Batch\n\nNot measured.",
		"| PostgreSQL | 15.14 |",
		"`go run . -cell drain`",
	} {
		require.Contains(t, page, line)
	}
}

func TestResultsSurviveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "results.json")
	r, err := figures.Load(path)
	require.NoError(t, err)
	require.NoError(t, r.Describe(figures.Facts{Scale: figures.Scale{Jobs: 100}}))
	run := figures.Run{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 2, Metrics: map[string]float64{"jobs_per_s": 7}}
	require.NoError(t, r.Add("drain/mini-asynq", run))
	require.NoError(t, r.Skip("drain/asynq", "no redis-server"))
	require.NoError(t, r.Skip("drain/mini-asynq", "what was measured stays"))

	again, err := figures.Load(path)
	require.NoError(t, err)
	require.Equal(t, []figures.Run{run}, again.Cells["drain/mini-asynq"].Runs)
	require.Equal(t, 1, again.Runs("drain/mini-asynq"))
	require.Zero(t, again.Runs("drain/asynq"))
	require.Equal(t, "no redis-server", again.Cells["drain/asynq"].Skipped)

	// A contender that is there by now replaces the reason why it was not.
	require.NoError(t, again.Add("drain/asynq", run))
	require.Empty(t, again.Cells["drain/asynq"].Skipped)

	again.Forget("drain/mini-asynq")
	require.Zero(t, again.Runs("drain/mini-asynq"))
}

func TestRunsOfDifferentScalesAreNotMixed(t *testing.T) {
	t.Parallel()
	r := fixture(t)
	require.NoError(t, r.Describe(r.Facts))
	other := r.Facts
	other.Scale.Jobs /= 2
	var scale *figures.ScaleError
	require.ErrorAs(t, r.Describe(other), &scale)
	require.Equal(t, other.Scale, scale.Want)
}

func TestBrokenFileIsNamed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "results.json")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err := figures.Load(path)
	require.ErrorContains(t, err, path)
}

func TestPercentileIsAMeasuredSpan(t *testing.T) {
	t.Parallel()
	spans := make([]time.Duration, 200)
	for i := range spans {
		spans[len(spans)-1-i] = time.Duration(i+1) * time.Millisecond
	}
	require.InDelta(t, 100, figures.Percentile(spans, 0.5), 0)
	require.InDelta(t, 198, figures.Percentile(spans, 0.99), 0)
	require.InDelta(t, 200, figures.Percentile(spans, 1), 0)
	require.InDelta(t, 1, figures.Percentile(spans[:1], 0.99), 0)
}

func TestNumbersHaveTheDigitsTheyAreWorth(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]float64{
		"0.00": 0, "0.0150": 0.015, "0.75": 0.75, "12.3": 12.34, "123": 123.4, "1,235": 1234.6, "1,234,567": 1234567, "-1,000": -1000,
	} {
		require.Equal(t, want, figures.Number(v))
	}
}

// A target whose cell nobody measures would never fail.
func TestTargetsNameTheirUnitsAndBounds(t *testing.T) {
	t.Parallel()
	for _, target := range figures.Targets() {
		require.NotEmpty(t, target.Workload)
		require.Positive(t, target.Bound, target.Workload)
		require.True(t, strings.HasSuffix(target.Cell, "/"+figures.Mini), target.Cell)
	}
}
