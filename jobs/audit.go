package jobs

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Act is who acts by hand, from where, and why.
type Act struct {
	Actor  string // "basic:admin", "key:ci", "sql:alice" ...; goes into the event
	Reason string // a person's words; goes into the event

	// Audit makes the action leave a row in the audit log, in its own transaction. The fields below are for it.
	Audit     bool
	KeyID     uuid.UUID // zero: no key
	Address   string    // "": not over HTTP
	RequestID string
}

// Entry is what an action writes into the audit log.
type Entry struct {
	Action        string // job.retry, queue.pause, key.create, login ...
	Target        string // the id or name of what was acted on; "": nothing
	Before, After any    // what it changed, as far as that is small; nil: not said. No payload, no secret.
}

// Record writes an entry, if the act asks for one. tx is the transaction of the action: both are committed or neither.
func (a Act) Record(ctx context.Context, tx DB, e Entry) error {
	if !a.Audit {
		return nil
	}
	before, err := jsonOrNull(e.Before)
	if err != nil {
		return err
	}
	after, err := jsonOrNull(e.After)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO mini_asynq.audit (actor, key_id, address, action, target, reason, before, after, request_id)
		VALUES ($1, nullif($2, '00000000-0000-0000-0000-000000000000'::uuid), nullif($3, ''), $4, nullif($5, ''),
		        nullif($6, ''), $7::jsonb, $8::jsonb, nullif($9, ''))`,
		a.Actor, a.KeyID, a.Address, e.Action, e.Target, Storable(a.Reason, 1024), before, after, a.RequestID)
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

func jsonOrNull(v any) (*string, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write the audit log: %w", err)
	}
	text := string(raw)
	return &text, nil
}

// say tells the triggers of this transaction who acts and why, for events that they write by themselves.
func (a Act) say(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT set_config('mini_asynq.actor', $1, true), set_config('mini_asynq.comment', $2, true)`,
		a.Actor, Storable(a.Reason, 1024))
	return err
}
