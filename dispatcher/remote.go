package dispatcher

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Poll claims up to most jobs for a remote worker (want.Remote). While there are none it is parked as that many idle slots,
// until jobs come or ctx ends: it is woken like slots of this node and asks the database nothing by itself. Whoever gets jobs
// must tell the worker of them, or give them back (Work.Finish): the lease is not kept alive by this node.
func (d *Dispatcher) Poll(ctx context.Context, want Want, most int) []*Work {
	p := &poll{came: make(chan struct{})}
	want.Deliver = p.deliver
	demand := d.Join(want)
	demand.Add(most)
	select {
	case <-p.came:
	case <-ctx.Done():
	}
	demand.Close()
	return p.leave()
}

// poll is one parked call.
type poll struct {
	came chan struct{} // closed with the first delivery

	mu    sync.Mutex // guards works and gone
	works []*Work
	gone  bool // the call has been answered: what comes now is given back
}

func (p *poll) deliver(works []*Work) {
	p.mu.Lock()
	gone, first := p.gone, len(p.works) == 0
	if !gone {
		p.works = append(p.works, works...)
	}
	p.mu.Unlock()
	if gone {
		GiveBack(works)
		return
	}
	if first {
		close(p.came)
	}
}

func (p *poll) leave() []*Work {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	return p.works
}

// GiveBack returns claims that never reached their worker; their attempts are not charged.
func GiveBack(works []*Work) {
	for _, w := range works {
		w.Finish(jobs.Release(&w.Job.Job, "lost_claim"), nil)
	}
}

// Settle stores outcomes that were reported from elsewhere, in turns with all others, and returns when the database has said
// what became of them, in order. When ctx ends first that is its cause: they may be stored still.
func (d *Dispatcher) Settle(ctx context.Context, outcomes []jobs.Outcome) ([]jobs.Verdict, error) {
	verdicts := make([]jobs.Verdict, len(outcomes))
	if len(outcomes) == 0 {
		return verdicts, nil
	}
	var open atomic.Int64
	open.Store(int64(len(outcomes)))
	all := make(chan struct{}) // closed with the last verdict
	for i, o := range outcomes {
		w := &Work{Job: &jobs.Claimed{Job: jobs.Job{ID: o.JobID, Fence: o.Fence}}, dispatcher: d}
		w.Finish(o, func(_ *Work, v jobs.Verdict) {
			verdicts[i] = v
			if open.Add(-1) == 0 {
				close(all)
			}
		})
	}
	select {
	case <-all:
		return verdicts, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
