package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// keyWait bounds how long a request waits for another that holds the same idempotency key.
const keyWait = "2s"

// Once makes a whole request happen once, whatever it enqueues.
type Once struct {
	Key     string
	Request json.RawMessage // what identifies the request beside the key; compared as a JSON value
	TTL     time.Duration   // how long the key is kept; 0 is 24 h
	// Answer makes what a repeat of the request is told, from the jobs as stored. It runs inside the transaction, so
	// the answer is kept exactly if the jobs are. nil keeps none.
	Answer func([]Enqueued) (json.RawMessage, error)
}

// OnceResult is what EnqueueOnce did.
type OnceResult struct {
	Jobs     []Enqueued      // the stored jobs; of a repeat only their ids
	Replayed bool            // the request happened before
	Answer   json.RawMessage // of this request, or the stored one of the first
}

// EnqueueOnce stores the jobs unless a request with the same key happened before. The key lives in the jobs'
// transaction, so a request that failed leaves none. A repeat with another request is ErrIdempotencyReused, one while
// the first is in flight waits up to 2 s and is then ErrIdempotencyInFlight.
// Keys of the single jobs (Params.IdempotencyKey) are obeyed as well.
func EnqueueOnce(ctx context.Context, db DB, once Once, params ...Params) (OnceResult, error) {
	rows, err := newRows(params)
	if err != nil {
		return OnceResult{}, err
	}
	var result OnceResult
	err = keyed(ctx, db, func(tx pgx.Tx) error {
		ids := make([]uuid.UUID, len(rows))
		for i, r := range rows {
			ids[i] = r.id
		}
		held, err := holdKey(ctx, tx, once.Key, once.Request, ids, once.TTL)
		if err != nil {
			return err
		}
		if held != nil {
			result = OnceResult{Replayed: true, Answer: held.answer, Jobs: held.enqueued(once.Key)}
			return nil
		}
		if result.Jobs, err = insertKeyed(ctx, tx, rows, once.Key); err != nil {
			return err
		}
		if once.Answer == nil {
			return nil
		}
		if result.Answer, err = once.Answer(result.Jobs); err != nil {
			return fmt.Errorf("make the answer to keep: %w", err)
		}
		_, err = tx.Exec(ctx, `UPDATE mini_asynq.idempotency_keys SET answer = $2 WHERE key = $1`, once.Key, result.Answer)
		return err
	})
	if err != nil {
		return OnceResult{}, err
	}
	return result, nil
}

// enqueueKeyed stores jobs of which some have keys of their own.
func enqueueKeyed(ctx context.Context, db DB, rows []row) (out []Enqueued, err error) {
	err = keyed(ctx, db, func(tx pgx.Tx) error {
		out, err = insertKeyed(ctx, tx, rows, "")
		return err
	})
	return out, err
}

// keyed runs fn in a transaction that waits at most keyWait for a key. Inside a caller's transaction it is a savepoint,
// and the wait stays the caller's to bound.
func keyed(ctx context.Context, db DB, fn func(pgx.Tx) error) error {
	_, nested := db.(pgx.Tx)
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after Commit it does nothing
	if !nested {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, keyWait); err != nil {
			return fmt.Errorf("bound the wait for a key: %w", err)
		}
	}
	if err := fn(tx); err != nil {
		switch {
		case sqlState(err) == stateLockNotAvailable:
			return ErrIdempotencyInFlight
		case errors.Is(err, ErrIdempotencyReused), errors.Is(err, ErrIdempotencyInFlight):
			return err
		}
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("enqueue: %w", commitUnknown(err))
	}
	return nil
}

// insertKeyed takes the keys of the rows in sorted order, so that two requests with the same keys never wait for each
// other in a circle, and inserts what is new. skip is a key that is held already.
func insertKeyed(ctx context.Context, tx pgx.Tx, rows []row, skip string) ([]Enqueued, error) {
	order := make([]int, len(rows))
	for i := range rows {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(rows[a].params.IdempotencyKey, rows[b].params.IdempotencyKey)
	})
	out := make([]Enqueued, len(rows))
	fresh := make([]row, 0, len(rows))
	index := make([]int, 0, len(rows))
	for _, i := range order {
		key := rows[i].params.IdempotencyKey
		if key != "" && key != skip {
			request, err := rows[i].request()
			if err != nil {
				return nil, err
			}
			held, err := holdKey(ctx, tx, key, request, []uuid.UUID{rows[i].id}, 0)
			if err != nil {
				return nil, err
			}
			if held != nil {
				out[i] = held.enqueued(key)[0]
				continue
			}
		}
		fresh, index = append(fresh, rows[i]), append(index, i)
	}
	if len(fresh) == 0 {
		return out, nil
	}
	stored, err := insert(ctx, tx, fresh)
	if err != nil {
		return nil, err
	}
	for n, i := range index {
		out[i] = stored[n]
	}
	return out, nil
}

// request is what identifies a job that was given as Params: the fields of a REST body that were set.
func (r *row) request() (json.RawMessage, error) {
	p := r.params
	body := map[string]any{"queue": p.Queue, "kind": p.Kind, "payload": r.payload, "priority": p.Priority}
	if p.MaxRetries != nil {
		body["max_retries"] = *p.MaxRetries
	}
	if r.runAt != nil {
		body["run_at"] = r.runAt.UTC().Format(time.RFC3339Nano)
	}
	if r.delay != nil {
		body["delay"] = r.delay.String()
	}
	if r.timeout != nil {
		body["timeout"] = r.timeout.String()
	}
	if len(p.Tags) > 0 {
		body["tags"] = p.Tags
	}
	if len(p.Metadata) > 0 {
		body["metadata"] = p.Metadata
	}
	return json.Marshal(body)
}

// heldKey is a key that an earlier request left.
type heldKey struct {
	ids    []uuid.UUID
	answer json.RawMessage
}

func (h *heldKey) enqueued(key string) []Enqueued {
	out := make([]Enqueued, len(h.ids))
	for i, id := range h.ids {
		out[i] = Enqueued{Job: Job{ID: id, IdempotencyKey: key}, Replayed: true}
	}
	return out
}

// holdKeySQL takes the key, or a key that has expired. It waits for a transaction that has inserted the same key and
// not ended yet; primary key of idempotency_keys.
const holdKeySQL = `
INSERT INTO mini_asynq.idempotency_keys AS k (key, request_hash, job_ids, expires_at)
VALUES ($1, mini_asynq.request_hash($2), $3, clock_timestamp() + coalesce($4, (
    SELECT make_interval(secs => (value #>> '{}')::double precision)
      FROM mini_asynq.settings WHERE name = 'idempotency_ttl_seconds'), $5))
ON CONFLICT (key) DO UPDATE
   SET request_hash = EXCLUDED.request_hash, job_ids = EXCLUDED.job_ids, answer = NULL,
       created_at = clock_timestamp(), expires_at = EXCLUDED.expires_at
 WHERE k.expires_at <= clock_timestamp()`

// holdKey takes the key for this transaction (nil) or returns what an earlier request left under it.
func holdKey(ctx context.Context, tx pgx.Tx, key string, request json.RawMessage, ids []uuid.UUID,
	ttl time.Duration,
) (*heldKey, error) {
	var keep *time.Duration
	if ttl > 0 {
		keep = &ttl
	}
	tag, err := tx.Exec(ctx, holdKeySQL, key, request, ids, keep, defaultTTL)
	if err != nil {
		return nil, err
	}
	if tag.RowsAffected() == 1 {
		return nil, nil
	}
	var held heldKey
	var same bool
	err = tx.QueryRow(ctx, `
		SELECT request_hash = mini_asynq.request_hash($2), job_ids, answer
		  FROM mini_asynq.idempotency_keys WHERE key = $1`, key, request).Scan(&same, &held.ids, &held.answer)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		// The caller's snapshot is older than the commit that holds the key (repeatable read): only a new one can tell.
		return nil, ErrIdempotencyInFlight
	case err != nil:
		return nil, err
	case !same:
		return nil, ErrIdempotencyReused
	}
	return &held, nil
}

// DropExpiredKeys deletes up to limit keys that have expired and says how many it found; index
// idempotency_keys_expiry. A key that a request renews at this moment is skipped.
func DropExpiredKeys(ctx context.Context, db DB, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM mini_asynq.idempotency_keys WHERE ctid = ANY(ARRAY(
		    SELECT ctid FROM mini_asynq.idempotency_keys
		     WHERE expires_at <= (SELECT clock_timestamp()) ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, limit)
	if err != nil {
		return 0, fmt.Errorf("drop expired keys: %w", err)
	}
	return tag.RowsAffected(), nil
}
