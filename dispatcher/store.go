package dispatcher

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Store is what the dispatcher asks of the database; the functions of package jobs of the same names say what each
// means.
type Store interface {
	Turn(context.Context, jobs.Turn) (jobs.TurnResult, error)
	Finish(context.Context, []jobs.Outcome) ([]jobs.Verdict, error)
	Extend(context.Context, []jobs.Lease, time.Duration) ([]jobs.Extension, error)
	LostClaims(ctx context.Context, worker string, known []uuid.UUID) ([]*jobs.Job, error)
	ExpiredLeases(ctx context.Context, limit int, timeout time.Duration) ([]jobs.Expired, error)
	Promote(ctx context.Context, limit int) ([]jobs.Ready, error)
	NextDue(context.Context) (jobs.Due, error)
	ResumeDue(context.Context) ([]string, error)
	PendingQueues(context.Context) ([]string, error)
}

// Database is the Store that PostgreSQL is.
type Database struct {
	// Engine carries turns. Its connections have jobs.PlanSettings and application_name = jobs.ClaimApplicationName.
	Engine jobs.DB
	// Keeper carries everything else: extensions of leases must not wait behind turns.
	Keeper jobs.DB
}

var _ Store = Database{}

// Turn is jobs.Turn.Do.
func (d Database) Turn(ctx context.Context, t jobs.Turn) (jobs.TurnResult, error) {
	return t.Do(ctx, d.Engine)
}

// Finish is jobs.Finish.
func (d Database) Finish(ctx context.Context, o []jobs.Outcome) ([]jobs.Verdict, error) {
	return jobs.Finish(ctx, d.Keeper, o)
}

// Extend is jobs.Extend.
func (d Database) Extend(ctx context.Context, l []jobs.Lease, lease time.Duration) ([]jobs.Extension, error) {
	return jobs.Extend(ctx, d.Keeper, l, lease, 0) // a node ends its own attempts
}

// LostClaims is jobs.LostClaims.
func (d Database) LostClaims(ctx context.Context, worker string, known []uuid.UUID) ([]*jobs.Job, error) {
	return jobs.LostClaims(ctx, d.Keeper, worker, known)
}

// ExpiredLeases is jobs.ExpiredLeases.
func (d Database) ExpiredLeases(ctx context.Context, limit int, timeout time.Duration) ([]jobs.Expired, error) {
	return jobs.ExpiredLeases(ctx, d.Keeper, limit, timeout)
}

// Promote is jobs.Promote.
func (d Database) Promote(ctx context.Context, limit int) ([]jobs.Ready, error) {
	return jobs.Promote(ctx, d.Keeper, limit)
}

// NextDue is jobs.NextDue.
func (d Database) NextDue(ctx context.Context) (jobs.Due, error) { return jobs.NextDue(ctx, d.Keeper) }

// ResumeDue is jobs.ResumeDue.
func (d Database) ResumeDue(ctx context.Context) ([]string, error) {
	return jobs.ResumeDue(ctx, d.Keeper)
}

// PendingQueues is jobs.PendingQueues.
func (d Database) PendingQueues(ctx context.Context) ([]string, error) {
	return jobs.PendingQueues(ctx, d.Keeper)
}
