package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Overview is what queues and statistics are read from: memory, folded from the stream, so that a viewer costs no query.
type Overview interface {
	// Counted returns when there are numbers, or when ctx ends with an error.
	Counted(ctx context.Context) error
	Queue(name string) (events.QueueNumbers, bool)
	Queues() []events.QueueNumbers
	// Stats is the series of a queue, "" is all of them.
	Stats(queue string, window, step time.Duration) events.Series
}

// noOverview is a node that has no numbers.
type noOverview struct{}

func (noOverview) Counted(context.Context) error            { return nil }
func (noOverview) Queue(string) (events.QueueNumbers, bool) { return events.QueueNumbers{}, false }
func (noOverview) Queues() []events.QueueNumbers            { return nil }
func (noOverview) Stats(_ string, _, step time.Duration) events.Series {
	return events.Series{Step: step}
}

// counted are the statuses whose jobs a queue counts: what waits, runs, or wants a person.
var counted = []jobs.Status{jobs.Scheduled, jobs.Pending, jobs.Running, jobs.Retrying, jobs.Blocked, jobs.Dead}

// queueOf joins a queue's row with its numbers; either may be missing: the row of a new queue is written after its
// first event, and a queue that was only ever paused has no jobs.
func queueOf(name string, row jobs.Queue, n events.QueueNumbers) queueBody {
	b := queueBody{
		Name: name, Paused: row.Paused, Counts: make(map[jobs.Status]int64, len(counted)),
		OldestPendingAt: stamp(n.OldestPendingAt),
		Rates: ratesBody{number(n.EnqueuedPerSec), number(n.StartedPerSec), number(n.CompletedPerSec),
			number(n.FailedPerSec)},
		WaitSeconds: quantiles{number(n.WaitP50), number(n.WaitP95), number(n.WaitP99)},
		RunSeconds:  quantiles{number(n.RunP50), number(n.RunP95), number(n.RunP99)},
		Slots:       n.Slots, Busy: n.Busy, Version: row.Version,
	}
	for _, status := range counted {
		b.Counts[status] = n.Counts[status]
	}
	if row.Paused {
		b.Pause = &pauseBody{text(row.PauseReason), stamp(row.PausedAt), stamp(row.PausedUntil), text(row.Actor)}
	}
	return b
}

// countWait is how long a caller waits for a node that has just started to count its queues.
const countWait = 2 * time.Second

// counted refuses to show queues before they were counted: all would be empty, and as_of would say that they are.
func (s *Server) counted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, countWait)
	defer cancel()
	if s.config.Overview.Counted(ctx) != nil {
		return events.ErrNotReady
	}
	return nil
}

func (s *Server) listQueues(c *gin.Context) error {
	if err := noQuery(c); err != nil {
		return err
	}
	if err := s.counted(c.Request.Context()); err != nil {
		return err
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.config.Deadline)
	defer cancel()
	rows, err := jobs.ListQueues(ctx, s.config.DB)
	if err != nil {
		return err
	}
	numbers := make(map[string]events.QueueNumbers)
	for _, n := range s.config.Overview.Queues() {
		numbers[n.Name] = n
	}
	out := list[queueBody]{Data: make([]queueBody, 0, len(rows)), AsOf: asOf}
	for _, row := range rows {
		out.Data = append(out.Data, queueOf(row.Name, row, numbers[row.Name]))
		delete(numbers, row.Name)
	}
	for name, n := range numbers {
		out.Data = append(out.Data, queueOf(name, jobs.Queue{}, n))
	}
	who := callOf(c).principal
	out.Data = slices.DeleteFunc(out.Data, func(q queueBody) bool { return !who.Sees(q.Name) })
	slices.SortFunc(out.Data, func(a, b queueBody) int { return cmp.Compare(a.Name, b.Name) })
	return reply(c, http.StatusOK, out)
}

// queueName reads the queue in the address, one that exists for the caller.
func queueName(c *gin.Context) (string, error) {
	name := param(c, "queue")
	if !jobs.ValidName(name) {
		return "", badParameter("queue", "1 to 255 letters, digits and _ . : -, not . or ..")
	}
	if !callOf(c).principal.Sees(name) {
		return "", jobs.ErrNotFound
	}
	return name, nil
}

func (s *Server) getQueue(c *gin.Context) error {
	return withName(s, c, queueName, func(ctx context.Context, name string) error {
		if err := s.counted(ctx); err != nil {
			return err
		}
		row, err := jobs.GetQueue(ctx, s.config.DB, name)
		return s.replyQueue(c, name, row, err)
	})
}

// replyQueue answers with a queue whose row was read. One that has jobs and no row yet is there, too, and is not paused.
func (s *Server) replyQueue(c *gin.Context, name string, row jobs.Queue, err error) error {
	numbers, known := s.config.Overview.Queue(name)
	if err != nil && (!known || !errors.Is(err, jobs.ErrNotFound)) {
		return err
	}
	return reply(c, http.StatusOK, queueOf(name, row, numbers))
}

// confirmDeadline is how long a pause may take to hold before the answer says that it may not hold yet.
const confirmDeadline = time.Second

func (s *Server) pauseQueue(c *gin.Context) error {
	return actOn(s, c, queueName, func(ctx context.Context, name string, a actionBody, act jobs.Act) error {
		row, err := jobs.PauseQueue(ctx, s.config.DB, name, jobs.Pause{For: a.span, Until: a.until}, act)
		if err != nil {
			return err
		}
		// From here on the pause is stored, and everything but a yes says so.
		confirm, stop := context.WithTimeout(ctx, confirmDeadline)
		defer stop()
		if err := jobs.ConfirmPause(confirm, s.config.DB); err != nil {
			s.config.Log.Warn().Err(err).Str("queue", name).Msg("pause not confirmed")
			return jobs.ErrPauseUnconfirmed
		}
		return s.replyQueue(c, name, row, nil)
	}, "until", "for")
}

func (s *Server) resumeQueue(c *gin.Context) error {
	return actOn(s, c, queueName, func(ctx context.Context, name string, _ actionBody, act jobs.Act) error {
		row, err := jobs.ResumeQueue(ctx, s.config.DB, name, act)
		return s.replyQueue(c, name, row, err)
	})
}

// Bounds of a series.
const (
	defaultWindow = 15 * time.Minute
	maxWindow     = 24 * time.Hour
	minStep       = 5 * time.Second
	defaultPoints = 180 // of a series whose step is not named: as many as a small chart has pixels for
)

func (s *Server) stats(c *gin.Context) error {
	q := queryOf(c.Request, "queue", "window", "step")
	queue := q.values["queue"]
	if queue != "" && !jobs.ValidName(queue) {
		q.refuse("queue", "1 to 255 letters, digits and _ . : -, not . or ..")
	}
	window := q.duration("window", defaultWindow, minStep, maxWindow)
	step := q.duration("step", max(minStep, (window/defaultPoints).Round(minStep)), minStep, maxWindow)
	if who := callOf(c).principal; queue == "" && who.queues != nil {
		q.refuse("queue", "this key is held to some queues: name one of them")
	} else if queue != "" && !who.Sees(queue) {
		return jobs.ErrNotFound
	}
	if q.fault != nil {
		return q.fault
	}
	asOf, err := s.asOf()
	if err != nil {
		return err
	}
	series := s.config.Overview.Stats(queue, window, step)
	out := statsBody{
		Queue: text(queue), Window: formatDuration(window), Step: formatDuration(series.Step), From: stamp(series.From),
		AsOf: asOf, Points: make([]pointBody, len(series.Points)),
	}
	for i, p := range series.Points {
		out.Points[i] = pointBody{
			At: stamp(p.At), Enqueued: p.Enqueued, Completed: p.Completed, Failed: p.Failed, Dead: p.Dead,
			Backlog:     p.Backlog,
			WaitSeconds: quantiles{number(p.WaitP50), number(p.WaitP95), number(p.WaitP99)},
			RunSeconds:  quantiles{number(p.RunP50), number(p.RunP95), number(p.RunP99)},
		}
	}
	return reply(c, http.StatusOK, out)
}
