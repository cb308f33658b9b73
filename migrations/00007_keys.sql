-- Who may call, and who did what: API keys, logins and stream tickets, and the audit log.
--
-- Secrets are never here, only their SHA-256: they are 256 random bits, so no slow hash is needed to guard them.

-- +goose Up
INSERT INTO mini_asynq.event_codes (code, event) VALUES (129, 'key.created'), (130, 'key.revoked');

CREATE TABLE mini_asynq.api_keys (
    id           uuid             PRIMARY KEY DEFAULT mini_asynq.uuid_v7(),
    name         mini_asynq.label NOT NULL,     -- for people; several may have the same
    hash         bytea            NOT NULL CHECK (octet_length(hash) = 32),
    role         text             CHECK (role IN ('viewer', 'operator', 'admin')),
    scopes       text[]           NOT NULL CHECK (cardinality(scopes) > 0), -- of the role, if there is one
    queues       text[]           CHECK (cardinality(queues) > 0),          -- null: all
    created_by   text             NOT NULL,
    created_at   timestamptz      NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz,                   -- null: never
    last_used_at timestamptz                    -- to the minute, and late by as much
);

-- A login of a browser, or a ticket for one stream: as good as the credential behind it, and over with it.
CREATE TABLE mini_asynq.logins (
    hash       bytea       PRIMARY KEY CHECK (octet_length(hash) = 32),
    ticket     boolean     NOT NULL,            -- single use
    key_id     uuid        REFERENCES mini_asynq.api_keys ON DELETE CASCADE,
    parent     bytea       REFERENCES mini_asynq.logins ON DELETE CASCADE, -- the login that a ticket was asked with
    mark       bytea,                           -- binds a login by password to that password
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
-- jobs.ForgetLogins, and the cascade from api_keys.
CREATE INDEX logins_expires ON mini_asynq.logins (expires_at);
CREATE INDEX logins_key ON mini_asynq.logins (key_id) WHERE key_id IS NOT NULL;
CREATE INDEX logins_parent ON mini_asynq.logins (parent) WHERE parent IS NOT NULL;

-- +goose StatementBegin
-- After INSERT or DELETE on api_keys. Nodes that hold a key in memory let it go when they read the event.
CREATE FUNCTION mini_asynq.api_keys_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
DECLARE
    k mini_asynq.api_keys := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
BEGIN
    PERFORM mini_asynq.note(CASE TG_OP WHEN 'INSERT' THEN 129 ELSE 130 END, NULL, NULL,
        nullif(current_setting('mini_asynq.actor', true), ''), nullif(current_setting('mini_asynq.comment', true), ''),
        NULL, jsonb_build_object('key_id', k.id, 'name', k.name));
    PERFORM mini_asynq.wake();
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER api_keys_changed AFTER INSERT OR DELETE ON mini_asynq.api_keys
    FOR EACH ROW EXECUTE FUNCTION mini_asynq.api_keys_changed();

-- One row for each action of an operator, in its transaction, and for logins, logouts and failed sign-ins.
CREATE TABLE mini_asynq.audit (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text        NOT NULL,            -- basic:admin, key:ci, anonymous
    key_id     uuid,
    address    text,                            -- whence the call came; null: not over HTTP
    action     text        NOT NULL,            -- job.retry, queue.pause, key.create, login ..
    target     text,                            -- the job, queue, worker, key or operation
    reason     text,
    before     jsonb,                           -- what the action changed, as far as it is small
    after      jsonb,
    request_id text
);
-- GET /admin/audit by target and by actor; newest first, which the primary key serves.
CREATE INDEX audit_target ON mini_asynq.audit (target, id);
CREATE INDEX audit_actor ON mini_asynq.audit (actor, id);
CREATE INDEX audit_at ON mini_asynq.audit (at); -- retention

-- +goose Down
DROP TABLE mini_asynq.audit, mini_asynq.logins, mini_asynq.api_keys;
DROP FUNCTION mini_asynq.api_keys_changed();
DELETE FROM mini_asynq.event_codes WHERE code IN (129, 130);
