package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrNotFound means that there is no such job or queue.
	ErrNotFound = errors.New("jobs: not found")
	// ErrLeaseLost means that the fence is not the current one: the attempt was ended by somebody else, and what was
	// said about it changed nothing.
	ErrLeaseLost = errors.New("jobs: lease lost")
	// ErrNotCommitted fails an attempt whose handler called CompleteTx and returned no error, but whose transaction did
	// not commit: the job is not completed, and neither is what the handler wrote.
	ErrNotCommitted = errors.New("jobs: the transaction that completed the job was not committed")
	// ErrIdempotencyInFlight means that the first request with this key still runs: try again.
	ErrIdempotencyInFlight = errors.New("jobs: the first request with this idempotency key is still in flight")
	// ErrIdempotencyReused means that the key was used for another request.
	ErrIdempotencyReused = errors.New("jobs: the idempotency key was used for another request")
	// ErrCommitUnknown means that the connection was lost while the commit was under way: it may have happened.
	// A retry with the same idempotency key is safe.
	ErrCommitUnknown = errors.New("jobs: connection lost during commit: it may have happened")
	// ErrCursor means that a page cursor is damaged or belongs to another query.
	ErrCursor = errors.New("jobs: invalid page cursor")
	// ErrTooBroad means that a query over jobs ran into its deadline.
	ErrTooBroad = errors.New("jobs: the query is too broad")
	// ErrPauseUnconfirmed means that the pause is stored, but that a claim from before it was still under way when the
	// deadline passed.
	ErrPauseUnconfirmed = errors.New("jobs: the pause is stored but not confirmed yet")
	// ErrClosed means that the inserter has stopped.
	ErrClosed = errors.New("jobs: the inserter has stopped")

	// ErrTimeout is the cause with which a handler's context ends at the attempt's timeout.
	ErrTimeout = errors.New("jobs: the attempt ran into its timeout")
	// ErrCancelled is the cause with which a handler's context ends when an operator cancels the job.
	ErrCancelled = errors.New("jobs: the job was cancelled")
	// ErrShutdown is the cause with which a handler's context ends when the node stops and its grace is over.
	ErrShutdown = errors.New("jobs: the node is stopping")
)

// Fault is one value that was refused.
type Fault struct {
	Pointer string // RFC 6901, relative to the job: "/queue"; "" is the job as a whole
	Code    string // for machines: invalid_name, out_of_range, too_long ...
	Detail  string // for people
}

// ValidationError says which values of a job were refused. Nothing was stored.
type ValidationError struct{ Faults []Fault }

func (e *ValidationError) Error() string {
	parts := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		parts[i] = strings.TrimPrefix(f.Pointer, "/") + ": " + f.Detail
	}
	return "jobs: refused: " + strings.Join(parts, "; ")
}

// TransitionError says that the status of a job forbids an action.
type TransitionError struct {
	ID     uuid.UUID
	Status Status
	Action Action
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("jobs: %s is not possible for a job that is %s", e.Action, e.Status)
}

// isRefusal tells errors that say what is wrong with a call from those that say what went wrong.
func isRefusal(err error) bool {
	var transition *TransitionError
	var version *VersionError
	var over *OperationOverError
	var refused *ValidationError
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrWrongEpoch) || errors.As(err, &transition) ||
		errors.As(err, &version) || errors.As(err, &over) || errors.As(err, &refused)
}

// SQLSTATEs that this package branches on; appendix A of PostgreSQL's manual.
const (
	stateLockNotAvailable = "55P03"
	stateCheckViolation   = "23514"
	stateUniqueViolation  = "23505"
	stateForeignKey       = "23503"
	stateSerialization    = "40001"
	stateDeadlock         = "40P01"
	stateQueryCancelled   = "57014"
	stateAdminShutdown    = "57P01"
	stateCrashShutdown    = "57P02"
	stateBrokenFence      = "MA503" // mini_asynq.refuse_claim
	stateCachedPlan       = "0A000" // "cached plan must not change result type", after a migration
)

// sqlState returns the SQLSTATE of a server error, "" for any other.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// Locked tells whether a statement gave up waiting for a lock that somebody else holds. It changed nothing.
func Locked(err error) bool { return sqlState(err) == stateLockNotAvailable }

// Transient tells whether the same call may succeed when it is made again: a deadlock, a serialization failure, a
// cancelled statement, or a database that is away. It says nothing about whether the failed call took effect.
func Transient(err error) bool {
	switch sqlState(err) {
	case stateSerialization, stateDeadlock, stateQueryCancelled, stateLockNotAvailable, stateCachedPlan:
		return true
	}
	return Unavailable(err)
}

// Unavailable tells whether err says that the database cannot be used at the moment: it is away, refuses connections,
// is read-only, locked, out of space or out of connections, or a deadline passed.
func Unavailable(err error) bool {
	if err == nil {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code[:2] {
		case "08", "53", "57", "58": // connection, resources, operator intervention, system error
			return true
		}
		// A read-only transaction: a standby, or a disk that was taken away. Or a table that somebody has locked.
		return pg.Code == "25006" || pg.Code == stateLockNotAvailable
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrCommitUnknown) {
		return true
	}
	// What is left of pgx is I/O on a connection that broke.
	return pgconn.Timeout(err) || pgconn.SafeToRetry(err) || isNetwork(err)
}

// commitUnknown turns the error of a statement that commits by itself into ErrCommitUnknown when it may have taken
// effect: the request left, and what came back was no verdict of the server. A backend that is told to die may have
// committed before it said so.
func commitUnknown(err error) error {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return err // nothing was sent
	}
	switch state := sqlState(err); {
	case err == nil, pgconn.SafeToRetry(err):
		return err
	case state == stateAdminShutdown, state == stateCrashShutdown, state == "" && isNetwork(err):
		return fmt.Errorf("%w (%w)", ErrCommitUnknown, err)
	}
	return err
}
