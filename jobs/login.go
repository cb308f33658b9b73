package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Login is a browser that has signed in, or a ticket for one stream. It is as good as the credential behind it: a key, a
// login, or a password.
type Login struct {
	Hash   []byte    // SHA-256 of what the caller holds
	Ticket bool      // single use
	KeyID  uuid.UUID // zero: not by a key
	Parent []byte    // hash of the login that a ticket was asked with; nil: none
	Mark   []byte    // what binds it to a password; nil: not by a password

	ValidFor time.Duration // from now; when read, what is left of it by the database's clock
}

// AddLogin stores a login or a ticket. ErrNotFound: what it hangs on has gone.
func AddLogin(ctx context.Context, db DB, l Login, act Act) error {
	return inTx(ctx, db, "sign in", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO mini_asynq.logins (hash, ticket, key_id, parent, mark, expires_at)
			VALUES ($1, $2, nullif($3, '00000000-0000-0000-0000-000000000000'::uuid), $4, $5, clock_timestamp() + $6::interval)`,
			l.Hash, l.Ticket, l.KeyID, l.Parent, l.Mark, l.ValidFor)
		if sqlState(err) == stateForeignKey {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "login"})
	})
}

const loginColumns = `hash, coalesce(key_id, '00000000-0000-0000-0000-000000000000'), parent, mark,
	expires_at - clock_timestamp()`

func scanLogin(row pgx.CollectableRow) (Login, error) {
	var l Login
	err := row.Scan(&l.Hash, &l.KeyID, &l.Parent, &l.Mark, &l.ValidFor)
	return l, err
}

// FindLogins returns those of the logins that are there and have not expired. Tickets are not found so.
func FindLogins(ctx context.Context, db DB, hashes [][]byte) ([]Login, error) {
	rows, err := db.Query(ctx, `
		SELECT `+loginColumns+` FROM mini_asynq.logins
		 WHERE hash = ANY ($1::bytea[]) AND NOT ticket AND expires_at > clock_timestamp()`, hashes)
	if err != nil {
		return nil, fmt.Errorf("read logins: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanLogin)
	if err != nil {
		return nil, fmt.Errorf("read logins: %w", err)
	}
	return found, nil
}

// TakeTicket uses up a ticket: whoever deletes the row has it. ErrNotFound if there is none, or it has expired.
func TakeTicket(ctx context.Context, db DB, hash []byte) (Login, error) {
	rows, err := db.Query(ctx, `DELETE FROM mini_asynq.logins WHERE hash = $1 AND ticket RETURNING `+loginColumns, hash)
	if err != nil {
		return Login{}, fmt.Errorf("take a ticket: %w", err)
	}
	l, err := pgx.CollectExactlyOneRow(rows, scanLogin)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && l.ValidFor <= 0 {
		return Login{}, ErrNotFound
	}
	if err != nil {
		return Login{}, fmt.Errorf("take a ticket: %w", err)
	}
	return l, nil
}

// RemoveLogin signs out. A login that is not there is signed out already.
func RemoveLogin(ctx context.Context, db DB, hash []byte, act Act) error {
	return inTx(ctx, db, "sign out", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM mini_asynq.logins WHERE hash = $1 AND NOT ticket`, hash)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "logout"})
	})
}

// ForgetLogins deletes up to limit logins and tickets that have expired. Index logins_expires.
func ForgetLogins(ctx context.Context, db DB, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM mini_asynq.logins WHERE hash IN (
		    SELECT hash FROM mini_asynq.logins WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT $1)`, limit)
	if err != nil {
		return 0, fmt.Errorf("forget logins: %w", err)
	}
	return tag.RowsAffected(), nil
}
