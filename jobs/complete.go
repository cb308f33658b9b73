package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CompleteTx completes the job inside the transaction of its handler, so that what the handler writes and the end of the
// job are one: both happen exactly once, or neither does, whatever crashes. It is the last statement before the commit:
//
//	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		if _, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance + $1 WHERE id = $2`, d.Amount, d.Account); err != nil {
//			return err
//		}
//		return jobs.CompleteTx(ctx, tx)
//	})
//
// ctx is the handler's, which says which job that is. A result comes from SetResult, called before.
//
// ErrLeaseLost means that the attempt is not the handler's any more: somebody else may be doing the same work. The
// transaction is aborted then, and its Commit fails, even if the handler overlooks the error. Other errors are those of the
// database; they abort the transaction as well.
//
// From here on only the commit completes the job. If it does not happen, what the handler returns counts as ever: an error
// is retried, Snooze snoozes; nil fails the attempt with ErrNotCommitted. If it does happen, what the handler returns
// changes nothing. When the connection is lost during the commit the database knows, and is asked.
//
// The transaction holds the job's row until it ends, and with it off extensions of the lease and requests to cancel: it
// should end soon. The node extends the leases of long attempts by updating their rows; a transaction that is REPEATABLE
// READ or SERIALIZABLE and older than a third of the lease therefore fails here with a serialization failure.
func CompleteTx(ctx context.Context, tx pgx.Tx) error {
	h := HandlingOf(ctx)
	if h == nil {
		return errNoHandling
	}
	h.mu.Lock()
	h.completing = true // before anything is sent: what the handler returns must not be taken for success now
	h.mu.Unlock()
	err := completeTx(ctx, tx, h)
	if errors.Is(err, ErrLeaseLost) {
		// That it fails is its purpose.
		_, _ = tx.Exec(ctx, abortSQL)
	}
	return err
}

// abortSQL makes the commit of a transaction impossible.
const abortSQL = `
DO $$ BEGIN
    RAISE EXCEPTION 'the lease of this job is lost: nothing may be committed for it' USING ERRCODE = 'MA409';
END $$`

// restSQL ends what the statements that move jobs begin: the setting would last until the caller's transaction ends, and
// the guard that keeps live jobs from being deleted would be off for the rest of it.
const restSQL = `SELECT set_config('mini_asynq.moving', 'off', true)`

func completeTx(ctx context.Context, tx pgx.Tx, h *Handling) error {
	if h.Flush != nil {
		if err := h.Flush(ctx, tx); err != nil {
			return fmt.Errorf("complete: %w", err)
		}
	}
	// Waits for the row, as long as the caller's session and ctx let it: who holds it decides whether the lease is lost.
	result, err := Turn{Outcomes: []Outcome{Complete(&h.Job.Job, h.Result())}}.Do(ctx, tx)
	switch {
	case err != nil:
		return fmt.Errorf("complete: %w", err)
	case !result.Verdicts[0].Landed:
		return ErrLeaseLost
	}
	return nil
}

// CompletedInTx tells whether the handler called CompleteTx: its job is completed if, and only if, that transaction
// commits.
func (h *Handling) CompletedInTx() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.completing
}
