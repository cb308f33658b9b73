package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// MaxWebhooks is how many webhooks there may be.
	MaxWebhooks = 100
	// WebhookOverlap is how long the secret before signs as well after a rotation.
	WebhookOverlap = 24 * time.Hour
)

// Why a webhook is disabled.
const (
	WebhookDisabled     = "disabled"       // by an edit
	WebhookPaused       = "paused"         // by an operator
	WebhookGone         = "gone"           // the other side answered 410
	WebhookFailing      = "failing"        // for days nothing succeeded
	WebhookExpired      = "cursor_expired" // retention took events that were not sent yet
	WebhookEpochChanged = "epoch_changed"  // history was lost or restored
)

// Webhook is an address to which events are sent, and how far it has come.
type Webhook struct {
	ID             uuid.UUID
	URL            string
	Filter         map[string][]string // fields of an event filter; empty: everything
	IncludePayload bool
	Enabled        bool
	DisabledReason string // "": it is enabled
	DisabledAt     time.Time

	Epoch, Seq   int64 // the cursor: all up to it is settled
	ReplaySeq    int64 // how far a replay has come; counts only where ReplayUntil is not 0
	ReplayUntil  int64
	Parked       int // deliveries that are tried again, and those that wait behind such
	GivenUp      int // deliveries that failed for good and are still listed
	Delivered    int64
	Failed       int64
	LastSuccess  time.Time
	FailingSince time.Time // zero: what was tried last succeeded, or nothing was tried

	Version   int64
	CreatedBy string
	CreatedAt time.Time
	UpdatedAt time.Time
}

const webhookColumns = `w.id, w.url, w.filter, w.include_payload, w.enabled, coalesce(w.disabled_reason, ''), w.disabled_at,
	w.epoch, w.seq, coalesce(w.replay_seq, 0), coalesce(w.replay_until, 0),
	(SELECT count(*) FROM mini_asynq.webhook_deliveries d WHERE d.webhook_id = w.id AND d.state <> 'failed'),
	(SELECT count(*) FROM mini_asynq.webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'failed'),
	w.delivered, w.failed, w.last_success_at, w.failing_since, w.version, w.created_by, w.created_at, w.updated_at`

func scanWebhook(row pgx.CollectableRow) (*Webhook, error) {
	var w Webhook
	var disabled, success, failing *time.Time
	err := row.Scan(&w.ID, &w.URL, &w.Filter, &w.IncludePayload, &w.Enabled, &w.DisabledReason, &disabled, &w.Epoch, &w.Seq,
		&w.ReplaySeq, &w.ReplayUntil, &w.Parked, &w.GivenUp, &w.Delivered, &w.Failed, &success, &failing, &w.Version,
		&w.CreatedBy, &w.CreatedAt, &w.UpdatedAt)
	w.DisabledAt, w.LastSuccess, w.FailingSince = orZero(disabled), orZero(success), orZero(failing)
	return &w, err
}

// oneWebhook is for statements that return webhookColumns of one row; none is ErrNotFound.
func oneWebhook(rows pgx.Rows, err error) (*Webhook, error) {
	if err != nil {
		return nil, err
	}
	w, err := pgx.CollectExactlyOneRow(rows, scanWebhook)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	return w, err
}

// said is what the audit log keeps of a webhook. Its address may be secret: of it the host alone.
func (w *Webhook) said() any {
	host := ""
	if u, err := url.Parse(w.URL); err == nil {
		host = u.Host
	}
	return struct {
		Host           string              `json:"host"`
		Filter         map[string][]string `json:"filter,omitempty"`
		IncludePayload bool                `json:"include_payload"`
		Enabled        bool                `json:"enabled"`
	}{host, w.Filter, w.IncludePayload, w.Enabled}
}

// webhookChange runs one change in a transaction that says who acts.
func webhookChange(ctx context.Context, db DB, action string, act Act, change func(pgx.Tx) error) error {
	return inTx(ctx, db, action, func(tx pgx.Tx) error {
		if err := act.say(ctx, tx); err != nil {
			return err
		}
		return change(tx)
	})
}

// CreateWebhook stores a webhook with its address, filter, payload rule, whether it is enabled, and cursor. secret has 32
// bytes. *ValidationError when there are MaxWebhooks already.
func CreateWebhook(ctx context.Context, db DB, w Webhook, secret []byte, act Act) (created *Webhook, err error) {
	err = webhookChange(ctx, db, "create a webhook", act, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			INSERT INTO mini_asynq.webhooks AS w (url, filter, include_payload, enabled, disabled_reason, disabled_at, secret,
			                                      epoch, seq, created_by)
			SELECT $1, $2::jsonb, $3, $4::boolean, CASE WHEN NOT $4::boolean THEN 'disabled' END,
			       CASE WHEN NOT $4::boolean THEN clock_timestamp() END, $5, $6, $7, $8
			 WHERE (SELECT count(*) FROM mini_asynq.webhooks) < $9::integer
			RETURNING `+webhookColumns, w.URL, emptyFilter(w.Filter), w.IncludePayload, w.Enabled, secret, w.Epoch, w.Seq, act.Actor,
			MaxWebhooks)
		created, err = oneWebhook(rows, err)
		if errors.Is(err, ErrNotFound) {
			return &ValidationError{Faults: []Fault{{"", "too_many", fmt.Sprintf("there are %d webhooks, no more are possible", MaxWebhooks)}}}
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "webhook.create", Target: created.ID.String(), After: created.said()})
	})
	return created, err
}

func emptyFilter(f map[string][]string) map[string][]string {
	if f == nil {
		return map[string][]string{}
	}
	return f
}

// Webhooks returns webhooks that were made after the one named, oldest first, at most limit. Primary key.
func Webhooks(ctx context.Context, db DB, after uuid.UUID, limit int) ([]*Webhook, error) {
	rows, err := db.Query(ctx, `
		SELECT `+webhookColumns+` FROM mini_asynq.webhooks w WHERE w.id > $1 ORDER BY w.id LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read webhooks: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanWebhook)
	return found, wrap("read webhooks", err)
}

// GetWebhook returns a webhook, or ErrNotFound.
func GetWebhook(ctx context.Context, db DB, id uuid.UUID) (*Webhook, error) {
	w, err := oneWebhook(db.Query(ctx, `SELECT `+webhookColumns+` FROM mini_asynq.webhooks w WHERE w.id = $1`, id))
	return w, wrap("read a webhook", err)
}

// WebhookEdit is what an edit changes; nil: it stays.
type WebhookEdit struct {
	URL            *string
	Filter         map[string][]string
	IncludePayload *bool
	Enabled        *bool
}

// lockWebhook reads a webhook for a change.
func lockWebhook(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*Webhook, error) {
	return oneWebhook(tx.Query(ctx, `SELECT `+webhookColumns+` FROM mini_asynq.webhooks w WHERE w.id = $1 FOR UPDATE OF w`, id))
}

// EditWebhook changes what people set. Who enables it begins where it stood, and with a clean record.
// ErrNotFound; *VersionError unless based is the present version, or AnyVersion.
func EditWebhook(ctx context.Context, db DB, id uuid.UUID, based int64, e WebhookEdit, act Act) (edited *Webhook, err error) {
	err = webhookChange(ctx, db, "edit a webhook", act, func(tx pgx.Tx) error {
		before, err := lockWebhook(ctx, tx, id)
		if err != nil {
			return err
		}
		if based != AnyVersion && based != before.Version {
			return &VersionError{before.Version}
		}
		edited, err = oneWebhook(tx.Query(ctx, `
			UPDATE mini_asynq.webhooks w
			   SET url = coalesce($2, url), filter = coalesce($3::jsonb, filter), include_payload = coalesce($4, include_payload),
			       enabled = coalesce($5, enabled),
			       disabled_reason = CASE WHEN $5 THEN NULL WHEN NOT $5 AND enabled THEN 'disabled' ELSE disabled_reason END,
			       disabled_at = CASE WHEN $5 THEN NULL WHEN NOT $5 AND enabled THEN clock_timestamp() ELSE disabled_at END,
			       failing_since = CASE WHEN $5 AND NOT enabled THEN NULL ELSE failing_since END,
			       version = version + 1, updated_at = clock_timestamp()
			 WHERE id = $1
			RETURNING `+webhookColumns, id, e.URL, e.Filter, e.IncludePayload, e.Enabled))
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{
			Action: "webhook.update", Target: id.String(), Before: before.said(), After: edited.said(),
		})
	})
	return edited, err
}

// PauseWebhook stops a webhook where it stands; one that is disabled already stays as it is. ErrNotFound.
func PauseWebhook(ctx context.Context, db DB, id uuid.UUID, act Act) (w *Webhook, err error) {
	err = webhookChange(ctx, db, "pause a webhook", act, func(tx pgx.Tx) error {
		if w, err = lockWebhook(ctx, tx, id); err != nil || !w.Enabled {
			return err
		}
		w, err = oneWebhook(tx.Query(ctx, `
			UPDATE mini_asynq.webhooks w
			   SET enabled = false, disabled_reason = 'paused', disabled_at = clock_timestamp(), version = version + 1,
			       updated_at = clock_timestamp()
			 WHERE id = $1
			RETURNING `+webhookColumns, id))
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "webhook.pause", Target: id.String()})
	})
	return w, err
}

// ResumeWebhook enables a webhook, whatever disabled it, with a clean record: it goes on where it stood, or behind another
// position if epoch is not 0. One that is enabled stays as it is. ErrNotFound.
//
// A new position takes the webhook from a node that may still be about to write the old one: the fence grows.
func ResumeWebhook(ctx context.Context, db DB, id uuid.UUID, epoch, seq int64, act Act) (w *Webhook, err error) {
	err = webhookChange(ctx, db, "resume a webhook", act, func(tx pgx.Tx) error {
		var before string
		if w, err = lockWebhook(ctx, tx, id); err != nil || w.Enabled {
			return err
		}
		before = w.DisabledReason
		w, err = oneWebhook(tx.Query(ctx, `
			UPDATE mini_asynq.webhooks w
			   SET enabled = true, disabled_reason = NULL, disabled_at = NULL, failing_since = NULL,
			       epoch = CASE WHEN $2::bigint > 0 THEN $2 ELSE epoch END, seq = CASE WHEN $2::bigint > 0 THEN $3 ELSE seq END,
			       replay_seq = CASE WHEN $2::bigint > 0 THEN NULL ELSE replay_seq END,
			       replay_until = CASE WHEN $2::bigint > 0 THEN NULL ELSE replay_until END,
			       fence = fence + CASE WHEN $2::bigint > 0 THEN 1 ELSE 0 END,
			       holder = CASE WHEN $2::bigint > 0 THEN NULL ELSE holder END,
			       held_until = CASE WHEN $2::bigint > 0 THEN NULL ELSE held_until END,
			       version = version + 1, updated_at = clock_timestamp()
			 WHERE id = $1
			RETURNING `+webhookColumns, id, epoch, seq))
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{
			Action: "webhook.resume", Target: id.String(),
			Before: struct {
				Reason string `json:"disabled_reason"`
			}{before},
			After: struct {
				Cursor string `json:"cursor"`
			}{fmt.Sprintf("%d-%d", w.Epoch, w.Seq)},
		})
	})
	return w, err
}

// ReplayWebhook lets a webhook send the events after one position up to another once more, and no event that it has not come
// to yet. It takes the place of a replay that is under way. The positions belong to the epoch of the webhook's cursor;
// ErrWrongEpoch if it has another. ErrNotFound.
func ReplayWebhook(ctx context.Context, db DB, id uuid.UUID, epoch, after, until int64, act Act) (w *Webhook, err error) {
	err = webhookChange(ctx, db, "replay a webhook", act, func(tx pgx.Tx) error {
		if w, err = lockWebhook(ctx, tx, id); err != nil {
			return err
		}
		if w.Epoch != epoch {
			return ErrWrongEpoch
		}
		w, err = oneWebhook(tx.Query(ctx, `
			UPDATE mini_asynq.webhooks w
			   SET replay_seq = CASE WHEN $2::bigint < least($3::bigint, seq) THEN $2 END,
			       replay_until = CASE WHEN $2::bigint < least($3::bigint, seq) THEN least($3, seq) END,
			       version = version + 1, updated_at = clock_timestamp()
			 WHERE id = $1
			RETURNING `+webhookColumns, id, after, until))
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "webhook.replay", Target: id.String(), After: struct {
			After string `json:"after"`
			Until string `json:"until"`
		}{fmt.Sprintf("%d-%d", epoch, after), fmt.Sprintf("%d-%d", epoch, until)}})
	})
	return w, err
}

// ErrWrongEpoch means that a position belongs to another history than a webhook's cursor.
var ErrWrongEpoch = errors.New("jobs: the webhook's cursor belongs to another epoch")

// RotateWebhookSecret gives a webhook a new secret of 32 bytes. The one before signs as well for WebhookOverlap; one before
// that ends now. ErrNotFound.
func RotateWebhookSecret(ctx context.Context, db DB, id uuid.UUID, secret []byte, act Act) (w *Webhook, err error) {
	err = webhookChange(ctx, db, "rotate the secret of a webhook", act, func(tx pgx.Tx) error {
		w, err = oneWebhook(tx.Query(ctx, `
			UPDATE mini_asynq.webhooks w
			   SET previous_secret = secret, previous_until = clock_timestamp() + $3::interval, secret = $2,
			       version = version + 1, updated_at = clock_timestamp()
			 WHERE id = $1
			RETURNING `+webhookColumns, id, secret, WebhookOverlap))
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "webhook.rotate-secret", Target: id.String()})
	})
	return w, err
}

// DeleteWebhook removes a webhook and its deliveries. ErrNotFound.
func DeleteWebhook(ctx context.Context, db DB, id uuid.UUID, act Act) error {
	return webhookChange(ctx, db, "delete a webhook", act, func(tx pgx.Tx) error {
		w, err := lockWebhook(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM mini_asynq.webhooks WHERE id = $1`, id); err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "webhook.delete", Target: id.String(), Before: w.said()})
	})
}

// Delivery is an event that could not be delivered, or not yet.
type Delivery struct {
	Epoch, Seq int64
	State      string // parked, waiting (behind a parked one), failed
	JobID      uuid.UUID
	EventType  string
	Attempts   int
	DueAt      time.Time // of a parked one
	LastStatus int       // 0: no answer
	LastError  string
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// Deliveries returns deliveries of a webhook after a position, in the order of the stream, at most limit; state "" is all.
// ErrNotFound when there is no such webhook. Primary key.
func Deliveries(ctx context.Context, db DB, id uuid.UUID, state string, epoch, seq int64, limit int) ([]Delivery, error) {
	rows, err := db.Query(ctx, `
		SELECT epoch, seq, state, coalesce(job_id, '00000000-0000-0000-0000-000000000000'), event_type, attempts, due_at,
		       coalesce(last_status, 0), coalesce(last_error, ''), created_at, updated_at
		  FROM mini_asynq.webhook_deliveries
		 WHERE webhook_id = $1 AND (epoch, seq) > ($3, $4) AND ($2 = '' OR state = $2)
		 ORDER BY epoch, seq LIMIT $5`, id, state, epoch, seq, limit)
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Delivery, error) {
		var d Delivery
		var due *time.Time
		err := row.Scan(&d.Epoch, &d.Seq, &d.State, &d.JobID, &d.EventType, &d.Attempts, &due, &d.LastStatus, &d.LastError,
			&d.CreatedAt, &d.UpdatedAt)
		d.DueAt = orZero(due)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	if len(found) == 0 {
		if _, err := GetWebhook(ctx, db, id); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// ForgetDeliveries deletes up to limit deliveries that were given up longer than keep ago. Index webhook_deliveries_failed.
// One that a replay has parked meanwhile is looked at once more when its row is free, and stays: the outer state says so.
func ForgetDeliveries(ctx context.Context, db DB, keep time.Duration, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM mini_asynq.webhook_deliveries WHERE state = 'failed' AND (webhook_id, epoch, seq) IN (
		    SELECT webhook_id, epoch, seq FROM mini_asynq.webhook_deliveries
		     WHERE state = 'failed' AND updated_at < (SELECT clock_timestamp()) - $1::interval
		     ORDER BY updated_at LIMIT $2)`, keep, limit)
	if err != nil {
		return 0, fmt.Errorf("forget old deliveries: %w", err)
	}
	return tag.RowsAffected(), nil
}
