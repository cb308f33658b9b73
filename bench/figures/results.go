package figures

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Run is what one execution of a cell measured, by the name of the metric. A name ends in its unit: jobs_per_s, p99_ms.
type Run struct {
	At      time.Time          `json:"at"`
	Seconds float64            `json:"seconds"` // the whole cell took, set-up and accounting too
	Metrics map[string]float64 `json:"metrics"`
	// Account is what the database showed at the end, in words; a cell whose account is wrong has no Run.
	Account string `json:"account,omitempty"`
}

// Cell is a workload at a contender.
type Cell struct {
	Runs []Run `json:"runs,omitempty"`
	// Skipped says why nothing could be measured here: a program that is missing.
	Skipped string `json:"skipped,omitempty"`
}

// Facts are the machine and the conditions, as they go onto the page.
type Facts struct {
	Machine  []Fact `json:"machine"`
	Versions []Fact `json:"versions"`
	Settings []Fact `json:"settings"` // of PostgreSQL, equal for all
	Command  string `json:"command"`
	Scale    Scale  `json:"scale"`
}

// Fact is one line of a table.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Scale says how large the workloads were; results of different scales are not mixed.
type Scale struct {
	Jobs    int     `json:"jobs"`    // of a drain; other sizes are multiples of it
	Seconds float64 `json:"seconds"` // of a timed workload
	Samples int     `json:"samples"` // of a latency
	Loaded  float64 `json:"loaded"`  // share of 2 million pending, 1 million scheduled, 5 million finished
}

// Results is the content of the file.
type Results struct {
	Facts Facts            `json:"facts"`
	Cells map[string]*Cell `json:"cells"`

	path string
}

// ScaleError means that a file holds runs of another scale than those to come.
type ScaleError struct {
	Path       string
	Kept, Want Scale
}

// Error says how to go on.
func (e *ScaleError) Error() string {
	return fmt.Sprintf("%s holds runs at the scale %+v, not %+v: name another file with -out, or measure all cells anew with -again and no -cell",
		e.Path, e.Kept, e.Want)
}

// Load reads the file, or begins an empty one when there is none.
func Load(path string) (*Results, error) {
	r := &Results{Cells: map[string]*Cell{}, path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read results in %s: %w", path, err)
	}
	if r.Cells == nil {
		r.Cells = map[string]*Cell{}
	}
	return r, nil
}

// Describe sets the facts of the runs to come. Runs of another scale are refused.
func (r *Results) Describe(facts Facts) error {
	for _, cell := range r.Cells {
		if len(cell.Runs) > 0 && r.Facts.Scale != facts.Scale {
			return &ScaleError{Path: r.path, Kept: r.Facts.Scale, Want: facts.Scale}
		}
	}
	r.Facts = facts
	return nil
}

// Forget drops what a cell measured before.
func (r *Results) Forget(cell string) { delete(r.Cells, cell) }

// Runs tells how often a cell was measured.
func (r *Results) Runs(cell string) int {
	if c := r.Cells[cell]; c != nil {
		return len(c.Runs)
	}
	return 0
}

// Add stores a run, on disk too: a broken-off session resumes behind it.
func (r *Results) Add(cell string, run Run) error {
	c := r.Cells[cell]
	if c == nil {
		c = &Cell{}
		r.Cells[cell] = c
	}
	c.Runs, c.Skipped = append(c.Runs, run), ""
	return r.Save()
}

// Skip stores why a cell was not measured. What an earlier session measured stays.
func (r *Results) Skip(cell, reason string) error {
	if r.Runs(cell) == 0 {
		r.Cells[cell] = &Cell{Skipped: reason}
	}
	return r.Save()
}

// Save writes the file by replacing it, so that a crash leaves the old one.
func (r *Results) Save() error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o750); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	next := r.path + ".next"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.Rename(next, r.path); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Spread is the median of some runs with the extremes.
type Spread struct {
	Median, Min, Max float64
	N                int
}

// Spread gives a metric of a cell over its runs; N is 0 when it has none.
func (r *Results) Spread(cell, metric string) Spread {
	c := r.Cells[cell]
	if c == nil {
		return Spread{}
	}
	var values []float64
	for _, run := range c.Runs {
		if v, ok := run.Metrics[metric]; ok {
			values = append(values, v)
		}
	}
	return spreadOf(values)
}
