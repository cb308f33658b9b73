package jobs

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// OutcomeKind is how an attempt ended.
type OutcomeKind string

// The closed set of outcomes.
const (
	OutcomeCompleted    OutcomeKind = "completed"     // the handler returned no error
	OutcomeFailed       OutcomeKind = "failed"        // it returned one, or panicked
	OutcomeTimedOut     OutcomeKind = "timed_out"     // it ran into its timeout
	OutcomeLeaseExpired OutcomeKind = "lease_expired" // its node was not heard of: the reaper's word
	OutcomeCancelled    OutcomeKind = "cancelled"     // the handler says that the job is not wanted any more
	OutcomeSnoozed      OutcomeKind = "snoozed"       // not yet: back later, at no cost
	OutcomeReleased     OutcomeKind = "released"      // given back unstarted or unfinished, at no cost
)

// Outcome is what a worker says about an attempt. The constructors make well-formed ones; texts and JSON in it must be
// storable (NewFailure, CheckJSON), or the attempt is stored as failed for that reason.
type Outcome struct {
	JobID  uuid.UUID
	Fence  int64
	Kind   OutcomeKind
	Result json.RawMessage // completed: nil is none
	Error  *Failure        // failed, timed_out, lease_expired
	Delay  time.Duration   // until the retry, if there is one; of a snooze
	Final  bool            // failed: no retry, whatever is left of the budget
	Cause  string          // released: shutdown, worker, lost_claim

	retryable bool // an attempt that failed and was not the last: for failedSQL
	patient   bool // neither for that nor for completedSQL
}

// Complete is the outcome of a handler that returned no error.
func Complete(j *Job, result json.RawMessage) Outcome {
	return Outcome{JobID: j.ID, Fence: j.Fence, Kind: OutcomeCompleted, Result: result}
}

// Fail is the outcome of a handler that returned an error: retried after delay, if the budget has an attempt left.
func Fail(j *Job, failure *Failure, delay time.Duration) Outcome {
	return Outcome{
		JobID: j.ID, Fence: j.Fence, Kind: OutcomeFailed, Error: failure, Delay: delay, retryable: j.Attempt < j.AttemptLimit,
	}
}

// FailFinally is Fail without a retry.
func FailFinally(j *Job, failure *Failure) Outcome {
	out := Fail(j, failure, 0)
	out.Final, out.retryable = true, false
	return out
}

// TimeOut is the outcome of a handler that ran into its timeout.
func TimeOut(j *Job, failure *Failure, delay time.Duration) Outcome {
	out := Fail(j, failure, delay)
	out.Kind, out.retryable = OutcomeTimedOut, false
	return out
}

// ExpireLease is the reaper's outcome. It lands only if the lease has really run out by the database's clock.
func ExpireLease(j *Job, failure *Failure, delay time.Duration) Outcome {
	out := Fail(j, failure, delay)
	out.Kind, out.retryable = OutcomeLeaseExpired, false
	return out
}

// byReaper is the cause of an outcome that lands only if the lease has run out.
const byReaper = "reaper"

// ExpireAttempt is the reaper's outcome of an attempt at a remote worker that has run into its timeout. Like ExpireLease it
// lands only if the lease has really run out.
func ExpireAttempt(j *Job, failure *Failure, delay time.Duration) Outcome {
	out := TimeOut(j, failure, delay)
	out.Cause = byReaper
	return out
}

// CancelByWorker is the outcome of a handler that says that the job is not wanted any more.
func CancelByWorker(j *Job, failure *Failure) Outcome {
	out := Fail(j, failure, 0)
	out.Kind, out.retryable = OutcomeCancelled, false
	return out
}

// Limits of a snooze.
const (
	MinSnooze = 100 * time.Millisecond
	MaxSnooze = 365 * 24 * time.Hour
)

// SnoozeFor is the outcome of a handler that wants to be called later. The attempt is given back. A delay outside
// MinSnooze..MaxSnooze is moved to the nearer bound.
func SnoozeFor(j *Job, delay time.Duration) Outcome {
	return Outcome{
		JobID: j.ID, Fence: j.Fence, Kind: OutcomeSnoozed, Delay: min(max(delay, MinSnooze), MaxSnooze),
	}
}

// Release gives a claim back unfinished. The attempt is given back. cause is shutdown, worker or lost_claim.
func Release(j *Job, cause string) Outcome {
	return Outcome{JobID: j.ID, Fence: j.Fence, Kind: OutcomeReleased, Cause: cause}
}

// Patient is the outcome as one that never waits for a row which somebody else holds: its verdict is Busy then. It
// is never Undecided.
func (o Outcome) Patient() Outcome {
	o.patient = true
	return o
}

// Verdict is what became of an outcome.
type Verdict struct {
	Landed    bool          // false, and not Open: the fence was stale, and nothing was changed
	Busy      bool          // the row is locked by somebody else at this moment: nothing was changed, say it again later
	Undecided bool          // the fast way could not tell, and changed nothing: say it again, as Patient
	Status    Status        // the job's status afterwards
	DueIn     time.Duration // retrying, scheduled: until it is due
	Fault     error         // the outcome itself could not be stored: the attempt was stored as failed for this reason
}

// Open tells whether the outcome has to be said again.
func (v Verdict) Open() bool { return v.Busy || v.Undecided }
