-- Events about webhooks. PostgreSQL lets a new value of an enum be used only after its commit, so they have a file of their
-- own. Cannot be undone: PostgreSQL does not take values from an enum.

-- +goose Up
ALTER TYPE mini_asynq.event_type ADD VALUE IF NOT EXISTS 'webhook.updated';
ALTER TYPE mini_asynq.event_type ADD VALUE IF NOT EXISTS 'webhook.disabled';

-- +goose Down
SELECT 1;
