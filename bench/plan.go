package main

import (
	"slices"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/workloads"
)

// step is one run of one cell to come.
type step struct {
	workload workloads.Workload
	peer     string
	run      int // counted from 1
}

func (s step) cell() string { return s.workload.Name + "/" + s.peer }

// plan lists what is left to do: round by round, in each the workloads in their order, and the contenders forwards in
// the first round, backwards in the second, and so on. A cell that was measured r times is left out of the first r
// rounds.
func plan(all []workloads.Workload, o options, kept *figures.Results) []step {
	var steps []step
	for round := range o.runs {
		for _, w := range all {
			contenders := slices.Clone(w.Peers)
			if round%2 == 1 {
				slices.Reverse(contenders)
			}
			for _, peer := range contenders {
				s := step{workload: w, peer: peer, run: round + 1}
				if o.wants(s.cell()) && (!o.smoke || smokes(peer)) && kept.Runs(s.cell()) <= round {
					steps = append(steps, s)
				}
			}
		}
	}
	return steps
}

// smokes tells whether a contender takes part in a smoke run: those whose programs come with this module.
func smokes(peer string) bool {
	return slices.Contains([]string{figures.Mini, figures.RiverTuned, figures.Limit}, peer)
}
