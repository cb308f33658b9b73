-- Webhooks: addresses to which events are sent, how far each has come, and what could not be delivered yet.

-- +goose Up
INSERT INTO mini_asynq.event_codes (code, event) VALUES (140, 'webhook.updated'), (141, 'webhook.disabled');

-- A webhook is a durable cursor over the stream. One node at a time sends: the holder, until held_until. What it writes
-- states the fence of its claim, so that one that was thought dead changes nothing when it wakes up.
CREATE TABLE mini_asynq.webhooks (
    id              uuid        PRIMARY KEY DEFAULT mini_asynq.uuid_v7(),
    url             text        NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    filter          jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(filter) = 'object'), -- field -> values
    include_payload boolean     NOT NULL DEFAULT false,
    enabled         boolean     NOT NULL DEFAULT true,
    -- Why not: disabled, paused (both by hand), gone, failing, cursor_expired, epoch_changed (those by the server).
    disabled_reason text        CHECK (disabled_reason IN
                                ('disabled', 'paused', 'gone', 'failing', 'cursor_expired', 'epoch_changed')),
    disabled_at     timestamptz,

    -- Not hashed: each delivery is signed with it.
    secret          bytea       NOT NULL CHECK (octet_length(secret) = 32),
    previous_secret bytea       CHECK (octet_length(previous_secret) = 32), -- signs too, until previous_until
    previous_until  timestamptz,

    epoch           bigint      NOT NULL,       -- every event up to the cursor was delivered, filtered out, or is a row
    seq             bigint      NOT NULL,       -- of webhook_deliveries
    replay_seq      bigint,                     -- how far a replay has come, in the same epoch
    replay_until    bigint,                     -- its last event

    holder          text,
    held_until      timestamptz,
    fence           bigint      NOT NULL DEFAULT 0,

    delivered       bigint      NOT NULL DEFAULT 0, -- since it was made
    failed          bigint      NOT NULL DEFAULT 0, -- given up
    last_success_at timestamptz,
    failing_since   timestamptz,                -- the first failure after the last success

    version         bigint      NOT NULL DEFAULT 1, -- of what people set
    created_by      text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT webhooks_disabled CHECK (enabled = (disabled_reason IS NULL) AND enabled = (disabled_at IS NULL)),
    CONSTRAINT webhooks_holder CHECK (num_nonnulls(holder, held_until) IN (0, 2)),
    CONSTRAINT webhooks_previous CHECK (num_nonnulls(previous_secret, previous_until) IN (0, 2)),
    CONSTRAINT webhooks_replay CHECK (num_nonnulls(replay_seq, replay_until) IN (0, 2) AND replay_seq <= replay_until)
);

-- What could not be delivered: an event that is parked until it is tried again, one that waits behind such a one, or one
-- that was given up. What succeeds leaves no row.
CREATE TABLE mini_asynq.webhook_deliveries (
    webhook_id  uuid        NOT NULL REFERENCES mini_asynq.webhooks ON DELETE CASCADE,
    epoch       bigint      NOT NULL,
    seq         bigint      NOT NULL,
    state       text        NOT NULL CHECK (state IN ('parked', 'waiting', 'failed')),
    line        text        NOT NULL,           -- events of a line are sent in their order: the id of the job, mostly
    job_id      uuid,
    event_type  text        NOT NULL,
    body        bytea       NOT NULL,           -- the event as it is sent, without a payload: it may outlive the outbox
    attempts    integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    due_at      timestamptz,                    -- of parked ones
    last_status integer,                        -- what the other side answered; null: nothing
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (webhook_id, epoch, seq),
    CONSTRAINT webhook_deliveries_due CHECK ((state = 'parked') = (due_at IS NOT NULL))
);
-- jobs.ClaimWebhooks: when something is due.
CREATE INDEX webhook_deliveries_due ON mini_asynq.webhook_deliveries (webhook_id, due_at) WHERE state = 'parked';
-- jobs.ForgetDeliveries.
CREATE INDEX webhook_deliveries_failed ON mini_asynq.webhook_deliveries (updated_at) WHERE state = 'failed';

-- +goose StatementBegin
-- After INSERT, DELETE, or a change of version on webhooks: nodes read the event and look at the table. The address is not in
-- it, for it may be secret.
CREATE FUNCTION mini_asynq.webhooks_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, mini_asynq, pg_temp
AS $$
DECLARE
    w mini_asynq.webhooks;
    code integer := 140;
    change text := CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'DELETE' THEN 'deleted' ELSE 'updated' END;
BEGIN
    IF TG_OP = 'DELETE' THEN
        w := OLD;
    ELSE
        w := NEW;
        IF TG_OP = 'UPDATE' AND OLD.enabled AND NOT NEW.enabled AND NEW.disabled_reason NOT IN ('disabled', 'paused') THEN
            code := 141;
        END IF;
    END IF;
    PERFORM mini_asynq.note(code, NULL, NULL,
        nullif(current_setting('mini_asynq.actor', true), ''), CASE code WHEN 141 THEN w.disabled_reason END, NULL,
        CASE code WHEN 141 THEN jsonb_build_object('webhook_id', w.id)
                  ELSE jsonb_build_object('webhook_id', w.id, 'change', change, 'enabled', w.enabled) END);
    PERFORM mini_asynq.wake();
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER webhooks_came_or_went AFTER INSERT OR DELETE ON mini_asynq.webhooks
    FOR EACH ROW EXECUTE FUNCTION mini_asynq.webhooks_changed();
CREATE TRIGGER webhooks_changed AFTER UPDATE ON mini_asynq.webhooks
    FOR EACH ROW WHEN (OLD.version <> NEW.version) EXECUTE FUNCTION mini_asynq.webhooks_changed();

-- +goose Down
DROP TABLE mini_asynq.webhook_deliveries, mini_asynq.webhooks;
DROP FUNCTION mini_asynq.webhooks_changed();
DELETE FROM mini_asynq.event_codes WHERE code IN (140, 141);
