package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// completedSQL ends attempts that succeeded: the common case, without a decision in it. What there is to say of the attempt
// is in the columns of the finished row (the view job_attempts).
// Index: jobs_pkey, by id; the fence decides. Locks: the rows, in the order of the arrays, and it waits for those that
// others hold, as long as the session's lock_timeout (PlanSettings) lets it: then Finish does without. A twin with a stale
// fence deletes nothing.
//
// Plan trap, measured: "running" is asked for as `locked_by IS NOT NULL` (jobs_lease_iff_running makes them the same).
// With `status = 'running'` the partial index jobs_lease is a candidate, and when the statistics were taken while few
// jobs ran, PostgreSQL reads all running rows and their dead entries to end a few: 4k instead of 30k jobs a second.
const completedSQL = `
WITH outcome AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::jsonb[]) AS o(job_id, stated, result)
), gone AS (
    DELETE FROM mini_asynq.jobs j USING outcome o
     WHERE j.id = o.job_id AND j.fence = o.stated AND j.locked_by IS NOT NULL
       AND (SELECT set_config('mini_asynq.moving', 'on', true)) = 'on'
    RETURNING j.*, o.result, clock_timestamp() AS ended
), finished AS (
    INSERT INTO mini_asynq.jobs_finished (` + finishedColumns + `)
    SELECT id, queue, kind, payload, 'completed', priority, max_retries, run_at, created_at, ended, idempotency_key,
           timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit, 0,
           snoozes, redrives, version + 1, fence, started_at, cancel_requested_at, NULL, progress, error,
           locked_by, locked_at, mini_asynq.ms_between(locked_at, ended), attempts, 'running', event_xid, pg_current_xact_id(),
           NULL, NULL, NULL, ended, result, cloned_from
      FROM gone
)
SELECT coalesce(array_agg(fence), '{}') FROM gone`

// failedSQL ends attempts that failed and whose job has an attempt left: the next most common case. The row may say more than
// its node knew (a cancel was requested): it is not touched then, and whoever did not land asks finishSQL. Index, locks and
// twins as for completedSQL.
const failedSQL = `
WITH outcome AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::jsonb[], $4::interval[]) AS o(job_id, stated, failure, delay)
), clock AS MATERIALIZED (
    SELECT now AS ended, to_char(now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS stamp FROM clock_timestamp() AS now
), kept AS (
    UPDATE mini_asynq.jobs j
       SET status = 'retrying', version = version + 1, updated_at = ended, run_at = ended + o.delay, lease_losses = 0,
           last_worker = locked_by, last_started_at = locked_at, last_run_ms = mini_asynq.ms_between(locked_at, ended),
           attempts = mini_asynq.with_attempt(attempts, ROW(attempt, fence, locked_at, ended,
               mini_asynq.ms_between(run_at, locked_at), 'failed', locked_by,
               o.failure->>'type', o.failure->>'message', o.failure->>'stack')::mini_asynq.attempt),
           locked_by = NULL, worker_id = NULL, locked_at = NULL, lease_expires_at = NULL, progress = NULL,
           error = o.failure || jsonb_build_object('at', stamp),
           from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(),
           cause = 'error', actor = NULL, comment = NULL
      FROM clock CROSS JOIN outcome o
     WHERE j.id = o.job_id AND j.fence = o.stated AND j.locked_by IS NOT NULL
       AND j.cancel_requested_at IS NULL AND j.attempt < j.attempt_limit
    RETURNING j.fence
)
SELECT coalesce(array_agg(fence), '{}') FROM kept`

const finishedColumns = `id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at,
           idempotency_key, timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit,
           lease_losses, snoozes, redrives, version, fence, started_at, cancel_requested_at, reason, progress, error,
           last_worker, last_started_at, last_run_ms, attempts, from_status, prev_event_xid, event_xid,
           cause, actor, comment, finished_at, result, cloned_from`

// finishSQL ends attempts of any outcome. The row decides what comes next: a cancel request beats all but success; a
// snooze and a release give the attempt back; a failure is retried while the budget lasts.
//
// Index: jobs_pkey. Locks: the rows of jobs in id order, before anything is decided; it passes over rows that others hold
// and reports them, so that a stranger's transaction holds up one job and not a node. The reaper's word counts only if the
// lease has run out by now: an extension may have come in between.
//
// Plan trap, measured: without hash and merge joins (PlanSettings) every join of two CTEs compares each with each. So rows
// are found by id in an index, arrays of ids stand for joins, and EXCEPT hashes.
const finishSQL = `
WITH outcome AS (
    SELECT DISTINCT ON (job_id, stated) *
      FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[], $5::jsonb[], $6::interval[], $7::boolean[], $8::text[])
           AS o(job_id, stated, how, result, failure, delay, final, why)
), clock AS MATERIALIZED (
    SELECT clock_timestamp() AS ended
), target AS MATERIALIZED (
    SELECT j.*, o.how, o.result, o.failure, o.delay, o.final, o.why, clock.ended
      FROM clock CROSS JOIN outcome o
      JOIN mini_asynq.jobs j ON j.id = o.job_id AND j.fence = o.stated AND j.locked_by IS NOT NULL
     WHERE o.how <> 'lease_expired' AND o.why IS DISTINCT FROM 'reaper' OR j.lease_expires_at <= clock.ended
     ORDER BY j.id
       FOR UPDATE OF j SKIP LOCKED
), verdict AS MATERIALIZED (
    SELECT t.*, n.next,
           CASE how WHEN 'failed' THEN 'error' WHEN 'timed_out' THEN 'timeout' WHEN 'lease_expired' THEN 'lease_expired'
                    WHEN 'released' THEN why END AS step_cause,
           CASE WHEN failure IS NULL THEN error
                ELSE failure || jsonb_build_object('at', to_char(ended AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
                END AS last_error,
           CASE WHEN next IN ('completed', 'scheduled', 'pending') THEN attempts
                ELSE mini_asynq.with_attempt(attempts, ROW(attempt, fence, locked_at, ended,
                         mini_asynq.ms_between(run_at, locked_at),
                         CASE next WHEN 'cancelled' THEN 'cancelled' ELSE how END::mini_asynq.attempt_status, locked_by,
                         failure->>'type', failure->>'message', failure->>'stack')::mini_asynq.attempt) END AS all_attempts
      FROM target t
     CROSS JOIN LATERAL (
           SELECT CASE WHEN how = 'completed' THEN 'completed'
                       WHEN how = 'cancelled' OR cancel_requested_at IS NOT NULL THEN 'cancelled'
                       WHEN how = 'snoozed' THEN 'scheduled'
                       WHEN how = 'released' THEN 'pending'
                       WHEN final OR attempt >= attempt_limit THEN 'dead'
                       ELSE 'retrying' END::mini_asynq.job_status AS next) n
), kept AS (
    UPDATE mini_asynq.jobs j
       SET status = v.next, version = j.version + 1, updated_at = v.ended,
           attempt = CASE WHEN v.next = 'retrying' THEN j.attempt ELSE j.attempt - 1 END,
           run_at = CASE WHEN v.next = 'pending' THEN j.run_at ELSE v.ended + v.delay END,
           lease_losses = CASE v.how WHEN 'lease_expired' THEN j.lease_losses + 1 ELSE 0 END,
           snoozes = j.snoozes + (v.how = 'snoozed')::integer,
           last_worker = j.locked_by, last_started_at = j.locked_at, last_run_ms = mini_asynq.ms_between(j.locked_at, v.ended),
           attempts = v.all_attempts,
           locked_by = NULL, worker_id = NULL, locked_at = NULL, lease_expires_at = NULL, progress = NULL, error = v.last_error,
           from_status = j.status, prev_event_xid = j.event_xid, event_xid = pg_current_xact_id(),
           cause = v.step_cause, actor = NULL, comment = NULL
      FROM verdict v
     WHERE j.id = v.id AND v.next IN ('retrying', 'scheduled', 'pending')
), gone AS (
    DELETE FROM mini_asynq.jobs j USING verdict v
     WHERE j.id = v.id AND v.next IN ('completed', 'cancelled', 'dead')
       AND (SELECT set_config('mini_asynq.moving', 'on', true)) = 'on'
), finished AS (
    INSERT INTO mini_asynq.jobs_finished (` + finishedColumns + `)
    SELECT id, queue, kind, payload, next, priority, max_retries, run_at, created_at, ended, idempotency_key,
           timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit,
           CASE how WHEN 'lease_expired' THEN lease_losses + 1 ELSE 0 END,
           snoozes, redrives, version + 1, fence, started_at, cancel_requested_at,
           CASE WHEN next = 'cancelled' THEN CASE WHEN cancel_requested_at IS NULL THEN 'worker' ELSE 'operator' END
                WHEN next = 'dead' THEN CASE WHEN final THEN 'not_retryable' WHEN how = 'lease_expired' THEN 'poison'
                                             ELSE 'exhausted' END END,
           progress, last_error, locked_by, locked_at, mini_asynq.ms_between(locked_at, ended), all_attempts,
           'running', event_xid, pg_current_xact_id(),
           CASE next WHEN 'dead' THEN step_cause END,
           CASE WHEN next = 'cancelled' AND cancel_requested_at IS NOT NULL THEN actor END,
           CASE WHEN next = 'cancelled' AND cancel_requested_at IS NOT NULL THEN comment END, ended, result, cloned_from
      FROM verdict WHERE next IN ('completed', 'cancelled', 'dead')
)
SELECT id, fence, next::text, CASE WHEN next IN ('retrying', 'scheduled') THEN delay END FROM verdict
 UNION ALL
(SELECT j.id, j.fence, '', NULL::interval
   FROM outcome o
   JOIN mini_asynq.jobs j ON j.id = o.job_id AND j.fence = o.stated AND j.locked_by IS NOT NULL
  WHERE (SELECT count(*) FROM outcome) > (SELECT count(*) FROM target)
 EXCEPT
 SELECT id, fence, '', NULL FROM target)`

// splitOutcomes returns the places of the outcomes that completedSQL and failedSQL may end, and of the others.
func splitOutcomes(outcomes []Outcome) (completed, failed, other []int) {
	for i := range outcomes {
		switch o := &outcomes[i]; {
		case o.Kind == OutcomeCompleted && !o.patient:
			completed = append(completed, i)
		case o.retryable && !o.patient && o.Error != nil:
			failed = append(failed, i)
		default:
			other = append(other, i)
		}
	}
	return completed, failed, other
}

func queueCompleted(batch *pgx.Batch, outcomes []Outcome, places []int) {
	ids, fences := make([]uuid.UUID, len(places)), make([]int64, len(places))
	for n, i := range places {
		ids[n], fences[n] = outcomes[i].JobID, outcomes[i].Fence
	}
	batch.Queue(completedSQL, idArray(ids), fences,
		documentArray(len(places), func(n int) json.RawMessage { return outcomes[places[n]].Result }))
}

func readCompleted(answers pgx.BatchResults, outcomes []Outcome, places []int, verdicts []Verdict) error {
	return readLanded(answers, outcomes, places, verdicts, func(i int, landed bool) {
		if landed {
			verdicts[i] = Verdict{Landed: true, Status: Completed}
		}
	})
}

func queueFailed(batch *pgx.Batch, outcomes []Outcome, places []int) {
	n := len(places)
	ids, fences := make([]uuid.UUID, n), make([]int64, n)
	failures, delays := make([]*Failure, n), make([]time.Duration, n)
	for n, i := range places {
		o := &outcomes[i]
		ids[n], fences[n], failures[n], delays[n] = o.JobID, o.Fence, o.Error, o.Delay
	}
	batch.Queue(failedSQL, idArray(ids), fences, failures, delays)
}

func readFailed(answers pgx.BatchResults, outcomes []Outcome, places []int, verdicts []Verdict) error {
	return readLanded(answers, outcomes, places, verdicts, func(i int, landed bool) {
		if landed {
			verdicts[i] = Verdict{Landed: true, Status: Retrying, DueIn: outcomes[i].Delay}
		} else {
			verdicts[i] = Verdict{Undecided: true}
		}
	})
}

// readLanded reads the fences of the outcomes that landed: a fence is given out once. Where the outcomes of a turn state one
// fence for several jobs, the answer does not say which of them it was of: those are undecided.
func readLanded(answers pgx.BatchResults, outcomes []Outcome, places []int, verdicts []Verdict, tell func(place int, landed bool)) error {
	var fences []int64
	if err := answers.QueryRow().Scan(&fences); err != nil {
		return err
	}
	if len(fences) == len(places) {
		for _, i := range places {
			tell(i, true)
		}
		return nil
	}
	landed := make(map[int64]struct{}, len(fences))
	for _, f := range fences {
		landed[f] = struct{}{}
	}
	jobOf, torn := make(map[int64]uuid.UUID, len(places)), make(map[int64]struct{})
	for _, i := range places {
		o := &outcomes[i]
		if id, ok := jobOf[o.Fence]; ok && id != o.JobID {
			torn[o.Fence] = struct{}{}
		}
		jobOf[o.Fence] = o.JobID
	}
	for _, i := range places {
		if _, ok := torn[outcomes[i].Fence]; ok {
			verdicts[i] = Verdict{Undecided: true}
			continue
		}
		_, ok := landed[outcomes[i].Fence]
		tell(i, ok)
	}
	return nil
}

func queueFinish(batch *pgx.Batch, outcomes []Outcome, places []int) {
	n := len(places)
	ids, fences, kinds := make([]uuid.UUID, n), make([]int64, n), make([]string, n)
	failures, delays, finals := make([]*Failure, n), make([]time.Duration, n), make([]bool, n)
	for n, i := range places {
		o := &outcomes[i]
		ids[n], fences[n], kinds[n] = o.JobID, o.Fence, string(o.Kind)
		failures[n], delays[n], finals[n] = o.Error, o.Delay, o.Final
	}
	batch.Queue(finishSQL, idArray(ids), fences, kinds,
		documentArray(n, func(n int) json.RawMessage { return outcomes[places[n]].Result }), failures, delays, finals,
		optionalArray(n, func(n int) (string, bool) { c := outcomes[places[n]].Cause; return c, c != "" }))
}

func readFinish(answers pgx.BatchResults, outcomes []Outcome, places []int, verdicts []Verdict) error {
	rows, err := answers.Query()
	if err != nil {
		return err
	}
	landed := make(map[Lease]Verdict, len(places))
	var l Lease
	var next Status
	var due *time.Duration
	_, err = pgx.ForEachRow(rows, []any{rawID(&l.JobID), &l.Fence, &next, &due}, func() error {
		v := Verdict{Landed: next != "", Busy: next == "", Status: next}
		if due != nil {
			v.DueIn = *due
		}
		landed[l] = v
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range places {
		verdicts[i] = landed[Lease{outcomes[i].JobID, outcomes[i].Fence}]
	}
	return nil
}

// Finish stores outcomes in one transaction. A batch that fails for the sake of one row falls back to row by row, and a
// row that cannot be stored as it is ends as that attempt's failure: one bad row never wedges the others. Errors are
// those of the database being away; what the fences said is in the verdicts, in the order of outcomes.
func Finish(ctx context.Context, db DB, outcomes []Outcome) ([]Verdict, error) {
	// The statement of the common case waits for rows that others hold; this one is asked when that took too long.
	outcomes = slices.Clone(outcomes)
	for i := range outcomes {
		outcomes[i] = outcomes[i].Patient()
	}
	result, err := Turn{Outcomes: outcomes}.Do(ctx, db)
	switch {
	case err == nil:
		return result.Verdicts, nil
	case Transient(err) || errors.Is(err, ErrCommitUnknown) || ctx.Err() != nil:
		return nil, err
	}
	verdicts := make([]Verdict, len(outcomes))
	for i := range outcomes {
		if verdicts[i], err = finishOne(ctx, db, outcomes[i]); err != nil {
			return nil, err
		}
	}
	return verdicts, nil
}

func finishOne(ctx context.Context, db DB, outcome Outcome) (Verdict, error) {
	result, err := Turn{Outcomes: []Outcome{outcome}}.Do(ctx, db)
	if err == nil {
		return result.Verdicts[0], nil
	}
	if Transient(err) || errors.Is(err, ErrCommitUnknown) || ctx.Err() != nil {
		return Verdict{}, err
	}
	fault := fmt.Errorf("the outcome could not be stored: %w", err)
	outcome.Kind, outcome.Result = OutcomeFailed, nil
	outcome.Error = NewFailure("", "UnstorableOutcome", fault.Error(), "")
	result, err = Turn{Outcomes: []Outcome{outcome}}.Do(ctx, db)
	if err != nil {
		return Verdict{}, err
	}
	result.Verdicts[0].Fault = fault
	return result.Verdicts[0], nil
}
