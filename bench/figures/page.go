package figures

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Row is a workload as the page shows it.
type Row struct {
	Name  string
	Title string
	Peers []string
}

// Number writes a figure with as many digits as it is worth.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		return grouped(int64(math.Round(v)))
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.1 || a == 0:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'f', 4, 64)
	}
}

// grouped writes 72345 as 72,345.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for at := len(text) - 3; at > 0 && text[at-1] != '-'; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// MetricNames gives the names in the order of tables: the rate first, then the rest by name.
func MetricNames(metrics map[string]float64) []string {
	return slices.SortedFunc(maps.Keys(metrics), func(a, b string) int {
		if (a == rate) != (b == rate) {
			if a == rate {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}

// WritePage makes the page.
func WritePage(path string, r *Results, rows []Row) error {
	if err := os.WriteFile(path, []byte(Page(r, rows)), 0o644); err != nil { //nolint:gosec // a document for all
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// Page is the text of docs/BENCHMARKS.md.
func Page(r *Results, rows []Row) string {
	var b strings.Builder
	b.WriteString(head)
	r.writeTargets(&b)
	r.writeFigures(&b, rows)
	writeFacts(&b, "Machine", r.Facts.Machine)
	writeFacts(&b, "Versions", r.Facts.Versions)
	writeFacts(&b, "Settings of PostgreSQL, equal for all", r.Facts.Settings)
	fmt.Fprintf(&b, "The last session was started with `%s`: drains of %s jobs, timed workloads of up to %s s, %d samples of an idle latency, "+
		"and %s of the full database.\n", r.Facts.Command, grouped(int64(r.Facts.Scale.Jobs)), Number(r.Facts.Scale.Seconds),
		r.Facts.Scale.Samples, strconv.FormatFloat(r.Facts.Scale.Loaded*100, 'f', -1, 64)+" %")
	b.WriteString(caveats)
	return b.String()
}

const head = `# Benchmarks

This page is made by ` + "`make bench`" + `; do not edit it. Mini Asynq and its peers run side by side: the same machine, one
private PostgreSQL with the durability of its defaults, the same slots and connections, the same payload, a handler that
does nothing. Server, load generator and PostgreSQL share the processors. Each run has a fresh database, and the order of
contenders turns from run to run. After each run the database has shown every job, every attempt and every event of the
stream, so far as a contender keeps them, or the run would have failed.

Figures are medians with the least and the greatest in brackets.
`

func (r *Results) writeTargets(b *strings.Builder) {
	b.WriteString("\n## Targets\n\n| Workload | Ours | Reference | Ratio or figure | Target | Holds |\n|---|---|---|---|---|---|\n")
	for _, v := range r.Judge(Targets()) {
		comparison := "at least"
		if v.AtMost {
			comparison = "at most"
		}
		bound, value, holds := fmt.Sprintf("%s %s x", comparison, plain(v.Bound)), "not measured", "-"
		if v.Reference == "" {
			bound = strings.TrimSpace(fmt.Sprintf("%s %s %s", comparison, plain(v.Bound), v.Unit))
		}
		if v.Known {
			value, holds = Number(v.Value), "**no**"
			if v.Reference != "" {
				value += " x"
			}
			if v.Holds {
				holds = "yes"
			}
		}
		theirs := "-"
		if v.Reference != "" {
			theirs = v.Theirs.String()
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", v.Workload, v.Ours, theirs, value, bound, holds)
	}
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// String is the spread as tables have it.
func (s Spread) String() string {
	switch s.N {
	case 0:
		return "-"
	case 1:
		return Number(s.Median)
	default:
		return fmt.Sprintf("%s (%s to %s)", Number(s.Median), Number(s.Min), Number(s.Max))
	}
}

func (r *Results) writeFigures(b *strings.Builder, rows []Row) {
	b.WriteString("\n## Figures\n")
	for _, row := range rows {
		fmt.Fprintf(b, "\n### %s\n\n", row.Title)
		var lines strings.Builder
		for _, peer := range row.Peers {
			r.writeCell(&lines, row.Name+"/"+peer)
		}
		if lines.Len() == 0 {
			b.WriteString("Not measured.\n")
			continue
		}
		b.WriteString("| Cell | Runs | Metric | Figure |\n|---|---|---|---|\n" + lines.String())
	}
}

func (r *Results) writeCell(b *strings.Builder, cell string) {
	c := r.Cells[cell]
	switch {
	case c == nil:
		return
	case len(c.Runs) == 0:
		fmt.Fprintf(b, "| %s | - | left out | %s |\n", cell, strings.ReplaceAll(c.Skipped, "|", "/"))
		return
	}
	name, runs := cell, strconv.Itoa(len(c.Runs))
	for _, metric := range MetricNames(c.Runs[0].Metrics) {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name, runs, metric, r.Spread(cell, metric))
		name, runs = "", ""
	}
}

func writeFacts(b *strings.Builder, title string, facts []Fact) {
	fmt.Fprintf(b, "\n## %s\n\n| | |\n|---|---|\n", title)
	for _, f := range facts {
		fmt.Fprintf(b, "| %s | %s |\n", f.Name, strings.ReplaceAll(f.Value, "|", "/"))
	}
	if len(facts) == 0 {
		b.WriteString("| unknown | |\n")
	}
	b.WriteString("\n")
}

const caveats = `
## How to read this

- A machine of your own gives other figures. The ratios are what carries over, and also those not everywhere.
- ` + "`river`" + ` has its defaults but for 2000 slots; ` + "`river-tuned`" + ` also fetches every 2 ms (cooldown) and polls
  every 20 ms. Both keep finished jobs with their attempts in one row; they write no events.
- ` + "`asynq`" + ` runs on a Redis of its own that flushes its append-only file once a second: what was accepted in the last
  second may be lost, unlike with every other contender. It deletes finished jobs and keeps no attempts.
- ` + "`graphile-worker`" + ` has a local queue of 500 and completes in batches, its fastest set-up. It deletes finished jobs and
  keeps no attempts and no events. It runs in Node and has a process of its own.
- ` + "`limit`" + ` is no job server: plain inserts and updates of a bare table, to show what the machine gives. A job is one insert
  and two updates of ranges, without history, events, order, leases or retries; the server makes up the rows of a batch.
- Drains are timed from the first handled job until the database shows the last one finished, after a vacuum and a
  checkpoint; starting a contender is not in the figure.
- Plain SQL at ` + "`limit`" + ` goes into a copy of our table with its indexes and checks and without triggers.
- The full database was filled past the triggers: its jobs have history, but no events.
- Events at a client are those of probes, which the client asks for by queue; the server looks at all others for it, too.
- Latency runs from the moment when COMMIT is sent to the beginning of the handler, for asynq from the call. Over HTTP it is
  the whole call, seen by a client that costs little.
`
