package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CancelJob stops a job that is not wanted any more. A waiting job is cancelled at once and never starts. A running one is
// asked to stop: the request is a column, so that no lost message can lose it; requested is true then, and the job ends
// cancelled unless its handler succeeds. A job that is cancelled already stays as it is.
// ErrNotFound; *TransitionError for a job that is completed or dead.
//
// Against a claim the row lock decides: whoever gets it first; the other sees what it left.
func CancelJob(ctx context.Context, db DB, id uuid.UUID, act Act) (job *Job, requested bool, err error) {
	err = inTx(ctx, db, "cancel", func(tx pgx.Tx) error {
		status, err := lockLive(ctx, tx, id)
		switch {
		case err != nil:
			return err
		case status == "":
			if job, err = getFinished(ctx, tx, id); err != nil {
				return err
			}
			if job.Status != Cancelled {
				return &TransitionError{ID: id, Status: job.Status, Action: ActionCancel}
			}
			return act.recordStep(ctx, tx, "job.cancel", job.Status, job)
		case status == Running:
			requested = true
			_, err = tx.Exec(ctx, requestCancelSQL, one(id), act.Actor, Storable(act.Reason, 1024))
		default:
			_, err = tx.Exec(ctx, cancelWaitingSQL, one(id), act.Actor, Storable(act.Reason, 1024))
		}
		if err != nil {
			return err
		}
		if job, err = get(ctx, tx, id); err != nil {
			return err
		}
		return act.recordStep(ctx, tx, "job.cancel", status, job)
	})
	return job, requested, err
}

// The statements below act on jobs whose rows the transaction holds, in one status each: on one, or on a portion of a bulk
// operation. Index jobs_pkey.

// requestCancelSQL asks the workers of running jobs to stop.
const requestCancelSQL = `
UPDATE mini_asynq.jobs
   SET cancel_requested_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp(),
       from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(),
       cause = 'cancel_requested', actor = nullif($2, ''), comment = nullif($3, '')
 WHERE id = ANY ($1::uuid[]) AND cancel_requested_at IS NULL`

// cancelWaitingSQL moves waiting jobs to the finished ones.
const cancelWaitingSQL = `
WITH gone AS (
    DELETE FROM mini_asynq.jobs
     WHERE id = ANY ($1::uuid[]) AND (SELECT set_config('mini_asynq.moving', 'on', true)) = 'on'
    RETURNING *, clock_timestamp() AS ended
)
INSERT INTO mini_asynq.jobs_finished (` + finishedColumns + `)
SELECT id, queue, kind, payload, 'cancelled', priority, max_retries, run_at, created_at, ended, idempotency_key,
       timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit,
       lease_losses, snoozes, redrives, version + 1, fence, started_at, cancel_requested_at, 'operator', progress, error,
       last_worker, last_started_at, last_run_ms, attempts, status, event_xid, pg_current_xact_id(),
       NULL, nullif($2, ''), nullif($3, ''), ended, NULL, cloned_from
  FROM gone`

// RetryJob makes a job run again: a dead one is redriven with a full new budget, its attempts counted on; a retrying one
// becomes pending now. With a delay a redriven job is scheduled instead. ErrNotFound; *TransitionError for any other
// status.
func RetryJob(ctx context.Context, db DB, id uuid.UUID, delay time.Duration, act Act) (*Job, error) {
	return again(ctx, db, id, ActionRetry, delay, act)
}

// RunJobNow makes a scheduled or retrying job pending now. ErrNotFound; *TransitionError for any other status.
func RunJobNow(ctx context.Context, db DB, id uuid.UUID, act Act) (*Job, error) {
	return again(ctx, db, id, ActionRunNow, 0, act)
}

func again(ctx context.Context, db DB, id uuid.UUID, action Action, delay time.Duration, act Act) (job *Job, err error) {
	err = inTx(ctx, db, string(action), func(tx pgx.Tx) error {
		status, err := lockLive(ctx, tx, id)
		if err != nil {
			return err
		}
		switch {
		case status == "" && action == ActionRetry:
			if err := redrive(ctx, tx, id, delay, act); err != nil {
				return err
			}
			status = Dead
		case status == "":
			finished, err := getFinished(ctx, tx, id)
			if err != nil {
				return err
			}
			return &TransitionError{ID: id, Status: finished.Status, Action: action}
		case status == Retrying || status == Scheduled && action == ActionRunNow:
			if _, err := tx.Exec(ctx, bringForwardSQL, one(id), delay, act.Actor, Storable(act.Reason, 1024)); err != nil {
				return err
			}
		default:
			return &TransitionError{ID: id, Status: status, Action: action}
		}
		if job, err = get(ctx, tx, id); err != nil {
			return err
		}
		return act.recordStep(ctx, tx, "job."+string(action), status, job)
	})
	return job, err
}

// recordStep writes what an action did to a job's status into the audit log.
func (a Act) recordStep(ctx context.Context, tx pgx.Tx, action string, before Status, after *Job) error {
	type step struct {
		Status          Status    `json:"status"`
		RunAt           time.Time `json:"run_at,omitzero"`
		CancelRequested bool      `json:"cancel_requested,omitempty"`
	}
	now := step{Status: after.Status, CancelRequested: !after.CancelRequestedAt.IsZero() && after.Status == Running}
	if after.Status == Scheduled {
		now.RunAt = after.RunAt
	}
	return a.Record(ctx, tx, Entry{Action: action, Target: after.ID.String(), Before: step{Status: before}, After: now})
}

// bringForwardSQL makes scheduled and retrying jobs pending, or with a delay scheduled.
const bringForwardSQL = `
UPDATE mini_asynq.jobs
   SET status = CASE WHEN $2::interval > interval '0' THEN 'scheduled' ELSE 'pending' END::mini_asynq.job_status,
       run_at = clock_timestamp() + $2::interval, version = version + 1, updated_at = clock_timestamp(),
       from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(),
       cause = NULL, actor = nullif($3, ''), comment = nullif($4, '')
 WHERE id = ANY ($1::uuid[])`

// redriveSQL moves dead jobs back to the live ones. Index jobs_finished_id: one probe per job and partition of dead jobs.
const redriveSQL = `
WITH gone AS (
    DELETE FROM mini_asynq.jobs_finished
     WHERE id = ANY ($1::uuid[]) AND status = 'dead' AND (SELECT set_config('mini_asynq.moving', 'on', true)) = 'on'
    RETURNING *, clock_timestamp() AS now
)
INSERT INTO mini_asynq.jobs (id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at,
    idempotency_key, timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit,
    lease_losses, snoozes, redrives, version, fence, started_at, error, last_worker, last_started_at,
    last_run_ms, attempts, from_status, prev_event_xid, event_xid, actor, comment, cloned_from)
SELECT id, queue, kind, payload,
       CASE WHEN $2::interval > interval '0' THEN 'scheduled' ELSE 'pending' END::mini_asynq.job_status,
       priority, max_retries, now + $2::interval, created_at, now,
       idempotency_key, timeout, retry, tags, metadata, source, traceparent, attempt, attempt,
       attempt + max_retries + 1, 0, snoozes, redrives + 1, version + 1, fence, started_at, error, last_worker, last_started_at,
       last_run_ms, attempts, status, event_xid, pg_current_xact_id(), nullif($3, ''), nullif($4, ''), cloned_from
  FROM gone`

func redrive(ctx context.Context, tx pgx.Tx, id uuid.UUID, delay time.Duration, act Act) error {
	tag, err := tx.Exec(ctx, redriveSQL, one(id), delay, act.Actor, Storable(act.Reason, 1024))
	if err != nil || tag.RowsAffected() == 1 {
		return err
	}
	finished, err := getFinished(ctx, tx, id)
	if err != nil {
		return err
	}
	return &TransitionError{ID: id, Status: finished.Status, Action: ActionRetry}
}

// deleteFinishedSQL removes jobs for good. Index jobs_finished_id.
const deleteFinishedSQL = `DELETE FROM mini_asynq.jobs_finished WHERE id = ANY ($1::uuid[])`

// DeleteJob removes a finished job and its attempts for good. ErrNotFound; *TransitionError for a live job: it is
// cancelled first.
func DeleteJob(ctx context.Context, db DB, id uuid.UUID, act Act) error {
	return inTx(ctx, db, "delete", func(tx pgx.Tx) error {
		status, err := lockLive(ctx, tx, id)
		if err != nil {
			return err
		}
		if status != "" {
			return &TransitionError{ID: id, Status: status, Action: ActionDelete}
		}
		// An earlier move in the caller's transaction must not hide this event.
		if _, err := tx.Exec(ctx, `SELECT set_config('mini_asynq.moving', 'off', true)`); err != nil {
			return err
		}
		if err := act.say(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, deleteFinishedSQL, one(id))
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "job.delete", Target: id.String()})
	})
}

// one is a job as the parameter of a statement for many.
func one(id uuid.UUID) any { return idArray([]uuid.UUID{id}) }

// lockLive locks a live job's row and returns its status, "" if it is not live.
func lockLive(ctx context.Context, tx pgx.Tx, id uuid.UUID) (status Status, err error) {
	err = tx.QueryRow(ctx, `SELECT status::text FROM mini_asynq.jobs WHERE id = $1 FOR UPDATE`, id).Scan(&status)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return status, err
}

func getFinished(ctx context.Context, db DB, id uuid.UUID) (*Job, error) {
	job, err := scanJob(db.QueryRow(ctx, `SELECT `+columns+`, finished_at, NULL::jsonb, NULL::jsonb, cloned_from
		FROM mini_asynq.jobs_finished WHERE id = $1`, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	return job, err
}

// inTx runs fn in a transaction, or in a savepoint of the caller's, and commits. A lock that the caller's session waits
// for is bounded by ctx.
func inTx(ctx context.Context, db DB, action string, fn func(pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%s: begin: %w", action, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after Commit it does nothing
	if err := fn(tx); err != nil {
		if isRefusal(err) {
			return err
		}
		return fmt.Errorf("%s: %w", action, err)
	}
	if _, nested := db.(pgx.Tx); nested {
		if _, err := tx.Exec(ctx, restSQL); err != nil {
			return fmt.Errorf("%s: %w", action, err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("%s: %w", action, commitUnknown(err))
	}
	return nil
}
