package events

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// WebhooksConfig says how a node sends events to webhooks. Zero values mean the defaults.
type WebhooksConfig struct {
	DB      jobs.DB  // Required.
	Readers *Readers // Required; they run beside.
	Guard   *Guard   // which addresses may be called. Required.
	Node    string   // unique for each start of a process. Required.

	Lease       time.Duration   // how long a holder may be silent; 0 is 45 s, at least two timeouts
	Timeout     time.Duration   // of one delivery; 0 is 15 s
	Backoff     []time.Duration // before each further try, +-20 %; nil: 5s 30s 2m 10m 1h 3h 8h 24h 24h
	GiveUpAfter time.Duration   // without success; 0 is 5 days
	Sweep       time.Duration   // look at all cursors, if there were events; 0 is 5 min
	Overflow    prometheus.Counter
	Log         zerolog.Logger
}

// webhookBackoff is the schedule that Standard Webhooks suggests, roughly.
var webhookBackoff = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 3 * time.Hour, 8 * time.Hour,
	24 * time.Hour, 24 * time.Hour,
}

func (c WebhooksConfig) withDefaults() WebhooksConfig {
	c.Lease, c.Timeout = cmp.Or(c.Lease, 45*time.Second), cmp.Or(c.Timeout, 15*time.Second)
	c.GiveUpAfter, c.Sweep = cmp.Or(c.GiveUpAfter, 5*24*time.Hour), cmp.Or(c.Sweep, 5*time.Minute)
	if c.Backoff == nil {
		c.Backoff = webhookBackoff
	}
	if c.Overflow == nil {
		c.Overflow = prometheus.NewCounter(prometheus.CounterOpts{Name: "miniasynq_label_overflow_total"})
	}
	return c
}

func (c WebhooksConfig) validate() error {
	var faults []error
	refuse := func(wrong bool, what string) {
		if wrong {
			faults = append(faults, errors.New(what))
		}
	}
	refuse(c.DB == nil, "DB is required")
	refuse(c.Readers == nil, "Readers are required")
	refuse(c.Guard == nil, "Guard is required")
	refuse(c.Node == "", "Node is required")
	refuse(c.Timeout < time.Millisecond, "timeout: at least 1ms")
	refuse(c.Lease < 2*c.Timeout, "lease: at least two timeouts")
	if len(faults) > 0 {
		return fmt.Errorf("events: webhooks: %w", errors.Join(faults...))
	}
	return nil
}

// Webhooks sends events to webhooks. Of all nodes one holds a webhook, by a lease in the database, as long as there is
// something to do for it; when there is not, nobody does, and nothing is asked: an event that its filter lets through, a
// parked delivery that is due, or a holder that fell silent makes the nodes try to get it. Safe for concurrent use.
type Webhooks struct {
	config WebhooksConfig
	client *http.Client
	counts deliveryMetrics
	wake   chan struct{} // capacity 1: look whether there is something to do. Never closed.

	mu      sync.Mutex // guards what follows; nothing blocks under it
	watched map[uuid.UUID]*watched
	held    map[uuid.UUID]*holding
	wanted  map[uuid.UUID]bool      // to be claimed: there may be something to do
	endedAt map[uuid.UUID]time.Time // when this node last held one
}

// holding is a webhook that this node sends for.
type holding struct {
	drain   chan struct{} // closed to end its sender in order
	drained bool          // it is closed
}

// watched is an enabled webhook that this node does not hold.
type watched struct {
	filter *Filter
	at     time.Time // look again, whatever happens; zero: only when there is an event
	held   bool      // by another node: until then events are its business
	asked  bool      // of one that is held: its holder may have left it, at is soon
}

// NewWebhooks refuses a configuration with all its faults. Its Fold is a tap of the stream.
func NewWebhooks(config WebhooksConfig) (*Webhooks, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	w := &Webhooks{
		config: config, client: config.Guard.Client(config.Timeout), wake: make(chan struct{}, 1),
		watched: make(map[uuid.UUID]*watched), held: make(map[uuid.UUID]*holding), wanted: make(map[uuid.UUID]bool),
		endedAt: make(map[uuid.UUID]time.Time),
	}
	w.counts.init(config.Overflow)
	return w, nil
}

// CheckURL says what is wrong with the address of a webhook; empty: nothing.
func (w *Webhooks) CheckURL(text string) (refused string) {
	return w.config.Guard.CheckWebhookURL(text)
}

// call sends a post, if its address is still one that may be called: the allow list may have been another one when the webhook
// was made.
func (w *Webhooks) call(ctx context.Context, p post) verdict {
	if refused := w.CheckURL(p.url); refused != "" {
		return verdict{detail: "the address may not be called: " + refused}
	}
	return p.send(ctx, w.client, w.config.Timeout)
}

// Fold takes events in: a tap of the stream. It never blocks.
func (w *Webhooks) Fold(batch []*Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.wanted)
	for _, e := range batch {
		if id := webhookOf(e); id != uuid.Nil {
			w.changed(id)
		}
	}
	for id, seen := range w.watched {
		if w.wanted[id] || seen.asked || !slices.ContainsFunc(batch, seen.filter.Match) {
			continue
		}
		if !seen.held {
			w.wanted[id] = true
			continue
		}
		// A holder that stops lets go before its lease runs out, and tells nobody.
		seen.asked = true
		if at := time.Now().Add(w.config.Lease / 9); at.Before(seen.at) {
			seen.at = at
			w.signal()
		}
	}
	if len(w.wanted) > before {
		w.signal()
	}
}

// webhookOf is the webhook that an event is about; zero: about none.
func webhookOf(e *Event) uuid.UUID {
	var said struct {
		ID uuid.UUID `json:"webhook_id"`
	}
	if !strings.HasPrefix(e.Type, "webhook.") || json.Unmarshal(e.Data, &said) != nil {
		return uuid.Nil
	}
	return said.ID
}

// changed hears that the settings of a webhook are others. The caller holds the lock.
func (w *Webhooks) changed(id uuid.UUID) {
	w.wanted[id] = true
	if own := w.held[id]; own != nil && !own.drained {
		own.drained = true
		close(own.drain)
	}
}

func (w *Webhooks) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, and lets other nodes have what it held. It returns nil.
func (w *Webhooks) Run(ctx context.Context) error {
	defer w.client.CloseIdleConnections()
	stream := w.config.Readers.config.Stream
	select {
	case <-ctx.Done():
		return nil
	case <-stream.Ready():
	}
	var senders sync.WaitGroup
	defer senders.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var sweepAt time.Time
	var swept Position
	for {
		head, err := stream.Head()
		all := err == nil && !time.Now().Before(sweepAt) && head != swept
		if !time.Now().Before(sweepAt) {
			sweepAt = time.Now().Add(w.config.Sweep)
		}
		next := sweepAt
		if all || w.due() {
			if err := w.look(ctx, &senders, all); err != nil {
				if ctx.Err() == nil {
					w.config.Log.Warn().Err(err).Msg("webhooks could not be looked at, trying again")
				}
				next = time.Now().Add(writeRetry)
				if all {
					sweepAt = next
				}
			} else if all {
				swept = head
			}
		}
		if at := w.nextLook(); !at.IsZero() && at.Before(next) {
			next = at
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// due tells whether there may be something to do for a webhook that this node does not hold.
func (w *Webhooks) due() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wanted) > 0 {
		return true
	}
	now := time.Now()
	for _, seen := range w.watched {
		if !seen.at.IsZero() && !now.Before(seen.at) {
			return true
		}
	}
	return false
}

func (w *Webhooks) nextLook() (at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, seen := range w.watched {
		if !seen.at.IsZero() && (at.IsZero() || seen.at.Before(at)) {
			at = seen.at
		}
	}
	return at
}

// look claims what is free and has something to do, and learns when to look again for the rest.
func (w *Webhooks) look(ctx context.Context, senders *sync.WaitGroup, all bool) error {
	w.mu.Lock()
	asked := w.wanted
	w.wanted = make(map[uuid.UUID]bool)
	for id, seen := range w.watched {
		if seen.held && !time.Now().Before(seen.at) {
			asked[id] = true // its events were another node's, which may have left some of them
		}
	}
	w.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(asked))
	for id := range asked {
		ids = append(ids, id)
	}
	failed := func(err error) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for id := range asked {
			w.wanted[id] = true
		}
		return err
	}
	began := time.Now()
	holds, err := jobs.ClaimWebhooks(ctx, w.config.DB, w.config.Node, w.config.Lease, ids, all)
	if err != nil {
		return failed(err)
	}
	for _, hold := range holds {
		w.begin(ctx, senders, hold, began)
	}
	ctx, cancel := context.WithTimeout(ctx, writeDeadline)
	defer cancel()
	began = time.Now()
	enabled, err := jobs.WatchWebhooks(ctx, w.config.DB)
	if err != nil {
		return failed(err)
	}
	w.watch(enabled, began)
	return nil
}

// begin starts a sender.
func (w *Webhooks) begin(ctx context.Context, senders *sync.WaitGroup, hold *jobs.HeldWebhook, claimedAt time.Time) {
	own := &holding{drain: make(chan struct{})}
	s, err := newSender(w, hold, claimedAt, own.drain)
	if err != nil {
		w.config.Log.Error().Err(err).Str("webhook", hold.ID.String()).Msg("the filter of a webhook cannot be read")
		return
	}
	w.mu.Lock()
	w.held[hold.ID] = own
	delete(w.watched, hold.ID)
	w.mu.Unlock()
	// Ends with ctx, or when the hold does; Run waits for it.
	senders.Go(func() { w.ended(ctx, own, s, s.run(ctx)) })
}

// ended watches a webhook that this node does not hold any more.
func (w *Webhooks) ended(ctx context.Context, own *holding, s *sender, at Position) {
	id := s.hold.ID
	w.mu.Lock()
	if w.held[id] == own { // else this node has claimed it once more already
		delete(w.held, id)
		w.endedAt[id] = time.Now()
		w.watched[id] = &watched{filter: s.filter, at: time.Now()}
	}
	w.mu.Unlock()
	// While it was held its events were the sender's alone: what came behind its last look is anybody's. Other settings may
	// let through what these did not.
	left := s.draining || w.left(ctx, at, s.filter)
	w.mu.Lock()
	defer w.mu.Unlock()
	if left {
		w.wanted[id] = true
	}
	w.signal()
}

// left tells whether there may be events for a filter behind a position.
func (w *Webhooks) left(ctx context.Context, at Position, filter *Filter) bool {
	batch, err := w.config.Readers.config.Stream.Read(ctx, at, fanBatch)
	return err != nil || len(batch) == fanBatch || slices.ContainsFunc(batch, filter.Match)
}

// watch takes in what the enabled webhooks are for and when to look at them.
func (w *Webhooks) watch(enabled []jobs.WebhookWatch, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.endedAt, func(_ uuid.UUID, ended time.Time) bool { return !ended.After(at) })
	known := make(map[uuid.UUID]*watched, len(enabled))
	for _, e := range enabled {
		if _, own := w.held[e.ID]; own {
			continue
		}
		if seen := w.watched[e.ID]; seen != nil && !w.endedAt[e.ID].IsZero() {
			known[e.ID] = seen // what was read is from before
			continue
		}
		filter, err := ParseFilter(e.Filter)
		if err != nil {
			continue // said when it is claimed
		}
		seen := &watched{filter: filter, held: e.HeldFor > 0}
		switch {
		case seen.held:
			seen.at = at.Add(e.HeldFor + 10*time.Millisecond)
		case e.DueIn >= 0:
			seen.at = at.Add(e.DueIn + time.Millisecond)
		}
		known[e.ID] = seen
	}
	w.watched = known
}
