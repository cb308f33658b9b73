package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// APIKey is a key as it is stored: without its secret, of which only the hash is kept.
type APIKey struct {
	ID         uuid.UUID
	Name       string
	Role       string   // "": none, it has Scopes of its own
	Scopes     []string // what it may do; those of the role, if it has one
	Queues     []string // the only ones that exist for it; nil: all
	Hash       []byte   // SHA-256 of the secret
	CreatedBy  string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never; to the minute

	// ValidFor is how long the key is still valid, by the database's clock at the time it was read: zero or less, it has
	// expired. It counts only where ExpiresAt is not zero.
	ValidFor time.Duration
}

const keyColumns = `id, name, coalesce(role, ''), scopes, queues, hash, created_by, created_at, expires_at, last_used_at,
	coalesce(expires_at - clock_timestamp(), '0')`

func scanKey(row pgx.CollectableRow) (APIKey, error) {
	var k APIKey
	var expires, used *time.Time
	err := row.Scan(&k.ID, &k.Name, &k.Role, &k.Scopes, &k.Queues, &k.Hash, &k.CreatedBy, &k.CreatedAt, &expires, &used,
		&k.ValidFor)
	k.ExpiresAt, k.LastUsedAt = orZero(expires), orZero(used)
	return k, err
}

// CreateAPIKey stores a new key; id, creator and time are filled in. An end that has passed already is a *ValidationError.
func CreateAPIKey(ctx context.Context, db DB, k APIKey, act Act) (created APIKey, err error) {
	err = inTx(ctx, db, "create key", func(tx pgx.Tx) error {
		if err := act.say(ctx, tx); err != nil {
			return err
		}
		if created, err = insertKey(ctx, tx, k, act); err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "key.create", Target: created.ID.String(), After: created.said()})
	})
	return created, err
}

func insertKey(ctx context.Context, tx pgx.Tx, k APIKey, act Act) (APIKey, error) {
	var expires *time.Time
	if !k.ExpiresAt.IsZero() {
		expires = &k.ExpiresAt
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO mini_asynq.api_keys (name, role, scopes, queues, hash, created_by, expires_at)
		SELECT $1, nullif($2, ''), $3::text[], $4::text[], $5, $6, $7::timestamptz
		 WHERE $7::timestamptz IS NULL OR $7 > clock_timestamp()
		RETURNING `+keyColumns, k.Name, k.Role, k.Scopes, k.Queues, k.Hash, act.Actor, expires)
	if err != nil {
		return APIKey{}, err
	}
	created, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return APIKey{}, &ValidationError{Faults: []Fault{{"/expires_at", "out_of_range", "has passed already"}}}
	}
	return created, err
}

// said is what the audit log keeps of a key.
func (k APIKey) said() any {
	return struct {
		Name      string    `json:"name"`
		Role      string    `json:"role,omitempty"`
		Scopes    []string  `json:"scopes"`
		Queues    []string  `json:"queues,omitempty"`
		ExpiresAt time.Time `json:"expires_at,omitzero"`
	}{k.Name, k.Role, k.Scopes, k.Queues, k.ExpiresAt}
}

// APIKeys returns keys that were made after the one named, oldest first, at most limit; expired ones too.
func APIKeys(ctx context.Context, db DB, after uuid.UUID, limit int) ([]APIKey, error) {
	rows, err := db.Query(ctx, `
		SELECT `+keyColumns+` FROM mini_asynq.api_keys WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
	return collectKeys(rows, err)
}

// FindAPIKeys returns those of the keys that are there, expired ones too.
func FindAPIKeys(ctx context.Context, db DB, ids []uuid.UUID) ([]APIKey, error) {
	rows, err := db.Query(ctx, `SELECT `+keyColumns+` FROM mini_asynq.api_keys WHERE id = ANY ($1::uuid[])`, idArray(ids))
	return collectKeys(rows, err)
}

func collectKeys(rows pgx.Rows, err error) ([]APIKey, error) {
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return keys, nil
}

// RevokeAPIKey ends a key and what hangs on it: logins and tickets. ErrNotFound.
func RevokeAPIKey(ctx context.Context, db DB, id uuid.UUID, act Act) error {
	return inTx(ctx, db, "revoke key", func(tx pgx.Tx) error {
		if err := act.say(ctx, tx); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `DELETE FROM mini_asynq.api_keys WHERE id = $1 RETURNING `+keyColumns, id)
		if err != nil {
			return err
		}
		revoked, err := pgx.CollectExactlyOneRow(rows, scanKey)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "key.revoke", Target: id.String(), Before: revoked.said()})
	})
}

// RotateAPIKey makes a new key with the rights and the lifetime of an old one, which stays valid for overlap and no longer.
// ErrNotFound if it is not there or has expired.
func RotateAPIKey(ctx context.Context, db DB, id uuid.UUID, hash []byte, overlap time.Duration, act Act) (created APIKey, err error) {
	err = inTx(ctx, db, "rotate key", func(tx pgx.Tx) error {
		if err := act.say(ctx, tx); err != nil {
			return err
		}
		// The row lock makes two rotations at once follow each other.
		rows, err := tx.Query(ctx, `SELECT `+keyColumns+` FROM mini_asynq.api_keys WHERE id = $1 FOR UPDATE`, id)
		if err != nil {
			return err
		}
		old, err := pgx.CollectExactlyOneRow(rows, scanKey)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && !old.ExpiresAt.IsZero() && old.ValidFor <= 0 {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `
			INSERT INTO mini_asynq.api_keys (name, role, scopes, queues, hash, created_by, expires_at)
			SELECT name, role, scopes, queues, $2, $3, clock_timestamp() + (expires_at - created_at)
			  FROM mini_asynq.api_keys WHERE id = $1
			RETURNING `+keyColumns, id, hash, act.Actor)
		if err != nil {
			return err
		}
		if created, err = pgx.CollectExactlyOneRow(rows, scanKey); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `
			UPDATE mini_asynq.api_keys SET expires_at = least(expires_at, clock_timestamp() + $2::interval)
			 WHERE id = $1`, id, overlap); err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "key.rotate", Target: id.String(), Before: old.said(), After: struct {
			ID      uuid.UUID `json:"id"`
			Overlap string    `json:"overlap"`
		}{created.ID, overlap.String()}})
	})
	return created, err
}

// UseAPIKeys notes that keys are in use, at most once a minute for each.
func UseAPIKeys(ctx context.Context, db DB, ids []uuid.UUID) error {
	_, err := db.Exec(ctx, `
		UPDATE mini_asynq.api_keys SET last_used_at = date_trunc('minute', clock_timestamp())
		 WHERE id IN (SELECT id FROM mini_asynq.api_keys
		               WHERE id = ANY ($1::uuid[])
		                 AND (last_used_at IS NULL OR last_used_at < date_trunc('minute', clock_timestamp()))
		               ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)`, idArray(ids)) // another node notes the same
	if err != nil {
		return fmt.Errorf("note the use of keys: %w", err)
	}
	return nil
}
