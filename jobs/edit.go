package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Edit is what of a job an operator may change. A field that is nil stays as it is.
type Edit struct {
	Priority   *Priority
	MaxRetries *int
	RunAt      *time.Time     // past: now
	Delay      *time.Duration // from now; excludes RunAt
	Timeout    *time.Duration
	Tags       *[]string
	Metadata   *map[string]string
}

// AnyVersion as the version that an edit is based on: whatever it is.
const AnyVersion int64 = -1

// VersionError says that a job has another version than an edit is based on.
type VersionError struct{ Version int64 } // the present one

func (e *VersionError) Error() string {
	return fmt.Sprintf("jobs: the job is at version %d by now", e.Version)
}

// editSQL writes all that an edit may change, of a job whose row the transaction holds. The cause tells the trigger what to
// say in the event.
const editSQL = `
UPDATE mini_asynq.jobs
   SET priority = $2::text::mini_asynq.job_priority, max_retries = $3::integer, attempt_limit = attempt_base + $3::integer + 1, run_at = $4,
       timeout = $5, tags = $6, metadata = $7, status = $8::text::mini_asynq.job_status,
       version = version + 1, updated_at = clock_timestamp(),
       from_status = status, prev_event_xid = event_xid, event_xid = pg_current_xact_id(),
       cause = 'changed:' || array_to_string($9::text[], ','), actor = nullif($10, ''), comment = nullif($11, '')
 WHERE id = $1`

// EditJob changes a job that waits, if it still has the version that the caller knows. A change of run_at takes the job to
// where that time puts it: scheduled or pending. An edit that changes nothing makes neither event nor version.
// ErrNotFound; *VersionError; *TransitionError for a job that is running or finished; *ValidationError.
//
// Against a claim the row lock decides, as for CancelJob.
func EditJob(ctx context.Context, db DB, id uuid.UUID, based int64, e Edit, act Act) (job *Job, err error) {
	checked, err := e.check()
	if err != nil {
		return nil, err
	}
	err = inTx(ctx, db, "edit", func(tx pgx.Tx) error {
		var now time.Time
		job, now, err = lockForEdit(ctx, tx, id)
		if err != nil {
			return err
		}
		if based != AnyVersion && based != job.Version {
			return &VersionError{job.Version}
		}
		if !job.Status.Waiting() {
			return &TransitionError{ID: id, Status: job.Status, Action: ActionPatch}
		}
		next, changed, err := checked.apply(job, now)
		if err != nil || len(changed) == 0 {
			return err
		}
		var timeout *time.Duration
		if next.Timeout != 0 {
			timeout = &next.Timeout
		}
		if _, err = tx.Exec(ctx, editSQL, id, string(next.Priority), next.MaxRetries, next.RunAt, timeout, orNoTags(next.Tags),
			orNoDocument(next.Metadata), string(next.Status), changed, act.Actor, Storable(act.Reason, 1024)); err != nil {
			return err
		}
		before := job
		if job, err = get(ctx, tx, id); err != nil {
			return err
		}
		return act.Record(ctx, tx, Entry{
			Action: "job.edit", Target: id.String(), Before: before.told(changed), After: job.told(changed),
		})
	})
	if err != nil {
		return nil, err
	}
	return job, nil
}

// lockForEdit reads a job and the time, and holds the row of a live one.
func lockForEdit(ctx context.Context, tx pgx.Tx, id uuid.UUID) (job *Job, now time.Time, err error) {
	status, err := lockLive(ctx, tx, id)
	if err != nil {
		return nil, now, err
	}
	if status == "" {
		job, err = getFinished(ctx, tx, id)
		return job, now, err
	}
	if job, err = get(ctx, tx, id); err != nil {
		return nil, now, err
	}
	return job, now, tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
}

// checkedEdit is an Edit whose values a job may have.
type checkedEdit struct {
	Edit
	metadata json.RawMessage
}

// check holds an edit to the rules of a new job.
func (e Edit) check() (checkedEdit, error) {
	p := Params{Queue: DefaultQueue, MaxRetries: e.MaxRetries}
	if e.Priority != nil {
		p.Priority = *e.Priority
	}
	if e.RunAt != nil {
		p.RunAt = *e.RunAt
	}
	if e.Delay != nil {
		p.Delay = *e.Delay
	}
	if e.Timeout != nil {
		p.Timeout = *e.Timeout
	}
	if e.Tags != nil {
		p.Tags = *e.Tags
	}
	if e.Metadata != nil {
		p.Metadata = *e.Metadata
	}
	if e.RunAt != nil && e.Delay != nil {
		return checkedEdit{}, &ValidationError{Faults: []Fault{{"/delay", "conflict", "run_at or delay, not both"}}}
	}
	r, err := newRow(p)
	if err != nil {
		return checkedEdit{}, err
	}
	return checkedEdit{e, r.metadata}, nil
}

// apply makes the job as it will be, and names the fields that differ.
func (e checkedEdit) apply(job *Job, now time.Time) (next *Job, changed []string, err error) {
	to := *job
	differs := func(name string, is bool) {
		if is {
			changed = append(changed, name)
		}
	}
	if e.Priority != nil {
		differs("priority", *e.Priority != job.Priority)
		to.Priority = *e.Priority
	}
	if e.MaxRetries != nil {
		if used := job.BudgetAttempts(); *e.MaxRetries < used {
			return nil, nil, &ValidationError{Faults: []Fault{{"/max_retries", "out_of_range",
				fmt.Sprintf("at least %d: so many attempts were made already", used)}}}
		}
		differs("max_retries", *e.MaxRetries != job.MaxRetries)
		to.MaxRetries = *e.MaxRetries
	}
	if e.RunAt != nil || e.Delay != nil {
		if err := e.due(&to, now); err != nil {
			return nil, nil, err
		}
		differs("run_at", !to.RunAt.Equal(job.RunAt))
	}
	if e.Timeout != nil {
		differs("timeout", *e.Timeout != job.Timeout)
		to.Timeout = *e.Timeout
	}
	if e.Tags != nil {
		differs("tags", !slices.Equal(*e.Tags, job.Tags))
		to.Tags = *e.Tags
	}
	if e.Metadata != nil {
		differs("metadata", !sameMetadata(*e.Metadata, job.Metadata))
		to.Metadata = e.metadata
	}
	return &to, changed, nil
}

// due sets the time of a job and the status that it leads to.
func (e checkedEdit) due(job *Job, now time.Time) error {
	at := now
	if e.Delay != nil {
		at = now.Add(e.Delay.Truncate(time.Microsecond))
	} else if given := e.RunAt.Truncate(time.Microsecond); given.After(now) || given.Equal(job.RunAt) {
		at = given
	}
	if at.Sub(now) > MaxAhead {
		return runAtTooFar()
	}
	if at.Equal(job.RunAt) {
		return nil
	}
	job.RunAt = at
	switch {
	case job.Status == Blocked: // what blocks it still does
	case at.After(now):
		job.Status = Scheduled
	default:
		job.Status = Pending
	}
	return nil
}

func sameMetadata(given map[string]string, stored json.RawMessage) bool {
	var have map[string]string
	if len(stored) > 0 && json.Unmarshal(stored, &have) != nil {
		return false // written by hand; it will be what was given
	}
	return maps.Equal(given, have)
}

func orNoTags(tags []string) any {
	if len(tags) == 0 {
		return nil
	}
	return tags
}

func orNoDocument(document json.RawMessage) any {
	if len(document) == 0 || string(document) == "{}" {
		return nil
	}
	return document
}

// told is some fields of a job for the audit log.
func (j *Job) told(fields []string) map[string]any {
	all := map[string]any{
		"priority": j.Priority, "max_retries": j.MaxRetries, "run_at": j.RunAt.UTC(), "tags": j.Tags, "metadata": j.Metadata,
		"timeout": nil,
	}
	if j.Timeout != 0 {
		all["timeout"] = j.Timeout.String()
	}
	maps.DeleteFunc(all, func(name string, _ any) bool { return !slices.Contains(fields, name) })
	if slices.Contains(fields, "run_at") {
		all["status"] = j.Status
	}
	return all
}
