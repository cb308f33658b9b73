package jobs

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Payloads returns the payloads of jobs as they are stored now, live or finished; jobs that are gone are missing.
// Duplicates do no harm. One snapshot of both tables, so that a job which ends meanwhile is found; indexes jobs_pkey and
// jobs_finished_id.
func Payloads(ctx context.Context, db DB, ids []uuid.UUID) (map[uuid.UUID]json.RawMessage, error) {
	rows, err := db.Query(ctx, `SELECT id, payload FROM mini_asynq.all_jobs WHERE id = ANY ($1::uuid[])`, idArray(ids))
	if err != nil {
		return nil, fmt.Errorf("read payloads: %w", err)
	}
	found := make(map[uuid.UUID]json.RawMessage, len(ids))
	var id uuid.UUID
	var payload json.RawMessage
	_, err = pgx.ForEachRow(rows, []any{&id, &payload}, func() error {
		found[id], payload = payload, nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read payloads: %w", err)
	}
	return found, nil
}
