package workloads

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/bench/peers"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// A guarded session: small turns until every statement has the plan it keeps, then large ones.
const (
	smallTurns = 12
	largeTurns = 6
	largeClaim = 1000
	turnLimit  = 20 * time.Second
)

// PlanError means that a statement of the claim's session has a plan that will be slow one day.
type PlanError struct {
	Found string // what must not be there, or is missing
	Plan  string
}

// Error shows the whole plan.
func (e *PlanError) Error() string { return "the plan " + e.Found + ":\n" + e.Plan }

// claimPlan guards the plans of the hot session: after small claims and then large ones, with statistics taken at the worst
// moments, PostgreSQL must still read the claim's ranges by their index. Everything is driven through jobs.Turn, as a node
// does it, and the plans are those that were executed: auto_explain writes them into the server's log.
func claimPlan(ctx context.Context, c *cell) error {
	if err := peers.Migrate(ctx, c.db.DSN); err != nil {
		return err
	}
	config, err := pgx.ParseConfig(c.db.DSN)
	if err != nil {
		return err
	}
	maps.Copy(config.RuntimeParams, jobs.PlanSettings())
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range []string{`LOAD 'auto_explain'`, `SET auto_explain.log_min_duration = 0`} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("watch plans: %w", err)
		}
	}
	log, err := c.Cluster.LogFrom()
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	turns, done, err := c.mixedUse(ctx, conn)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(log)
	if err != nil {
		return err
	}
	claims, err := checkPlans(string(text))
	if err != nil {
		return err
	}
	if claims != turns {
		return fmt.Errorf("%d claims were made, and the log holds the plans of %d", turns, claims)
	}
	c.metrics["claims"] = float64(claims)
	c.account = fmt.Sprintf("%d jobs completed", done)
	return nil
}

// mixedUse works as a node does, twice: on a table that was analysed while it was empty, and on one that was analysed while
// all its jobs were running.
func (c *cell) mixedUse(ctx context.Context, conn *pgx.Conn) (turns, done int, err error) {
	var held []*jobs.Claimed
	turn := func(limit int) error {
		ctx, cancel := context.WithTimeout(ctx, turnLimit)
		defer cancel()
		t := jobs.Turn{Claims: []jobs.Claim{{Queue: peers.Queue, Limit: limit, Worker: "bench", Lease: time.Minute}}}
		for _, j := range held {
			t.Outcomes = append(t.Outcomes, jobs.Complete(&j.Job, nil))
		}
		result, err := t.Do(ctx, conn)
		if err != nil {
			return err
		}
		turns, done, held = turns+1, done+len(held), result.Claimed[0]
		if len(held) != limit {
			return fmt.Errorf("a claim of %d jobs got %d", limit, len(held))
		}
		return nil
	}
	for range 2 {
		if err := c.exec(ctx, `ANALYZE`); err != nil {
			return turns, done, err
		}
		if err := peers.Enqueue(ctx, c.db.DSN, smallTurns+largeTurns*largeClaim); err != nil {
			return turns, done, err
		}
		for _, part := range []struct{ turns, limit int }{{smallTurns, 1}, {largeTurns, largeClaim}} {
			for range part.turns {
				if err := turn(part.limit); err != nil {
					return turns, done, err
				}
			}
		}
	}
	return turns, done, nil
}

// Marks of what auto_explain writes: a line with the duration, then lines that begin with a tab, first the statement and
// then its plan.
const (
	planBegins = "  plan:"
	planLine   = "\t"
	claimMark  = "FOR UPDATE SKIP LOCKED"
	claimRoot  = "Update on jobs"
	claimIndex = "using jobs_claim on jobs"
	finishMark = "DELETE FROM mini_asynq.jobs"
)

// refused are the parts of a plan that depend on estimates, or read more than they need.
var refused = []string{"Seq Scan", "Hash Join", "Merge Join", "Bitmap"}

// checkPlans looks at every plan of a claim in a log, and counts them.
func checkPlans(log string) (claims int, err error) {
	for _, block := range planBlocks(log) {
		if !strings.Contains(block, claimMark) || strings.Contains(block, finishMark) {
			continue
		}
		_, plan, found := strings.Cut(block, "\n\t"+claimRoot)
		if !found {
			return claims, &PlanError{"has no node " + claimRoot, block}
		}
		claims++
		if !strings.Contains(plan, claimIndex) {
			return claims, &PlanError{"does not read the index jobs_claim", plan}
		}
		for _, part := range refused {
			if strings.Contains(plan, part) {
				return claims, &PlanError{"has a " + part, plan}
			}
		}
	}
	return claims, nil
}

// planBlocks takes a log apart into the statements and plans of auto_explain.
func planBlocks(log string) []string {
	var blocks []string
	open := false
	for line := range strings.Lines(log) {
		switch {
		case strings.Contains(line, planBegins):
			blocks, open = append(blocks, ""), true
		case !strings.HasPrefix(line, planLine):
			open = false
		case open:
			blocks[len(blocks)-1] += line
		}
	}
	return blocks
}
