-- Events about keys and bulk operations. PostgreSQL lets a new value of an enum be used only after its commit, so they
-- have a file of their own. Cannot be undone: PostgreSQL does not take values from an enum.

-- +goose Up
ALTER TYPE mini_asynq.event_type ADD VALUE IF NOT EXISTS 'key.created';
ALTER TYPE mini_asynq.event_type ADD VALUE IF NOT EXISTS 'key.revoked';
ALTER TYPE mini_asynq.event_type ADD VALUE IF NOT EXISTS 'operation.progress';
ALTER TYPE mini_asynq.event_type ADD VALUE IF NOT EXISTS 'operation.finished';

-- +goose Down
SELECT 1;
