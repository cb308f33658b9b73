package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Claimed is a consumer in the hands of a reader.
type Claimed struct {
	Name   string
	Reader string
	Cursor Position // all up to here is acknowledged
	Filter *Filter

	fence int64
}

// ClaimConsumer gives a consumer to a reader for the time of a wait and ConsumerClaim beyond, or renews his claim. One reader
// at a time: while another has it, and his claim has not lapsed, this is a *BusyError. With goesOn it only renews: a reader
// who reads on behind the cursor builds on what he was given, so he must not have lost it since. jobs.ErrNotFound.
//
// Two at once: the second waits for the row, and looks at what the first made of it. Primary key.
func ClaimConsumer(ctx context.Context, db jobs.DB, ref ConsumerRef, reader string, goesOn bool, wait time.Duration) (Claimed, error) {
	claim := Claimed{Name: ref.Name, Reader: reader}
	var filter []byte
	err := db.QueryRow(ctx, `
		UPDATE mini_asynq.consumers c
		   SET reader = $3, held_until = clock_timestamp() + $5::interval,
		       fence = CASE WHEN reader = $3 THEN fence ELSE nextval('mini_asynq.consumer_fences') END
		 WHERE name = $1 AND `+visibleSQL+`
		   AND (reader = $3 OR NOT $4 AND (held_until IS NULL OR held_until <= clock_timestamp()))
		RETURNING epoch, seq, fence, filter`, ref.Name, ref.Within, reader, goesOn, wait+ConsumerClaim).
		Scan(&claim.Cursor.Epoch, &claim.Cursor.Seq, &claim.fence, &filter)
	if errors.Is(err, pgx.ErrNoRows) {
		return Claimed{}, whyNot(ctx, db, ref)
	}
	if err == nil {
		claim.Filter, err = filterOf(filter, ref.Within)
	}
	if err != nil {
		return Claimed{}, fmt.Errorf("claim a consumer: %w", err)
	}
	return claim, nil
}

// Settle is said before what was read is handed out: from now on the claim lasts for ConsumerClaim. Everything up to passed
// was held back by the filter, so it needs no acknowledgement; the zero Position says nothing. When the claim is another one
// by now, or the filter is, nothing may be handed out: *BusyError, jobs.ErrNotFound.
func (c Claimed) Settle(ctx context.Context, db jobs.DB, passed Position) error {
	tag, err := db.Exec(ctx, `
		UPDATE mini_asynq.consumers
		   SET held_until = clock_timestamp() + $3::interval,
		       seq = CASE WHEN epoch = $4 THEN greatest(seq, $5) ELSE seq END
		 WHERE name = $1 AND fence = $2`, c.Name, c.fence, ConsumerClaim, passed.Epoch, passed.Seq)
	if err != nil {
		return fmt.Errorf("settle the claim on a consumer: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return whyNot(ctx, db, ConsumerRef{Name: c.Name})
	}
	return nil
}

// Leave is said in place of Settle by who hands nothing out: the claim lasts for ConsumerClaim, and no longer for the wait.
func (c Claimed) Leave(ctx context.Context, db jobs.DB) error {
	_, err := db.Exec(ctx, `
		UPDATE mini_asynq.consumers SET held_until = least(held_until, clock_timestamp() + $3::interval)
		 WHERE name = $1 AND fence = $2`, c.Name, c.fence, ConsumerClaim)
	if err != nil {
		return fmt.Errorf("leave a consumer: %w", err)
	}
	return nil
}

// AckConsumer acknowledges all up to a position, and renews the claim. It only moves the cursor forward: an older position
// moves nothing. Only who has the claim may, or had it last, when it has lapsed and nobody took it: else *BusyError. A position
// that is not in the log is ErrCursorInvalid, one of another history *EpochError; jobs.ErrNotFound.
//
// Acknowledgements at once follow each other by the row, and the furthest one stays. Primary keys.
func AckConsumer(ctx context.Context, db jobs.DB, ref ConsumerRef, reader string, upTo Position) error {
	tag, err := db.Exec(ctx, `
		WITH head AS (`+epochSQL+`)
		UPDATE mini_asynq.consumers c
		   SET seq = greatest(c.seq, $5), acked_at = CASE WHEN c.seq < $5 THEN clock_timestamp() ELSE c.acked_at END,
		       held_until = greatest(c.held_until, clock_timestamp() + $6::interval)
		  FROM head
		 WHERE c.name = $1 AND `+visibleSQL+` AND c.reader = $3 AND c.epoch = $4 AND head.epoch = $4 AND head.seq >= $5`,
		ref.Name, ref.Within, reader, upTo.Epoch, upTo.Seq, ConsumerClaim)
	if err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return nil
	}
	return whyNotAck(ctx, db, ref, upTo)
}

// whyNotAck says what forbids an acknowledgement that changed nothing.
func whyNotAck(ctx context.Context, db jobs.DB, ref ConsumerRef, upTo Position) error {
	c, err := GetConsumer(ctx, db, ref)
	if err != nil {
		return err
	}
	epoch, ok, err := readEpoch(ctx, db)
	switch {
	case err != nil:
		return err
	case !ok:
		return ErrNotReady
	case upTo.Epoch != epoch.Number || c.Cursor.Epoch != epoch.Number:
		return &EpochError{Head: epoch.Head}
	case upTo.Seq > epoch.Head.Seq:
		return ErrCursorInvalid
	}
	return &BusyError{Reader: c.Reader, FreeIn: c.FreeIn}
}

// whyNot says why a consumer cannot be had. What was in the way may have gone meanwhile: then it is free in no time.
func whyNot(ctx context.Context, db jobs.DB, ref ConsumerRef) error {
	c, err := GetConsumer(ctx, db, ref)
	if err != nil {
		return err
	}
	return &BusyError{Reader: c.Reader, FreeIn: c.FreeIn}
}
