-- Named consumers: places in the event stream that programs read from, kept here so that another program can go on where
-- one has stopped.

-- +goose Up
-- Fences of claims. One sequence for all: a consumer that was deleted and made anew never hands out an old one.
CREATE SEQUENCE mini_asynq.consumer_fences AS bigint CACHE 1;

-- At most 100 rows (events.PutConsumer). Each read and each acknowledgement updates one in place: no index holds what they
-- change, and the room left on the pages keeps the new version beside the old.
CREATE TABLE mini_asynq.consumers (
    name       mini_asynq.label PRIMARY KEY,
    filter     jsonb       NOT NULL CHECK (jsonb_typeof(filter) = 'object'), -- events.ParseFilter; {} lets all through
    epoch      bigint      NOT NULL CHECK (epoch > 0),  -- acknowledged: the event at (epoch, seq) and all before it
    seq        bigint      NOT NULL CHECK (seq >= 0),
    acked_at   timestamptz,                             -- when a reader last acknowledged something
    reader     mini_asynq.label,                        -- who has the claim, or had it last; null: nobody since the reset
    held_until timestamptz,                             -- after that anybody may take it
    fence      bigint      NOT NULL DEFAULT nextval('mini_asynq.consumer_fences'), -- of the claim; a reset ends it too
    created_by text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by text        NOT NULL,                    -- who made, changed or reset it last
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT consumers_claim CHECK (num_nonnulls(reader, held_until) IN (0, 2))
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE mini_asynq.consumers;
DROP SEQUENCE mini_asynq.consumer_fences;
