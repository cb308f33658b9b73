package dispatcher

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Want says what a demand takes.
type Want struct {
	// Queues are the queues to claim from, with their weights (1..1000). With "*" every queue: the named ones with
	// their weight, the others with that of "*". Empty: every queue, weight 1.
	Queues map[string]int
	Kinds  []string // handlers that are there; nil: any kind
	Worker string   // becomes locked_by; "": the node
	// Deliver takes what was claimed, never more than what was idle. It must not block.
	Deliver func([]*Work)
}

// Demand is a number of idle slots that want the same. Safe for concurrent use.
type Demand struct {
	dispatcher *Dispatcher
	want       Want
	group      *group

	// Guarded by Dispatcher.mu.
	idle   int
	closed bool
}

// Add makes n more slots idle.
func (d *Demand) Add(n int) {
	d.dispatcher.mu.Lock()
	d.idle += n
	d.dispatcher.mu.Unlock()
	d.dispatcher.poke()
}

// Close takes the idle slots back. Deliver is not called again; what is being claimed at this moment is given back.
func (d *Demand) Close() {
	d.dispatcher.mu.Lock()
	defer d.dispatcher.mu.Unlock()
	d.closed, d.idle = true, 0
	d.group.demands = slices.DeleteFunc(d.group.demands, func(o *Demand) bool { return o == d })
	if len(d.group.demands) == 0 {
		delete(d.dispatcher.groups, groupKey(d.want)) // what it knew of its queues goes with it
	}
}

// group is all demands that want the same queues and kinds as the same worker: they share what is known about the
// queues. Guarded by Dispatcher.mu.
type group struct {
	want     Want
	demands  []*Demand
	queues   map[string]*queueState
	turning  int       // turns under way
	turnedAt time.Time // when the last of them began
	reserved int       // idle slots that these claim for
}

// groupKey tells which demands belong together.
func groupKey(w Want) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.Queues)) {
		b.WriteString(name)
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(w.Queues[name]))
		b.WriteByte(' ')
	}
	b.WriteByte('|')
	if w.Kinds == nil {
		b.WriteByte('*')
	}
	for _, kind := range slices.Sorted(slices.Values(w.Kinds)) {
		b.WriteString(kind)
		b.WriteByte(' ')
	}
	return b.String() + "|" + w.Worker
}

// weight of a queue for this group; 0: it is none of its queues.
func (g *group) weight(queue string) int {
	if len(g.want.Queues) == 0 {
		return 1
	}
	if w, ok := g.want.Queues[queue]; ok {
		return w
	}
	return g.want.Queues["*"]
}

func (g *group) idle() (n int) {
	for _, d := range g.demands {
		n += d.idle
	}
	return n
}

// queue returns the state of one of the group's queues, nil if it is none of them.
func (g *group) queue(name string) *queueState {
	q := g.queues[name]
	if q == nil && g.weight(name) > 0 {
		q = &queueState{name: name, weight: g.weight(name)}
		g.queues[name] = q
	}
	return q
}

// plan divides n slots among the hot queues: smooth weighted round robin, so that in any run of jobs as long as the sum
// of the weights a queue that has work all along gets at least its weight.
func (g *group) plan(n int, now time.Time) []*queueState {
	var hot []*queueState
	for _, q := range g.queues {
		q.share = 0
		if q.claimable(now) {
			hot = append(hot, q)
		}
	}
	if len(hot) == 0 {
		return nil
	}
	// The order of a map would make a plan that no test can foretell.
	slices.SortFunc(hot, func(a, b *queueState) int { return strings.Compare(a.name, b.name) })
	if len(hot) == 1 {
		hot[0].share = n
		return hot
	}
	total := 0
	for _, q := range hot {
		total += q.weight
	}
	for range n {
		best := hot[0]
		for _, q := range hot {
			q.credit += q.weight
			if q.credit > best.credit {
				best = q
			}
		}
		best.credit -= total
		best.share++
	}
	return slices.DeleteFunc(hot, func(q *queueState) bool { return q.share == 0 })
}
