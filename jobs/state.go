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
	Code  int16  // what the outbox stores for it
	From  Status // empty: the job is new
	To    Status // empty: the job is gone
	Event string
}

// steps is the transition table. The database holds the same one (legal_steps, step_code) and refuses every other pair;
// TestStepsAgreeWithDatabase compares them.
var steps = []Step{
	{1, "", Pending, "job.enqueued"},
	{2, "", Scheduled, "job.scheduled"},
	{3, "", Blocked, "job.blocked"},
	{4, Scheduled, Pending, "job.ready"},
	{5, Retrying, Pending, "job.ready"},
	{6, Blocked, Pending, "job.ready"},
	{7, Scheduled, Blocked, "job.blocked"},
	{8, Retrying, Blocked, "job.blocked"},
	{9, Pending, Blocked, "job.blocked"},
	{10, Blocked, Scheduled, "job.scheduled"},
	{11, Pending, Scheduled, "job.scheduled"},
	{12, Retrying, Scheduled, "job.scheduled"},
	{13, Pending, Running, "job.started"},
	{14, Running, Completed, "job.completed"},
	{15, Running, Retrying, "job.retrying"},
	{16, Running, Dead, "job.dead"},
	{17, Running, Scheduled, "job.snoozed"},
	{18, Running, Pending, "job.released"},
	{19, Running, Blocked, "job.released"},
	{20, Scheduled, Cancelled, "job.cancelled"},
	{21, Pending, Cancelled, "job.cancelled"},
	{22, Retrying, Cancelled, "job.cancelled"},
	{23, Blocked, Cancelled, "job.cancelled"},
	{24, Running, Cancelled, "job.cancelled"},
	{25, Dead, Pending, "job.redriven"},
	{26, Dead, Scheduled, "job.redriven"},
	{27, Dead, Blocked, "job.redriven"},
	{28, Cancelled, Blocked, "job.redriven"},
	{29, Pending, Dead, "job.redrive_undone"},
	{30, Scheduled, Dead, "job.redrive_undone"},
	{31, Blocked, Dead, "job.redrive_undone"},
	{32, Completed, "", "job.deleted"},
	{33, Cancelled, "", "job.deleted"},
	{34, Dead, "", "job.deleted"},
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
	ActionPatch  Action = "patch"
	ActionClone  Action = "clone"
)

// AllowedActions lists what an operator may do with a job in this status.
func (s Status) AllowedActions() []Action {
	switch s {
	case Scheduled:
		return []Action{ActionRunNow, ActionCancel, ActionPatch, ActionClone}
	case Retrying:
		return []Action{ActionRetry, ActionRunNow, ActionCancel, ActionPatch, ActionClone}
	case Pending, Blocked:
		return []Action{ActionCancel, ActionPatch, ActionClone}
	case Running:
		return []Action{ActionCancel, ActionClone}
	case Completed, Cancelled:
		return []Action{ActionClone, ActionDelete}
	case Dead:
		return []Action{ActionRetry, ActionClone, ActionDelete}
	}
	return nil
}
