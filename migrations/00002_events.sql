-- Events: the outbox, the ticks that give its rows their positions, and the triggers that fill it.
--
-- Every change of every job becomes an event in the outbox in the same transaction, whoever makes the change. Events
-- have no position yet: ids of a sequence do not follow the order of commits. A tick (events.Ticker) gives positions to
-- a batch of rows at once, by nothing but the snapshot in which they became visible; the algorithm is PgQ's.

-- +goose Up
CREATE TYPE mini_asynq.event_type AS ENUM (
    'job.enqueued', 'job.scheduled', 'job.blocked', 'job.ready', 'job.started', 'job.progress', 'job.completed',
    'job.retrying', 'job.dead', 'job.snoozed', 'job.released', 'job.cancel_requested', 'job.cancelled',
    'job.redriven', 'job.redrive_undone', 'job.updated', 'job.deleted',
    'queue.created', 'queue.paused', 'queue.resumed', 'queue.updated', 'history.dropped',
    'worker.online', 'worker.draining', 'worker.offline');

-- Every event by its code, which is what the outbox stores: two bytes for what happened, before and after. Codes up to 99
-- are the one transition table; jobs.Steps is the same in Go, and a test compares them. The others change no status. A
-- code is never given another meaning.
CREATE TABLE mini_asynq.event_codes (
    code        smallint              PRIMARY KEY,
    from_status mini_asynq.job_status,          -- null: the job is new, or the event is about no job
    to_status   mini_asynq.job_status,          -- null: the job is gone
    event       mini_asynq.event_type NOT NULL
);
INSERT INTO mini_asynq.event_codes (code, from_status, to_status, event) VALUES
    (  1, NULL,        'pending',   'job.enqueued'),
    (  2, NULL,        'scheduled', 'job.scheduled'),
    (  3, NULL,        'blocked',   'job.blocked'),
    (  4, 'scheduled', 'pending',   'job.ready'),
    (  5, 'retrying',  'pending',   'job.ready'),
    (  6, 'blocked',   'pending',   'job.ready'),
    (  7, 'scheduled', 'blocked',   'job.blocked'),
    (  8, 'retrying',  'blocked',   'job.blocked'),
    (  9, 'pending',   'blocked',   'job.blocked'),
    ( 10, 'blocked',   'scheduled', 'job.scheduled'),
    ( 11, 'pending',   'scheduled', 'job.scheduled'),
    ( 12, 'retrying',  'scheduled', 'job.scheduled'),
    ( 13, 'pending',   'running',   'job.started'),
    ( 14, 'running',   'completed', 'job.completed'),
    ( 15, 'running',   'retrying',  'job.retrying'),
    ( 16, 'running',   'dead',      'job.dead'),
    ( 17, 'running',   'scheduled', 'job.snoozed'),
    ( 18, 'running',   'pending',   'job.released'),
    ( 19, 'running',   'blocked',   'job.released'),
    ( 20, 'scheduled', 'cancelled', 'job.cancelled'),
    ( 21, 'pending',   'cancelled', 'job.cancelled'),
    ( 22, 'retrying',  'cancelled', 'job.cancelled'),
    ( 23, 'blocked',   'cancelled', 'job.cancelled'),
    ( 24, 'running',   'cancelled', 'job.cancelled'),
    ( 25, 'dead',      'pending',   'job.redriven'),
    ( 26, 'dead',      'scheduled', 'job.redriven'),
    ( 27, 'dead',      'blocked',   'job.redriven'),
    ( 28, 'cancelled', 'blocked',   'job.redriven'),
    ( 29, 'pending',   'dead',      'job.redrive_undone'),
    ( 30, 'scheduled', 'dead',      'job.redrive_undone'),
    ( 31, 'blocked',   'dead',      'job.redrive_undone'),
    ( 32, 'completed', NULL,        'job.deleted'),
    ( 33, 'cancelled', NULL,        'job.deleted'),
    ( 34, 'dead',      NULL,        'job.deleted'),
    (101, 'running',   'running',   'job.cancel_requested'),
    (102, 'running',   'running',   'job.progress'),
    (103, 'scheduled', 'scheduled', 'job.updated'),
    (104, 'pending',   'pending',   'job.updated'),
    (105, 'running',   'running',   'job.updated'),
    (106, 'retrying',  'retrying',  'job.updated'),
    (107, 'blocked',   'blocked',   'job.updated'),
    (121, NULL,        NULL,        'queue.created'),
    (122, NULL,        NULL,        'queue.paused'),
    (123, NULL,        NULL,        'queue.resumed'),
    (124, NULL,        NULL,        'queue.updated'),
    (125, NULL,        NULL,        'history.dropped'),
    (126, NULL,        NULL,        'worker.online'),
    (127, NULL,        NULL,        'worker.draining'),
    (128, NULL,        NULL,        'worker.offline');

CREATE VIEW mini_asynq.legal_steps AS
    SELECT code, from_status, to_status, event FROM mini_asynq.event_codes WHERE code < 100;

-- +goose StatementBegin
-- step_code gives the code of a step, null for a step that is not in legal_steps. IMMUTABLE and without a table, so that
-- triggers may call it for every row; PostgreSQL inlines it.
CREATE FUNCTION mini_asynq.step_code(was mini_asynq.job_status, is_now mini_asynq.job_status) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (CASE is_now
        WHEN 'running' THEN CASE was WHEN 'pending' THEN 13 END
        WHEN 'completed' THEN CASE was WHEN 'running' THEN 14 END
        WHEN 'pending' THEN CASE WHEN was IS NULL THEN 1 ELSE CASE was WHEN 'scheduled' THEN 4
                    WHEN 'retrying' THEN 5 WHEN 'blocked' THEN 6 WHEN 'running' THEN 18 WHEN 'dead' THEN 25 END END
        WHEN 'retrying' THEN CASE was WHEN 'running' THEN 15 END
        WHEN 'scheduled' THEN CASE WHEN was IS NULL THEN 2 ELSE CASE was WHEN 'blocked' THEN 10
                    WHEN 'pending' THEN 11 WHEN 'retrying' THEN 12 WHEN 'running' THEN 17 WHEN 'dead' THEN 26 END END
        WHEN 'dead' THEN CASE was WHEN 'running' THEN 16 WHEN 'pending' THEN 29 WHEN 'scheduled' THEN 30
                    WHEN 'blocked' THEN 31 END
        WHEN 'cancelled' THEN CASE was WHEN 'scheduled' THEN 20 WHEN 'pending' THEN 21 WHEN 'retrying' THEN 22
                    WHEN 'blocked' THEN 23 WHEN 'running' THEN 24 END
        WHEN 'blocked' THEN CASE WHEN was IS NULL THEN 3 ELSE CASE was WHEN 'scheduled' THEN 7
                    WHEN 'retrying' THEN 8 WHEN 'pending' THEN 9 WHEN 'running' THEN 19 WHEN 'dead' THEN 27
                    WHEN 'cancelled' THEN 28 END END
        ELSE CASE WHEN is_now IS NULL THEN CASE was WHEN 'completed' THEN 32 WHEN 'cancelled' THEN 33 WHEN 'dead' THEN 34 END END
    END)::smallint
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- illegal_step is what step_code has no answer for: MA409.
CREATE FUNCTION mini_asynq.illegal_step(was mini_asynq.job_status, is_now mini_asynq.job_status) RETURNS smallint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'a job does not go from % to %', coalesce(was::text, 'new'), coalesce(is_now::text, 'gone')
        USING ERRCODE = 'MA409';
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- priority_code is the place of a priority in the order of claiming, from 1 on. Inlined.
CREATE FUNCTION mini_asynq.priority_code(priority mini_asynq.job_priority) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (CASE priority WHEN 'high' THEN 1 WHEN 'normal' THEN 2 WHEN 'low' THEN 3 END)::smallint
$$;
-- +goose StatementEnd

-- One event about a job, or about a queue. Columns are added at the end, never changed.
CREATE TYPE mini_asynq.event AS (
    code        smallint,           -- event_codes: what happened, from which status to which
    priority    smallint,           -- priority_code; null: the event is about no job
    attempt     integer,
    job_version bigint,
    prev_xid    xid8,               -- the transaction of the job's event before; null: there is none
    queue       text,
    kind        text,
    worker      text,
    tags        text[],
    actor       text,
    fence       bigint,
    run_at      timestamptz,
    wait_ms     bigint,
    run_ms      bigint,
    total_ms    bigint,
    cause       text,
    reason      text,
    comment     text,               -- a person's words
    source      text,
    has_result  boolean,
    error       jsonb,
    data        jsonb               -- what only rare events say
);

-- CACHE 1: per job, ids follow the order of its changes, because each change waits for the row lock of the one before,
-- and a trigger takes the id after it.
CREATE SEQUENCE mini_asynq.outbox_id AS bigint CACHE 1;

-- Append-only. A row holds the events of one statement, or a part of them: what a row and its index entries cost is paid
-- once for many events (measured: 16 against 8 microseconds for the two events of a job in a drain). `xid` is the top-level
-- transaction, also inside a savepoint: it is what snapshots speak of.
CREATE TABLE mini_asynq.outbox (
    id      bigint             NOT NULL DEFAULT nextval('mini_asynq.outbox_id'),
    xid     xid8               NOT NULL DEFAULT pg_current_xact_id(),
    at      timestamptz        NOT NULL DEFAULT clock_timestamp(),
    n       integer            NOT NULL,    -- how many events
    job_ids uuid[]             NOT NULL,    -- whom they are about, one by one; null: no job
    events  mini_asynq.event[] NOT NULL
) PARTITION BY RANGE (at);
CREATE TABLE mini_asynq.outbox_default PARTITION OF mini_asynq.outbox DEFAULT;
-- Rows stay in the table up to half a page, and compression would cost more than all else that is done for an event.
ALTER TABLE mini_asynq.outbox_default ALTER job_ids SET STORAGE EXTERNAL, ALTER events SET STORAGE EXTERNAL,
    SET (toast_tuple_target = 4080);

-- Ticks resolve to their rows; and from one event of a job to the one before.
CREATE INDEX outbox_xid ON mini_asynq.outbox (xid, id);

-- The outbox for people: one row an event, ordered by (id, place).
CREATE VIEW mini_asynq.events AS
    SELECT o.id, e.ordinality AS place, o.xid, o.at, e.unnest AS job_id, e.job_version, c.event AS type, c.from_status, c.to_status,
           (enum_range(NULL::mini_asynq.job_priority))[e.priority] AS priority, e.attempt, e.queue, e.kind, e.worker, e.tags,
           e.actor, e.fence, e.run_at, e.wait_ms, e.run_ms, e.total_ms, e.cause, e.reason, e.comment, e.source,
           e.has_result, e.error, e.data
      FROM mini_asynq.outbox o
     CROSS JOIN LATERAL unnest(o.job_ids, o.events) WITH ORDINALITY AS e
      LEFT JOIN mini_asynq.event_codes c USING (code);

-- An epoch is one unbroken history. `identity` says which database this is (mini_asynq.identity()); when it changes,
-- history may have been lost, and positions start anew under a new number.
CREATE TABLE mini_asynq.epochs (
    epoch      bigint      PRIMARY KEY,
    base_snap  pg_snapshot NOT NULL,    -- what it saw belongs to no tick of this epoch
    base_seq   bigint      NOT NULL,    -- the first event is base_seq + 1
    floor_seq  bigint      NOT NULL,    -- events up to this one are gone by retention
    identity   text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The events of a tick are those visible in `snap` and not in `prev_snap`, ordered by id; the first has the position
-- first_seq, and there are n. The primary key makes two pacers harmless: the second finds the position taken.
CREATE TABLE mini_asynq.ticks (
    epoch     bigint      NOT NULL REFERENCES mini_asynq.epochs,
    first_seq bigint      NOT NULL,
    n         bigint      NOT NULL CHECK (n > 0),
    prev_snap pg_snapshot NOT NULL,
    snap      pg_snapshot NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (epoch, first_seq)
);
-- events.Retire: the first tick that is young enough to stay.
CREATE INDEX ticks_at ON mini_asynq.ticks (at);

-- Events of earlier epochs, set aside when the epoch changed: in the outbox they would fall into new ticks as soon as
-- the transaction ids of the new history had grown past theirs.
CREATE TABLE mini_asynq.outbox_past (LIKE mini_asynq.outbox);

-- The pacer's promise, a value holder and no counter: until when (database time, milliseconds since 1970) the pacer
-- ticks by itself, so that nobody needs to wake it. A sequence because its last_value is not MVCC: a writer in a
-- serializable transaction sees the present one too.
CREATE SEQUENCE mini_asynq.promise AS bigint MINVALUE 0 START 0 CACHE 1;
SELECT setval('mini_asynq.promise', 0);

-- +goose StatementBegin
-- identity says which history this database is part of: another cluster, another timeline (failover, point-in-time
-- recovery), another database or a restored dump each make another one.
CREATE FUNCTION mini_asynq.identity() RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws('/',
        (SELECT system_identifier FROM pg_control_system()),
        substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'mini_asynq.ticks'::regclass::oid)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- pacer_sleeps tells whether a writer has to NOTIFY. A committing NOTIFY takes a cluster-wide lock through its WAL flush,
-- so nobody pays for one while the pacer is awake. The caller must own a transaction id before (it has written): the
-- pacer's way to sleep relies on it (events.Pacer). One expression that PostgreSQL inlines: triggers ask it for each
-- statement. PostgreSQL refuses PREPARE TRANSACTION after a NOTIFY: such a writer switches it off.
CREATE FUNCTION mini_asynq.pacer_sleeps() RETURNS boolean
    LANGUAGE sql VOLATILE
AS $$
    SELECT pg_catalog.current_setting('mini_asynq.notify', true) IS DISTINCT FROM 'off'
       AND coalesce(pg_catalog.pg_sequence_last_value('mini_asynq.promise'::pg_catalog.regclass), 0)::pg_catalog.float8
           OPERATOR(pg_catalog.<) (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::pg_catalog.float8)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- wake tells the pacer that there is something to publish, if it sleeps. For people: after COMMIT PREPARED, or after a
-- transaction that ran with mini_asynq.notify = off.
CREATE FUNCTION mini_asynq.wake() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF mini_asynq.pacer_sleeps() THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
END
$$;
-- +goose StatementEnd

-- The trigger functions below run as their owner, so that a role that may only insert jobs can still write the outbox.
-- Each puts the events of its statement into rows of 16: such a row takes two kilobytes, of which a page holds three. The
-- order of these rows among each other is left open: a statement changes a job once.

-- +goose StatementBegin
-- After INSERT on jobs. from_status is null for a new job; a job that comes back from jobs_finished has the status it
-- had there.
CREATE FUNCTION mini_asynq.jobs_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.outbox (n, job_ids, events)
    SELECT count(*), array_agg(id), array_agg(ROW(
               coalesce(mini_asynq.step_code(from_status, status), mini_asynq.illegal_step(from_status, status)),
               mini_asynq.priority_code(priority), attempt, version, prev_event_xid, queue, kind,
               NULL,                -- worker
               tags, actor,
               NULL,                -- fence
               run_at,
               NULL, NULL, NULL,    -- wait_ms, run_ms, total_ms
               NULL, NULL,          -- cause, reason
               comment, source,
               NULL, NULL, NULL     -- has_result, error, data
           )::mini_asynq.event)
      FROM (SELECT *, (row_number() OVER () - 1) / 16 AS part FROM inserted) AS changed
     GROUP BY part;
    IF FOUND AND mini_asynq.pacer_sleeps() THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- After UPDATE on jobs: an event for each row whose from_status is set. There is no look at the old rows: a join of the
-- two transition tables would be planned once a session, for one row, and then take seconds for thousands; planned well
-- it still costs as much again as the INSERT (measured: 5.2 against 3.4 microseconds a row).
CREATE FUNCTION mini_asynq.jobs_updated() RETURNS trigger
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

-- +goose StatementBegin
-- After INSERT on jobs_finished: the end of a job. The DELETE from jobs in the same statement makes no event.
CREATE FUNCTION mini_asynq.jobs_finished_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.outbox (n, job_ids, events)
    SELECT count(*), array_agg(id), array_agg(ROW(
               coalesce(mini_asynq.step_code(from_status, status), mini_asynq.illegal_step(from_status, status)),
               mini_asynq.priority_code(priority), attempt, version, prev_event_xid, queue, kind,
               CASE WHEN from_status = 'running' THEN last_worker END,
               tags, actor,
               NULL, NULL, NULL,    -- fence, run_at, wait_ms
               CASE WHEN from_status = 'running' THEN last_run_ms END,
               mini_asynq.ms_between(created_at, finished_at),
               cause, reason, comment,
               NULL,                -- source
               result IS NOT NULL,
               CASE WHEN status = 'dead' THEN jsonb_build_object('type', error->'type',
                    'message', left(error->>'message', 1024), 'fingerprint', error->'fingerprint') END,
               NULL                 -- data
           )::mini_asynq.event)
      FROM (SELECT *, (row_number() OVER () - 1) / 16 AS part FROM inserted) AS changed
     GROUP BY part;
    IF FOUND AND mini_asynq.pacer_sleeps() THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- After a DELETE statement on jobs by anyone but the statements that move a job (they set mini_asynq.moving): an accepted
-- job is not lost by accident. Without a transition table, which would cost every move a copy of its rows; so a DELETE
-- that finds no row is refused, too.
CREATE FUNCTION mini_asynq.jobs_deleted() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'a live job is not deleted: cancel it, then delete it' USING ERRCODE = 'MA409';
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- After DELETE on jobs_finished, except by a redrive.
CREATE FUNCTION mini_asynq.jobs_finished_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.outbox (n, job_ids, events)
    SELECT count(*), array_agg(id), array_agg(ROW(
               mini_asynq.step_code(status, NULL), mini_asynq.priority_code(priority), attempt, version + 1, event_xid,
               queue, kind,
               NULL,                                -- worker
               tags,
               coalesce(nullif(current_setting('mini_asynq.actor', true), ''), 'sql:' || session_user),
               NULL, NULL, NULL, NULL, NULL,        -- fence, run_at, wait_ms, run_ms, total_ms
               NULL, NULL,                          -- cause, reason
               nullif(current_setting('mini_asynq.comment', true), ''),
               NULL, NULL, NULL, NULL               -- source, has_result, error, data
           )::mini_asynq.event)
      FROM (SELECT *, (row_number() OVER () - 1) / 16 AS part FROM old_rows) AS changed
     GROUP BY part;
    IF FOUND AND mini_asynq.pacer_sleeps() THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Before an UPDATE that leaves the version or the transaction of the last event as it is: a heartbeat, or one written by
-- hand. If it changes the status it gets what the event needs; if it does not, it makes none.
CREATE FUNCTION mini_asynq.jobs_update_without_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.from_status := NULL;
    NEW.version := OLD.version;
    IF NEW.status <> OLD.status THEN
        NEW.from_status := OLD.status;
        NEW.prev_event_xid := OLD.event_xid;
        NEW.event_xid := pg_current_xact_id();
        NEW.version := OLD.version + 1;
        NEW.updated_at := clock_timestamp();
        NEW.actor := 'sql:' || session_user;
        NEW.cause := NULL;
        NEW.comment := NULL;
        IF OLD.status = 'running' THEN
            IF NEW.status = 'retrying' THEN
                NEW.attempts := mini_asynq.with_attempt(OLD.attempts, ROW(OLD.attempt, OLD.fence, OLD.locked_at, NEW.updated_at,
                    mini_asynq.ms_between(OLD.run_at, OLD.locked_at), 'failed', OLD.locked_by, NULL, NULL, NULL)::mini_asynq.attempt);
            ELSE
                NEW.attempt := OLD.attempt - 1;     -- given back, as by a release
            END IF;
            NEW.last_worker := OLD.locked_by;
            NEW.last_started_at := OLD.locked_at;
            NEW.last_run_ms := mini_asynq.ms_between(OLD.locked_at, clock_timestamp());
            NEW.locked_by := NULL;
            NEW.locked_at := NULL;
            NEW.lease_expires_at := NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Before a hand-written INSERT that leaves out what follows from the other columns.
CREATE FUNCTION mini_asynq.jobs_insert_by_hand() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.kind := coalesce(NEW.kind, NEW.queue);
    NEW.attempt_limit := coalesce(NEW.attempt_limit, NEW.max_retries + 1);
    IF NEW.status = 'pending' AND NEW.run_at > clock_timestamp() THEN
        NEW.status := 'scheduled';
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Before UPDATE of the status of a finished job: it leaves its status only by a redrive, which moves it.
CREATE FUNCTION mini_asynq.jobs_finished_status_fixed() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'a finished job keeps its status: % to % is no legal step', OLD.status, NEW.status
        USING ERRCODE = 'MA409';
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- note writes an event that is about no job.
CREATE FUNCTION mini_asynq.note(code integer, queue text, worker text, actor text, reason text, until timestamptz, data jsonb)
    RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO mini_asynq.outbox (n, job_ids, events)
    VALUES (1, ARRAY[NULL::uuid], ARRAY[ROW(
               code, NULL, NULL, NULL, NULL,        -- priority, attempt, job_version, prev_xid
               queue,
               NULL,                                -- kind
               worker,
               NULL,                                -- tags
               actor,
               NULL,                                -- fence
               until,
               NULL, NULL, NULL, NULL,              -- wait_ms, run_ms, total_ms, cause
               reason,
               NULL, NULL, NULL, NULL,              -- comment, source, has_result, error
               data)::mini_asynq.event])
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- After INSERT or UPDATE on queues.
CREATE FUNCTION mini_asynq.queues_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM mini_asynq.note(121, NEW.name, NULL, NEW.actor, NULL, NULL, NULL);
    END IF;
    IF NEW.paused AND (TG_OP = 'INSERT' OR NOT OLD.paused OR OLD.pause_reason IS DISTINCT FROM NEW.pause_reason
                       OR OLD.paused_until IS DISTINCT FROM NEW.paused_until) THEN
        PERFORM mini_asynq.note(122, NEW.name, NULL, NEW.actor, NEW.pause_reason, NEW.paused_until, NULL);
    ELSIF TG_OP = 'UPDATE' AND OLD.paused AND NOT NEW.paused THEN
        PERFORM mini_asynq.note(123, NEW.name, NULL, NEW.actor, current_setting('mini_asynq.reason', true), NULL, NULL);
    END IF;
    PERFORM mini_asynq.wake();
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Tables without a primary key: under a publication FOR ALL TABLES PostgreSQL refuses to delete from one that has no
-- replica identity. It costs nothing unless wal_level is logical.
ALTER TABLE mini_asynq.jobs_done_default REPLICA IDENTITY FULL;
ALTER TABLE mini_asynq.jobs_dead_default REPLICA IDENTITY FULL;
ALTER TABLE mini_asynq.outbox_default REPLICA IDENTITY FULL;
ALTER TABLE mini_asynq.outbox_past REPLICA IDENTITY FULL;

CREATE TRIGGER jobs_insert_by_hand BEFORE INSERT ON mini_asynq.jobs FOR EACH ROW
    WHEN (NEW.kind IS NULL OR NEW.attempt_limit IS NULL OR NEW.status = 'pending' AND NEW.run_at > clock_timestamp())
    EXECUTE FUNCTION mini_asynq.jobs_insert_by_hand();
CREATE TRIGGER jobs_update_without_version BEFORE UPDATE ON mini_asynq.jobs FOR EACH ROW
    WHEN (NEW.version = OLD.version OR NEW.event_xid <> pg_current_xact_id())
    EXECUTE FUNCTION mini_asynq.jobs_update_without_version();
CREATE TRIGGER jobs_inserted AFTER INSERT ON mini_asynq.jobs
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    EXECUTE FUNCTION mini_asynq.jobs_inserted();
CREATE TRIGGER jobs_updated AFTER UPDATE ON mini_asynq.jobs
    REFERENCING NEW TABLE AS updated FOR EACH STATEMENT
    EXECUTE FUNCTION mini_asynq.jobs_updated();
CREATE TRIGGER jobs_deleted AFTER DELETE ON mini_asynq.jobs FOR EACH STATEMENT
    WHEN (current_setting('mini_asynq.moving', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION mini_asynq.jobs_deleted();
CREATE TRIGGER jobs_finished_inserted AFTER INSERT ON mini_asynq.jobs_finished
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    EXECUTE FUNCTION mini_asynq.jobs_finished_inserted();
CREATE TRIGGER jobs_finished_deleted AFTER DELETE ON mini_asynq.jobs_finished
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT
    WHEN (current_setting('mini_asynq.moving', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION mini_asynq.jobs_finished_deleted();
CREATE TRIGGER jobs_finished_status_fixed BEFORE UPDATE ON mini_asynq.jobs_finished FOR EACH ROW
    WHEN (NEW.status <> OLD.status)
    EXECUTE FUNCTION mini_asynq.jobs_finished_status_fixed();
CREATE TRIGGER queues_changed AFTER INSERT OR UPDATE ON mini_asynq.queues FOR EACH ROW
    EXECUTE FUNCTION mini_asynq.queues_changed();

-- +goose Down
DROP TRIGGER queues_changed ON mini_asynq.queues;
DROP TRIGGER jobs_finished_status_fixed ON mini_asynq.jobs_finished;
DROP TRIGGER jobs_finished_deleted ON mini_asynq.jobs_finished;
DROP TRIGGER jobs_finished_inserted ON mini_asynq.jobs_finished;
DROP TRIGGER jobs_deleted ON mini_asynq.jobs;
DROP TRIGGER jobs_updated ON mini_asynq.jobs;
DROP TRIGGER jobs_inserted ON mini_asynq.jobs;
DROP TRIGGER jobs_update_without_version ON mini_asynq.jobs;
DROP TRIGGER jobs_insert_by_hand ON mini_asynq.jobs;
DROP FUNCTION mini_asynq.queues_changed(), mini_asynq.note(integer, text, text, text, text, timestamptz, jsonb),
    mini_asynq.jobs_finished_status_fixed(), mini_asynq.jobs_insert_by_hand(),
    mini_asynq.jobs_update_without_version(), mini_asynq.jobs_finished_deleted(), mini_asynq.jobs_deleted(),
    mini_asynq.jobs_finished_inserted(), mini_asynq.jobs_updated(), mini_asynq.jobs_inserted(),
    mini_asynq.wake(), mini_asynq.pacer_sleeps(), mini_asynq.identity();
DROP SEQUENCE mini_asynq.promise;
DROP VIEW mini_asynq.events, mini_asynq.legal_steps;
DROP TABLE mini_asynq.outbox_past, mini_asynq.ticks, mini_asynq.epochs, mini_asynq.outbox, mini_asynq.event_codes;
DROP SEQUENCE mini_asynq.outbox_id;
DROP FUNCTION mini_asynq.priority_code(mini_asynq.job_priority);
DROP FUNCTION mini_asynq.step_code(mini_asynq.job_status, mini_asynq.job_status);
DROP FUNCTION mini_asynq.illegal_step(mini_asynq.job_status, mini_asynq.job_status);
DROP TYPE mini_asynq.event, mini_asynq.event_type;
