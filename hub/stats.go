package hub

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// Numbers is what stats frames are made of: memory, so that a viewer costs no query.
type Numbers interface {
	// Queues are the numbers of all queues by name; nil before the first count.
	Queues() []events.QueueNumbers
	// Workers is how many remote workers there are; false before the first count.
	Workers() (events.WorkerNumbers, bool)
	// Pulse is the database's time, and how long the newest event took to get to this node.
	Pulse() (now time.Time, lag time.Duration)
}

// statsAsk is what a session was asked to say of the numbers. Owned by run.
type statsAsk struct {
	every  time.Duration // 0: nothing
	queues []string      // empty: all
	next   time.Time     // monotonic
}

// statsFrame is stats.
type statsFrame struct {
	T      string                     `json:"t"`
	At     string                     `json:"at"`
	Cursor string                     `json:"cursor"` // everything up to here is in the numbers
	Totals totalsBody                 `json:"totals"` // of the queues that the caller may see, asked for or not
	Queues map[string]json.RawMessage `json:"queues"`
	// Workers is null for who is held to some queues: whom a worker serves is not looked at.
	Workers *workersBody `json:"workers"`
	Stream  streamBody   `json:"stream"`
}

type totalsBody struct {
	Counts map[jobs.Status]int64 `json:"counts"`
	Rates  ratesBody             `json:"rates_1m"`
}

type ratesBody struct {
	Enqueued  float64 `json:"enqueued"`
	Started   float64 `json:"started"`
	Completed float64 `json:"completed"`
	Failed    float64 `json:"failed"`
}

type workersBody struct {
	Online   int `json:"online"`
	Draining int `json:"draining"`
}

type streamBody struct {
	LagMS int64 `json:"lag_ms"`
}

// checkStats reads how often, and of what.
func (s *session) checkStats(o order) order {
	o.failed = &fault{T: "err", Code: "invalid_parameter"}
	every, err := time.ParseDuration(o.Every)
	switch {
	case s.hub.config.Numbers == nil:
		o.failed.Code, o.failed.Detail = "unavailable", "this node has no numbers"
	case err != nil, every != 0 && (every < minStats || every > maxStats):
		o.failed.Detail = "every: 500ms to 10s, or 0s"
	case slices.ContainsFunc(o.Queues, func(name string) bool { return !jobs.ValidName(name) }):
		o.failed.Detail = "queues: names"
	default:
		o.failed, o.every = nil, every
	}
	return o
}

// askStats begins with a frame at once, or ends with none.
func (s *session) askStats(o order, now time.Time) {
	s.stats = statsAsk{every: o.every, queues: o.Queues, next: now}
}

// sayStats says the numbers when it is time.
func (s *session) sayStats(now time.Time) {
	if s.stats.every == 0 || now.Before(s.stats.next) {
		return
	}
	s.stats.next = now.Add(s.stats.every)
	n, err := s.hub.board.read(s.hub.config, now)
	if err != nil {
		return // the stream or the counts are not there yet
	}
	var present *workersBody
	if s.caller.Queues == nil {
		present = &n.workers
	}
	s.say(statsFrame{
		T: "stats", At: events.FormatTime(n.at), Cursor: n.cursor.String(),
		Totals: n.totals(s.caller.Queues), Queues: n.bodies(s.stats.queues, s.caller.Queues),
		Workers: present, Stream: streamBody{LagMS: n.lag.Milliseconds()},
	})
}

// board holds the numbers as they were read last, for all sessions of the node. Safe for concurrent use.
type board struct {
	mu   sync.Mutex // guards both; nothing blocks under it
	last *numbers
	made time.Time // monotonic
}

// boardAge is how old numbers may be that a viewer is shown.
const boardAge = minStats / 2

// errNotCounted means that there are no numbers yet: before the first count of a node, and after it has lost sight of the log.
var errNotCounted = errors.New("hub: the jobs are not counted yet")

// read returns numbers that are new enough.
func (b *board) read(config Config, now time.Time) (*numbers, error) {
	if n := b.fresh(now); n != nil {
		return n, nil
	}
	// The head first: what is told of by then has been folded.
	head, err := config.Stream.Head()
	if err != nil {
		return nil, err
	}
	n := &numbers{cursor: head, queues: config.Numbers.Queues(), body: config.QueueBody}
	workers, counted := config.Numbers.Workers()
	if !counted || n.queues == nil {
		return nil, errNotCounted
	}
	n.workers = workersBody(workers)
	n.at, n.lag = config.Numbers.Pulse()
	n.places, n.encoded = make(map[string]int, len(n.queues)), make([]json.RawMessage, len(n.queues))
	for i, q := range n.queues {
		n.places[q.Name] = i
	}
	n.all = totalsOf(n.queues)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last, b.made = n, now
	return n, nil
}

func (b *board) fresh(now time.Time) *numbers {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == nil || now.Sub(b.made) >= boardAge {
		return nil
	}
	return b.last
}

// numbers are those of one moment. Safe for concurrent use.
type numbers struct {
	at      time.Time // the database's
	cursor  events.Position
	lag     time.Duration
	queues  []events.QueueNumbers
	workers workersBody
	places  map[string]int // of the queues
	all     totalsBody
	body    func(events.QueueNumbers) any

	mu      sync.Mutex // guards encoded; nothing blocks under it
	encoded []json.RawMessage
}

// totals sums up the queues that a caller may see; nil: all.
func (n *numbers) totals(within []string) totalsBody {
	if within == nil {
		return n.all
	}
	var own []events.QueueNumbers
	for _, name := range within {
		if i, ok := n.places[name]; ok {
			own = append(own, n.queues[i])
		}
	}
	return totalsOf(own)
}

func totalsOf(queues []events.QueueNumbers) totalsBody {
	t := totalsBody{Counts: make(map[jobs.Status]int64)}
	for _, status := range []jobs.Status{jobs.Scheduled, jobs.Pending, jobs.Running, jobs.Retrying, jobs.Blocked, jobs.Dead} {
		t.Counts[status] = 0
	}
	for _, q := range queues {
		for status, count := range q.Counts {
			t.Counts[status] += count
		}
		t.Rates.Enqueued += q.EnqueuedPerSec
		t.Rates.Started += q.StartedPerSec
		t.Rates.Completed += q.CompletedPerSec
		t.Rates.Failed += q.FailedPerSec
	}
	for _, rate := range []*float64{&t.Rates.Enqueued, &t.Rates.Started, &t.Rates.Completed, &t.Rates.Failed} {
		*rate = math.Round(*rate*1e6) / 1e6
	}
	return t
}

// bodies are the queues that were asked for, none: all, as far as the caller may see them. One that has no numbers yet is
// left out.
func (n *numbers) bodies(asked, within []string) map[string]json.RawMessage {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make(map[string]json.RawMessage)
	add := func(name string) {
		i, ok := n.places[name]
		if !ok || within != nil && !slices.Contains(within, name) {
			return
		}
		if n.encoded[i] == nil {
			raw, err := json.Marshal(n.body(n.queues[i]))
			if err != nil {
				return // it has no number that is none
			}
			n.encoded[i] = raw
		}
		out[name] = n.encoded[i]
	}
	if len(asked) > 0 {
		for _, name := range asked {
			add(name)
		}
		return out
	}
	for _, q := range n.queues {
		add(q.Name)
	}
	return out
}
