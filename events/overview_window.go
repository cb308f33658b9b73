package events

import (
	"slices"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// histogramBounds are the upper bounds, in seconds, of all histograms of waits and runs; the last bucket has none.
var histogramBounds = [...]float64{
	.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200,
}

// histogram counts spans per bucket.
type histogram [len(histogramBounds) + 1]uint32

func (h *histogram) add(milliseconds int64) {
	i, _ := slices.BinarySearch(histogramBounds[:], float64(milliseconds)/1000)
	h[i]++
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other {
		h[i] += n
	}
}

// quantiles estimates the 50th, 95th and 99th percentile, in seconds, as Prometheus does: evenly spread inside a bucket;
// the last bucket counts as its lower bound. 0 without any.
func (h *histogram) quantiles() (p50, p95, p99 float64) {
	var total float64
	for _, n := range h {
		total += float64(n)
	}
	at := func(share float64) float64 {
		if total == 0 {
			return 0
		}
		rank, below := share*total, 0.0
		for i, n := range h {
			if n == 0 || below+float64(n) < rank {
				below += float64(n)
				continue
			}
			if i == len(histogramBounds) {
				break
			}
			low := 0.0
			if i > 0 {
				low = histogramBounds[i-1]
			}
			return low + (histogramBounds[i]-low)*(rank-below)/float64(n)
		}
		return histogramBounds[len(histogramBounds)-1]
	}
	return at(.5), at(.95), at(.99)
}

// step is what one event means for the numbers.
type step struct {
	from, to  int8 // of the statuses that are counted; -1: none of them
	enqueued  bool
	started   bool
	completed bool
	failed    bool // an attempt
	dead      bool
	wait, run int64 // milliseconds; -1: the event says none
}

func stepOf(e *Event) step {
	s := step{from: indexOf(e.From), to: indexOf(e.Status), wait: -1, run: -1}
	if e.From == e.Status {
		return s
	}
	s.enqueued = e.From == ""
	s.started = e.Status == jobs.Running
	s.completed = e.Status == jobs.Completed
	s.dead = e.Status == jobs.Dead && e.From == jobs.Running
	s.failed = e.From == jobs.Running && (e.Status == jobs.Retrying || e.Status == jobs.Dead)
	if s.started && e.WaitMS != nil {
		s.wait = *e.WaitMS
	}
	if e.From == jobs.Running && e.RunMS != nil {
		s.run = *e.RunMS
	}
	return s
}

// bucket is what happened in one slice of time.
type bucket struct {
	slot                                       int64 // which slice, since 1970
	enqueued, started, completed, failed, died uint32
	pending                                    int32 // change of the number of pending jobs
	wait, run                                  histogram
}

func (b *bucket) add(s step) {
	one := func(yes bool) uint32 {
		if yes {
			return 1
		}
		return 0
	}
	b.enqueued += one(s.enqueued)
	b.started += one(s.started)
	b.completed += one(s.completed)
	b.failed += one(s.failed)
	b.died += one(s.dead)
	if s.from != s.to {
		if s.from == atPending {
			b.pending--
		}
		if s.to == atPending {
			b.pending++
		}
	}
	if s.wait >= 0 {
		b.wait.add(s.wait)
	}
	if s.run >= 0 {
		b.run.add(s.run)
	}
}

func (b *bucket) merge(other *bucket) {
	b.enqueued += other.enqueued
	b.started += other.started
	b.completed += other.completed
	b.failed += other.failed
	b.died += other.died
	b.pending += other.pending
	b.wait.merge(&other.wait)
	b.run.merge(&other.run)
}

// window is a circle of buckets. Slices in which nothing happened have none, so a quiet queue costs a few pointers.
type window struct {
	width   time.Duration
	buckets []*bucket
}

func newWindow(width, span time.Duration) *window {
	return &window{width: width, buckets: make([]*bucket, int(span/width))}
}

func (w *window) slot(t time.Time) int64 { return t.UnixNano() / int64(w.width) }

func (w *window) start(slot int64) time.Time { return time.Unix(0, slot*int64(w.width)).UTC() }

// oldest is the first slice that the window holds at a time.
func (w *window) oldest(now time.Time) int64 { return w.slot(now) - int64(len(w.buckets)) + 1 }

// at returns the bucket of a slice, nil if it holds nothing.
func (w *window) at(slot int64) *bucket {
	b := w.buckets[int(slot%int64(len(w.buckets)))]
	if b == nil || b.slot != slot {
		return nil
	}
	return b
}

// add counts a step at the time that the event states. A time that is ahead of now (clocks differ) counts as now, one
// that is older than the window is passed over.
func (w *window) add(now, at time.Time, s step) {
	last := w.slot(now)
	slot := min(w.slot(at), last)
	if slot <= last-int64(len(w.buckets)) {
		return
	}
	place := &w.buckets[int(slot%int64(len(w.buckets)))]
	if *place == nil || (*place).slot != slot {
		*place = &bucket{slot: slot}
	}
	(*place).add(s)
}

// trim gives the memory of old slices back.
func (w *window) trim(now time.Time) {
	oldest := w.oldest(now)
	for i, b := range w.buckets {
		if b != nil && (b.slot < oldest || b.slot > w.slot(now)) {
			w.buckets[i] = nil
		}
	}
}

// sum merges the slices from one to another, both included.
func (w *window) sum(from, to int64) (total bucket) {
	for slot := from; slot <= to; slot++ {
		if b := w.at(slot); b != nil {
			total.merge(b)
		}
	}
	return total
}

// The resolutions of a history: 1 h in steps of 5 s (about 130 KB when something happens in each), 24 h in steps of a
// minute (250 KB). A short history is the five minutes that rates and percentiles need.
const (
	fineWidth   = 5 * time.Second
	fineSpan    = time.Hour
	shortSpan   = summarySpan + 2*fineWidth
	coarseWidth = time.Minute
	coarseSpan  = 24 * time.Hour

	rateSpan    = time.Minute
	summarySpan = 5 * time.Minute
)

// history is the course of one queue, or of all.
type history struct {
	fine   *window
	coarse *window // nil: a short one
}

func newHistory(long bool) *history {
	if !long {
		return &history{fine: newWindow(fineWidth, shortSpan)}
	}
	// One slice more than the span: the present one is not over.
	return &history{
		fine:   newWindow(fineWidth, fineSpan+fineWidth),
		coarse: newWindow(coarseWidth, coarseSpan+coarseWidth),
	}
}

func (h *history) add(now, at time.Time, s step) {
	h.fine.add(now, at, s)
	if h.coarse != nil {
		h.coarse.add(now, at, s)
	}
}

func (h *history) trim(now time.Time) {
	h.fine.trim(now)
	if h.coarse != nil {
		h.coarse.trim(now)
	}
}

// summary computes rates and percentiles. The rates are over the last full minute and the present slice, or over less
// if the history is younger.
func (h *history) summary(now, since time.Time) (n QueueNumbers) {
	w := h.fine
	last := w.slot(now)
	first := last - int64(rateSpan/fineWidth)
	minute := w.sum(first, last)
	begin := w.start(first)
	if since.After(begin) {
		begin = since
	}
	span := max(now.Sub(begin).Seconds(), 1)
	n.EnqueuedPerSec = float64(minute.enqueued) / span
	n.StartedPerSec = float64(minute.started) / span
	n.CompletedPerSec = float64(minute.completed) / span
	n.FailedPerSec = float64(minute.failed) / span
	recent := w.sum(last-int64(summarySpan/fineWidth), last)
	n.WaitP50, n.WaitP95, n.WaitP99 = recent.wait.quantiles()
	n.RunP50, n.RunP95, n.RunP99 = recent.run.quantiles()
	return n
}

// course reads a series. The backlog is reckoned backwards from the present number of pending jobs, so it is as exact
// as that.
func (h *history) course(now, since time.Time, span, step time.Duration, pending int64) Series {
	w := h.fine
	if span > fineSpan && h.coarse != nil {
		w = h.coarse
	}
	per := max(1, int64((step+w.width-1)/w.width)) // slices in a step
	last := w.slot(now)
	// Steps lie on multiples of their width, so that a chart that is read again does not tremble.
	end := last - last%per
	width := time.Duration(per) * w.width
	count := max(1, int64((span+width-1)/width))
	from := end - (count-1)*per
	earliest := max(w.oldest(now), w.slot(since))
	if from < earliest {
		from = min(end, earliest-earliest%per)
	}
	s := Series{
		Step: width, From: w.start(from), Points: make([]Point, (end-from)/per+1),
	}
	for i := len(s.Points) - 1; i >= 0; i-- {
		begin := from + int64(i)*per
		sum := w.sum(max(begin, earliest), begin+per-1)
		p := &s.Points[i]
		*p = Point{
			At: w.start(begin), Enqueued: int64(sum.enqueued), Completed: int64(sum.completed),
			Failed: int64(sum.failed), Dead: int64(sum.died), Backlog: max(0, pending),
		}
		p.WaitP50, p.WaitP95, p.WaitP99 = sum.wait.quantiles()
		p.RunP50, p.RunP95, p.RunP99 = sum.run.quantiles()
		pending -= int64(sum.pending)
	}
	return s
}
