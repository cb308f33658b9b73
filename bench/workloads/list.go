package workloads

import "github.com/mini-asynq/mini-asynq/bench/figures"

// loadedName is the one workload that begins on a full database.
const loadedName = "drain-loaded"

// All are the workloads, in the order of the page. Later ones need figures of earlier ones.
func All() []Workload {
	ours := []string{figures.Mini}
	best := []string{figures.Mini, figures.RiverTuned}
	all := []string{figures.Mini, figures.River, figures.RiverTuned, figures.Graphile, figures.Asynq, figures.Limit}
	return []Workload{
		{Name: "drain", Title: "Drain of a backlog of no-op jobs", Unit: "jobs/s", Peers: all, measure: drain},
		{Name: "sustained", Title: "Sustained enqueue (batches of 200) and work", Unit: "jobs/s",
			Peers: []string{figures.Mini, figures.River, figures.RiverTuned, figures.Graphile}, measure: sustained},
		{Name: "batch", Title: "Batch enqueue, 1000 a call, 2 callers", Unit: "jobs/s",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Graphile, figures.Limit}, measure: batch},
		{Name: "single-16", Title: "Single enqueue from Go, 16 callers", Unit: "jobs/s",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Asynq, figures.Limit}, measure: single(16)},
		{Name: "single-64", Title: "Single enqueue from Go, 64 callers", Unit: "jobs/s",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Asynq, figures.Limit}, measure: single(64)},
		{Name: "single-256", Title: "Single enqueue from Go, 256 callers", Unit: "jobs/s",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Asynq, figures.Limit}, measure: single(256)},
		{Name: "retry", Title: "Drain in which half of the jobs fail once", Unit: "jobs/s", Peers: best, measure: retry},
		{Name: "drain-held-id", Title: "Drain of five times as many beside an idle transaction with an id", Unit: "jobs/s",
			Peers: ours, measure: drainHeld(holdID)},
		{Name: "drain-held-snapshot", Title: "Drain of five times as many beside an idle snapshot", Unit: "jobs/s",
			Peers: ours, measure: drainHeld(holdSnapshot)},
	}
}
