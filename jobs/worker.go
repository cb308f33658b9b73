package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// WorkerState is how a remote worker is.
type WorkerState string

// The states of a worker.
const (
	WorkerOnline   WorkerState = "online"
	WorkerDraining WorkerState = "draining" // it was asked to finish and to go
	WorkerOffline  WorkerState = "offline"  // not heard of for WorkerSilence
)

// WorkerSilence is how long a worker may say nothing and be online.
const WorkerSilence = 30 * time.Second

// Asked is what an operator wants of a worker.
type Asked string

// What a worker may be asked: to claim no more, or to finish and to go.
const (
	AskedQuiet Asked = "quiet"
	AskedDrain Asked = "drain"
)

// Worker is the registration of a remote worker.
type Worker struct {
	ID           uuid.UUID
	Name         string
	State        WorkerState
	Queues       map[string]int // name, or * for every other -> weight
	Kinds        []string       // nil: all
	Slots        int
	Busy         int // as it last said
	Version      string
	Labels       map[string]string
	Asked        Asked
	RegisteredAt time.Time
	LastSeenAt   time.Time
}

const workerColumns = `id, name, state, queues, kinds, slots, busy, coalesce(version, ''), labels, coalesce(asked, ''), registered_at, last_seen_at`

// dest collects the destinations for workerColumns.
func (w *Worker) dest() []any {
	return []any{&w.ID, &w.Name, &w.State, &w.Queues, &w.Kinds, &w.Slots, &w.Busy, &w.Version, &w.Labels, &w.Asked,
		&w.RegisteredAt, &w.LastSeenAt}
}

func scanWorker(row pgx.CollectableRow) (w Worker, err error) { return w, row.Scan(w.dest()...) }

func oneWorker(ctx context.Context, db DB, doing, sql string, args ...any) (Worker, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Worker{}, fmt.Errorf("%s: %w", doing, err)
	}
	w, err := pgx.CollectExactlyOneRow(rows, scanWorker)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Worker{}, ErrNotFound
	case err != nil:
		return Worker{}, fmt.Errorf("%s: %w", doing, err)
	}
	return w, nil
}

// RegisterWorker stores a new worker, which is online from now on. It looks at Name, Queues, Kinds, Slots, Version and
// Labels.
func RegisterWorker(ctx context.Context, db DB, w Worker) (Worker, error) {
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	return oneWorker(ctx, db, "register a worker", `
		INSERT INTO mini_asynq.workers (name, queues, kinds, slots, version, labels)
		VALUES ($1, $2, $3, $4, nullif($5, ''), $6)
		RETURNING `+workerColumns, w.Name, w.Queues, w.Kinds, w.Slots, w.Version, w.Labels)
}

// GetWorker returns a worker, or ErrNotFound.
func GetWorker(ctx context.Context, db DB, id uuid.UUID) (Worker, error) {
	return oneWorker(ctx, db, "read a worker", `SELECT `+workerColumns+` FROM mini_asynq.workers WHERE id = $1`, id)
}

// Workers returns up to limit workers after an id, the oldest registration first.
func Workers(ctx context.Context, db DB, after uuid.UUID, limit int) ([]Worker, error) {
	rows, err := db.Query(ctx, `
		SELECT `+workerColumns+` FROM mini_asynq.workers WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanWorker)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return list, nil
}

// PresentWorkers returns the workers that are not offline, and how they are. It reads all of them: for the start of a node and
// for recounts.
func PresentWorkers(ctx context.Context, db DB) (map[uuid.UUID]WorkerState, error) {
	rows, err := db.Query(ctx, `SELECT id, state FROM mini_asynq.workers WHERE state <> 'offline'`)
	if err != nil {
		return nil, fmt.Errorf("read which workers are there: %w", err)
	}
	present := make(map[uuid.UUID]WorkerState)
	var id uuid.UUID
	var state WorkerState
	if _, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error { present[id] = state; return nil }); err != nil {
		return nil, fmt.Errorf("read which workers are there: %w", err)
	}
	return present, nil
}

// AskWorker tells a worker, at its next call, to claim no more or to finish and go. To drain goes further than to be quiet,
// and is not taken back.
func AskWorker(ctx context.Context, db DB, id uuid.UUID, what Asked, act Act) (w Worker, err error) {
	err = inTx(ctx, db, "ask a worker", func(tx pgx.Tx) error {
		if err := act.say(ctx, tx); err != nil {
			return err
		}
		w, err = oneWorker(ctx, tx, "ask a worker", `
			UPDATE mini_asynq.workers
			   SET asked = CASE asked WHEN 'drain' THEN asked ELSE $2 END,
			       state = CASE WHEN $2 = 'drain' AND state = 'online' THEN 'draining' ELSE state END
			 WHERE id = $1
			RETURNING `+workerColumns, id, what)
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{Action: "worker." + string(what), Target: id.String()})
	})
	return w, err
}

// HeldBy returns the leases of a worker. Index jobs_worker.
func HeldBy(ctx context.Context, db DB, worker uuid.UUID) ([]*Job, error) {
	rows, err := db.Query(ctx, `
		SELECT id, queue, fence, attempt, attempt_limit FROM mini_asynq.jobs WHERE worker_id = $1 AND locked_by IS NOT NULL`, worker)
	if err != nil {
		return nil, fmt.Errorf("look for the leases of a worker: %w", err)
	}
	held, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) {
		j := &Job{Status: Running}
		return j, row.Scan(&j.ID, &j.Queue, &j.Fence, &j.Attempt, &j.AttemptLimit)
	})
	if err != nil {
		return nil, fmt.Errorf("look for the leases of a worker: %w", err)
	}
	return held, nil
}

// RemoveWorker ends a registration and gives back the leases of the worker, without charging their attempts. A claim that
// is under way for it at another node is given back when its lease runs out. ErrNotFound if there is none.
func RemoveWorker(ctx context.Context, db DB, id uuid.UUID) error {
	tag, err := db.Exec(ctx, `DELETE FROM mini_asynq.workers WHERE id = $1`, id)
	if err != nil {
		return fmt.Errorf("remove a worker: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrNotFound
	}
	held, err := HeldBy(ctx, db, id)
	if err != nil {
		return err
	}
	return giveBack(ctx, db, held)
}

// giveBack releases leases. One whose row somebody else has locked at this moment runs out instead.
func giveBack(ctx context.Context, db DB, held []*Job) error {
	if len(held) == 0 {
		return nil
	}
	outcomes := make([]Outcome, len(held))
	for i, j := range held {
		outcomes[i] = Release(j, "worker")
	}
	_, err := Finish(ctx, db, outcomes)
	return err
}

// Heartbeat is a sign of life of a worker that names the leases it holds. The fences of leases that it left out are kept; those
// that it left out the last time, too, are given back: it never heard of them, or has lost them. Leases younger than young do
// not count: the answer to their claim may be on its way. Index jobs_worker. ErrNotFound if there is no such worker.
func Heartbeat(ctx context.Context, db DB, id uuid.UUID, leases []Lease, busy int, young time.Duration) (Worker, error) {
	_, fences := leaseArrays(leases)
	rows, err := db.Query(ctx, `
		WITH before AS (
		    SELECT left_out FROM mini_asynq.workers WHERE id = $1 FOR UPDATE
		), missing AS (
		    SELECT coalesce(array_agg(fence), '{}') AS fences FROM mini_asynq.jobs
		     WHERE worker_id = $1 AND locked_by IS NOT NULL AND fence <> ALL ($2::bigint[])
		       AND locked_at < clock_timestamp() - $4::interval
		)
		UPDATE mini_asynq.workers
		   SET last_seen_at = clock_timestamp(), busy = $3, left_out = missing.fences,
		       state = CASE WHEN state <> 'offline' THEN state WHEN asked = 'drain' THEN 'draining' ELSE 'online' END
		  FROM before, missing
		 WHERE id = $1
		RETURNING `+workerColumns+`,
		       ARRAY(SELECT unnest(missing.fences) INTERSECT SELECT unnest(before.left_out))`, id, fences, busy, young)
	if err != nil {
		return Worker{}, fmt.Errorf("heartbeat of a worker: %w", err)
	}
	var lost []int64
	w, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (w Worker, err error) {
		return w, row.Scan(append(w.dest(), &lost)...)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Worker{}, ErrNotFound
	case err != nil:
		return Worker{}, fmt.Errorf("heartbeat of a worker: %w", err)
	case len(lost) == 0:
		return w, nil
	}
	held, err := HeldBy(ctx, db, id)
	if err != nil {
		return Worker{}, err
	}
	held = slices.DeleteFunc(held, func(j *Job) bool { return !slices.Contains(lost, j.Fence) })
	return w, giveBack(ctx, db, held)
}

// SeeWorkers notes that workers are there: this node heard of them. In the same statement those that nobody heard of for
// WorkerSilence go offline. asked is what operators want of those that are registered still; left says whether any worker is
// not offline after that.
func SeeWorkers(ctx context.Context, db DB, ids []uuid.UUID) (asked map[uuid.UUID]Asked, left bool, err error) {
	rows, err := db.Query(ctx, `
		WITH seen AS (
		    UPDATE mini_asynq.workers
		       SET last_seen_at = clock_timestamp(),
		           state = CASE WHEN state <> 'offline' THEN state WHEN asked = 'drain' THEN 'draining' ELSE 'online' END
		     WHERE id = ANY ($1::uuid[])
		    RETURNING id, asked
		), gone AS (
		    UPDATE mini_asynq.workers SET state = 'offline'
		     WHERE id IN (
		           SELECT id FROM mini_asynq.workers
		            WHERE state <> 'offline' AND last_seen_at < clock_timestamp() - $2::interval AND id <> ALL ($1::uuid[])
		            ORDER BY id FOR UPDATE SKIP LOCKED) -- another node may be saying that they are there
		    RETURNING id
		)
		SELECT id, coalesce(asked, ''), true FROM seen
		 UNION ALL
		SELECT NULL, '', (SELECT count(*) FROM mini_asynq.workers WHERE state <> 'offline') > (SELECT count(*) FROM gone)`,
		idArray(ids), WorkerSilence)
	if err != nil {
		return nil, false, fmt.Errorf("note that workers are there: %w", err)
	}
	asked = make(map[uuid.UUID]Asked, len(ids))
	var id uuid.NullUUID
	var what Asked
	var some bool
	_, err = pgx.ForEachRow(rows, []any{&id, &what, &some}, func() error {
		if id.Valid {
			asked[id.UUID] = what
		}
		left = left || some
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("note that workers are there: %w", err)
	}
	return asked, left, nil
}

// DropWorkers forgets the workers that have been silent for so long, up to limit of them. Their leases have run out long ago.
func DropWorkers(ctx context.Context, db DB, silent time.Duration, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `
		DELETE FROM mini_asynq.workers WHERE id IN (
		    SELECT id FROM mini_asynq.workers WHERE last_seen_at < clock_timestamp() - $1::interval LIMIT $2)`, silent, limit)
	if err != nil {
		return 0, fmt.Errorf("forget silent workers: %w", err)
	}
	return tag.RowsAffected(), nil
}

// Ended is what is known of a claim: the job that it was of, and how its attempt ended.
type Ended struct {
	*Job             // as far as an outcome needs it: nil, there is no such job
	How  OutcomeKind // "": it has not ended, or nobody knows any more
}

// LookAtClaims tells for each lease, in order, which job it is of and how the attempt of that fence has ended.
// Indexes jobs_pkey and jobs_finished_id.
func LookAtClaims(ctx context.Context, db DB, leases []Lease) ([]Ended, error) {
	ids, fences := leaseArrays(leases)
	rows, err := db.Query(ctx, `
		WITH asked AS (
		    SELECT * FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS a(job_id, stated, place)
		), found AS (
		    SELECT a.place, a.stated, j.id, j.queue, j.kind, j.status, j.attempt, j.attempt_base, j.attempt_limit, j.fence,
		           j.locked_by, j.from_status, j.attempts
		      FROM asked a JOIN mini_asynq.jobs j ON j.id = a.job_id
		     UNION ALL
		    SELECT a.place, a.stated, j.id, j.queue, j.kind, j.status, j.attempt, j.attempt_base, j.attempt_limit, j.fence,
		           j.locked_by, j.from_status, j.attempts
		      FROM asked a JOIN mini_asynq.jobs_finished j ON j.id = a.job_id
		)
		SELECT place, id, queue, kind, status::text, attempt, attempt_base, attempt_limit, fence,
		       coalesce((SELECT u.status::text FROM unnest(attempts) AS u WHERE u.fence = stated LIMIT 1),
		           CASE WHEN fence <> stated OR locked_by IS NOT NULL THEN ''
		                WHEN status = 'completed' THEN 'completed'
		                -- Both give the attempt back and leave no row of it; from_status tells what the job became.
		                WHEN status = 'scheduled' OR from_status = 'scheduled' THEN 'snoozed'
		                WHEN status = 'pending' AND from_status = 'running' THEN 'released' ELSE '' END)
		  FROM found`, idArray(ids), fences)
	if err != nil {
		return nil, fmt.Errorf("look at claims: %w", err)
	}
	out := make([]Ended, len(leases))
	var place int
	var j Job
	var how OutcomeKind
	_, err = pgx.ForEachRow(rows, []any{&place, rawID(&j.ID), &j.Queue, &j.Kind, &j.Status, &j.Attempt, &j.AttemptBase,
		&j.AttemptLimit, &j.Fence, &how}, func() error {
		found := j
		out[place-1] = Ended{&found, how}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at claims: %w", err)
	}
	return out, nil
}
