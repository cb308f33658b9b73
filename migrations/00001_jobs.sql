-- Jobs: the live table, the finished ones, their attempts, queues, keys and settings.
--
-- Live jobs and finished jobs are two tables, so that the hot one is only as large as the backlog and retention is
-- TRUNCATE of a partition instead of DELETE of millions of rows. A job is in exactly one of them; finishing is one
-- statement that deletes from the one and inserts into the other.
--
-- Cannot be undone without losing every job: down drops the tables.

-- +goose Up
CREATE TYPE mini_asynq.job_status AS ENUM
    ('scheduled', 'pending', 'running', 'completed', 'retrying', 'dead', 'blocked', 'cancelled');

-- The order of the labels is the order of claiming.
CREATE TYPE mini_asynq.job_priority AS ENUM ('high', 'normal', 'low');

CREATE TYPE mini_asynq.attempt_status AS ENUM
    ('completed', 'failed', 'timed_out', 'lease_expired', 'cancelled');

-- An attempt that ended.
CREATE TYPE mini_asynq.attempt AS (
    attempt_number integer,
    fence          bigint,
    started_at     timestamptz,
    completed_at   timestamptz,
    wait_ms        bigint,
    status         mini_asynq.attempt_status,
    worker         text,
    error_type     text,
    error_message  text,
    error_stack    text
);

-- What one column alone must fulfil is said by its type: PostgreSQL reads the CHECKs of a table anew for each statement, and
-- those of a domain once a session (measured: half of what a small INSERT paid for CHECKs, 8 % of it all).
CREATE DOMAIN mini_asynq.label AS text CONSTRAINT label_length CHECK (octet_length(VALUE) BETWEEN 1 AND 255);
CREATE DOMAIN mini_asynq.label_list AS text[]
    -- What a program can read back: one list.
    CONSTRAINT label_list_plain CHECK (array_ndims(VALUE) = 1 AND array_position(VALUE, NULL) IS NULL);
CREATE DOMAIN mini_asynq.moment AS timestamptz CONSTRAINT moment_finite CHECK (isfinite(VALUE) AND VALUE > '0001-01-02');
CREATE DOMAIN mini_asynq.retry_count AS integer CONSTRAINT retry_count_range CHECK (VALUE BETWEEN 0 AND 1000);

-- +goose StatementBegin
-- uuid_v7 makes the id of jobs that SQL clients enqueue (RFC 9562, section 5.7): 48 bits of milliseconds by the
-- database's clock, the rest random. VOLATILE, so that each row of a statement gets its own. Names are qualified instead
-- of a SET search_path, with which PostgreSQL could not inline it: a call cost as much as the whole INSERT (measured).
CREATE FUNCTION mini_asynq.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT pg_catalog.encode(
        pg_catalog.set_bit(pg_catalog.set_bit(
            pg_catalog.overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),
                pg_catalog.substring(pg_catalog.int8send(
                    (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8), 3),
                1, 6),
            52, 1), 53, 1),
        'hex')::pg_catalog.uuid
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- ms_between is the time from one to the other in whole milliseconds, never negative. Inlined, and in floats: extract
-- counts in numeric, which costs ten times as much and is asked for several times in the life of every job.
CREATE FUNCTION mini_asynq.ms_between(earlier timestamptz, later timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT greatest(0, date_part('epoch', later - earlier) * 1000)::bigint
$$;
-- +goose StatementEnd

-- The columns are in the order of their layout: those of fixed width that are never null come first, so that PostgreSQL
-- finds them at known offsets however long the texts are; the view all_jobs has the order for people.
CREATE TABLE mini_asynq.jobs (
    id                  uuid                    NOT NULL DEFAULT mini_asynq.uuid_v7(),
    run_at              mini_asynq.moment       NOT NULL DEFAULT clock_timestamp(),
    fence               bigint                  NOT NULL DEFAULT 0,  -- of the latest claim, never reset
    version             bigint                  NOT NULL DEFAULT 1,  -- one event for each value
    created_at          mini_asynq.moment       NOT NULL DEFAULT clock_timestamp(),
    updated_at          mini_asynq.moment       NOT NULL DEFAULT clock_timestamp(),
    -- The transaction of the latest event: where the way back through the job's history begins (events.History).
    event_xid           xid8                    NOT NULL DEFAULT pg_current_xact_id(),
    status              mini_asynq.job_status   NOT NULL DEFAULT 'pending',
    priority            mini_asynq.job_priority NOT NULL DEFAULT 'normal',
    attempt             integer                 NOT NULL DEFAULT 0,  -- charged starts
    attempt_base        integer                 NOT NULL DEFAULT 0,  -- charged starts before the present budget
    attempt_limit       integer                 NOT NULL,            -- attempt_base + max_retries + 1
    max_retries         mini_asynq.retry_count  NOT NULL DEFAULT 0,
    lease_losses        integer                 NOT NULL DEFAULT 0,  -- lost leases in a row
    snoozes             integer                 NOT NULL DEFAULT 0,
    redrives            integer                 NOT NULL DEFAULT 0,
    queue               mini_asynq.label        NOT NULL DEFAULT 'default',
    kind                mini_asynq.label        NOT NULL,
    source              text                    NOT NULL DEFAULT 'sql',
    payload             jsonb                   NOT NULL DEFAULT '{}',

    locked_by           text,
    locked_at           timestamptz,
    lease_expires_at    mini_asynq.moment,
    worker_id           uuid,                   -- of a remote worker that holds the lease; null: a node does
    started_at          mini_asynq.moment,      -- of the first attempt
    cancel_requested_at timestamptz,

    -- What the event of the latest change says. Each statement that makes an event writes the status before into
    -- from_status (SET from_status = status), so that triggers need no look at the old row; null makes no event. The
    -- transaction of the event before goes into prev_event_xid in the same way; null: there is none.
    from_status         mini_asynq.job_status,
    prev_event_xid      xid8,
    cause               text,                   -- why: error, timeout, lease_expired, shutdown, cancel_requested ...
    actor               text,                   -- by whom
    comment             text,                   -- a person's words

    idempotency_key     text,
    timeout             interval,               -- of one attempt; null: the node's default
    retry               jsonb,                  -- {strategy, interval, max_interval}; null: the node's
    tags                mini_asynq.label_list,
    metadata            jsonb,
    traceparent         text,
    reason              text,                   -- of the final status: exhausted, operator ...
    progress            jsonb,
    error               jsonb,                  -- the last one
    last_worker         text,                   -- who ran the attempt that ended last, since when, and for how long
    last_started_at     timestamptz,
    last_run_ms         bigint,
    -- The attempts that ended, but for the one that completed the job: of that one the columns above say all, so that a
    -- job that succeeds at once costs no second row. They are part of the row because they live and move with it
    -- (with_attempt).
    attempts            mini_asynq.attempt[],

    CONSTRAINT jobs_pkey PRIMARY KEY (id),
    -- Finished jobs live in jobs_finished.
    CONSTRAINT jobs_status_is_live CHECK (status NOT IN ('completed', 'dead', 'cancelled')),
    -- Running, and only running, has owner, lock time and lease.
    CONSTRAINT jobs_lease_iff_running
        CHECK (num_nulls(locked_by, locked_at, lease_expires_at) = CASE WHEN status = 'running' THEN 0 ELSE 3 END),
    CONSTRAINT jobs_attempt_bound CHECK (attempt BETWEEN attempt_base AND attempt_limit),
    -- Measured against the database's clock, which alone may judge it: 3653 days, in hours because the days of an
    -- interval ask for the time zone.
    CONSTRAINT jobs_run_at_bound CHECK (run_at <= updated_at + interval '87672 hours')
) WITH (
    -- The table turns over completely: vacuum by absolute numbers, not by a share of a backlog of millions.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05,
    fillfactor = 85
);

-- jobs.Claim: one contiguous range per queue and priority.
CREATE INDEX jobs_claim ON mini_asynq.jobs (queue, priority, run_at, id) WHERE status = 'pending';
-- jobs.Promote: what is due, and when the next one is.
CREATE INDEX jobs_due ON mini_asynq.jobs (run_at) WHERE status IN ('scheduled', 'retrying');
-- jobs.Expired: leases that ran out, and when the next one does.
CREATE INDEX jobs_lease ON mini_asynq.jobs (lease_expires_at) WHERE status = 'running';

-- The columns of jobs in the same order, and two of its own.
CREATE TABLE mini_asynq.jobs_finished (
    LIKE mini_asynq.jobs,
    finished_at timestamptz           NOT NULL,
    result      jsonb,

    CONSTRAINT jobs_finished_from CHECK (from_status IS NOT NULL),
    CONSTRAINT jobs_finished_no_lease CHECK (locked_by IS NULL AND locked_at IS NULL AND lease_expires_at IS NULL),
    -- The attempt that completed a job is told by its row.
    CONSTRAINT jobs_finished_attempt CHECK (status <> 'completed' OR last_started_at IS NOT NULL AND last_worker IS NOT NULL)
) PARTITION BY LIST (status);
-- jobs.Get. No primary key: one over partitions would hold their keys, too, and promise nothing for it. That a job is
-- here once is the promise of the one row in jobs that is deleted for it.
CREATE INDEX jobs_finished_id ON mini_asynq.jobs_finished (id);

-- Dead jobs are the dead letter queue: kept longer, in partitions of their own.
CREATE TABLE mini_asynq.jobs_done PARTITION OF mini_asynq.jobs_finished
    FOR VALUES IN ('completed', 'cancelled') PARTITION BY RANGE (finished_at);
CREATE TABLE mini_asynq.jobs_dead PARTITION OF mini_asynq.jobs_finished
    FOR VALUES IN ('dead') PARTITION BY RANGE (finished_at);
CREATE TABLE mini_asynq.jobs_done_default PARTITION OF mini_asynq.jobs_done DEFAULT;
CREATE TABLE mini_asynq.jobs_dead_default PARTITION OF mini_asynq.jobs_dead DEFAULT;

-- A queue's row appears with its first event (written by the pacer's node) or its first pause. No foreign key points
-- here: an enqueue must never wait for a stranger's open transaction.
CREATE TABLE mini_asynq.queues (
    name         text        PRIMARY KEY,
    paused       boolean     NOT NULL DEFAULT false,
    paused_at    timestamptz,
    paused_until timestamptz,
    pause_reason text,
    actor        text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    version      bigint      NOT NULL DEFAULT 1,

    CONSTRAINT queues_name CHECK (name ~ '^[A-Za-z0-9_.:-]{1,255}$' AND name NOT IN ('.', '..')),
    CONSTRAINT queues_pause CHECK (paused OR num_nulls(paused_at, paused_until, pause_reason) = 3),
    -- For ever is said by leaving the end out.
    CONSTRAINT queues_times CHECK (isfinite(coalesce(paused_until, created_at)) AND isfinite(coalesce(paused_at, created_at)))
);

-- "This request happened once": the key, a hash of the request, and the first answer.
CREATE TABLE mini_asynq.idempotency_keys (
    key          text        PRIMARY KEY,
    request_hash bytea       NOT NULL,
    job_ids      uuid[]      NOT NULL,
    answer       jsonb,      -- what the door said, if it keeps that
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,

    CONSTRAINT idempotency_keys_key CHECK (char_length(key) BETWEEN 1 AND 255)
);
-- jobs.DropExpiredKeys.
CREATE INDEX idempotency_keys_expiry ON mini_asynq.idempotency_keys (expires_at);

-- +goose StatementBegin
-- request_hash identifies a request: equal JSON values hash equally whatever the order of members or the spacing,
-- because jsonb has one text for each value. The key itself is no part of the request.
CREATE FUNCTION mini_asynq.request_hash(request jsonb) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sha256(convert_to((CASE jsonb_typeof(request)
        WHEN 'object' THEN request - 'idempotency_key' ELSE request END)::text, 'UTF8'))
$$;
-- +goose StatementEnd

-- What the server publishes for the SQL door. One row a setting.
CREATE TABLE mini_asynq.settings (
    name       text        PRIMARY KEY,
    value      jsonb       NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The fence: one growing number for each claim. CACHE 1, so that it follows the order of claiming.
CREATE SEQUENCE mini_asynq.fence AS bigint CACHE 1;

-- Claims may commit asynchronously (jobs.Turn). A crash can lose such a claim and with it the advance of the sequence, which
-- would then give out the same fence once more. So no claim is made after a crash before the fence has jumped beyond all
-- that can have been lost. PostgreSQL itself says when that is due: it empties unlogged tables when it recovers from a crash
-- and when a standby is promoted.
CREATE UNLOGGED TABLE mini_asynq.fence_is_whole (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row)
);
INSERT INTO mini_asynq.fence_is_whole DEFAULT VALUES;

-- +goose StatementBegin
-- refuse_claim is what a claim calls that finds the fence broken: MA503.
CREATE FUNCTION mini_asynq.refuse_claim() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'PostgreSQL has recovered from a crash: the fence must be mended first' USING ERRCODE = 'MA503';
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- mend_fence makes the fence jump, durably, by more claims than a crash can have lost: a commit reaches the disk after three
-- wal_writer_delay at the latest, 30 s at its largest setting. A twin waits for the first and finds it done.
CREATE FUNCTION mini_asynq.mend_fence() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.fence_is_whole DEFAULT VALUES ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM setval('mini_asynq.fence', nextval('mini_asynq.fence') + 10000000);
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- shortened is a list of attempts with 1 KiB of each message and without stacks.
CREATE FUNCTION mini_asynq.shortened(attempts mini_asynq.attempt[]) RETURNS mini_asynq.attempt[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(SELECT ROW(a.attempt_number, a.fence, a.started_at, a.completed_at, a.wait_ms, a.status, a.worker,
                            a.error_type, left(a.error_message, 1024), NULL)::mini_asynq.attempt
                   FROM unnest(attempts) WITH ORDINALITY AS a ORDER BY a.ordinality)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- with_attempt appends an attempt that ended. The list is a part of its job's row, so it must not grow without bound: once
-- it takes more than 256 KiB on the disk, the attempts before the new one are shortened. Inlined.
CREATE FUNCTION mini_asynq.with_attempt(earlier mini_asynq.attempt[], ended mini_asynq.attempt) RETURNS mini_asynq.attempt[]
    LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN pg_column_size(earlier) > 262144 THEN mini_asynq.shortened(earlier) ELSE earlier END || ended
$$;
-- +goose StatementEnd

-- Which servers may use this schema: those whose own level is at least min_server.
CREATE TABLE mini_asynq.compatibility (
    one_row    boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    min_server integer NOT NULL
);
INSERT INTO mini_asynq.compatibility (min_server) VALUES (1);

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

-- One row for each attempt that ended. The job's id finds its attempts by jobs_pkey and jobs_finished_id.
CREATE VIEW mini_asynq.job_attempts AS
    SELECT j.id AS job_id, a.attempt_number, a.started_at, a.completed_at, a.status, a.fence, a.worker, a.wait_ms,
           a.error_type, a.error_message, a.error_stack
      FROM mini_asynq.jobs j, unnest(j.attempts) AS a
     UNION ALL
    SELECT j.id, a.attempt_number, a.started_at, a.completed_at, a.status, a.fence, a.worker, a.wait_ms,
           a.error_type, a.error_message, a.error_stack
      FROM mini_asynq.jobs_finished j, unnest(j.attempts) AS a
     UNION ALL
    SELECT id, attempt, last_started_at, finished_at, 'completed', fence, last_worker,
           mini_asynq.ms_between(run_at, last_started_at), NULL, NULL, NULL
      FROM mini_asynq.jobs_finished WHERE status = 'completed';

-- +goose Down
DROP VIEW mini_asynq.job_attempts, mini_asynq.all_jobs;
DROP TABLE mini_asynq.compatibility, mini_asynq.fence_is_whole, mini_asynq.settings, mini_asynq.idempotency_keys, mini_asynq.queues,
    mini_asynq.jobs_finished, mini_asynq.jobs;
DROP SEQUENCE mini_asynq.fence;
DROP FUNCTION mini_asynq.with_attempt(mini_asynq.attempt[], mini_asynq.attempt), mini_asynq.shortened(mini_asynq.attempt[]),
    mini_asynq.mend_fence(),
    mini_asynq.refuse_claim(), mini_asynq.request_hash(jsonb), mini_asynq.ms_between(timestamptz, timestamptz),
    mini_asynq.uuid_v7();
DROP DOMAIN mini_asynq.label, mini_asynq.label_list, mini_asynq.moment, mini_asynq.retry_count;
DROP TYPE mini_asynq.attempt, mini_asynq.attempt_status, mini_asynq.job_priority, mini_asynq.job_status;
