package main

import (
	"errors"
	"flag"
	"fmt"
	"path"
	"runtime"
	"strings"

	"github.com/mini-asynq/mini-asynq/bench/figures"
)

// options are what the command line says.
type options struct {
	cells   string // patterns, separated by commas
	list    bool
	again   bool
	smoke   bool
	report  bool
	runs    int
	out     string
	page    string
	module  string
	dir     string
	redis   string
	scale   figures.Scale
	command string // as it goes onto the page
}

func readOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.cells, "cell", "*/*", "only cells that match: workload/contender, with * and ?; several with commas")
	flags.BoolVar(&o.list, "list", false, "name the cells and end")
	flags.BoolVar(&o.again, "again", false, "measure anew what was measured before")
	flags.BoolVar(&o.smoke, "smoke", false, "see that everything of ours and River works, in seconds; nothing is kept")
	flags.BoolVar(&o.report, "report", false, "only make the page from the results that are there")
	flags.IntVar(&o.runs, "runs", 3, "runs of each cell")
	flags.StringVar(&o.out, "out", "results/results.json", "file of the results")
	flags.StringVar(&o.page, "page", "../docs/BENCHMARKS.md", "the page made from them; empty: none")
	flags.StringVar(&o.module, "module", ".", "folder of this module")
	flags.StringVar(&o.dir, "dir", "", "folder for the data of PostgreSQL and Redis; empty: that for temporary files")
	flags.StringVar(&o.redis, "redis-server", "", "the program; empty: the one in the path")
	flags.IntVar(&o.scale.Jobs, "jobs", 100_000, "jobs of a drain; other sizes are multiples of it")
	flags.Float64Var(&o.scale.Seconds, "seconds", 20, "length of the sustained workload; others are shares of it")
	flags.IntVar(&o.scale.Samples, "samples", 200, "samples of the idle latencies")
	flags.Float64Var(&o.scale.Loaded, "loaded", 1, "share of 2 million pending, 1 million scheduled, 5 million finished jobs")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.command = strings.TrimSpace("go run . " + strings.Join(args, " "))
	return o.withSmoke(), o.validate(flags.NArg())
}

// withSmoke makes everything small, and keeps nothing.
func (o options) withSmoke() options {
	if !o.smoke {
		return o
	}
	o.runs, o.out, o.page, o.again = 1, "", "", true
	o.scale = figures.Scale{Jobs: 2000, Seconds: 1, Samples: 10, Loaded: 0.002}
	return o
}

func (o options) validate(rest int) error {
	var faults []error
	if rest > 0 {
		faults = append(faults, errors.New("there are flags only"))
	}
	if o.runs < 1 || o.scale.Jobs < 10 || o.scale.Seconds <= 0 || o.scale.Samples < 1 || o.scale.Loaded < 0 {
		faults = append(faults, errors.New("-runs, -jobs (10 at least), -seconds and -samples are positive, -loaded is not negative"))
	}
	for _, pattern := range o.patterns() {
		if _, err := path.Match(pattern, ""); err != nil {
			faults = append(faults, fmt.Errorf("-cell %s: %w", pattern, err))
		}
	}
	if runtime.GOOS != "linux" {
		faults = append(faults, errors.New("memory and CPU are read from /proc: this runs on Linux only"))
	}
	return errors.Join(faults...)
}

func (o options) patterns() []string { return strings.Split(o.cells, ",") }

// wants tells whether a cell is asked for. A pattern without a slash is a workload.
func (o options) wants(cell string) bool {
	for _, pattern := range o.patterns() {
		if !strings.Contains(pattern, "/") {
			pattern += "/*"
		}
		if ok, _ := path.Match(pattern, cell); ok {
			return true
		}
	}
	return false
}
