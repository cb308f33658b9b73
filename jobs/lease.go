package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Lease is the right to run a job: its id and the fence of the claim.
type Lease struct {
	JobID uuid.UUID
	Fence int64
}

// Extension is what became of the extension of a lease.
type Extension struct {
	Held            bool // false and not Busy: the lease was lost, and with it the right to run
	Busy            bool // the row is locked by somebody else at this moment: nothing was extended, ask again
	CancelRequested bool // the job was asked to stop

	Remaining time.Duration // of a lease that is held; not positive: the attempt is over
}

func leaseArrays(leases []Lease) (ids []uuid.UUID, fences []int64) {
	ids, fences = make([]uuid.UUID, len(leases)), make([]int64, len(leases))
	for i, l := range leases {
		ids[i], fences[i] = l.JobID, l.Fence
	}
	return ids, fences
}

// DefaultTimeout bounds an attempt where neither the job nor the node says how long it may take.
const DefaultTimeout = 30 * time.Minute

// Overtime is how long after its timeout an attempt may still say how it ended.
const Overtime = 5 * time.Second

// Extend moves the end of leases to now + lease, and tells per lease, in order, whether it is still held. With a timeout that
// is not zero (it counts for jobs that have none of their own) no lease is moved past the end of its attempt's overtime: nodes
// end their own attempts then, a remote worker need not. It makes no event and no new version. An expired lease that nobody has ended yet is extended: the fence decides.
// Index jobs_pkey. Locks the rows in id order and passes over those that others hold (Busy): one row that a stranger's
// transaction keeps must not cost the leases of all others.
func Extend(ctx context.Context, db DB, leases []Lease, lease, timeout time.Duration) ([]Extension, error) {
	ids, fences := leaseArrays(leases)
	var limit, overtime *time.Duration
	if timeout > 0 {
		limit, overtime = &timeout, new(Overtime)
	}
	rows, err := db.Query(ctx, `
		WITH asked AS (
		    SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS a(job_id, stated)
		), mine AS MATERIALIZED (
		    SELECT j.id FROM asked a
		      JOIN mini_asynq.jobs j ON j.id = a.job_id AND j.fence = a.stated AND j.locked_by IS NOT NULL
		     ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
		), extended AS (
		    -- least passes over null: no limit.
		    UPDATE mini_asynq.jobs j
		       SET lease_expires_at = least(clock_timestamp() + $3::interval, locked_at + coalesce(timeout, $4) + $5::interval)
		      FROM mine WHERE j.id = mine.id
		    RETURNING j.id, j.fence, j.cancel_requested_at IS NOT NULL AS cancel, lease_expires_at - clock_timestamp() AS remaining
		)
		SELECT id, fence, true, cancel, remaining FROM extended
		 UNION ALL
		SELECT j.id, j.fence, false, false, interval '0' FROM asked a
		  JOIN mini_asynq.jobs j ON j.id = a.job_id AND j.fence = a.stated AND j.locked_by IS NOT NULL
		 WHERE NOT EXISTS (SELECT FROM mine WHERE mine.id = j.id)`, idArray(ids), fences, lease, limit, overtime)
	if err != nil {
		return nil, fmt.Errorf("extend leases: %w", err)
	}
	answers := make(map[Lease]Extension, len(leases))
	var l Lease
	var held, cancelled bool
	var remaining time.Duration
	_, err = pgx.ForEachRow(rows, []any{rawID(&l.JobID), &l.Fence, &held, &cancelled, &remaining}, func() error {
		answers[l] = Extension{Held: held, Busy: !held, CancelRequested: cancelled, Remaining: remaining}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("extend leases: %w", err)
	}
	out := make([]Extension, len(leases))
	for i, l := range leases {
		out[i] = answers[l]
	}
	return out, nil
}

// SetProgress stores what a running handler says about itself; ErrLeaseLost with a stale fence. Each makes an event, so one that
// comes sooner than rest after the one before is left out.
func SetProgress(ctx context.Context, db DB, lease Lease, percent float64, message string, rest time.Duration) error {
	var held bool
	err := db.QueryRow(ctx, `
		WITH told AS (
		    UPDATE mini_asynq.jobs
		       SET progress = jsonb_build_object('percent', $3::float8, 'message', $4::text, 'at',
		               to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
		           version = version + 1, updated_at = clock_timestamp(),
		           from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(), cause = 'progress',
		           -- Who asked it to stop, and why, is told when it has stopped.
		           actor = CASE WHEN cancel_requested_at IS NOT NULL THEN actor END,
		           comment = CASE WHEN cancel_requested_at IS NOT NULL THEN comment END
		     WHERE id = $1 AND fence = $2 AND locked_by IS NOT NULL
		       AND (progress IS NULL OR (progress->>'at')::timestamptz <= clock_timestamp() - $5::interval)
		    RETURNING id
		)
		SELECT EXISTS (SELECT FROM told)
		    OR EXISTS (SELECT FROM mini_asynq.jobs WHERE id = $1 AND fence = $2 AND locked_by IS NOT NULL)`,
		lease.JobID, lease.Fence, min(max(percent, 0), 100), Storable(message, MaxProgressText), rest).Scan(&held)
	if err != nil {
		return fmt.Errorf("store progress: %w", err)
	}
	if !held {
		return ErrLeaseLost
	}
	return nil
}

// MaxProgressText is how many bytes of a message about progress are kept.
const MaxProgressText = 256

// Expired is a running job whose lease has run out.
type Expired struct {
	*Job
	TimedOut bool // of a remote worker, whose lease is never longer than its attempt may take: that is over
}

// ExpiredLeases returns up to limit running jobs whose lease has run out, the oldest first; index jobs_lease. It locks
// nothing: the outcome that the reaper makes of each states the fence and looks at the lease again (ExpireLease).
//
// timeout counts for jobs that have none of their own: overtime says whose attempt was over with its lease.
func ExpiredLeases(ctx context.Context, db DB, limit int, timeout time.Duration) ([]Expired, error) {
	rows, err := db.Query(ctx, `
		SELECT id, queue, kind, attempt, attempt_base, attempt_limit, lease_losses, fence, locked_by,
		       worker_id IS NOT NULL AND lease_expires_at >= locked_at + coalesce(timeout, $2) + $3
		  FROM mini_asynq.jobs
		 WHERE status = 'running' AND lease_expires_at <= (SELECT clock_timestamp())
		 ORDER BY lease_expires_at LIMIT $1`, limit, timeout, Overtime)
	if err != nil {
		return nil, fmt.Errorf("look for expired leases: %w", err)
	}
	expired, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Expired, error) {
		j := Expired{Job: &Job{Status: Running}}
		return j, row.Scan(&j.ID, &j.Queue, &j.Kind, &j.Attempt, &j.AttemptBase, &j.AttemptLimit, &j.LeaseLosses,
			&j.Fence, &j.LockedBy, &j.TimedOut)
	})
	if err != nil {
		return nil, fmt.Errorf("look for expired leases: %w", err)
	}
	return expired, nil
}

// LostClaims returns the running jobs of a node that it does not know of: claims whose answer got lost with a
// connection. The node must have no claim under way. Index jobs_lease, all running jobs.
func LostClaims(ctx context.Context, db DB, worker string, known []uuid.UUID) ([]*Job, error) {
	rows, err := db.Query(ctx, `
		SELECT id, queue, kind, attempt, fence FROM mini_asynq.jobs
		 WHERE status = 'running' AND locked_by = $1 AND worker_id IS NULL AND id <> ALL ($2::uuid[])`, worker, idArray(known))
	if err != nil {
		return nil, fmt.Errorf("look for lost claims: %w", err)
	}
	lost, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) {
		j := &Job{Status: Running, LockedBy: worker}
		return j, row.Scan(&j.ID, &j.Queue, &j.Kind, &j.Attempt, &j.Fence)
	})
	if err != nil {
		return nil, fmt.Errorf("look for lost claims: %w", err)
	}
	return lost, nil
}
