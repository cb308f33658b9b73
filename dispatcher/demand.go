package dispatcher

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Want says what a demand takes.
type Want struct {
	// Queues are the queues to claim from, with their weights (1..1000). With "*" every queue: the named ones with
	// their weight, the others with that of "*". Empty: every queue, weight 1.
	Queues map[string]int
	Kinds  []string // handlers that are there; nil: any kind
	Worker string   // becomes locked_by; "": the node
	// Remote is the registration of a worker that is no part of this node: it keeps its leases alive itself. Nil: it is.
	Remote uuid.UUID
	// Deliver takes what was claimed, never more than what was idle. It must not block.
	Deliver func([]*Work)
}

// Demand is a number of idle slots that want the same. Safe for concurrent use.
type Demand struct {
	dispatcher *Dispatcher
	want       Want
	group      *group

	// Guarded by Dispatcher.mu.
	idle     int
	reserved int // of them, those that turns under way claim for
	closed   bool
}

func (d *Demand) free() int { return d.idle - d.reserved }

// Add makes n more slots idle.
func (d *Demand) Add(n int) {
	d.dispatcher.mu.Lock()
	d.idle += n
	d.dispatcher.mu.Unlock()
	d.dispatcher.poke()
}

// Close takes the idle slots back: nothing more is claimed for them, and what is being claimed at this moment is given back.
// A call of Deliver may be under way.
func (d *Demand) Close() {
	d.dispatcher.mu.Lock()
	defer d.dispatcher.mu.Unlock()
	d.closed, d.idle = true, 0
	d.group.demands = slices.DeleteFunc(d.group.demands, func(o *Demand) bool { return o == d })
	if len(d.group.demands) == 0 {
		d.group.emptySince = time.Now() // monotonic
	}
}

// keepEmpty is how long a group without demands is kept, with what it knows of its queues: a remote worker that comes back
// with the next call finds it as it was. dropEmpty is called when a new group is made. Under Dispatcher.mu.
const keepEmpty = time.Minute

func (d *Dispatcher) dropEmpty(now time.Time) {
	for key, g := range d.groups {
		if len(g.demands) == 0 && g.turning == 0 && now.Sub(g.emptySince) > keepEmpty {
			delete(d.groups, key)
		}
	}
}

// group is all demands that want the same queues and kinds: they share what is known about the queues. Guarded by
// Dispatcher.mu.
type group struct {
	want       Want      // queues and kinds
	demands    []*Demand // who came first is served first
	emptySince time.Time // when the last demand left
	queues     map[string]*queueState
	reach      int       // of a group of remote workers: how many slots its next turn asks for at most
	turning    int       // turns under way
	turnedAt   time.Time // when the last of them began
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
	// Claims of remote workers are for many at once, those of a node are its own.
	if w.Remote != uuid.Nil {
		return b.String() + "|"
	}
	return b.String() + w.Worker
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

// takes tells whether the group has a handler for a kind; "" is any.
func (g *group) takes(kind string) bool {
	return g.want.Kinds == nil || kind == "" || slices.Contains(g.want.Kinds, kind)
}

// free is how many slots are idle and not claimed for.
func (g *group) free() (n int) {
	for _, d := range g.demands {
		n += d.free()
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

// claims plans what a turn asks for, up to most slots: one claim for each queue that may have work, whoever the slots are of.
func (g *group) claims(most int, lease time.Duration, now time.Time) (list []*sent) {
	hot := g.hot(now)
	if len(hot) == 0 {
		return nil
	}
	if g.want.Remote != uuid.Nil {
		g.reach = max(g.reach, firstReach)
		most = min(most, g.reach)
	}
	slots := g.slots(most)
	for _, q := range share(hot, len(slots)) {
		list = append(list, q.claim(slots[:q.share:q.share], g.want.Kinds, lease, now))
		slots = slots[q.share:]
	}
	return list
}

// firstReach is how many slots a turn for remote workers asks for at first: as many as one claim may have. Each of them is
// named in the statement, so a job that comes alone must not name a thousand.
const firstReach = 100

// reached takes in what a turn brought: one that came back full is followed by one twice as large.
func (g *group) reached(full bool, most int) {
	if full {
		g.reach = min(2*g.reach, most)
	} else {
		g.reach = firstReach
	}
}

// slots reserves up to most slots, and names the demand of each.
func (g *group) slots(most int) []*Demand {
	slots := make([]*Demand, 0, most)
	for _, d := range g.demands {
		n := min(d.free(), most-len(slots))
		for range n {
			slots = append(slots, d)
		}
		d.reserved += max(n, 0)
	}
	return slots
}

// hot are the queues to claim from, in the order of their names: that of a map would make a plan that no test can foretell.
func (g *group) hot(now time.Time) (hot []*queueState) {
	for _, q := range g.queues {
		if q.claimable(now) {
			hot = append(hot, q)
		}
	}
	slices.SortFunc(hot, func(a, b *queueState) int { return strings.Compare(a.name, b.name) })
	return hot
}

// share divides n slots among queues, and returns those that get any: smooth weighted round robin, so that in any run of jobs
// as long as the sum of the weights a queue that has work all along gets at least its weight.
func share(hot []*queueState, n int) []*queueState {
	if len(hot) == 1 {
		hot[0].share = n
		return hot
	}
	total := 0
	for _, q := range hot {
		q.share = 0
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
	served := make([]*queueState, 0, len(hot))
	for _, q := range hot {
		if q.share > 0 {
			served = append(served, q)
		}
	}
	return served
}
