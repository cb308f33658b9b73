package dispatcher

import (
	"sync"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Work is a claimed job on its way through a worker. The dispatcher keeps its lease alive until the outcome is stored.
type Work struct {
	Job *jobs.Claimed

	dispatcher *Dispatcher

	mu       sync.Mutex // guards the rest; nothing is called under it
	stop     func(cause error)
	cause    error // why the attempt must stop; nil: it need not
	finished bool

	// Owned by leases, under its lock: when the lease was last confirmed to be ours (the sending of the request).
	confirmed time.Time
}

// OnStop sets what is called, once, when the attempt must stop: with jobs.ErrLeaseLost when the lease is lost or about
// to be, with jobs.ErrCancelled when the job was asked to stop. If that is so already, it is called at once.
func (w *Work) OnStop(stop func(cause error)) {
	w.mu.Lock()
	cause := w.cause
	w.stop = stop
	w.mu.Unlock()
	if cause != nil {
		stop(cause)
	}
}

// halt tells the worker to stop. Only the first cause counts.
func (w *Work) halt(cause error) {
	w.mu.Lock()
	stop := w.stop
	if w.finished || w.cause != nil {
		w.mu.Unlock()
		return
	}
	w.cause = cause
	w.mu.Unlock()
	if stop != nil {
		stop(cause)
	}
}

// Finish reports how the attempt ended. Only the first report of an attempt counts. stored is called, if it is not nil,
// when the database has said what became of it; it must not block.
func (w *Work) Finish(outcome jobs.Outcome, stored func(*Work, jobs.Verdict)) {
	w.mu.Lock()
	done := w.finished
	w.finished = true
	w.mu.Unlock()
	if done {
		return
	}
	w.dispatcher.report(report{work: w, outcome: outcome, stored: stored})
}

// report is an outcome on its way to the database.
type report struct {
	work    *Work
	outcome jobs.Outcome
	stored  func(*Work, jobs.Verdict)
}
