-- Events: the outbox, the ticks that give its rows their positions, and the triggers that fill it.
--
-- Every change of every job becomes a row of the outbox in the same transaction, whoever makes the change. Outbox rows
-- have no position yet: ids of a sequence do not follow the order of commits. A tick (events.Ticker) gives positions to
-- a batch of rows at once, by nothing but the snapshot in which they became visible; the algorithm is PgQ's.

-- +goose Up
CREATE TYPE mini_asynq.event_type AS ENUM (
    'job.enqueued', 'job.scheduled', 'job.blocked', 'job.ready', 'job.started', 'job.progress', 'job.completed',
    'job.retrying', 'job.dead', 'job.snoozed', 'job.released', 'job.cancel_requested', 'job.cancelled',
    'job.redriven', 'job.redrive_undone', 'job.updated', 'job.deleted',
    'queue.created', 'queue.paused', 'queue.resumed', 'queue.updated', 'history.dropped');

-- The one transition table in the database's words. jobs.Steps is the same in Go; a test compares the two, and tries
-- every triple against is_legal_step.
CREATE TABLE mini_asynq.legal_steps (
    from_status mini_asynq.job_status,          -- null: the job is new
    to_status   mini_asynq.job_status,          -- null: the job is gone
    event       mini_asynq.event_type NOT NULL,
    UNIQUE NULLS NOT DISTINCT (from_status, to_status)
);
INSERT INTO mini_asynq.legal_steps (from_status, to_status, event) VALUES
    (NULL,        'pending',   'job.enqueued'),
    (NULL,        'scheduled', 'job.scheduled'),
    (NULL,        'blocked',   'job.blocked'),
    ('scheduled', 'pending',   'job.ready'),
    ('retrying',  'pending',   'job.ready'),
    ('blocked',   'pending',   'job.ready'),
    ('scheduled', 'blocked',   'job.blocked'),
    ('retrying',  'blocked',   'job.blocked'),
    ('pending',   'blocked',   'job.blocked'),
    ('blocked',   'scheduled', 'job.scheduled'),
    ('pending',   'scheduled', 'job.scheduled'),
    ('retrying',  'scheduled', 'job.scheduled'),
    ('pending',   'running',   'job.started'),
    ('running',   'completed', 'job.completed'),
    ('running',   'retrying',  'job.retrying'),
    ('running',   'dead',      'job.dead'),
    ('running',   'scheduled', 'job.snoozed'),
    ('running',   'pending',   'job.released'),
    ('running',   'blocked',   'job.released'),
    ('scheduled', 'cancelled', 'job.cancelled'),
    ('pending',   'cancelled', 'job.cancelled'),
    ('retrying',  'cancelled', 'job.cancelled'),
    ('blocked',   'cancelled', 'job.cancelled'),
    ('running',   'cancelled', 'job.cancelled'),
    ('dead',      'pending',   'job.redriven'),
    ('dead',      'scheduled', 'job.redriven'),
    ('dead',      'blocked',   'job.redriven'),
    ('cancelled', 'blocked',   'job.redriven'),
    ('pending',   'dead',      'job.redrive_undone'),
    ('scheduled', 'dead',      'job.redrive_undone'),
    ('blocked',   'dead',      'job.redrive_undone'),
    ('completed', NULL,        'job.deleted'),
    ('cancelled', NULL,        'job.deleted'),
    ('dead',      NULL,        'job.deleted');

-- +goose StatementBegin
-- step_event names the event of a step, null for a step that is not in legal_steps. IMMUTABLE and without a table, so
-- that triggers and CHECKs may call it for every row; PostgreSQL inlines it.
CREATE FUNCTION mini_asynq.step_event(was mini_asynq.job_status, is_now mini_asynq.job_status)
    RETURNS mini_asynq.event_type
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE is_now
        WHEN 'running'   THEN CASE was WHEN 'pending' THEN 'job.started'::mini_asynq.event_type END
        WHEN 'completed' THEN CASE was WHEN 'running' THEN 'job.completed'::mini_asynq.event_type END
        WHEN 'pending'   THEN CASE WHEN was IS NULL THEN 'job.enqueued'::mini_asynq.event_type
                                   WHEN was IN ('scheduled', 'retrying', 'blocked') THEN 'job.ready'::mini_asynq.event_type
                                   WHEN was = 'running' THEN 'job.released'::mini_asynq.event_type
                                   WHEN was = 'dead' THEN 'job.redriven'::mini_asynq.event_type END
        WHEN 'retrying'  THEN CASE was WHEN 'running' THEN 'job.retrying'::mini_asynq.event_type END
        WHEN 'scheduled' THEN CASE WHEN was IS NULL OR was IN ('blocked', 'pending', 'retrying') THEN 'job.scheduled'::mini_asynq.event_type
                                   WHEN was = 'running' THEN 'job.snoozed'::mini_asynq.event_type
                                   WHEN was = 'dead' THEN 'job.redriven'::mini_asynq.event_type END
        WHEN 'dead'      THEN CASE WHEN was = 'running' THEN 'job.dead'::mini_asynq.event_type
                                   WHEN was IN ('pending', 'scheduled', 'blocked') THEN 'job.redrive_undone'::mini_asynq.event_type END
        WHEN 'cancelled' THEN CASE WHEN was IN ('scheduled', 'pending', 'retrying', 'blocked', 'running')
                                   THEN 'job.cancelled'::mini_asynq.event_type END
        WHEN 'blocked'   THEN CASE WHEN was IS NULL OR was IN ('scheduled', 'retrying', 'pending') THEN 'job.blocked'::mini_asynq.event_type
                                   WHEN was = 'running' THEN 'job.released'::mini_asynq.event_type
                                   WHEN was IN ('dead', 'cancelled') THEN 'job.redriven'::mini_asynq.event_type END
        ELSE CASE WHEN is_now IS NULL AND was IN ('completed', 'cancelled', 'dead') THEN 'job.deleted'::mini_asynq.event_type END
    END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- illegal_step is what step_event has no answer for: MA409.
CREATE FUNCTION mini_asynq.illegal_step(was mini_asynq.job_status, is_now mini_asynq.job_status)
    RETURNS mini_asynq.event_type
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'a job does not go from % to %', coalesce(was::text, 'new'), coalesce(is_now::text, 'gone')
        USING ERRCODE = 'MA409';
END
$$;
-- +goose StatementEnd

-- CACHE 1: per job, ids follow the order of its changes, because each change waits for the row lock of the one before.
CREATE SEQUENCE mini_asynq.outbox_id AS bigint CACHE 1;

-- Append-only. `xid` is the top-level transaction, also inside a savepoint: it is what snapshots speak of.
CREATE TABLE mini_asynq.outbox (
    id          bigint                  NOT NULL DEFAULT nextval('mini_asynq.outbox_id'),
    xid         xid8                    NOT NULL DEFAULT pg_current_xact_id(),
    at          timestamptz             NOT NULL DEFAULT clock_timestamp(),
    job_id      uuid,
    job_version bigint,
    type        mini_asynq.event_type   NOT NULL,
    from_status mini_asynq.job_status,
    to_status   mini_asynq.job_status,
    priority    mini_asynq.job_priority,
    attempt     integer,
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
    comment     text,                   -- a person's words
    source      text,
    has_result  boolean,
    error       jsonb,
    data        jsonb,                  -- what only rare events say

    -- An illegal step has no event, so it cannot be stored. Statements that change no status say the status twice.
    CONSTRAINT outbox_legal_step CHECK (
        job_id IS NULL OR from_status IS NOT DISTINCT FROM to_status
        OR coalesce(type = mini_asynq.step_event(from_status, to_status), false))
) PARTITION BY RANGE (at);
CREATE TABLE mini_asynq.outbox_default PARTITION OF mini_asynq.outbox DEFAULT;

-- Ticks resolve to their events.
CREATE INDEX outbox_xid_id ON mini_asynq.outbox (xid, id);
-- The history of one job.
CREATE INDEX outbox_job ON mini_asynq.outbox (job_id) WHERE job_id IS NOT NULL;

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
-- wake tells the pacer that there is something to publish, if it sleeps. A committing NOTIFY takes a cluster-wide lock
-- through its WAL flush, so nobody pays for one while the pacer is awake. The caller must own a transaction id before
-- (it has written): the pacer's way to sleep relies on it (events.Pacer).
-- Also for people: after COMMIT PREPARED, or after a transaction that ran with mini_asynq.notify = off.
CREATE FUNCTION mini_asynq.wake() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- PostgreSQL refuses PREPARE TRANSACTION after a NOTIFY: such a writer switches it off.
    IF current_setting('mini_asynq.notify', true) IS NOT DISTINCT FROM 'off' THEN
        RETURN;
    END IF;
    IF (SELECT last_value FROM mini_asynq.promise) < extract(epoch FROM clock_timestamp()) * 1000 THEN
        PERFORM pg_notify('mini_asynq', 'hint');
    END IF;
END
$$;
-- +goose StatementEnd

-- The trigger functions below run as their owner, so that a role that may only insert jobs can still write the outbox.

-- +goose StatementBegin
-- After INSERT on jobs. from_status is null for a new job; a job that comes back from jobs_finished has the status it
-- had there.
CREATE FUNCTION mini_asynq.jobs_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    INSERT INTO mini_asynq.outbox (job_id, job_version, type, from_status, to_status, priority, attempt, queue, kind,
                                   tags, actor, run_at, comment, source)
    SELECT id, version, coalesce(mini_asynq.step_event(from_status, status), mini_asynq.illegal_step(from_status, status)),
           from_status, status, priority, attempt, queue, kind, tags, actor, run_at, comment, source
      FROM inserted;
    IF FOUND THEN
        PERFORM mini_asynq.wake();
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
    INSERT INTO mini_asynq.outbox (job_id, job_version, type, from_status, to_status, priority, attempt, queue, kind,
                                   worker, tags, actor, fence, run_at, wait_ms, run_ms, cause, comment, error, data)
    SELECT id, version,
           CASE WHEN from_status <> status THEN coalesce(mini_asynq.step_event(from_status, status),
                                                         mini_asynq.illegal_step(from_status, status))
                WHEN cause = 'cancel_requested' THEN 'job.cancel_requested'::mini_asynq.event_type
                WHEN cause = 'progress' THEN 'job.progress'::mini_asynq.event_type
                ELSE 'job.updated'::mini_asynq.event_type END,
           from_status, status, priority, attempt, queue, kind,
           CASE WHEN status = 'running' THEN locked_by WHEN from_status = 'running' THEN last_worker END,
           tags, actor,
           CASE WHEN status = 'running' THEN fence END,
           CASE WHEN status IN ('scheduled', 'retrying', 'pending') THEN run_at END,
           CASE WHEN status = 'running' AND from_status <> 'running'
                THEN greatest(0, extract(epoch FROM locked_at - run_at) * 1000)::bigint END,
           CASE WHEN from_status = 'running' AND status <> 'running' THEN last_run_ms END,
           CASE WHEN from_status <> status THEN cause END, comment,
           CASE WHEN status = 'retrying' THEN jsonb_build_object('type', error->'type',
                'message', left(error->>'message', 1024), 'fingerprint', error->'fingerprint') END,
           CASE WHEN from_status = status AND cause = 'progress' THEN progress END
      FROM updated
     WHERE from_status IS NOT NULL;
    IF FOUND THEN
        PERFORM mini_asynq.wake();
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
    INSERT INTO mini_asynq.outbox (job_id, job_version, type, from_status, to_status, priority, attempt, queue, kind,
                                   worker, tags, actor, run_ms, total_ms, cause, reason, comment, has_result, error)
    SELECT id, version, coalesce(mini_asynq.step_event(from_status, status),
                                mini_asynq.illegal_step(from_status, status)), from_status, status, priority,
           attempt, queue, kind, CASE WHEN from_status = 'running' THEN last_worker END, tags, actor,
           CASE WHEN from_status = 'running' THEN last_run_ms END,
           (extract(epoch FROM finished_at - created_at) * 1000)::bigint,
           cause, reason, comment, result IS NOT NULL,
           CASE WHEN status = 'dead' THEN
                jsonb_build_object('type', error->'type', 'message', left(error->>'message', 1024),
                                   'fingerprint', error->'fingerprint') END
      FROM inserted;
    IF FOUND THEN
        PERFORM mini_asynq.wake();
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- After DELETE on jobs by anyone but the statements that move a job (they set mini_asynq.moving): an accepted job is
-- not lost by accident.
CREATE FUNCTION mini_asynq.jobs_deleted() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM old_rows) THEN
        RAISE EXCEPTION 'a live job is not deleted: cancel it, then delete it' USING ERRCODE = 'MA409';
    END IF;
    RETURN NULL;
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
    INSERT INTO mini_asynq.outbox (job_id, job_version, type, from_status, to_status, priority, attempt, queue, kind,
                                   tags, actor, comment)
    SELECT id, version + 1, 'job.deleted', status, NULL, priority, attempt, queue, kind, tags,
           coalesce(nullif(current_setting('mini_asynq.actor', true), ''), 'sql:' || session_user),
           nullif(current_setting('mini_asynq.comment', true), '')
      FROM old_rows;
    IF FOUND THEN
        PERFORM mini_asynq.wake();
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Before an UPDATE that leaves the version as it is: a heartbeat, or one written by hand. If it changes the status it
-- gets what the event needs; if it does not, it makes none.
CREATE FUNCTION mini_asynq.jobs_update_without_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.from_status := NULL;
    IF NEW.status <> OLD.status THEN
        NEW.from_status := OLD.status;
        NEW.version := OLD.version + 1;
        NEW.updated_at := clock_timestamp();
        NEW.actor := 'sql:' || session_user;
        NEW.cause := NULL;
        NEW.comment := NULL;
        IF OLD.status = 'running' THEN
            IF NEW.status <> 'retrying' THEN
                NEW.attempt := OLD.attempt - 1;     -- given back, as by a release
            END IF;
            NEW.last_worker := OLD.locked_by;
            NEW.last_run_ms := (extract(epoch FROM clock_timestamp() - OLD.locked_at) * 1000)::bigint;
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
-- After INSERT or UPDATE on queues.
CREATE FUNCTION mini_asynq.queues_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO mini_asynq.outbox (type, queue, actor) VALUES ('queue.created', NEW.name, NEW.actor);
    END IF;
    IF NEW.paused AND (TG_OP = 'INSERT' OR NOT OLD.paused OR OLD.pause_reason IS DISTINCT FROM NEW.pause_reason
                       OR OLD.paused_until IS DISTINCT FROM NEW.paused_until) THEN
        INSERT INTO mini_asynq.outbox (type, queue, actor, reason, run_at)
        VALUES ('queue.paused', NEW.name, NEW.actor, NEW.pause_reason, NEW.paused_until);
    ELSIF TG_OP = 'UPDATE' AND OLD.paused AND NOT NEW.paused THEN
        INSERT INTO mini_asynq.outbox (type, queue, actor, reason)
        VALUES ('queue.resumed', NEW.name, NEW.actor,
                current_setting('mini_asynq.reason', true));
    END IF;
    PERFORM mini_asynq.wake();
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER jobs_insert_by_hand BEFORE INSERT ON mini_asynq.jobs FOR EACH ROW
    WHEN (NEW.kind IS NULL OR NEW.attempt_limit IS NULL OR NEW.status = 'pending' AND NEW.run_at > clock_timestamp())
    EXECUTE FUNCTION mini_asynq.jobs_insert_by_hand();
CREATE TRIGGER jobs_update_without_version BEFORE UPDATE ON mini_asynq.jobs FOR EACH ROW
    WHEN (NEW.version = OLD.version)
    EXECUTE FUNCTION mini_asynq.jobs_update_without_version();
CREATE TRIGGER jobs_inserted AFTER INSERT ON mini_asynq.jobs
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    EXECUTE FUNCTION mini_asynq.jobs_inserted();
CREATE TRIGGER jobs_updated AFTER UPDATE ON mini_asynq.jobs
    REFERENCING NEW TABLE AS updated FOR EACH STATEMENT
    EXECUTE FUNCTION mini_asynq.jobs_updated();
CREATE TRIGGER jobs_deleted AFTER DELETE ON mini_asynq.jobs
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT
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
DROP FUNCTION mini_asynq.queues_changed(), mini_asynq.jobs_finished_status_fixed(), mini_asynq.jobs_insert_by_hand(),
    mini_asynq.jobs_update_without_version(), mini_asynq.jobs_finished_deleted(), mini_asynq.jobs_deleted(),
    mini_asynq.jobs_finished_inserted(), mini_asynq.jobs_updated(), mini_asynq.jobs_inserted(),
    mini_asynq.wake(), mini_asynq.identity();
DROP SEQUENCE mini_asynq.promise;
DROP TABLE mini_asynq.outbox_past, mini_asynq.ticks, mini_asynq.epochs, mini_asynq.outbox, mini_asynq.legal_steps;
DROP SEQUENCE mini_asynq.outbox_id;
DROP FUNCTION mini_asynq.step_event(mini_asynq.job_status, mini_asynq.job_status);
DROP FUNCTION mini_asynq.illegal_step(mini_asynq.job_status, mini_asynq.job_status);
DROP TYPE mini_asynq.event_type;
