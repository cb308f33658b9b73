package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// ticksAtOnce is how many old ticks one statement deletes.
const ticksAtOnce = 10_000

// Retire drops events older than keep: it first moves the floor, so that readers behind it are told, and commits that;
// then it deletes the ticks below the floor in chunks, and drops partitions of the outbox that hold nothing above it. A
// partition that a young tick still needs stays: a transaction may commit long after it wrote. A lock that is not to be
// had at once is Transient.
func Retire(ctx context.Context, db jobs.DB, keep time.Duration) error {
	epoch, ok, err := readEpoch(ctx, db)
	if err != nil || !ok {
		return err
	}
	// The first tick that stays, and the snapshot before it; without a young tick everything may go but the last one,
	// which the next tick builds on.
	var floor int64
	var snap string
	err = db.QueryRow(ctx, `
		SELECT first_seq - 1, prev_snap::text FROM mini_asynq.ticks
		 WHERE epoch = $1 AND (at > clock_timestamp() - $2::interval OR first_seq = (
		       SELECT max(first_seq) FROM mini_asynq.ticks WHERE epoch = $1))
		 ORDER BY first_seq LIMIT 1`, epoch.Number, keep).Scan(&floor, &snap)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the floor of the stream: %w", err)
	}
	if _, err := db.Exec(ctx, `UPDATE mini_asynq.epochs SET floor_seq = $2 WHERE epoch = $1 AND floor_seq < $2`,
		epoch.Number, floor); err != nil {
		return fmt.Errorf("move the floor of the stream: %w", err)
	}
	for {
		tag, err := db.Exec(ctx, `
			DELETE FROM mini_asynq.ticks WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM mini_asynq.ticks
			     WHERE epoch < $1 OR epoch = $1 AND first_seq <= $2 ORDER BY epoch, first_seq LIMIT $3))`,
			epoch.Number, floor, ticksAtOnce)
		if err != nil {
			return fmt.Errorf("delete old ticks: %w", err)
		}
		if tag.RowsAffected() < ticksAtOnce {
			break
		}
	}
	old, err := jobs.OldPartitions(ctx, db, jobs.ClassEvents, keep)
	if err != nil {
		return err
	}
	for _, name := range old {
		if _, err := jobs.DropPartition(ctx, db, name, snap); err != nil {
			return err
		}
	}
	// What was set aside when the epoch changed is nobody's to read; it goes when it is as old as everything else.
	_, err = db.Exec(ctx, `DELETE FROM mini_asynq.outbox_past WHERE at < clock_timestamp() - $1::interval`, keep)
	if err != nil {
		return fmt.Errorf("drop events of earlier epochs: %w", err)
	}
	return nil
}
