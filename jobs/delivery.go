package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// HeldWebhook is a webhook that this node sends for. What it writes states its fence.
type HeldWebhook struct {
	ID             uuid.UUID
	URL            string
	Filter         map[string][]string
	IncludePayload bool
	Version        int64
	Epoch, Seq     int64
	ReplaySeq      int64
	ReplayUntil    int64 // 0: no replay is under way
	Secret         []byte
	Previous       []byte // nil: there is none
	PreviousFor    time.Duration
	Rows           []StoredDelivery // by position; what was given up only behind the cursor

	node  string
	fence int64
}

// StoredDelivery is a row of the deliveries as its sender needs it.
type StoredDelivery struct {
	Epoch, Seq int64
	State      string
	Line       string
	Attempts   int
	Due        time.Duration // from now, of a parked one
}

const webhookClaimDeadline = 10 * time.Second

// claimWebhooksSQL takes enabled webhooks that no node holds, or whose holder is silent, if there is something to do: $3 names
// those with new events; $4 says that it may be any. Rows that another node is about to claim are passed over. The table is
// small; webhook_deliveries_due says what is due.
const claimWebhooksSQL = `
WITH free AS (
    SELECT w.id FROM mini_asynq.webhooks w
     WHERE w.enabled AND (w.holder IS NULL OR w.held_until < clock_timestamp())
       AND ($4 OR w.id = ANY ($3::uuid[]) OR w.holder IS NOT NULL OR w.replay_until IS NOT NULL
            OR EXISTS (SELECT FROM mini_asynq.webhook_deliveries d
                        WHERE d.webhook_id = w.id AND d.state = 'parked' AND d.due_at <= clock_timestamp()))
     ORDER BY w.id
       FOR UPDATE SKIP LOCKED)
UPDATE mini_asynq.webhooks w
   SET holder = $1, held_until = clock_timestamp() + $2::interval, fence = w.fence + 1
  FROM free
 WHERE w.id = free.id
RETURNING w.id, w.url, w.filter, w.include_payload, w.version, w.epoch, w.seq, coalesce(w.replay_seq, 0),
          coalesce(w.replay_until, 0), w.secret, CASE WHEN w.previous_until > clock_timestamp() THEN w.previous_secret END,
          coalesce(w.previous_until - clock_timestamp(), '0'), w.fence`

// ClaimWebhooks makes this node the holder of webhooks that have something to do and are free, for the time of a lease.
func ClaimWebhooks(ctx context.Context, db DB, node string, lease time.Duration, wanted []uuid.UUID, all bool) (held []*HeldWebhook, err error) {
	ctx, cancel := context.WithTimeout(ctx, webhookClaimDeadline)
	defer cancel()
	err = inTx(ctx, db, "claim webhooks", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, claimWebhooksSQL, node, lease, idArray(wanted), all)
		if err != nil {
			return err
		}
		held, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*HeldWebhook, error) {
			h := &HeldWebhook{node: node}
			return h, row.Scan(&h.ID, &h.URL, &h.Filter, &h.IncludePayload, &h.Version, &h.Epoch, &h.Seq, &h.ReplaySeq,
				&h.ReplayUntil, &h.Secret, &h.Previous, &h.PreviousFor, &h.fence)
		})
		if err != nil {
			return err
		}
		for _, h := range held {
			if err := h.load(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// load reads the rows of a webhook that was just claimed: from now on nobody else writes them. Primary key.
func (h *HeldWebhook) load(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
		SELECT epoch, seq, state, line, attempts, coalesce(due_at - clock_timestamp(), '0')
		  FROM mini_asynq.webhook_deliveries
		 WHERE webhook_id = $1 AND (state <> 'failed' OR (epoch, seq) > ($2, $3))
		 ORDER BY epoch, seq`, h.ID, h.Epoch, h.Seq)
	if err != nil {
		return err
	}
	h.Rows, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d StoredDelivery, err error) {
		return d, row.Scan(&d.Epoch, &d.Seq, &d.State, &d.Line, &d.Attempts, &d.Due)
	})
	return err
}

// WebhookWatch is what a node has to know of an enabled webhook: what it is for, and when to look at it again.
type WebhookWatch struct {
	ID      uuid.UUID
	Filter  map[string][]string
	HeldFor time.Duration // until the holder's lease runs out; 0: nobody holds it
	DueIn   time.Duration // until a parked delivery is due; negative: nothing is parked
}

// WatchWebhooks returns the enabled webhooks.
func WatchWebhooks(ctx context.Context, db DB) ([]WebhookWatch, error) {
	rows, err := db.Query(ctx, `
		SELECT w.id, w.filter, greatest(coalesce(w.held_until - clock_timestamp(), '0'), '0'),
		       coalesce((SELECT greatest(min(d.due_at) - clock_timestamp(), '0') FROM mini_asynq.webhook_deliveries d
		                  WHERE d.webhook_id = w.id AND d.state = 'parked' HAVING count(*) > 0), '-1s') -- greatest passes over nulls
		  FROM mini_asynq.webhooks w
		 WHERE w.enabled
		 ORDER BY w.id`)
	if err != nil {
		return nil, fmt.Errorf("look at webhooks: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w WebhookWatch, err error) {
		return w, row.Scan(&w.ID, &w.Filter, &w.HeldFor, &w.DueIn)
	})
	return found, wrap("look at webhooks", err)
}

// DeliveryRow is a delivery as its sender writes it.
type DeliveryRow struct {
	Epoch, Seq int64
	State      string
	Line       string
	JobID      uuid.UUID // zero: none
	EventType  string
	Body       []byte // nil: the row is there already
	Attempts   int
	Due        time.Duration // from now, of a parked one
	LastStatus int           // 0: no answer
	LastError  string
}

// WebhookProgress is what has happened since a sender wrote last.
type WebhookProgress struct {
	Seq         int64 // the cursor
	ReplaySeq   int64 // how far the replay has come; it ends at its last event
	Rows        []DeliveryRow
	Gone        [][2]int64 // epoch and seq of rows that were delivered
	Delivered   int64
	Failed      int64  // given up
	Troubled    bool   // something failed
	Disable     string // why the webhook is disabled with it; "": it is not
	Release     bool   // others may have it
	GiveUpAfter time.Duration
}

// WebhookState is what a sender learns when it writes.
type WebhookState struct {
	Version  int64 // another one than that of the claim: its settings have changed
	Enabled  bool
	Disabled string // why it was disabled by this write
}

// Write stores progress and extends the lease, in one transaction. ErrLeaseLost: another node has the webhook, or it is gone;
// nothing was changed. Primary keys; the row of the webhook is locked first.
func (h *HeldWebhook) Write(ctx context.Context, db DB, lease time.Duration, p WebhookProgress) (state WebhookState, err error) {
	err = inTx(ctx, db, "write the progress of a webhook", func(tx pgx.Tx) error {
		var failingFor time.Duration
		// A replay that was ordered meanwhile is not this sender's: the version tells.
		err := tx.QueryRow(ctx, `
			UPDATE mini_asynq.webhooks
			   SET seq = $4,
			       replay_seq = CASE WHEN version <> $5 THEN replay_seq WHEN $6 < replay_until THEN $6 END,
			       replay_until = CASE WHEN version <> $5 OR $6 < replay_until THEN replay_until END,
			       delivered = delivered + $7, failed = failed + $8,
			       last_success_at = CASE WHEN $7 > 0 THEN clock_timestamp() ELSE last_success_at END,
			       failing_since = CASE WHEN $7 > 0 THEN NULL WHEN $9 THEN coalesce(failing_since, clock_timestamp())
			                            ELSE failing_since END,
			       holder = CASE WHEN NOT $10 THEN holder END,
			       held_until = CASE WHEN NOT $10 THEN clock_timestamp() + $11::interval END
			 WHERE id = $1 AND fence = $2 AND holder = $3
			RETURNING version, enabled, coalesce(clock_timestamp() - failing_since, '0')`,
			h.ID, h.fence, h.node, p.Seq, h.Version, p.ReplaySeq, p.Delivered, p.Failed, p.Troubled, p.Release, lease,
		).Scan(&state.Version, &state.Enabled, &failingFor)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrLeaseLost
		}
		if err != nil {
			return err
		}
		if err := h.writeRows(ctx, tx, p); err != nil {
			return err
		}
		state.Disabled = p.Disable
		if state.Disabled == "" && p.Troubled && p.GiveUpAfter > 0 && failingFor > p.GiveUpAfter {
			state.Disabled = WebhookFailing
		}
		if state.Disabled == "" || !state.Enabled {
			return nil
		}
		return tx.QueryRow(ctx, `
			UPDATE mini_asynq.webhooks
			   SET enabled = false, disabled_reason = $2, disabled_at = clock_timestamp(), version = version + 1,
			       updated_at = clock_timestamp(), holder = NULL, held_until = NULL
			 WHERE id = $1
			RETURNING version, enabled`, h.ID, state.Disabled).Scan(&state.Version, &state.Enabled)
	})
	return state, err
}

func (h *HeldWebhook) writeRows(ctx context.Context, tx pgx.Tx, p WebhookProgress) error {
	batch := &pgx.Batch{}
	for _, r := range p.Rows {
		var due *time.Duration
		if r.State == "parked" {
			due = &r.Due
		}
		if r.Body == nil {
			batch.Queue(`
				UPDATE mini_asynq.webhook_deliveries
				   SET state = $4, attempts = $5, due_at = clock_timestamp() + $6::interval, last_status = nullif($7, 0),
				       last_error = nullif($8, ''), updated_at = clock_timestamp()
				 WHERE webhook_id = $1 AND epoch = $2 AND seq = $3`,
				h.ID, r.Epoch, r.Seq, r.State, r.Attempts, due, r.LastStatus, r.LastError)
			continue
		}
		// One that was given up may be there from before a replay.
		batch.Queue(`
			INSERT INTO mini_asynq.webhook_deliveries (webhook_id, epoch, seq, state, line, job_id, event_type, body, attempts,
			                                           due_at, last_status, last_error)
			VALUES ($1, $2, $3, $4, $5, nullif($6, '00000000-0000-0000-0000-000000000000'::uuid), $7, $8, $9,
			        clock_timestamp() + $10::interval, nullif($11, 0), nullif($12, ''))
			ON CONFLICT (webhook_id, epoch, seq) DO UPDATE
			   SET state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at,
			       last_status = excluded.last_status, last_error = excluded.last_error, updated_at = clock_timestamp()`,
			h.ID, r.Epoch, r.Seq, r.State, r.Line, r.JobID, r.EventType, r.Body, r.Attempts, due, r.LastStatus, r.LastError)
	}
	for _, at := range p.Gone {
		batch.Queue(`DELETE FROM mini_asynq.webhook_deliveries WHERE webhook_id = $1 AND epoch = $2 AND seq = $3`,
			h.ID, at[0], at[1])
	}
	if batch.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, batch).Close()
}

// Body reads the event of a stored delivery, and the job that it is about; zero: none. ErrNotFound. Primary key.
func (h *HeldWebhook) Body(ctx context.Context, db DB, epoch, seq int64) (body []byte, job uuid.UUID, err error) {
	err = db.QueryRow(ctx, `
		SELECT body, coalesce(job_id, '00000000-0000-0000-0000-000000000000') FROM mini_asynq.webhook_deliveries
		 WHERE webhook_id = $1 AND epoch = $2 AND seq = $3`, h.ID, epoch, seq).Scan(&body, &job)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, job, ErrNotFound
	}
	return body, job, wrap("read a delivery", err)
}

// WebhookKeys returns what a test of a webhook needs: where it leads, and its secrets as HeldWebhook has them. ErrNotFound.
func WebhookKeys(ctx context.Context, db DB, id uuid.UUID) (*HeldWebhook, error) {
	h := &HeldWebhook{ID: id}
	err := db.QueryRow(ctx, `
		SELECT url, secret, CASE WHEN previous_until > clock_timestamp() THEN previous_secret END,
		       coalesce(previous_until - clock_timestamp(), '0')
		  FROM mini_asynq.webhooks WHERE id = $1`, id).Scan(&h.URL, &h.Secret, &h.Previous, &h.PreviousFor)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	return h, wrap("read a webhook", err)
}
