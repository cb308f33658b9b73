package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Settings are the defaults that every door applies, also the SQL function: a server publishes its own.
type Settings struct {
	MaxRetries     *int          // of a job that names none; nil is 3
	MaxPayload     int           // bytes
	IdempotencyTTL time.Duration // of a key
}

// Setting is a published value.
type Setting struct {
	Name  string
	Value json.RawMessage
}

// Publish stores the settings for the SQL door and returns those that another node had published with another value:
// nodes that differ should say so. The last one to start wins.
func Publish(ctx context.Context, db DB, s Settings) (differed []Setting, err error) {
	retries := defaultRetries
	if s.MaxRetries != nil {
		retries = *s.MaxRetries
	}
	values := map[string]any{
		"max_retries":             retries,
		"max_payload_bytes":       s.MaxPayload,
		"idempotency_ttl_seconds": s.IdempotencyTTL.Seconds(),
	}
	wanted, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("publish settings: %w", err)
	}
	rows, err := db.Query(ctx, `
		WITH new AS (SELECT key, value FROM jsonb_each($1::jsonb)),
		     old AS (SELECT s.name, s.value FROM mini_asynq.settings s JOIN new ON new.key = s.name
		              WHERE s.value <> new.value),
		     stored AS (INSERT INTO mini_asynq.settings AS s (name, value) SELECT key, value FROM new
		                ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value, updated_at = clock_timestamp()
		                 WHERE s.value <> EXCLUDED.value)
		SELECT name, value FROM old ORDER BY name`, wanted)
	if err != nil {
		return nil, fmt.Errorf("publish settings: %w", err)
	}
	differed, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Setting, error) {
		var s Setting
		err := row.Scan(&s.Name, &s.Value)
		s.Value = bytes.Clone(s.Value)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("publish settings: %w", err)
	}
	return differed, nil
}
