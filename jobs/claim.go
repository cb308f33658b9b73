package jobs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Key is a job's place in the line of its queue and priority. The zero Key is the beginning of the line.
type Key struct {
	RunAt time.Time
	ID    uuid.UUID
}

// Less tells whether k comes before other.
func (k Key) Less(other Key) bool {
	if !k.RunAt.Equal(other.RunAt) {
		return k.RunAt.Before(other.RunAt)
	}
	return slices.Compare(k.ID[:], other.ID[:]) < 0
}

// priorityOrder gives each priority its place in the arrays of Claim.
var priorityOrder = [...]Priority{High, Normal, Low}

// Index is the place of p in the arrays of Claim: 0, 1 or 2.
func (p Priority) Index() int { return slices.Index(priorityOrder[:], p) }

// Claim asks for jobs of one queue.
type Claim struct {
	Queue  string
	Limit  int           // at most this many
	From   [3]Key        // per priority: where to start. Everything before it is skipped, claimable or not.
	Kinds  []string      // only these; nil is all
	Worker string        // becomes locked_by
	Each   []Holder      // instead: for whom the first job is, the second, and so on up to Limit
	Lease  time.Duration // becomes lease_expires_at
	Probe  bool          // afterwards, tell what is left (TurnResult.Left)

	relaxed bool // set by Turn.Do
}

// Holder is a remote worker: what becomes locked_by, and its registration.
type Holder struct {
	Name string
	ID   uuid.UUID
}

// claimSQL hands out the head of a queue's line: high, normal, low, each in the order (run_at, id), all in one snapshot,
// so that no lower priority goes before a higher one that this snapshot holds.
//
// Index: jobs_claim, one contiguous range per priority, read until the limit is reached; the Append stops as soon as the
// outer limit is. Locks: the rows it takes, in index order, and it passes over rows that others hold. A twin at the same
// time takes other rows. A paused queue gives nothing: its row is read in the same snapshot.
//
// Whether the fence is whole, whether the queue is paused, and how the claim commits ($12), is one InitPlan and a one-time
// filter: asked once, before any row is looked at.
//
// The range starts at a key that the caller remembers. Index entries of jobs that were claimed earlier stay to the left
// of it for as long as any transaction of the cluster could still see them; without the key each claim would read them
// all again.
//
// Plan trap, measured: left to itself PostgreSQL guesses the limits and joins by hash, or reads all running rows with
// their dead index entries to end a few: 3k to 18k jobs a second instead of 70k. Pools that carry turns therefore open
// their connections with PlanSettings.
var claimSQL = claimStatement(claimForOne)

// claimEachSQL is claimSQL for several remote workers: $2 are the names, and $13 the registrations, of those that get the first
// job, the second, and so on. What is one round trip for all is one statement, too: a claim for each would cost them each
// what a turn costs (measured: 740 against 1,170 jobs a second with 64 workers that claim one at a time).
var claimEachSQL = claimStatement(claimForEach)

// claimParts is what differs between the two. For one worker the rows that were picked are an InitPlan; who goes by the place of
// a row joins them with the workers: one TID probe for each.
type claimParts struct{ with, name, id, lease, from, picked, returning string }

var (
	claimForOne = claimParts{
		name: "$2", id: "NULL", lease: "clock_timestamp() + $3::interval", picked: "ctid = ANY (" + claimPick + ")",
	}
	claimForEach = claimParts{
		with: `WITH slot AS MATERIALIZED (
    SELECT * FROM unnest(` + claimPick + `, $2::text[], $13::uuid[]) AS s(tid, holder, holder_id)
)`,
		name: "slot.holder", id: "slot.holder_id",
		// Not for longer than the attempt may take, as in Extend; least passes over null.
		lease: "least(clock_timestamp() + $3::interval, clock_timestamp() + timeout + $14::interval)",
		from:  "FROM slot", picked: "jobs.ctid = slot.tid", returning: ", worker_id",
	}
)

const claimPick = `ARRAY(
       SELECT ctid FROM (
           SELECT ctid FROM mini_asynq.jobs
            WHERE queue = $1 AND priority = 'high' AND status = 'pending' AND attempt < attempt_limit AND (run_at, id) >= ($4, $5)
              AND ($10::text[] IS NULL OR kind = ANY ($10))
            ORDER BY run_at, id LIMIT $11 FOR UPDATE SKIP LOCKED) high
       UNION ALL
       SELECT ctid FROM (
           SELECT ctid FROM mini_asynq.jobs
            WHERE queue = $1 AND priority = 'normal' AND status = 'pending' AND attempt < attempt_limit AND (run_at, id) >= ($6, $7)
              AND ($10::text[] IS NULL OR kind = ANY ($10))
            ORDER BY run_at, id LIMIT $11 FOR UPDATE SKIP LOCKED) normal
       UNION ALL
       SELECT ctid FROM (
           SELECT ctid FROM mini_asynq.jobs
            WHERE queue = $1 AND priority = 'low' AND status = 'pending' AND attempt < attempt_limit AND (run_at, id) >= ($8, $9)
              AND ($10::text[] IS NULL OR kind = ANY ($10))
            ORDER BY run_at, id LIMIT $11 FOR UPDATE SKIP LOCKED) low
       LIMIT $11)`

func claimStatement(p claimParts) string {
	return p.with + `
UPDATE mini_asynq.jobs
   SET status = 'running', attempt = attempt + 1, version = version + 1, fence = nextval('mini_asynq.fence'),
       locked_by = ` + p.name + `, worker_id = ` + p.id + `,
       locked_at = clock_timestamp(), lease_expires_at = ` + p.lease + `,
       updated_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp()),
       from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(),
       cause = NULL, actor = NULL, comment = NULL
 ` + p.from + `
 WHERE (SELECT CASE WHEN NOT EXISTS (SELECT FROM mini_asynq.fence_is_whole) THEN mini_asynq.refuse_claim()
                    WHEN EXISTS (SELECT FROM mini_asynq.queues WHERE name = $1 AND paused) THEN false
                    WHEN $12 THEN set_config('synchronous_commit', 'off', true) = 'off' ELSE true END)
   AND ` + p.picked + `
RETURNING id, kind, payload, priority::text, attempt, attempt_base, attempt_limit, lease_losses, snoozes, version, fence,
          timeout, run_at, created_at, locked_at, tags, metadata, coalesce(traceparent, ''), max_retries` + p.returning + `
`
}

// PlanSettings are the session settings under which the statements of a Turn have the only plans that are right for
// them, whatever the statistics say at the moment: index ranges and nested loops. The plans need no estimate, so they
// are made once for each connection (a custom plan would cost a millisecond or two in each turn).
func PlanSettings() map[string]string {
	return map[string]string{
		"plan_cache_mode": "force_generic_plan", "jit": "off", "enable_seqscan": "off", "enable_bitmapscan": "off",
		"enable_hashjoin": "off", "enable_mergejoin": "off",
		// A row that a stranger's transaction holds must not hold up a turn.
		"lock_timeout": "200",
	}
}

func (c Claim) queue(batch *pgx.Batch) {
	args := []any{
		c.Queue, c.Worker, c.Lease, c.From[0].RunAt, c.From[0].ID, c.From[1].RunAt, c.From[1].ID, c.From[2].RunAt, c.From[2].ID,
		c.Kinds, c.Limit, c.relaxed,
	}
	if len(c.Each) == 0 {
		batch.Queue(claimSQL, args...)
	} else {
		names, ids := make([]string, len(c.Each)), make([]uuid.UUID, len(c.Each))
		for i, h := range c.Each {
			names[i], ids[i] = h.Name, h.ID
		}
		args[1] = names
		batch.Queue(claimEachSQL, append(args, idArray(ids), Overtime)...)
	}
	if c.Probe {
		batch.Queue(probeSQL, c.Queue, c.Kinds)
	}
}

// probeSQL tells whether a queue has a pending job, locked by somebody or not. It follows a claim over the full range:
// only when that came back short and this says no may a node go idle on the queue, because SKIP LOCKED passes over a
// row whose holder may roll back without any event. Index jobs_claim, one probe if $2 is null. A paused queue has nothing
// to wait for: its resume is an event.
const probeSQL = `
SELECT EXISTS (SELECT FROM mini_asynq.jobs
                WHERE queue = $1 AND status = 'pending' AND attempt < attempt_limit AND ($2::text[] IS NULL OR kind = ANY ($2)))
   AND NOT EXISTS (SELECT FROM mini_asynq.queues WHERE name = $1 AND paused),
       clock_timestamp() - statement_timestamp()`

func (c Claim) read(results pgx.BatchResults, sentAt time.Time) ([]*Claimed, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	claimed := make([]*Claimed, 0, 16)
	dest := make([]any, 0, 20)
	holders := make(map[uuid.UUID]Holder, len(c.Each))
	for _, h := range c.Each {
		holders[h.ID] = h
	}
	for rows.Next() {
		j := &Claimed{ClaimedAt: sentAt, LeaseFor: c.Lease}
		j.Queue, j.Status, j.LockedBy = c.Queue, Running, c.Worker
		var timeout *time.Duration
		into := append(dest[:0], rawID(&j.ID), &j.Kind, rawJSON(&j.Payload), (*string)(&j.Priority), &j.Attempt, &j.AttemptBase,
			&j.AttemptLimit, &j.LeaseLosses, &j.Snoozes, &j.Version, &j.Fence, &timeout, &j.RunAt, &j.CreatedAt, &j.LockedAt, &j.Tags,
			rawJSON(&j.Metadata), &j.Traceparent, &j.MaxRetries)
		if len(c.Each) > 0 {
			into = append(into, rawID(&j.Holder.ID))
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		if h, ok := holders[j.Holder.ID]; ok {
			j.Holder, j.LockedBy = h, h.Name
		}
		if timeout != nil {
			j.Timeout = *timeout
			if len(c.Each) > 0 {
				j.LeaseFor = min(j.LeaseFor, *timeout+Overtime)
			}
		}
		claimed = append(claimed, j)
	}
	// An UPDATE returns rows in no promised order.
	slices.SortFunc(claimed, func(a, b *Claimed) int {
		if d := a.Priority.Index() - b.Priority.Index(); d != 0 {
			return d
		}
		if (Key{a.RunAt, a.ID}).Less(Key{b.RunAt, b.ID}) {
			return -1
		}
		return 1
	})
	return claimed, rows.Err()
}

// Turn is one round trip of a node: the outcomes of attempts that ended, and claims for the slots that they leave, in
// one transaction and one commit.
type Turn struct {
	Outcomes []Outcome
	Claims   []Claim
}

// Left is what a queue holds after a claim.
type Left struct {
	Pending bool          // something is pending still
	Took    time.Duration // the database's time for the question: it reads what the claim read
}

// TurnResult answers a Turn, in its order.
type TurnResult struct {
	Verdicts []Verdict
	Claimed  [][]*Claimed
	Left     []Left // per claim with Probe
}

// Do sends the turn. One that stores outcomes commits synchronously; one that only claims does not wait for the disk
// (measured: 2.4 to 2.8 instead of 3.0 to 3.7 ms from COMMIT to the handler of an idle system, p50): a claim that a crash
// takes back is only a job that is pending still, its attempt uncharged, and its fence is never given to another
// (mini_asynq.mend_fence). When it fails nothing of it has happened, except after ErrCommitUnknown; outcomes may then be
// sent again (a repeat that landed before is refused by its fence), and claims that nobody heard of run out with their
// lease.
func (t Turn) Do(ctx context.Context, db DB) (TurnResult, error) {
	result, err := t.try(ctx, db)
	if sqlState(err) != stateBrokenFence {
		return result, err
	}
	if _, err := db.Exec(ctx, `SELECT mini_asynq.mend_fence() FROM set_config('synchronous_commit', 'on', true)`); err != nil {
		return TurnResult{}, fmt.Errorf("mend the fence: %w", err)
	}
	return t.try(ctx, db)
}

func (t Turn) try(ctx context.Context, db DB) (TurnResult, error) {
	completed, failed, other := splitOutcomes(t.Outcomes)
	batch := &pgx.Batch{}
	if len(completed) > 0 {
		queueCompleted(batch, t.Outcomes, completed)
	}
	if len(failed) > 0 {
		queueFailed(batch, t.Outcomes, failed)
	}
	if len(other) > 0 {
		queueFinish(batch, t.Outcomes, other)
	}
	for _, c := range t.Claims {
		c.relaxed = len(t.Outcomes) == 0
		c.queue(batch)
	}
	result := TurnResult{Verdicts: make([]Verdict, len(t.Outcomes)), Claimed: make([][]*Claimed, len(t.Claims)),
		Left: make([]Left, len(t.Claims))}
	if batch.Len() == 0 {
		return result, nil
	}
	_, nested := db.(pgx.Tx)
	if nested && len(t.Outcomes) > 0 {
		batch.Queue(restSQL)
	}
	sentAt := time.Now() // monotonic: leases are counted from before the request left
	answers := db.SendBatch(ctx, batch)
	err := func() error {
		if len(completed) > 0 {
			if err := readCompleted(answers, t.Outcomes, completed, result.Verdicts); err != nil {
				return fmt.Errorf("finish: %w", err)
			}
		}
		if len(failed) > 0 {
			if err := readFailed(answers, t.Outcomes, failed, result.Verdicts); err != nil {
				return fmt.Errorf("finish: %w", err)
			}
		}
		if len(other) > 0 {
			if err := readFinish(answers, t.Outcomes, other, result.Verdicts); err != nil {
				return fmt.Errorf("finish: %w", err)
			}
		}
		for i, c := range t.Claims {
			var err error
			if result.Claimed[i], err = c.read(answers, sentAt); err != nil {
				return fmt.Errorf("claim: %w", err)
			}
			if c.Probe {
				if err := answers.QueryRow().Scan(&result.Left[i].Pending, &result.Left[i].Took); err != nil {
					return fmt.Errorf("probe: %w", err)
				}
			}
		}
		return nil
	}()
	// Close waits for the commit.
	if closeErr := answers.Close(); err == nil {
		err = closeErr
	}
	switch {
	case err != nil && nested:
		return TurnResult{}, err // the caller's transaction has not committed yet
	case err != nil:
		return TurnResult{}, commitUnknown(err)
	}
	return result, nil
}

// PendingQueues returns every queue that has a pending job: one probe of the index jobs_claim per queue, however many
// jobs there are.
func PendingQueues(ctx context.Context, db DB) ([]string, error) {
	rows, err := db.Query(ctx, `
		WITH RECURSIVE found AS (
		    (SELECT queue FROM mini_asynq.jobs WHERE status = 'pending' ORDER BY queue LIMIT 1)
		    UNION ALL
		    SELECT (SELECT queue FROM mini_asynq.jobs WHERE status = 'pending' AND queue > found.queue
		             ORDER BY queue LIMIT 1)
		      FROM found WHERE found.queue IS NOT NULL)
		SELECT queue FROM found WHERE queue IS NOT NULL`)
	if err != nil {
		return nil, fmt.Errorf("list queues with pending jobs: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list queues with pending jobs: %w", err)
	}
	return names, nil
}
