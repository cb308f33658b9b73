package jobstest

import (
	"slices"
	"testing"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Registry knows which kinds it handles; nil kinds means all. A *workers.Registry is one.
type Registry interface {
	Handler
	Kinds() []string
}

// Option says what Drain works on.
type Option func(*draining)

type draining struct {
	atOnce bool
	most   int
	queues []string
}

// AtOnce makes time pass: when nothing is due any more, the next scheduled job, retry or snooze becomes due, the nearest
// first, until there is none.
func AtOnce() Option { return func(d *draining) { d.atOnce = true } }

// AtMost bounds how many attempts are made before the test fails; it is 1000 otherwise. A handler that always snoozes, or
// enqueues its own successor, would never let Drain end.
func AtMost(attempts int) Option { return func(d *draining) { d.most = attempts } }

// OnlyQueues leaves the jobs of all other queues as they are.
func OnlyQueues(names ...string) Option { return func(d *draining) { d.queues = names } }

// Drain works on every job that is due and of a kind that the registry knows, also on those that its handlers enqueue
// meanwhile, one after the other in this goroutine, until there is none, and tells how each attempt ended. Jobs that are
// not due, and those of other kinds, stay as they are; so do paused queues.
//
// The jobs are claimed and their outcomes stored as a node does. Given a transaction everything happens in it: a handler
// that is to see its job, or completes it by jobs.CompleteTx, must work in that transaction, too. A pgx.Tx has a Begin, so
// handlers that take a jobs.DB fit both.
//
// In a database that others use Drain takes their jobs, and would wait for nobody who holds one.
func Drain(t testing.TB, db jobs.DB, registry Registry, options ...Option) []Worked {
	t.Helper()
	d := draining{most: 1000}
	for _, option := range options {
		option(&d)
	}
	kinds := registry.Kinds()
	if kinds != nil && len(kinds) == 0 {
		t.Fatalf("jobstest: the registry has no handler")
	}
	var all []Worked
	for {
		job := d.next(t, db, kinds)
		if job == nil {
			return all
		}
		if len(all) == d.most {
			t.Fatalf("jobstest: there is still work after %d attempts: a job of kind %s", d.most, job.Kind)
		}
		worked, outcome := work(t.Context(), registry, job, db)
		finish(t, db, &worked, outcome)
		all = append(all, worked)
	}
}

// next claims a job, nil if there is none.
func (d *draining) next(t testing.TB, db jobs.DB, kinds []string) *jobs.Claimed {
	t.Helper()
	ctx := t.Context()
	for {
		if _, err := jobs.Promote(ctx, db, 1000); err != nil {
			t.Fatalf("jobstest: %v", err)
		}
		queues, err := jobs.PendingQueues(ctx, db)
		if err != nil {
			t.Fatalf("jobstest: %v", err)
		}
		for _, queue := range queues {
			if d.queues != nil && !slices.Contains(d.queues, queue) {
				continue
			}
			claim := jobs.Claim{Queue: queue, Limit: 1, Kinds: kinds, Worker: node, Lease: lease}
			result, err := jobs.Turn{Claims: []jobs.Claim{claim}}.Do(ctx, db)
			if err != nil {
				t.Fatalf("jobstest: %v", err)
			}
			if len(result.Claimed[0]) > 0 {
				return result.Claimed[0][0]
			}
		}
		if !d.atOnce || !d.forward(t, db, kinds) {
			return nil
		}
	}
}

// forward makes the next job due that is not, and tells whether there is one.
func (d *draining) forward(t testing.TB, db jobs.DB, kinds []string) bool {
	t.Helper()
	filter := jobs.Filter{Statuses: []jobs.Status{jobs.Scheduled, jobs.Retrying}, Queues: d.queues, Kinds: kinds}
	waiting, _, err := jobs.List(t.Context(), db, filter, jobs.Page{Sort: jobs.ByRunAt, Limit: 1})
	if err == nil && len(waiting) > 0 {
		_, err = jobs.RunJobNow(t.Context(), db, waiting[0].ID, jobs.Act{Actor: node})
	}
	if err != nil {
		t.Fatalf("jobstest: %v", err)
	}
	return len(waiting) > 0
}

// finish stores an outcome and completes what is told about the attempt.
func finish(t testing.TB, db jobs.DB, worked *Worked, outcome jobs.Outcome) {
	t.Helper()
	verdicts, err := jobs.Finish(t.Context(), db, []jobs.Outcome{outcome})
	if err != nil {
		t.Fatalf("jobstest: store the outcome of a job of kind %s: %v", worked.Job.Kind, err)
	}
	switch v := verdicts[0]; {
	case v.Open():
		t.Fatalf("jobstest: the handler of kind %s has left a transaction open that holds its job", worked.Job.Kind)
	case v.Fault != nil:
		t.Fatalf("jobstest: %v", v.Fault)
	case v.Landed:
		worked.Status = v.Status
		return
	}
	job, err := jobs.Get(t.Context(), db, worked.Job.ID)
	if err != nil {
		t.Fatalf("jobstest: %v", err)
	}
	worked.Status = job.Status
	if worked.completing && job.Status == jobs.Completed {
		worked.Outcome, worked.Final, worked.Delay = jobs.OutcomeCompleted, false, 0
		if worked.Err == jobs.ErrNotCommitted { //nolint:errorlint // work put it there, and nobody has wrapped it
			worked.Err = nil
		}
	}
}
