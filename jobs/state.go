package jobs

import "slices"

// Status is where a job stands. The zero value is no status: a job that is new, or gone.
type Status string

// The statuses. Waiting are scheduled, pending, retrying and blocked; finished are completed, cancelled and dead.
const (
	Scheduled Status = "scheduled" // not due yet
	Pending   Status = "pending"   // may be claimed
	Running   Status = "running"   // claimed under a lease
	Completed Status = "completed" // its handler returned no error
	Retrying  Status = "retrying"  // failed, waits for its next attempt
	Dead      Status = "dead"      // gave up: the dead letter queue
	Blocked   Status = "blocked"   // waits for a parent or a gate
	Cancelled Status = "cancelled" // not wanted any more
)

// statuses lists all of them.
var statuses = [...]Status{Scheduled, Pending, Running, Completed, Retrying, Dead, Blocked, Cancelled}

// Valid tells whether s is one of the statuses.
func (s Status) Valid() bool { return slices.Contains(statuses[:], s) }

// Finished tells whether a job in this status has ended.
func (s Status) Finished() bool { return s == Completed || s == Cancelled || s == Dead }

// Waiting tells whether a job in this status has still to start.
func (s Status) Waiting() bool {
	return s == Scheduled || s == Pending || s == Retrying || s == Blocked
}

// Priority orders the jobs of a queue.
type Priority string

// The priorities, in the order in which they are claimed.
const (
	High   Priority = "high"
	Normal Priority = "normal"
	Low    Priority = "low"
)

// Valid tells whether p is one of the priorities.
func (p Priority) Valid() bool { return p == High || p == Normal || p == Low }

// Step is one legal transition and the event that tells of it.
type Step struct {
	From  Status // empty: the job is new
	To    Status // empty: the job is gone
	Event string
}

// steps is the transition table. The database holds the same one (legal_steps, step_event) and refuses every other
// pair; TestStepsAgreeWithDatabase compares them.
var steps = []Step{
	{"", Pending, "job.enqueued"},
	{"", Scheduled, "job.scheduled"},
	{"", Blocked, "job.blocked"},
	{Scheduled, Pending, "job.ready"},
	{Retrying, Pending, "job.ready"},
	{Blocked, Pending, "job.ready"},
	{Scheduled, Blocked, "job.blocked"},
	{Retrying, Blocked, "job.blocked"},
	{Pending, Blocked, "job.blocked"},
	{Blocked, Scheduled, "job.scheduled"},
	{Pending, Scheduled, "job.scheduled"},
	{Retrying, Scheduled, "job.scheduled"},
	{Pending, Running, "job.started"},
	{Running, Completed, "job.completed"},
	{Running, Retrying, "job.retrying"},
	{Running, Dead, "job.dead"},
	{Running, Scheduled, "job.snoozed"},
	{Running, Pending, "job.released"},
	{Running, Blocked, "job.released"},
	{Scheduled, Cancelled, "job.cancelled"},
	{Pending, Cancelled, "job.cancelled"},
	{Retrying, Cancelled, "job.cancelled"},
	{Blocked, Cancelled, "job.cancelled"},
	{Running, Cancelled, "job.cancelled"},
	{Dead, Pending, "job.redriven"},
	{Dead, Scheduled, "job.redriven"},
	{Dead, Blocked, "job.redriven"},
	{Cancelled, Blocked, "job.redriven"},
	{Pending, Dead, "job.redrive_undone"},
	{Scheduled, Dead, "job.redrive_undone"},
	{Blocked, Dead, "job.redrive_undone"},
	{Completed, "", "job.deleted"},
	{Cancelled, "", "job.deleted"},
	{Dead, "", "job.deleted"},
}

// Steps returns the transition table.
func Steps() []Step { return slices.Clone(steps) }

// Action is what an operator may do with a job.
type Action string

// The actions of the REST interface.
const (
	ActionRetry  Action = "retry"
	ActionRunNow Action = "run-now"
	ActionCancel Action = "cancel"
	ActionDelete Action = "delete"
)

// AllowedActions lists what an operator may do with a job in this status.
func (s Status) AllowedActions() []Action {
	switch s {
	case Scheduled:
		return []Action{ActionRunNow, ActionCancel}
	case Retrying:
		return []Action{ActionRetry, ActionRunNow, ActionCancel}
	case Pending, Blocked, Running:
		return []Action{ActionCancel}
	case Completed, Cancelled:
		return []Action{ActionDelete}
	case Dead:
		return []Action{ActionRetry, ActionDelete}
	}
	return nil
}
