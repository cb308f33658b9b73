package peers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// Slots is how many handlers run at once at each contender that has slots.
	Slots = 2000
	// Connections is how many connections to PostgreSQL each contender may use: what an engine of ours takes by default.
	Connections = 21
	// callLimit bounds each call of a contender.
	callLimit = 60 * time.Second
	// stopLimit bounds the end of a contender's work.
	stopLimit = 30 * time.Second
	// Queue is where all jobs of a workload wait.
	Queue = "bench"
)

// UnavailableError means that a contender needs something that is not on this machine.
type UnavailableError struct{ Peer, Reason string }

// Error tells what is missing.
func (e *UnavailableError) Error() string { return e.Peer + ": " + e.Reason }

// UnsupportedError means that a contender has no such thing: no attempts, no transactions.
type UnsupportedError struct{ Peer, What string }

// Error tells what it cannot do.
func (e *UnsupportedError) Error() string { return e.Peer + " cannot " + e.What }

// Skippable tells whether err is the reason to leave a cell out, rather than a failure.
func Skippable(err error) bool {
	var unavailable *UnavailableError
	var unsupported *UnsupportedError
	return errors.As(err, &unavailable) || errors.As(err, &unsupported)
}

// Setting is where a contender works: a fresh database and a fresh Redis, and where its programs lie.
type Setting struct {
	DSN       string
	RedisAddr string // empty: there is none
	Module    string // folder of bench, for graphile-worker
	Scratch   string // folder for logs
}

// ErrMeant is what a handler fails with when the workload wants it to.
var ErrMeant = errors.New("this attempt is meant to fail")

// Work says what handlers do. It is shared with them, so it is not copied.
type Work struct {
	FailOdd    bool                          // jobs with odd numbers fail their first attempt
	RetryAfter time.Duration                 // and are due again after this; used with FailOdd
	Began      func(n int64, when time.Time) // called by each attempt with the job's number; nil: only counted

	handled atomic.Int64
	first   atomic.Pointer[time.Time] // when the first attempt was handled
}

// Handled is how many attempts have been handled so far.
func (w *Work) Handled() int64 { return w.handled.Load() }

// First is when the first attempt was handled; zero before that. The clocks of drains begin here, so that no contender
// pays for its start: one connects, another starts a process.
func (w *Work) First() time.Time {
	if first := w.first.Load(); first != nil {
		return *first
	}
	return time.Time{}
}

// count adds handled attempts.
func (w *Work) count(n int64) {
	if w.handled.Add(n) == n {
		now := time.Now() // monotonic: a span on this machine
		w.first.CompareAndSwap(nil, &now)
	}
}

// handle is the handler's whole work, for every contender that lives in this process.
func (w *Work) handle(n int64, attempt int) error {
	if w.Began != nil {
		w.Began(n, time.Now()) // monotonic: spans on this machine
	}
	w.count(1)
	if w.FailOdd && n%2 == 1 && attempt == 1 {
		return ErrMeant
	}
	return nil
}

// payload is the argument of each job.
type payload struct {
	N int64 `json:"n"`
}

// Session is a contender on a fresh database. The methods for enqueuing may be called concurrently, the others not.
type Session interface {
	// Start lets it work; with nil it only comes up so far as enqueuing has it.
	Start(ctx context.Context, work *Work) error
	// Batch enqueues n jobs in one call, numbered from first.
	Batch(ctx context.Context, first int64, n int) error
	// Single enqueues one job in one call, as a program would that serves many callers.
	Single(ctx context.Context, n int64) error
	// Commit enqueues n jobs in a transaction of the caller, and says when its COMMIT was sent.
	Commit(ctx context.Context, first int64, n int) (time.Time, error)
	// Unfinished tells whether the store holds a job that has not reached its end. It may be asked often.
	Unfinished(ctx context.Context) (bool, error)
	// Account counts what the store shows. Stop comes first.
	Account(ctx context.Context) (Account, error)
	// Stop ends the work in order. Close gives up the rest; it stops too. Both may be called again.
	Stop() error
	Close() error
}

// Account is what a contender's store shows. -1: it does not keep that.
type Account struct {
	Waiting  int64 // jobs that are not finished
	Finished int64
	Attempts int64
	Events   int64
	// Published is how many of the events have their place in the stream; equal to Events, or the stream lacks some.
	Published int64
}

// AccountError means that a contender's store does not show what it should: the cell has failed.
type AccountError struct {
	Peer      string
	Want, Got Account
}

// Error shows both.
func (e *AccountError) Error() string {
	return fmt.Sprintf("%s: the store should show %+v and shows %+v", e.Peer, e.Want, e.Got)
}

// Check compares with what is wanted, but for what the contender does not keep.
func (a Account) Check(peer string, want Account) error {
	for _, pair := range [][2]int64{
		{a.Waiting, want.Waiting}, {a.Finished, want.Finished}, {a.Attempts, want.Attempts},
		{a.Events, want.Events}, {a.Published, want.Events},
	} {
		if pair[0] >= 0 && pair[0] != pair[1] {
			return &AccountError{Peer: peer, Want: want, Got: a}
		}
	}
	return nil
}

// String is the account in words.
func (a Account) String() string {
	text := fmt.Sprintf("%d waiting", a.Waiting)
	for _, part := range []struct {
		n    int64
		name string
	}{{a.Finished, "finished"}, {a.Attempts, "attempts"}, {a.Events, "events"}} {
		if part.n < 0 {
			text += ", no " + part.name + " kept"
		} else {
			text += fmt.Sprintf(", %d %s", part.n, part.name)
		}
	}
	return text
}

// Open opens a contender by its name.
func Open(ctx context.Context, name string, s Setting) (Session, error) {
	open, ok := openers[name]
	if !ok {
		return nil, &UnavailableError{Peer: name, Reason: "there is no such contender"}
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	session, err := open(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return session, nil
}
