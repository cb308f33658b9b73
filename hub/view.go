package hub

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mini-asynq/mini-asynq/events"
)

// A view is for screens: of the events that came within a tenth of a second it gets the newest of each job, and where
// there are too many of them it is told what it has missed instead.

const (
	maxBehind  = 2000 // events that a view may lie behind
	maxWaiting = 200  // events that may wait for it after coalescing
)

// coalesce leaves, of the events that a filter lets through, the newest one of each job and those that are about no job,
// in order.
func coalesce(batch []*events.Event, filter *events.Filter) []*events.Event {
	seen := make(map[uuid.UUID]struct{})
	var kept []*events.Event
	for _, e := range slices.Backward(batch) {
		if !filter.Match(e) {
			continue
		}
		if e.AboutJob() {
			if _, newer := seen[e.JobID]; newer {
				continue
			}
			seen[e.JobID] = struct{}{}
		}
		kept = append(kept, e)
	}
	slices.Reverse(kept)
	return kept
}

// pane is what views with one filter see between two positions.
type pane struct {
	list []byte          // encoded events, with commas between them
	n    int             // of them
	upTo events.Position // what is behind a client that has them
	skip bool            // there are too many: list is empty
}

// paneOf makes the pane of a batch. Where the events do not fit into a frame the rest is left for the next one; a job may
// have a newer event there, and none here then.
func paneOf(batch []*events.Event, filter *events.Filter) *pane {
	kept := coalesce(batch, filter)
	p := &pane{upTo: batch[len(batch)-1].Position}
	if len(kept) > maxWaiting {
		p.skip = true
		return p
	}
	for i, e := range kept {
		body := e.JSON()
		if i > 0 {
			if len(p.list)+1+len(body) > maxFrame-evEnvelope {
				p.upTo = kept[i-1].Position
				break
			}
			p.list = append(p.list, ',')
		}
		p.list = append(p.list, body...)
		p.n++
	}
	return p
}

// advanceView takes a view a step further. It looks ten times a second at most.
func (s *session) advanceView(sub *subscription, now time.Time) (more bool) {
	if now.Before(sub.next) {
		return false
	}
	head := s.head(sub)
	if head.Epoch == sub.pos.Epoch && head.Seq-sub.pos.Seq > maxBehind {
		s.skip(sub, head, now)
		return false
	}
	batch, ok, err := sub.reader.Recent(sub.pos, maxBehind)
	switch {
	case err != nil:
		s.lose(sub, err)
		return false
	case !ok:
		s.load(sub, maxBehind)
		return false
	case len(batch) == 0:
		return s.settle(sub, now)
	}
	more = s.show(sub, batch, now)
	s.reached(sub, head, now)
	return more
}

// show sends what a view sees of a batch.
func (s *session) show(sub *subscription, batch []*events.Event, now time.Time) (more bool) {
	if len(batch) == 0 {
		return true
	}
	p := s.hub.panes.of(sub, batch)
	switch {
	case p.skip:
		s.skip(sub, p.upTo, now)
		return false
	case p.n == 0:
		sub.pos = p.upTo
		if sub.scanned += len(batch); sub.scanned >= markScanned {
			s.mark(sub, now)
		}
		return true
	}
	s.out.events(sub.quoted, [][]byte{p.list}, p.n, p.upTo)
	sub.pos, sub.next = p.upTo, now.Add(s.hub.config.ViewEvery)
	sub.spoke(now)
	return false
}

// skip jumps to a position and says what was passed over.
func (s *session) skip(sub *subscription, to events.Position, now time.Time) {
	n := to.Seq - sub.pos.Seq
	s.say(place{T: "skip", ID: sub.id, From: sub.pos.String(), Cursor: to.String(), N: n})
	s.hub.metrics.skipped.Add(n)
	sub.pos, sub.next, sub.caught = to, now.Add(s.hub.config.ViewEvery), false
	sub.spoke(now)
}

// filterKey is the same for filters that say the same in the same words.
type filterKey [sha256.Size]byte

func keyOf(fields map[string][]string, queues []string) filterKey {
	raw, err := json.Marshal([]any{fields, queues}) // the names are sorted
	if err != nil {
		return filterKey(sha256.Sum256([]byte(uuid.NewString()))) // texts always marshal
	}
	return sha256.Sum256(raw)
}

// panes are the newest panes, so that views that stand at one place and ask alike share the work: those that rest are woken
// by the same tick, and so most of them do. Safe for concurrent use.
type panes struct {
	mu    sync.Mutex // guards all below; nothing blocks under it
	held  map[paneKey]*pane
	order []paneKey // oldest first
	bytes int
}

type paneKey struct {
	from, to events.Position
	filter   filterKey
}

// maxPanes and maxPaneBytes bound what is kept.
const (
	maxPanes     = 64
	maxPaneBytes = 4 << 20
)

// of returns the pane of a batch that follows the place of a view.
func (ps *panes) of(sub *subscription, batch []*events.Event) *pane {
	key := paneKey{sub.pos, batch[len(batch)-1].Position, sub.key}
	if p := ps.find(key); p != nil {
		return p
	}
	p := paneOf(batch, sub.filter)
	ps.keep(key, p)
	return p
}

func (ps *panes) find(key paneKey) *pane {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.held[key]
}

func (ps *panes) keep(key paneKey, p *pane) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.held == nil {
		ps.held = make(map[paneKey]*pane)
	}
	if _, twice := ps.held[key]; twice {
		return
	}
	ps.held[key] = p
	ps.order = append(ps.order, key)
	for ps.bytes += len(p.list); len(ps.order) > maxPanes || ps.bytes > maxPaneBytes; {
		oldest := ps.order[0]
		ps.bytes -= len(ps.held[oldest].list)
		delete(ps.held, oldest)
		ps.order = slices.Delete(ps.order, 0, 1)
	}
}
