package jobs

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// cloneSQL makes a job from a stored one. The payload stays inside the database. A copy of a scheduled job is due with it;
// of any other at once, because its run_at was the server's word and not the enqueuer's. What makes a request happen once
// is not copied. Indexes jobs_pkey and jobs_finished_id; no row is locked: whatever becomes of the original, the copy is of
// what this snapshot saw. Both tables are read in it, so that a job that moves between them is found once.
const cloneSQL = `
WITH clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now
), new AS (
    SELECT o.*, now,
           CASE WHEN $9::interval IS NOT NULL THEN now + $9
                WHEN $8::timestamptz IS NOT NULL THEN greatest($8, now)
                WHEN status = 'scheduled' THEN greatest(run_at, now)
                ELSE now END AS due,
           coalesce($7::integer, max_retries) AS allowed
      FROM clock, (SELECT * FROM mini_asynq.all_jobs WHERE id = $1 LIMIT 1) o
)
INSERT INTO mini_asynq.jobs (id, queue, kind, payload, status, priority, max_retries, attempt_limit, run_at, created_at,
                             updated_at, timeout, retry, tags, metadata, traceparent, source, cloned_from, actor, comment)
SELECT $2, coalesce($3, queue), coalesce($4, kind), coalesce($5::jsonb, payload),
       CASE WHEN due > now THEN 'scheduled' ELSE 'pending' END::mini_asynq.job_status,
       coalesce($6::text::mini_asynq.job_priority, priority), allowed, allowed + 1, due, now, now,
       coalesce($10::interval, timeout), retry,
       CASE WHEN $11 THEN $12::text[] ELSE tags END, CASE WHEN $13 THEN $14::jsonb ELSE metadata END,
       coalesce($15, traceparent), 'clone', id, nullif($16, ''), nullif($17, '')
  FROM new`

// CloneJob makes a new job from a stored one, live or finished. The fields that are given replace those of the original;
// tags and metadata that are not nil count as given, and so does a RunAt that has passed: the copy is due now then. Neither
// the idempotency key nor anything that happened to the original is taken over. ErrNotFound; *ValidationError.
func CloneJob(ctx context.Context, db DB, id uuid.UUID, replace Params, act Act) (job *Job, err error) {
	r, err := newRow(replace)
	if err != nil {
		return nil, err
	}
	var payload any
	if replace.Payload != nil {
		payload = r.payload
	}
	err = inTx(ctx, db, "clone", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, cloneSQL, id, r.id, orNull(replace.Queue), orNull(replace.Kind), payload,
			orNull(string(replace.Priority)), replace.MaxRetries, r.runAt, r.delay, r.timeout,
			replace.Tags != nil, orNoTags(replace.Tags), replace.Metadata != nil, orNoDocument(r.metadata),
			orNull(replace.Traceparent), act.Actor, Storable(act.Reason, 1024))
		switch {
		case isRunAtBound(err):
			return runAtTooFar()
		case err != nil:
			return err
		case tag.RowsAffected() == 0:
			return ErrNotFound
		}
		if job, err = get(ctx, tx, r.id); err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "job.clone", Target: id.String(), After: struct {
			ID     uuid.UUID `json:"id"`
			Queue  string    `json:"queue"`
			Status Status    `json:"status"`
		}{job.ID, job.Queue, job.Status}})
	})
	if err != nil {
		return nil, err
	}
	return job, nil
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
