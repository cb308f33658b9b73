package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// PartitionClass is which retention rules a partitioned table.
type PartitionClass string

// The classes: the outbox; completed and cancelled jobs with their attempts; dead ones with theirs.
const (
	ClassEvents PartitionClass = "events"
	ClassDone   PartitionClass = "done"
	ClassDead   PartitionClass = "dead"
)

// partitionLockWait bounds how long DDL on a partition may queue others behind it.
const partitionLockWait = "50ms"

// CreatePartitions makes the partitions of the time from now to now + ahead that are missing, each in a transaction of
// its own, and says how many. A lock that it does not get at once is Transient: the caller tries again later.
func CreatePartitions(ctx context.Context, db DB, ahead time.Duration) (int, error) {
	rows, err := db.Query(ctx, `SELECT parent, begins FROM mini_asynq.missing_partitions($1)`, ahead)
	if err != nil {
		return 0, fmt.Errorf("look for missing partitions: %w", err)
	}
	type missing struct {
		Parent string
		Begins time.Time
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[missing])
	if err != nil {
		return 0, fmt.Errorf("look for missing partitions: %w", err)
	}
	for i, m := range list {
		err := ddl(ctx, db, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `SELECT mini_asynq.create_partition($1, $2)`, m.Parent, m.Begins)
			return err
		})
		if err != nil {
			return i, fmt.Errorf("create a partition of %s: %w", m.Parent, err)
		}
	}
	return len(list), nil
}

// OldPartitions names the partitions of a class that ended before now - keep, oldest first.
func OldPartitions(ctx context.Context, db DB, class PartitionClass, keep time.Duration) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT partition FROM mini_asynq.partitions()
		 WHERE class = $1 AND ends <= clock_timestamp() - $2::interval ORDER BY begins, partition`, string(class), keep)
	if err != nil {
		return nil, fmt.Errorf("look for old partitions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for old partitions: %w", err)
	}
	return names, nil
}

// Partition is one that ended.
type Partition struct {
	Name         string
	Begins, Ends time.Time // the second is not in it
	Bytes        int64     // on disk, with indexes
}

// Extent is how much room a class takes.
type Extent struct {
	Ended   []Partition // oldest first
	Present int64       // bytes of those that are written to, or will be
}

// EndedPartitions measures the partitions of a class.
func EndedPartitions(ctx context.Context, db DB, class PartitionClass) (Extent, error) {
	rows, err := db.Query(ctx, `
		SELECT p.partition, p.begins, p.ends, pg_total_relation_size(c.oid), p.ends <= clock_timestamp()
		  FROM mini_asynq.partitions() p
		  JOIN pg_class c ON c.relname = p.partition AND c.relnamespace = 'mini_asynq'::regnamespace
		 WHERE p.class = $1 ORDER BY p.begins, p.partition`, string(class))
	if err != nil {
		return Extent{}, fmt.Errorf("measure partitions: %w", err)
	}
	var out Extent
	var p Partition
	var ended bool
	_, err = pgx.ForEachRow(rows, []any{&p.Name, &p.Begins, &p.Ends, &p.Bytes, &ended}, func() error {
		if ended {
			out.Ended = append(out.Ended, p)
		} else {
			out.Present += p.Bytes
		}
		return nil
	})
	if err != nil {
		return Extent{}, fmt.Errorf("measure partitions: %w", err)
	}
	return out, nil
}

// DropPartition empties a partition, which frees the disk and is told as history.dropped, and then drops the shell. The
// two are transactions of their own: the second needs a lock on the parent and may be Transient for a while.
// seen, if it is not empty, is a snapshot that must see all that is in it: else the partition stays, and dropped is
// false.
func DropPartition(ctx context.Context, db DB, name, seen string) (dropped bool, err error) {
	var rows int64
	err = ddl(ctx, db, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT mini_asynq.empty_partition($1, nullif($2, '')::pg_snapshot)`, name, seen).Scan(&rows)
	})
	if err != nil || rows < 0 {
		return false, wrap("empty "+name, err)
	}
	err = ddl(ctx, db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT mini_asynq.drop_partition($1)`, name)
		return err
	})
	return err == nil, wrap("drop "+name, err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ddl runs a function of migrations/00004_partitions.sql under a short lock_timeout.
func ddl(ctx context.Context, db DB, call func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, partitionLockWait); err != nil {
			return err
		}
		return call(tx)
	})
}
