package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Keep says how much of the stream stays.
type Keep struct {
	Age   time.Duration // events that are younger
	Bytes int64         // of the outbox with its indexes, in whole partitions and never the present one; 0: without a limit
}

// ticksAtOnce is how many old ticks one statement deletes.
const ticksAtOnce = 10_000

// straddle is how much of the history behind a partition may go with it by size: it holds what was written before its end
// and committed after. An event that came later than that would take hours along, so the partition waits until that event is
// old.
const straddle = time.Hour

// cut is where history ends: all up to the position goes, and the snapshot sees all of that and nothing else.
type cut struct {
	floor int64
	snap  string
}

// Retire drops events by age and by size, oldest first: it first moves the floor, so that readers behind it are told, and
// commits that; then it deletes the ticks below the floor in chunks, and drops partitions of the outbox that hold nothing
// above it. A partition that a young tick still needs stays: a transaction may commit long after it wrote. So does, for
// now, one that somebody holds: it is waited for no longer than a moment, the others go, and the error is Transient.
func Retire(ctx context.Context, db jobs.DB, keep Keep) error {
	epoch, ok, err := readEpoch(ctx, db)
	if err != nil || !ok {
		return err
	}
	return errors.Join(retireByAge(ctx, db, epoch.Number, keep.Age), retireBySize(ctx, db, epoch.Number, keep.Bytes))
}

func retireByAge(ctx context.Context, db jobs.DB, epoch int64, age time.Duration) error {
	// The first tick that stays; without a young tick everything may go but the last one, which the next tick builds on.
	to, ok, err := findCut(ctx, db, `
		SELECT first_seq - 1, prev_snap::text FROM mini_asynq.ticks
		 WHERE epoch = $1 AND (at > clock_timestamp() - $2::interval OR first_seq = (
		       SELECT max(first_seq) FROM mini_asynq.ticks WHERE epoch = $1))
		 ORDER BY first_seq LIMIT 1`, epoch, age)
	if err != nil || !ok {
		return err
	}
	if err := to.forget(ctx, db, epoch); err != nil {
		return err
	}
	old, err := jobs.OldPartitions(ctx, db, jobs.ClassEvents, age)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range old {
		_, err := jobs.DropPartition(ctx, db, name, to.snap)
		faults = append(faults, err)
	}
	// What was set aside when the epoch changed is nobody's to read; it goes when it is as old as everything else.
	if _, err := db.Exec(ctx, `DELETE FROM mini_asynq.outbox_past WHERE at < clock_timestamp() - $1::interval`, age); err != nil {
		faults = append(faults, fmt.Errorf("drop events of earlier epochs: %w", err))
	}
	return errors.Join(faults...)
}

// retireBySize drops as many of the oldest partitions as it takes for the others to fit. Which ones is decided by size
// alone: one that cannot go now is not made up for by a younger one.
func retireBySize(ctx context.Context, db jobs.DB, epoch, limit int64) error {
	if limit <= 0 {
		return nil
	}
	all, err := jobs.EndedPartitions(ctx, db, jobs.ClassEvents)
	if err != nil {
		return err
	}
	excess := all.Present - limit
	for _, p := range all.Ended {
		excess += p.Bytes
	}
	var faults []error
	for _, p := range all.Ended {
		if excess <= 0 {
			break
		}
		excess -= p.Bytes
		// The first tick behind the partition (ticks_at), or one soon after that, before which all of it was published:
		// outbox_xid leads to what was not.
		to, ok, err := findCut(ctx, db, `
			SELECT first_seq - 1, prev_snap::text FROM mini_asynq.ticks t
			 WHERE epoch = $1 AND at >= $3 AND at <= $4::interval + (
			       SELECT min(at) FROM mini_asynq.ticks WHERE at >= $3)
			   AND NOT EXISTS (SELECT FROM mini_asynq.outbox o
			        WHERE o.at >= $2 AND o.at < $3 AND o.xid >= pg_snapshot_xmin(t.prev_snap)
			          AND NOT pg_visible_in_snapshot(o.xid, t.prev_snap))
			 ORDER BY at, first_seq LIMIT 1`, epoch, p.Begins, p.Ends, straddle)
		if err == nil && ok {
			if err = to.forget(ctx, db, epoch); err == nil {
				_, err = jobs.DropPartition(ctx, db, p.Name, to.snap)
			}
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// findCut runs a query for the first tick that stays; ok is false when there is none.
func findCut(ctx context.Context, db jobs.DB, sql string, args ...any) (c cut, ok bool, err error) {
	err = db.QueryRow(ctx, sql, args...).Scan(&c.floor, &c.snap)
	if errors.Is(err, pgx.ErrNoRows) {
		return cut{}, false, nil
	}
	if err != nil {
		return cut{}, false, fmt.Errorf("look for the floor of the stream: %w", err)
	}
	return c, true, nil
}

// forget moves the floor, which only rises, and then deletes the ticks below, and those of earlier epochs.
func (c cut) forget(ctx context.Context, db jobs.DB, epoch int64) error {
	if _, err := db.Exec(ctx, `UPDATE mini_asynq.epochs SET floor_seq = $2 WHERE epoch = $1 AND floor_seq < $2`,
		epoch, c.floor); err != nil {
		return fmt.Errorf("move the floor of the stream: %w", err)
	}
	for {
		tag, err := db.Exec(ctx, `
			DELETE FROM mini_asynq.ticks WHERE ctid = ANY (ARRAY(
			    SELECT ctid FROM mini_asynq.ticks
			     WHERE epoch < $1 OR epoch = $1 AND first_seq <= $2 ORDER BY epoch, first_seq LIMIT $3))`,
			epoch, c.floor, ticksAtOnce)
		if err != nil {
			return fmt.Errorf("delete old ticks: %w", err)
		}
		if tag.RowsAffected() < ticksAtOnce {
			return nil
		}
	}
}
