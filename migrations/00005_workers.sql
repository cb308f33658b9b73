-- Workers that are not part of a node: programs in any language that claim and report over HTTP.
--
-- A worker registers at any node and may call any other: what a node needs to serve it is here. Its leases are rows of jobs
-- like those of nodes; they only name it. Cannot be undone without losing the registrations: workers register again.

-- +goose Up
CREATE TABLE mini_asynq.workers (
    id            uuid             PRIMARY KEY DEFAULT mini_asynq.uuid_v7(),
    name          mini_asynq.label NOT NULL,    -- for people; several may have the same
    -- offline: it was not heard of for a while, and may come back.
    state         text             NOT NULL DEFAULT 'online' CHECK (state IN ('online', 'draining', 'offline')),
    queues        jsonb            NOT NULL CHECK (jsonb_typeof(queues) = 'object'), -- name or * -> weight
    kinds         text[],                       -- null: all
    slots         integer          NOT NULL CHECK (slots BETWEEN 1 AND 1000),
    busy          integer          NOT NULL DEFAULT 0 CHECK (busy >= 0),            -- as it last said
    version       text,
    labels        jsonb            NOT NULL DEFAULT '{}',
    asked         text             CHECK (asked IN ('quiet', 'drain')),             -- what an operator wants of it
    -- The fences of leases that the latest heartbeat left out. Those that the next one leaves out again are given back.
    left_out      bigint[]         NOT NULL DEFAULT '{}',
    registered_at timestamptz      NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz      NOT NULL DEFAULT clock_timestamp()
);

-- jobs.Heartbeat, jobs.RemoveWorker: the leases of a worker. Jobs of nodes are not in it.
CREATE INDEX jobs_worker ON mini_asynq.jobs (worker_id) WHERE worker_id IS NOT NULL;

-- +goose StatementBegin
-- After INSERT, DELETE or a change of state on workers: comings and goings are events.
CREATE FUNCTION mini_asynq.workers_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
DECLARE
    w mini_asynq.workers;
    code integer;
BEGIN
    IF TG_OP = 'DELETE' THEN
        w := OLD;
        code := CASE WHEN OLD.state <> 'offline' THEN 128 END; -- that it is away was told before
    ELSE
        w := NEW;
        code := CASE NEW.state WHEN 'online' THEN 126 WHEN 'draining' THEN 127 ELSE 128 END;
    END IF;
    IF code IS NOT NULL THEN
        PERFORM mini_asynq.note(code, NULL, w.name, nullif(current_setting('mini_asynq.actor', true), ''),
            nullif(current_setting('mini_asynq.comment', true), ''), NULL, jsonb_build_object('worker_id', w.id));
        PERFORM mini_asynq.wake();
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER workers_came_or_went AFTER INSERT OR DELETE ON mini_asynq.workers
    FOR EACH ROW EXECUTE FUNCTION mini_asynq.workers_changed();
CREATE TRIGGER workers_changed AFTER UPDATE ON mini_asynq.workers
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION mini_asynq.workers_changed();

-- +goose Down
DROP TABLE mini_asynq.workers;
DROP FUNCTION mini_asynq.workers_changed();
DROP INDEX mini_asynq.jobs_worker;
