package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

// How a node carries operations out. It holds them under a lease of its own kind, and takes portion after portion: looks
// for the next jobs without locking anything, then changes them in one transaction, which begins by asking, under the lock of
// the operation's row, whether the operation is still running and still this node's. So two nodes never do the same portion,
// a cancel is obeyed before the next job, and what a dead node left is carried on from where it was.

const (
	portionJobs     = 500 // at most
	portionsASecond = 4   // of an operation with a rate
	portionWait     = "1s"
	maxKeptErrors   = 20
	watchedAtOnce   = 500
)

// ClaimOperations takes up to limit operations that no node carries out, oldest first. next is when it is worth to ask again:
// when the lease of another node's operation would run out; 0: there is none. Index operations_running.
func ClaimOperations(ctx context.Context, db DB, node string, lease time.Duration, limit int) (ops []*Operation, next time.Duration, err error) {
	rows, err := db.Query(ctx, `
		WITH free AS (
		    SELECT id FROM mini_asynq.operations
		     WHERE status = 'running' AND (holder IS NULL OR held_until <= (SELECT clock_timestamp()))
		     ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
		)
		UPDATE mini_asynq.operations
		   SET holder = $1, held_until = clock_timestamp() + $2::interval
		 WHERE id IN (SELECT id FROM free)
		RETURNING `+operationColumns+`, job_ids`, node, lease, limit)
	if err == nil {
		ops, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Operation, error) {
			var ids []uuid.UUID
			op, err := scanOperation(row, &ids)
			if err == nil {
				op.ids = ids
			}
			return op, err
		})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("claim operations: %w", err)
	}
	slices.SortFunc(ops, func(a, b *Operation) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	var left *time.Duration
	err = db.QueryRow(ctx, `SELECT min(greatest(held_until - clock_timestamp(), interval '0')) FROM mini_asynq.operations
		WHERE status = 'running' AND holder <> $1`, node).Scan(&left)
	if err != nil {
		return ops, 0, fmt.Errorf("look at the operations of other nodes: %w", err)
	}
	if left != nil {
		next = max(*left, time.Millisecond)
	}
	return ops, next, nil
}

// ReleaseOperations lets other nodes have what this one holds, at once.
func ReleaseOperations(ctx context.Context, db DB, node string) error {
	_, err := db.Exec(ctx, `UPDATE mini_asynq.operations SET holder = NULL, held_until = NULL, told_at = clock_timestamp()
		WHERE status = 'running' AND holder = $1`, node)
	return wrap("release operations", err)
}

// FailOperation ends an operation that cannot be carried out.
func FailOperation(ctx context.Context, db DB, id uuid.UUID, node, detail string) error {
	_, err := db.Exec(ctx, `UPDATE mini_asynq.operations
		SET status = 'failed', finished_at = clock_timestamp(), updated_at = clock_timestamp(), holder = NULL, held_until = NULL,
		    errors = errors || jsonb_build_object('job_id', '00000000-0000-0000-0000-000000000000', 'code', 'operation', 'detail', $3::text)
		WHERE id = $1 AND holder = $2 AND status = 'running'`, id, node, Storable(detail, 256))
	return wrap("fail an operation", err)
}

// Portion is how far an operation came.
type Portion struct {
	Jobs int           // that were looked at
	Over bool          // it has ended, or another node has it
	Wait time.Duration // until the rate allows the next portion
}

// CarryOn does the next portion of an operation that the node holds, and prolongs its lease. What fails for the sake of one
// job is done job by job, and that job counts as failed: one row never wedges the others.
func (op *Operation) CarryOn(ctx context.Context, db DB, node string, lease time.Duration) (p Portion, err error) {
	after, wait, err := op.hold(ctx, db, node, lease)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Portion{Over: true}, nil
	case err != nil:
		return p, fmt.Errorf("hold an operation: %w", err)
	case wait > 0:
		return Portion{Wait: wait}, nil
	}
	ids, last, err := op.next(ctx, db, after)
	if err != nil {
		return p, fmt.Errorf("look for the next jobs of an operation: %w", err)
	}
	if err := failpoint.Hit("jobs.operation.before_portion"); err != nil {
		return p, err
	}
	tried := portion{op: op, node: node, ids: ids, last: last}
	p, err = tried.do(ctx, db)
	if sqlState(err) == stateLockNotAvailable { // somebody holds a row for long: it counts as changed
		tried.impatient = true
		p, err = tried.do(ctx, db)
	}
	if err != nil && sqlState(err) != "" && !Transient(err) && ctx.Err() == nil {
		tried.singly = true
		p, err = tried.do(ctx, db)
	}
	if err != nil {
		return p, fmt.Errorf("do a portion of an operation: %w", err)
	}
	return p, failpoint.Hit("jobs.operation.after_portion")
}

// hold prolongs the lease, and reads where to begin and when. pgx.ErrNoRows: the operation is over, or another node's.
func (op *Operation) hold(ctx context.Context, db DB, node string, lease time.Duration) (after uuid.UUID, wait time.Duration, err error) {
	err = db.QueryRow(ctx, `
		UPDATE mini_asynq.operations SET held_until = clock_timestamp() + $3::interval
		 WHERE id = $1 AND holder = $2 AND status = 'running'
		RETURNING coalesce(last_id, '00000000-0000-0000-0000-000000000000'),
		          greatest(next_at - clock_timestamp(), interval '0')`, op.ID, node, lease).Scan(rawID(&after), &wait)
	return after, wait, err
}

// size is how many jobs a portion takes.
func (op *Operation) size() int {
	if op.Rate == 0 {
		return portionJobs
	}
	return min(max(op.Rate/portionsASecond, 1), portionJobs)
}

// next finds the jobs of the next portion, without locks. last is true if there are no more behind them. Ids are UUIDv7:
// their order is that of age. A filter reads the primary key of jobs and jobs_finished_id from after on.
func (op *Operation) next(ctx context.Context, db DB, after uuid.UUID) (ids []uuid.UUID, last bool, err error) {
	n := op.size()
	if op.Filter == nil {
		from, found := slices.BinarySearchFunc(op.ids, after, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
		if found {
			from++
		}
		rest := op.ids[from:]
		return rest[:min(n, len(rest))], len(rest) <= n, nil
	}
	q := op.selection().query()
	q.where("id > %s", after)
	q.args = append(q.args, n)
	rows, err := db.Query(ctx, `SELECT id FROM mini_asynq.all_jobs`+q.clause()+fmt.Sprintf(` ORDER BY id LIMIT $%d`, len(q.args)), q.args...)
	if err == nil {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	return ids, len(ids) < n, err
}

func (op *Operation) selection() Selection {
	s := Selection{Action: op.Action, IDs: op.ids, Before: op.Before}
	if op.Filter != nil {
		s.Filter = *op.Filter
	}
	s.Filter.Within = op.within
	return s
}

// portion is some jobs of an operation, on their way through one transaction.
type portion struct {
	op        *Operation
	node      string
	ids       []uuid.UUID
	last      bool
	impatient bool // pass over rows that others hold
	singly    bool // each job in a savepoint of its own

	sent   []sentJob
	done   int
	errors []OperationError
}

// sentJob is a job that will run because of the operation.
type sentJob struct {
	id      uuid.UUID
	attempt int // charged starts
}

func (p *portion) do(ctx context.Context, db DB) (out Portion, err error) {
	p.sent, p.done, p.errors = nil, 0, nil
	out = Portion{Jobs: len(p.ids)}
	err = inTx(ctx, db, string(p.op.Action), func(tx pgx.Tx) error {
		var ended, badly int64
		err := tx.QueryRow(ctx, `
			SELECT ended, ended_badly FROM mini_asynq.operations
			 WHERE id = $1 AND holder = $2 AND status = 'running' FOR UPDATE`, p.op.ID, p.node).Scan(&ended, &badly)
		if errors.Is(err, pgx.ErrNoRows) {
			out = Portion{Over: true}
			return nil
		}
		if err != nil {
			return err
		}
		if stop := p.op.Stop; stop != nil {
			newly, newlyBad, err := p.op.watch(ctx, tx)
			if err != nil {
				return err
			}
			ended, badly = ended+newly, badly+newlyBad
			if ended >= int64(stop.Sample) && float64(badly) > stop.Ratio*float64(ended) {
				out = Portion{Over: true}
				return p.op.stop(ctx, tx, ended, badly)
			}
		}
		if err := p.act(ctx, tx); err != nil {
			return err
		}
		out.Over = p.last
		return p.store(ctx, tx, ended, badly, &out)
	})
	return out, err
}

// act changes the jobs.
func (p *portion) act(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, portionWait); err != nil {
		return err
	}
	if !p.singly {
		sent, done, err := p.actOn(ctx, tx, p.ids)
		p.sent, p.done = sent, done
		return err
	}
	for _, id := range p.ids {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			sent, done, err := p.actOn(ctx, tx, []uuid.UUID{id})
			if err == nil {
				p.sent, p.done = append(p.sent, sent...), p.done+done
			}
			return err
		})
		state := sqlState(err)
		switch {
		case err == nil || state == stateLockNotAvailable:
		case state == "" || Transient(err):
			return err
		default:
			p.errors = append(p.errors, OperationError{id, state, "the database refused to change the job"})
		}
	}
	return nil
}

// actOn takes the action to jobs: it locks those that still are as the selection found them, live ones first, by id, and
// changes each in one step with one event. What it does not find so was changed by somebody else.
func (p *portion) actOn(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (sent []sentJob, done int, err error) {
	op := p.op
	locked, err := p.lock(ctx, tx, ids)
	if err != nil {
		return nil, 0, err
	}
	reason := Storable(op.Reason, 1024)
	exec := func(sql string, of []sentJob, args ...any) error {
		if len(of) == 0 {
			return nil
		}
		ids := make([]uuid.UUID, len(of))
		for i, job := range of {
			ids[i] = job.id
		}
		tag, err := tx.Exec(ctx, sql, append([]any{idArray(ids)}, args...)...)
		done += int(tag.RowsAffected())
		return err
	}
	switch op.Action {
	case ActionRetry, ActionRunNow:
		forward := slices.Concat(locked[Retrying], locked[Scheduled])
		if err := exec(bringForwardSQL, forward, time.Duration(0), op.Actor, reason); err != nil {
			return nil, 0, err
		}
		if err := exec(redriveSQL, locked[Dead], time.Duration(0), op.Actor, reason); err != nil {
			return nil, 0, err
		}
		return slices.Concat(forward, locked[Dead]), done, nil
	case ActionCancel:
		if err := exec(requestCancelSQL, locked[Running], op.Actor, reason); err != nil {
			return nil, 0, err
		}
		waiting := slices.Concat(locked[Scheduled], locked[Pending], locked[Retrying], locked[Blocked])
		err = exec(cancelWaitingSQL, waiting, op.Actor, reason)
		return nil, done, err
	case ActionDelete:
		if err := (Act{Actor: op.Actor, Reason: op.Reason}).say(ctx, tx); err != nil {
			return nil, 0, err
		}
		finished := slices.Concat(locked[Completed], locked[Cancelled], locked[Dead])
		err = exec(deleteFinishedSQL, finished)
		return nil, done, err
	}
	return nil, 0, fmt.Errorf("no bulk operation: %s", op.Action)
}

// Locks of a portion: by id, live rows before finished ones. Claims pass over them and never wait. A row that an earlier
// transaction holds is waited for as long as portionWait, and read again: the condition on updated_at tells whether it
// changed. Indexes jobs_pkey and jobs_finished_id.
const (
	lockLiveSQL = `
SELECT id, status::text, attempt FROM mini_asynq.jobs
 WHERE id = ANY ($1::uuid[]) AND status = ANY ($2::text[]::mini_asynq.job_status[]) AND updated_at <= $3
   AND ($4::text[] IS NULL OR queue = ANY ($4)) ORDER BY id FOR UPDATE`
	lockFinishedSQL = `
SELECT id, status::text, attempt FROM mini_asynq.jobs_finished
 WHERE id = ANY ($1::uuid[]) AND status = ANY ($2::text[]::mini_asynq.job_status[]) AND updated_at <= $3
   AND ($4::text[] IS NULL OR queue = ANY ($4)) ORDER BY id FOR UPDATE`
	skipLocked = ` SKIP LOCKED`
)

// lock holds the rows of those jobs that the action is possible for, and tells their statuses.
func (p *portion) lock(ctx context.Context, tx pgx.Tx, ids []uuid.UUID) (map[Status][]sentJob, error) {
	live, finished := lockLiveSQL, lockFinishedSQL
	if p.impatient {
		live, finished = live+skipLocked, finished+skipLocked
	}
	locked := make(map[Status][]sentJob)
	for _, table := range []struct {
		sql      string
		finished bool
	}{{live, false}, {finished, true}} {
		statuses := slices.DeleteFunc(p.op.Action.possible(), func(s Status) bool { return s.Finished() != table.finished })
		if len(statuses) == 0 {
			continue
		}
		rows, err := tx.Query(ctx, table.sql, idArray(ids), texts(statuses), p.op.Before, p.op.within)
		if err != nil {
			return nil, err
		}
		var job sentJob
		var status Status
		_, err = pgx.ForEachRow(rows, []any{rawID(&job.id), &status, &job.attempt}, func() error {
			locked[status] = append(locked[status], job)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return locked, nil
}

// watch counts the first attempts that have ended, of the jobs that were sent and not counted yet: the oldest first, since
// they run first. Indexes: the primary key, jobs_pkey, jobs_finished_id.
func (op *Operation) watch(ctx context.Context, tx pgx.Tx) (ended, badly int64, err error) {
	err = tx.QueryRow(ctx, `
		WITH known AS (
		    SELECT s.job_id, a.status IN ('failed', 'timed_out', 'lease_expired') AS badly
		      FROM (SELECT job_id, attempt FROM mini_asynq.operation_jobs WHERE operation_id = $1 ORDER BY job_id LIMIT $2) s
		     CROSS JOIN LATERAL (
		           SELECT status FROM mini_asynq.job_attempts a
		            WHERE a.job_id = s.job_id AND a.attempt_number = s.attempt + 1 LIMIT 1) a
		), gone AS (
		    DELETE FROM mini_asynq.operation_jobs o USING known k
		     WHERE o.operation_id = $1 AND o.job_id = k.job_id
		    RETURNING k.badly
		)
		SELECT count(*), count(*) FILTER (WHERE badly) FROM gone`, op.ID, watchedAtOnce).Scan(&ended, &badly)
	return ended, badly, err
}

// stop ends an operation whose jobs fail again.
func (op *Operation) stop(ctx context.Context, tx pgx.Tx, ended, badly int64) error {
	_, err := tx.Exec(ctx, `
		UPDATE mini_asynq.operations
		   SET status = 'stopped', ended = $2, ended_badly = $3, finished_at = clock_timestamp(), updated_at = clock_timestamp(),
		       holder = NULL, held_until = NULL
		 WHERE id = $1`, op.ID, ended, badly)
	if err != nil {
		return err
	}
	return op.unwatch(ctx, tx)
}

func (op *Operation) unwatch(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `DELETE FROM mini_asynq.operation_jobs WHERE operation_id = $1`, op.ID)
	return err
}

// storeSQL adds a portion up. The rate is kept by a time that each portion moves on, from where it was and not from when the
// portion ended; a second that was lost (a slow database, another node) is made up for, and no more than that. Jobs that
// matched in the beginning and were not found later count as skipped at the end. One event a second.
const storeSQL = `
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
UPDATE mini_asynq.operations
   SET done = done + $2, failed = failed + $3,
       skipped = CASE WHEN $4 THEN greatest(skipped + $5, total - done - $2 - failed - $3) ELSE skipped + $5 END,
       total = greatest(total, done + $2 + failed + $3 + skipped + $5),
       errors = CASE WHEN jsonb_array_length(errors) >= $11 THEN errors ELSE errors || $6::jsonb END, ended = $7, ended_badly = $8, last_id = coalesce($9, last_id),
       next_at = CASE WHEN rate IS NULL THEN now
                      ELSE greatest(next_at, now - interval '1 s') + $10::double precision / rate * interval '1 s' END,
       status = CASE WHEN $4 THEN 'completed' ELSE status END,
       finished_at = CASE WHEN $4 THEN now END,
       holder = CASE WHEN NOT $4 THEN holder END, held_until = CASE WHEN NOT $4 THEN held_until END,
       updated_at = now, told_at = CASE WHEN told_at <= now - interval '1 s' THEN now ELSE told_at END
  FROM clock
 WHERE id = $1
RETURNING greatest(next_at - now, interval '0')`

// store notes what the portion did.
func (p *portion) store(ctx context.Context, tx pgx.Tx, ended, badly int64, out *Portion) error {
	if p.op.Stop != nil && len(p.sent) > 0 && !p.last {
		if err := p.note(ctx, tx); err != nil {
			return err
		}
	}
	var last *uuid.UUID
	if len(p.ids) > 0 {
		last = &p.ids[len(p.ids)-1]
	}
	kept, err := json.Marshal(append([]OperationError{}, p.errors[:min(len(p.errors), maxKeptErrors)]...))
	if err != nil {
		return err
	}
	failed := len(p.errors)
	err = tx.QueryRow(ctx, storeSQL, p.op.ID, int64(p.done), int64(failed), p.last, int64(len(p.ids)-p.done-failed), kept,
		ended, badly, last, len(p.ids), maxKeptErrors).Scan(&out.Wait)
	if err != nil || !p.last {
		return err
	}
	return p.op.unwatch(ctx, tx)
}

// note remembers the jobs that were sent, to see what becomes of them.
func (p *portion) note(ctx context.Context, tx pgx.Tx) error {
	ids, attempts := make([]uuid.UUID, len(p.sent)), make([]int, len(p.sent))
	for i, job := range p.sent {
		ids[i], attempts[i] = job.id, job.attempt
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO mini_asynq.operation_jobs (operation_id, job_id, attempt)
		SELECT $1, * FROM unnest($2::uuid[], $3::integer[])`, p.op.ID, idArray(ids), attempts)
	return err
}
