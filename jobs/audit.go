package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

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

// AuditRow is a line of the audit log.
type AuditRow struct {
	ID            int64
	At            time.Time
	Actor         string
	KeyID         uuid.UUID // zero: no key
	Address       string
	Action        string
	Target        string
	Reason        string
	Before, After json.RawMessage // nil: not said
	RequestID     string
}

// AuditFilter selects lines of the audit log; an empty field selects all. Actor, Action and Target may end in *.
type AuditFilter struct {
	Actor, Action, Target string
	After, Before         time.Time // at or after; before
}

// AuditLog returns lines of the audit log before the one with the id given (0: from the newest on), newest first, at most
// limit. ErrTooBroad when that takes more than 3 s. Indexes: the primary key, audit_actor, audit_target.
func AuditLog(ctx context.Context, db DB, f AuditFilter, before int64, limit int) ([]AuditRow, error) {
	q := &listQuery{}
	if before > 0 {
		q.where("id < %s", before)
	}
	for _, c := range []struct{ column, value string }{{"actor", f.Actor}, {"action", f.Action}, {"target", f.Target}} {
		if c.value != "" {
			q.names(c.column, []string{c.value})
		}
	}
	if !f.After.IsZero() {
		q.where("at >= %s", f.After)
	}
	if !f.Before.IsZero() {
		q.where("at < %s", f.Before)
	}
	q.args = append(q.args, limit)
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := db.Query(ctx, `
		SELECT id, at, actor, coalesce(key_id, '00000000-0000-0000-0000-000000000000'), coalesce(address, ''), action,
		       coalesce(target, ''), coalesce(reason, ''), before, after, coalesce(request_id, '')
		  FROM mini_asynq.audit`+q.clause()+fmt.Sprintf(` ORDER BY id DESC LIMIT $%d`, len(q.args)), q.args...)
	if err != nil {
		return nil, listError("read the audit log", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditRow, error) {
		var r AuditRow
		err := row.Scan(&r.ID, &r.At, &r.Actor, &r.KeyID, &r.Address, &r.Action, &r.Target, &r.Reason, &r.Before, &r.After,
			&r.RequestID)
		return r, err
	})
	if err != nil {
		return nil, listError("read the audit log", err)
	}
	return found, nil
}

// ForgetAudit deletes up to limit lines that are older than keep. Index audit_at.
func ForgetAudit(ctx context.Context, db DB, keep time.Duration, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM mini_asynq.audit WHERE id IN (
		    SELECT id FROM mini_asynq.audit WHERE at < clock_timestamp() - $1::interval ORDER BY at LIMIT $2)`, keep, limit)
	if err != nil {
		return 0, fmt.Errorf("forget old lines of the audit log: %w", err)
	}
	return tag.RowsAffected(), nil
}
