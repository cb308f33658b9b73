-- Bulk operations, and clones: what one call does to many jobs, and where a job came from.
--
-- ADD COLUMN of a column that may be null changes the catalogue alone, yet it waits for whoever uses the table, and others
-- wait behind it: not for long. A start that fails for it is tried again.

-- +goose Up
SET LOCAL lock_timeout = '5s';
INSERT INTO mini_asynq.event_codes (code, event) VALUES (131, 'operation.progress'), (132, 'operation.finished');

-- The job that it is a copy of; that may be gone. Behind the two columns that only jobs_finished has.
ALTER TABLE mini_asynq.jobs ADD COLUMN cloned_from uuid;
ALTER TABLE mini_asynq.jobs_finished ADD COLUMN cloned_from uuid;
CREATE OR REPLACE VIEW mini_asynq.all_jobs AS
    SELECT id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at, idempotency_key,
           timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit, lease_losses,
           snoozes, redrives, version, fence, locked_by, locked_at, lease_expires_at, started_at, cancel_requested_at,
           reason, progress, error, last_worker, last_started_at, last_run_ms, from_status, cause, actor, comment, NULL::timestamptz AS finished_at, NULL::jsonb AS result,
           cloned_from
      FROM mini_asynq.jobs
     UNION ALL
    SELECT id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at, idempotency_key,
           timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit, lease_losses,
           snoozes, redrives, version, fence, locked_by, locked_at, lease_expires_at, started_at, cancel_requested_at,
           reason, progress, error, last_worker, last_started_at, last_run_ms, from_status, cause, actor, comment, finished_at, result,
           cloned_from
      FROM mini_asynq.jobs_finished;

-- +goose StatementBegin
-- After UPDATE on jobs: as in 00002, and an edit (its cause begins with changed:) says which fields it changed.
-- An event for each row whose from_status is set. There is no look at the old rows: a join of the
-- two transition tables would be planned once a session, for one row, and then take seconds for thousands; planned well
-- it still costs as much again as the INSERT (measured: 5.2 against 3.4 microseconds a row).
CREATE OR REPLACE FUNCTION mini_asynq.jobs_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.outbox (n, job_ids, events)
    SELECT count(*), array_agg(id), array_agg(ROW(
               CASE WHEN from_status <> status
                    THEN coalesce(mini_asynq.step_code(from_status, status), mini_asynq.illegal_step(from_status, status))
                    WHEN cause = 'cancel_requested' THEN 101
                    WHEN cause = 'progress' THEN 102
                    ELSE CASE status WHEN 'scheduled' THEN 103 WHEN 'pending' THEN 104 WHEN 'running' THEN 105
                                     WHEN 'retrying' THEN 106 WHEN 'blocked' THEN 107 END END,
               mini_asynq.priority_code(priority), attempt, version, prev_event_xid, queue, kind,
               CASE WHEN status = 'running' THEN locked_by WHEN from_status = 'running' THEN last_worker END,
               tags, actor,
               CASE WHEN status = 'running' THEN fence END,
               CASE WHEN status IN ('scheduled', 'retrying', 'pending') THEN run_at END,
               CASE WHEN status = 'running' AND from_status <> 'running' THEN mini_asynq.ms_between(run_at, locked_at) END,
               CASE WHEN from_status = 'running' AND status <> 'running' THEN last_run_ms END,
               NULL,                -- total_ms
               CASE WHEN from_status <> status AND cause NOT LIKE 'changed:%' THEN cause END,
               NULL,                -- reason
               comment,
               NULL, NULL,          -- source, has_result
               CASE WHEN status = 'retrying' THEN jsonb_build_object('type', error->'type',
                    'message', left(error->>'message', 1024), 'fingerprint', error->'fingerprint') END,
               CASE WHEN from_status = status AND cause = 'progress' THEN progress
                    WHEN cause LIKE 'changed:%' THEN jsonb_build_object('changed', string_to_array(substr(cause, 9), ',')) END
           )::mini_asynq.event)
      FROM (SELECT *, (row_number() OVER () - 1) / 16 AS part FROM updated WHERE from_status IS NOT NULL) AS changed
     GROUP BY part;
    IF FOUND AND mini_asynq.pacer_sleeps() THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- One action on many jobs. The jobs are found anew for each portion, by id, behind the last one that was looked at: what
-- changed after before_at does not match any more, so nothing is done twice, whoever carries on.
CREATE TABLE mini_asynq.operations (
    id          uuid        PRIMARY KEY DEFAULT mini_asynq.uuid_v7(),
    action      text        NOT NULL CHECK (action IN ('retry', 'run-now', 'cancel', 'delete')),
    status      text        NOT NULL DEFAULT 'running'
                            CHECK (status IN ('running', 'completed', 'cancelled', 'stopped', 'failed')),
    job_ids     uuid[],                         -- sorted; null: the filter says which
    filter      jsonb,                          -- jobs.Filter
    queues      text[],                         -- the only ones that exist for who asked for it; null: all
    before_at   timestamptz NOT NULL,           -- only jobs that did not change after it
    rate        integer     CHECK (rate > 0),   -- jobs a second; null: as fast as it goes
    stop_ratio  float8      CHECK (stop_ratio BETWEEN 0 AND 1), -- stop when more of the first attempts than this fail
    stop_sample integer     CHECK (stop_sample > 0),            -- and at least so many have ended

    total       bigint      NOT NULL,           -- jobs that matched, or were named
    done        bigint      NOT NULL DEFAULT 0,
    skipped     bigint      NOT NULL DEFAULT 0, -- changed meanwhile
    failed      bigint      NOT NULL DEFAULT 0, -- refused by the database
    errors      jsonb       NOT NULL DEFAULT '[]', -- of the first that failed
    ended       bigint      NOT NULL DEFAULT 0, -- first attempts that ended, as far as they are watched
    ended_badly bigint      NOT NULL DEFAULT 0,
    last_id     uuid,                           -- behind it the next portion begins
    next_at     timestamptz NOT NULL DEFAULT clock_timestamp(), -- when the rate allows the next portion

    holder      text,                           -- the node that carries it out
    held_until  timestamptz,                    -- after that any node may

    actor       text        NOT NULL,
    reason      text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_at     timestamptz NOT NULL DEFAULT clock_timestamp(), -- of the latest event
    finished_at timestamptz,

    CONSTRAINT operations_of CHECK (num_nonnulls(job_ids, filter) = 1),
    CONSTRAINT operations_end CHECK ((status = 'running') = (finished_at IS NULL)),
    CONSTRAINT operations_holder CHECK (num_nonnulls(holder, held_until) IN (0, 2) AND (holder IS NULL OR status = 'running')),
    CONSTRAINT operations_stop CHECK (num_nonnulls(stop_ratio, stop_sample) IN (0, 2))
);
-- jobs.ClaimOperations. Small: most operations are over.
CREATE INDEX operations_running ON mini_asynq.operations (id) WHERE status = 'running';
-- jobs.ForgetOperations.
CREATE INDEX operations_finished ON mini_asynq.operations (finished_at) WHERE finished_at IS NOT NULL;

-- What an operation that watches its jobs has sent, until the next attempt of each has ended.
CREATE TABLE mini_asynq.operation_jobs (
    operation_id uuid    NOT NULL REFERENCES mini_asynq.operations ON DELETE CASCADE,
    job_id       uuid    NOT NULL,
    attempt      integer NOT NULL,              -- charged starts when it was sent: the next one is watched
    PRIMARY KEY (operation_id, job_id)
);

-- +goose StatementBegin
-- After INSERT, or a change of told_at or status, on operations. Events wake the nodes that may carry one out.
CREATE FUNCTION mini_asynq.operations_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    PERFORM mini_asynq.note(CASE NEW.status WHEN 'running' THEN 131 ELSE 132 END, NULL, NULL, NEW.actor, NULL, NULL,
        jsonb_build_object('operation_id', NEW.id, 'action', NEW.action, 'operation_status', NEW.status, 'total', NEW.total,
            'done', NEW.done, 'skipped', NEW.skipped, 'failed', NEW.failed));
    PERFORM mini_asynq.wake();
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER operations_created AFTER INSERT ON mini_asynq.operations
    FOR EACH ROW EXECUTE FUNCTION mini_asynq.operations_changed();
CREATE TRIGGER operations_changed AFTER UPDATE ON mini_asynq.operations
    FOR EACH ROW WHEN (OLD.told_at <> NEW.told_at OR OLD.status <> NEW.status)
    EXECUTE FUNCTION mini_asynq.operations_changed();

-- +goose Down
DROP TABLE mini_asynq.operation_jobs, mini_asynq.operations;
DROP FUNCTION mini_asynq.operations_changed();
DELETE FROM mini_asynq.event_codes WHERE code IN (131, 132);

-- +goose StatementBegin
-- After UPDATE on jobs: an event for each row whose from_status is set. There is no look at the old rows: a join of the
-- two transition tables would be planned once a session, for one row, and then take seconds for thousands; planned well
-- it still costs as much again as the INSERT (measured: 5.2 against 3.4 microseconds a row).
CREATE OR REPLACE FUNCTION mini_asynq.jobs_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.outbox (n, job_ids, events)
    SELECT count(*), array_agg(id), array_agg(ROW(
               CASE WHEN from_status <> status
                    THEN coalesce(mini_asynq.step_code(from_status, status), mini_asynq.illegal_step(from_status, status))
                    WHEN cause = 'cancel_requested' THEN 101
                    WHEN cause = 'progress' THEN 102
                    ELSE CASE status WHEN 'scheduled' THEN 103 WHEN 'pending' THEN 104 WHEN 'running' THEN 105
                                     WHEN 'retrying' THEN 106 WHEN 'blocked' THEN 107 END END,
               mini_asynq.priority_code(priority), attempt, version, prev_event_xid, queue, kind,
               CASE WHEN status = 'running' THEN locked_by WHEN from_status = 'running' THEN last_worker END,
               tags, actor,
               CASE WHEN status = 'running' THEN fence END,
               CASE WHEN status IN ('scheduled', 'retrying', 'pending') THEN run_at END,
               CASE WHEN status = 'running' AND from_status <> 'running' THEN mini_asynq.ms_between(run_at, locked_at) END,
               CASE WHEN from_status = 'running' AND status <> 'running' THEN last_run_ms END,
               NULL,                -- total_ms
               CASE WHEN from_status <> status THEN cause END,
               NULL,                -- reason
               comment,
               NULL, NULL,          -- source, has_result
               CASE WHEN status = 'retrying' THEN jsonb_build_object('type', error->'type',
                    'message', left(error->>'message', 1024), 'fingerprint', error->'fingerprint') END,
               CASE WHEN from_status = status AND cause = 'progress' THEN progress END
           )::mini_asynq.event)
      FROM (SELECT *, (row_number() OVER () - 1) / 16 AS part FROM updated WHERE from_status IS NOT NULL) AS changed
     GROUP BY part;
    IF FOUND AND mini_asynq.pacer_sleeps() THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

DROP VIEW mini_asynq.all_jobs;
ALTER TABLE mini_asynq.jobs_finished DROP COLUMN cloned_from;
ALTER TABLE mini_asynq.jobs DROP COLUMN cloned_from;
CREATE VIEW mini_asynq.all_jobs AS
    SELECT id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at, idempotency_key,
           timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit, lease_losses,
           snoozes, redrives, version, fence, locked_by, locked_at, lease_expires_at, started_at, cancel_requested_at,
           reason, progress, error, last_worker, last_started_at, last_run_ms, from_status, cause, actor, comment, NULL::timestamptz AS finished_at, NULL::jsonb AS result
      FROM mini_asynq.jobs
     UNION ALL
    SELECT id, queue, kind, payload, status, priority, max_retries, run_at, created_at, updated_at, idempotency_key,
           timeout, retry, tags, metadata, source, traceparent, attempt, attempt_base, attempt_limit, lease_losses,
           snoozes, redrives, version, fence, locked_by, locked_at, lease_expires_at, started_at, cancel_requested_at,
           reason, progress, error, last_worker, last_started_at, last_run_ms, from_status, cause, actor, comment, finished_at, result
      FROM mini_asynq.jobs_finished;
