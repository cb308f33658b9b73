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
		{Name: "claim-plan", Title: "The claim keeps its plan through mixed use of a session", Peers: ours, cold: true,
			measure: claimPlan},
		{Name: "drain", Title: "Drain of a backlog of no-op jobs", Peers: all, measure: drain},
		{Name: "sustained", Title: "Sustained enqueue (batches of 200) and work",
			Peers: []string{figures.Mini, figures.River, figures.RiverTuned, figures.Graphile}, measure: sustained},
		{Name: "batch", Title: "Batch enqueue, 1000 a call, 2 callers",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Graphile, figures.Limit}, measure: batch},
		{Name: "single-16", Title: "Single enqueue from Go, 16 callers",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Asynq, figures.Limit}, measure: single(16)},
		{Name: "single-64", Title: "Single enqueue from Go, 64 callers",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Asynq, figures.Limit}, measure: single(64)},
		{Name: "single-256", Title: "Single enqueue from Go, 256 callers",
			Peers: []string{figures.Mini, figures.RiverTuned, figures.Asynq, figures.Limit}, measure: single(256)},
		{Name: "http-64", Title: "Single enqueue over HTTP, 64 connections, 200-byte payload", Peers: ours,
			cold: true, measure: overHTTP(64)},
		{Name: "http-256", Title: "Single enqueue over HTTP, 256 connections, 200-byte payload", Peers: ours,
			cold: true, measure: overHTTP(256)},
		{Name: "sql-16", Title: "Plain SQL in own transactions, 16 sessions, server up",
			Peers: []string{figures.Mini, figures.Limit}, cold: true, measure: bySQL},
		{Name: "latency-idle", Title: "Latency from COMMIT to the handler, idle",
			Peers: []string{figures.Mini, figures.River, figures.RiverTuned, figures.Graphile, figures.Asynq}, measure: latencyIdle},
		{Name: "latency-half", Title: "Latency from COMMIT to the handler at half of River's best drain rate",
			Peers: best, measure: latencyHalf},
		{Name: "retry", Title: "Drain in which half of the jobs fail once", Peers: best, measure: retry},
		{Name: "drain-held-id", Title: "Drain of five times as many beside an idle transaction with an id",
			Peers: ours, measure: drainHeld(holdID)},
		{Name: "drain-held-snapshot", Title: "Drain of five times as many beside an idle snapshot",
			Peers: ours, measure: drainHeld(holdSnapshot)},
		{Name: loadedName, Title: "Drain beside 2 million pending elsewhere, 1 million scheduled, 5 million finished",
			Peers: ours, measure: drain},
		{Name: "ticks-drain", Title: "From COMMIT to the event at a WebSocket client, full drain", Peers: ours,
			cold: true, measure: ticksDrain},
		{Name: "ticks-idle", Title: "From COMMIT to the event at a WebSocket client, idle", Peers: ours,
			cold: true, measure: ticksIdle},
		{Name: "memory", Title: "Resident memory of our server", Peers: ours, cold: true, measure: memory},
		{Name: "idle", Title: "Our server at rest", Peers: ours, cold: true, measure: idle},
	}
}
