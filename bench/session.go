package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
	"github.com/mini-asynq/mini-asynq/bench/workloads"
)

// gcPercent is what our server sets for itself, here for every contender in this process.
const gcPercent = 400

// buildLimit bounds what happens before the first cell: building the server, starting PostgreSQL.
const buildLimit = 10 * time.Minute

// session is one execution of this program.
type session struct {
	options options
	out     io.Writer
	results *figures.Results
	bench   workloads.Bench
	scratch string
}

func newSession(o options, out io.Writer) (*session, error) {
	s := &session{options: o, out: out}
	var err error
	if s.scratch, err = os.MkdirTemp(o.dir, "mini-asynq-bench-"); err != nil {
		return nil, fmt.Errorf("make a folder for logs: %w", err)
	}
	path := o.out
	if path == "" {
		path = filepath.Join(s.scratch, "results.json")
	}
	if s.results, err = figures.Load(path); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close removes what is not kept.
func (s *session) close() error {
	var err error
	if s.bench.Cluster != nil {
		err = s.bench.Cluster.Close()
	}
	return errors.Join(err, os.RemoveAll(s.scratch)) //nolint:gosec // the folder that newSession made
}

func (s *session) run(ctx context.Context) error {
	all := workloads.All()
	switch {
	case s.options.list:
		for _, w := range all {
			for _, peer := range w.Peers {
				fmt.Fprintf(s.out, "%-36s %s\n", w.Name+"/"+peer, w.Title)
			}
		}
		return nil
	case s.options.report:
		return s.writePage()
	}
	if s.options.again {
		for _, w := range all {
			for _, peer := range w.Peers {
				if cell := w.Name + "/" + peer; s.options.wants(cell) {
					s.results.Forget(cell)
				}
			}
		}
	}
	steps := plan(all, s.options, s.results)
	if len(steps) == 0 {
		fmt.Fprintln(s.out, "nothing is left to measure: -again measures anew")
		return s.writePage()
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	failed := s.measure(ctx, steps)
	return errors.Join(failed, s.writePage())
}

// prepare starts what all cells share and describes it.
func (s *session) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	debug.SetGCPercent(gcPercent)
	module, err := filepath.Abs(s.options.module)
	if err != nil {
		return fmt.Errorf("find the folder of this module: %w", err)
	}
	s.bench = workloads.Bench{
		Module: module, Scratch: s.scratch, Scale: s.options.scale, Results: s.results,
		Server: filepath.Join(s.scratch, "mini-asynq"),
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", s.bench.Server, "./cmd/server") //nolint:gosec // our own
	build.Dir = filepath.Dir(module)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build our server: %w: %s", err, out)
	}
	if s.bench.Redis, err = machine.FindRedis(s.options.redis); err != nil && s.options.redis != "" {
		return err
	}
	if s.bench.Cluster, err = machine.StartCluster(ctx, s.options.dir); err != nil {
		return err
	}
	facts, err := s.facts(ctx)
	if err != nil {
		return err
	}
	return s.results.Describe(facts)
}

// FailedError means that cells could not be measured, or that a database did not show in the end what it should. What
// happened was printed when it did.
type FailedError struct{ Cells []string }

// Error names the cells.
func (e *FailedError) Error() string { return "failed: " + strings.Join(e.Cells, ", ") }

// measure goes through the steps. A cell that fails does not end the others, but in the end the program fails.
func (s *session) measure(ctx context.Context, steps []step) error {
	var failed []string
	for i, step := range steps {
		fmt.Fprintf(s.out, "%3d/%d  %-36s run %d  ", i+1, len(steps), step.cell(), step.run)
		run, err := s.bench.Run(ctx, step.workload, step.peer)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("broken off: %w", context.Cause(ctx))
		case err == nil:
			fmt.Fprintf(s.out, "%s (%s; %.0f s)\n", metricsLine(run.Metrics), run.Account, run.Seconds)
			err = s.results.Add(step.cell(), run)
		case peers.Skippable(err):
			fmt.Fprintf(s.out, "left out: %v\n", err)
			err = s.results.Skip(step.cell(), reason(err))
		default:
			fmt.Fprintf(s.out, "FAILED: %v\n", err)
			failed = append(failed, step.cell())
			err = nil
		}
		if err != nil {
			return err // results that cannot be kept are not worth measuring
		}
	}
	if len(failed) > 0 {
		return &FailedError{failed}
	}
	return nil
}

// reason is the innermost of the errors: what is missing, without where it was noticed.
func reason(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

func metricsLine(metrics map[string]float64) string {
	var parts []string
	for _, name := range figures.MetricNames(metrics) {
		parts = append(parts, fmt.Sprintf("%s %s", name, figures.Number(metrics[name])))
	}
	return strings.Join(parts, ", ")
}

// writePage makes the page anew from all that is known.
func (s *session) writePage() error {
	if s.options.page == "" {
		return nil
	}
	rows := make([]figures.Row, 0)
	for _, w := range workloads.All() {
		rows = append(rows, figures.Row{Name: w.Name, Title: w.Title, Peers: w.Peers})
	}
	return figures.WritePage(s.options.page, s.results, rows)
}
