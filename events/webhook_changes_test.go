package events_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// What people do to a webhook while it sends.

// held tells whether a node holds the only webhook.
func (h *hooks) held() bool {
	h.t.Helper()
	return pgtest.One[bool](h.t, h.db, `SELECT holder IS NOT NULL FROM mini_asynq.webhooks`)
}

// heard waits until a node has read all that was committed.
func (h *hooks) heard(n *hookNode) {
	h.t.Helper()
	last := pgtest.One[int64](h.t, h.db, `SELECT sum(n) FROM mini_asynq.outbox`)
	pgtest.Eventually(h.t, 10*time.Second, "the events are read", func() bool {
		head, err := n.stream.Head()
		return err == nil && head.Seq >= last
	})
}

// gate is a receiver's answer that waits, for the events that it is for.
type gate struct {
	entered chan string   // capacity 16: the job of each call that waits. Never closed
	open    chan struct{} // closed to let them go
}

func newGate() *gate { return &gate{entered: make(chan string, 16), open: make(chan struct{})} }

func (g *gate) pass(d delivery) bool {
	g.entered <- d.Job
	<-g.open
	return true
}

// Where a filter begins is a position: no event that was committed after a change is looked at with the filter before it.
func TestFilterHoldsForEveryEventAfterItsChange(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	r := newReceiver(t)
	filter := map[string][]string{"queues": {"q"}, "types": {"job.enqueued"}}
	id := h.hook(n, r.URL, filter)
	const rounds = 12
	for i := range rounds {
		queue := fmt.Sprintf("q%d", i)
		filter["queues"] = append(filter["queues"], queue)
		require.NoError(t, pgx.BeginFunc(t.Context(), h.pool, func(tx pgx.Tx) error {
			if _, err := jobs.EditWebhook(t.Context(), tx, id, jobs.AnyVersion, jobs.WebhookEdit{Filter: filter}, act); err != nil {
				return err
			}
			_, err := jobs.Enqueue(t.Context(), tx, jobs.Params{Queue: queue}, jobs.Params{Queue: "others"})
			return err
		}))
		if i%3 == 0 { // sometimes the node has come to rest before the next change
			pgtest.Eventually(t, 10*time.Second, "the round arrives", func() bool { return len(r.got()) > i })
		}
	}
	pgtest.Eventually(t, 10*time.Second, "all arrive", func() bool { return len(r.got()) >= rounds })
	seen := make(map[string]bool)
	for _, d := range r.got() {
		seen[d.Job] = true
	}
	require.Len(t, seen, rounds)
}

// The event that tells of other settings is a hint. A node that did not hear it learns from its next write.
func TestSettingsThatChangeUnheardAreTakenByABusySender(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	before, after := newReceiver(t), newReceiver(t)
	id := h.hook(n, before.URL, ofJobs)
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "it sends", func() bool { return whole(before.got(), 1) })
	h.db.Exec(t, `ALTER TABLE mini_asynq.webhooks DISABLE TRIGGER webhooks_changed`)
	fresh := events.NewWebhookSecret()
	_, err := jobs.RotateWebhookSecret(t.Context(), h.pool, id, fresh, act)
	require.NoError(t, err)
	_, err = jobs.EditWebhook(t.Context(), h.pool, id, jobs.AnyVersion, jobs.WebhookEdit{URL: &after.URL}, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 15*time.Second, "the new address is called, though there was always something to do", func() bool {
		h.work("q", 1)
		return len(after.got()) > 0
	})
	verify, err := standardwebhooks.NewWebhookRaw(fresh)
	require.NoError(t, err)
	require.NoError(t, verify.Verify(after.got()[0].body, after.got()[0].header))
}

// What is under way when a webhook is paused may end: it is known to have arrived, and is not sent again.
func TestPauseLetsTheDeliveriesUnderWayEnd(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Timeout, c.Lease = 10*time.Second, 30*time.Second })
	r := newReceiver(t)
	g := newGate()
	r.answers(func(_ http.ResponseWriter, d delivery) bool { return g.pass(d) })
	id := h.hook(n, r.URL, map[string][]string{"types": {"job.enqueued"}})
	_, err := jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"}, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	for range 3 {
		pgtest.Receive(t, g.entered, 10*time.Second, "three calls are under way")
	}
	_, err = jobs.PauseWebhook(t.Context(), h.pool, id, act)
	require.NoError(t, err)
	_, err = jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	h.heard(n)
	require.Equal(t, 3, r.called(), "nothing new begins")
	close(g.open)
	pgtest.Eventually(t, 10*time.Second, "what was under way is stored, and the webhook is free", func() bool {
		return h.get(id).Delivered == 3 && !h.held()
	})
	_, err = jobs.ResumeWebhook(t.Context(), h.pool, id, 0, 0, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "the one from the pause arrives", func() bool { return h.get(id).Delivered == 4 })
	require.Equal(t, 4, r.called(), "each once")
}

// 410 ends a webhook; a delivery that was under way at that moment still counts.
func TestGoneLetsTheDeliveriesUnderWayEnd(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Timeout, c.Lease = 10*time.Second, 30*time.Second })
	r := newReceiver(t)
	g := newGate()
	r.answers(func(w http.ResponseWriter, d delivery) bool {
		if strings.Contains(string(d.body), `"queue":"slow"`) {
			return g.pass(d)
		}
		w.WriteHeader(http.StatusGone)
		return false
	})
	id := h.hook(n, r.URL, map[string][]string{"types": {"job.enqueued"}})
	_, err := jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "slow"})
	require.NoError(t, err)
	slow := pgtest.Receive(t, g.entered, 10*time.Second, "one call is under way")
	_, err = jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "the other one is refused, and its row is stored at once", func() bool { return h.get(id).Parked == 1 })
	_, err = jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	close(g.open)
	pgtest.Eventually(t, 10*time.Second, "it is disabled", func() bool { return h.get(id).DisabledReason == jobs.WebhookGone })
	require.EqualValues(t, 1, h.get(id).Delivered)
	require.Equal(t, 2, r.called(), "nothing began after the 410")
	r.answers(nil)
	_, err = jobs.ResumeWebhook(t.Context(), h.pool, id, 0, 0, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "the others arrive", func() bool { return len(r.got()) == 3 })
	require.Equal(t, 1, countOf(r.got(), slow), "not a second time")
}

func countOf(got []delivery, job string) (n int) {
	for _, d := range got {
		if d.Job == job {
			n++
		}
	}
	return n
}

// A long replay does not hold up what happens now.
func TestReplayLeavesRoomForWhatIsNew(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Timeout, c.Lease = 5*time.Second, 15*time.Second })
	r := newReceiver(t)
	id := h.hook(n, r.URL, map[string][]string{"types": {"job.enqueued"}})
	_, err := jobs.Enqueue(t.Context(), h.pool, slices.Repeat([]jobs.Params{{Queue: "q"}}, 1000)...)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "all have arrived", func() bool { return h.get(id).Delivered == 1000 })
	const allowed = 600
	var now string
	open := make(chan struct{})
	r.answers(func(http.ResponseWriter, delivery) bool {
		if r.called() > 1000+allowed {
			<-open
		}
		return true
	})
	w := h.get(id)
	_, err = jobs.ReplayWebhook(t.Context(), h.pool, id, w.Epoch, 0, w.Seq, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "the replay is under way", func() bool { return r.called() > 1000 })
	made, err := jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	now = made[0].Job.ID.String()
	// A replay that took all the room would stand before the gate, and the new one behind it.
	pgtest.Eventually(t, 20*time.Second, "the new one has arrived before the replay is over", func() bool { return countOf(r.got(), now) == 1 })
	close(open)
	pgtest.Eventually(t, 20*time.Second, "the replay ends", func() bool { return h.get(id).ReplayUntil == 0 })
	require.EqualValues(t, 2001, h.get(id).Delivered)
}

// A node that stops lets go of its webhooks; the others need not wait for the end of a lease.
func TestAnotherNodeGoesOnSoonAfterAStop(t *testing.T) {
	h := setupHooks(t)
	long := func(c *events.WebhooksConfig) { c.Lease = 20 * time.Second }
	a := h.start("a", long)
	r := newReceiver(t)
	h.hook(a, r.URL, ofJobs)
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "the first node sends", func() bool { return whole(r.got(), 1) })
	proxy := pgtest.NewProxy(t, h.db.DSN())
	looked := make(chan struct{})
	var once sync.Once
	proxy.OnClientMessage(func(_ byte, payload []byte) pgtest.Action {
		if strings.Contains(string(payload), "w.held_until - clock_timestamp()") {
			once.Do(func() { close(looked) })
		}
		return pgtest.Forward
	})
	h.startOn("b", proxy.DSN(h.db.DSN()), long)
	pgtest.Receive(t, looked, 10*time.Second, "the second finds it held")
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "the first node sends", func() bool { return whole(r.got(), 2) })
	require.True(t, h.held())
	a.stop()
	pgtest.Eventually(t, 10*time.Second, "the first node has let go", func() bool { return !h.held() })
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "the second goes on", func() bool { return whole(r.got(), 3) })
}

// An address has to be one that may be called at the time of the call, too.
func TestAddressThatIsNoLongerAllowedIsNotCalled(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Backoff = []time.Duration{time.Hour} })
	r := newReceiver(t)
	id := h.hook(n, strings.Replace(r.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1), ofJobs)
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "it is parked", func() bool { return h.get(id).Parked > 0 })
	rows, err := jobs.Deliveries(t.Context(), h.pool, id, "parked", 0, 0, 1)
	require.NoError(t, err)
	require.Contains(t, rows[0].LastError, "may not be called")
	require.Zero(t, r.called())
	out, err := n.Test(t.Context(), id)
	require.NoError(t, err)
	require.False(t, out.Delivered)
	require.Zero(t, r.called())
}

func TestDeletedWebhookIsLetGoAndTheOthersGoOn(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Timeout, c.Lease = 10*time.Second, 30*time.Second })
	r, other := newReceiver(t), newReceiver(t)
	g := newGate()
	r.answers(func(_ http.ResponseWriter, d delivery) bool { return g.pass(d) })
	id := h.hook(n, r.URL, ofJobs)
	h.hook(n, other.URL, ofJobs)
	h.work("q", 1)
	pgtest.Receive(t, g.entered, 10*time.Second, "a call is under way")
	require.NoError(t, jobs.DeleteWebhook(t.Context(), h.pool, id, act))
	h.heard(n)
	close(g.open)
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "the other webhook goes on", func() bool { return whole(other.got(), 2) })
	_, err := jobs.GetWebhook(t.Context(), h.pool, id)
	require.ErrorIs(t, err, jobs.ErrNotFound)
	require.Zero(t, pgtest.One[int](t, h.db, `SELECT count(*) FROM mini_asynq.webhook_deliveries`))
	require.Equal(t, 1, r.called())
}

// Old failures are forgotten, but not one that a replay has just parked again.
func TestForgettingSparesADeliveryThatIsTriedAgain(t *testing.T) {
	h := setupHooks(t)
	w, err := jobs.CreateWebhook(t.Context(), h.pool, jobs.Webhook{URL: "https://example.com", Enabled: true, Epoch: 1}, h.secret, act)
	require.NoError(t, err)
	h.db.Exec(t, `INSERT INTO mini_asynq.webhook_deliveries (webhook_id, epoch, seq, state, line, event_type, body, updated_at)
		SELECT $1, 1, n, 'failed', 'x', 'job.dead', '{}', clock_timestamp() - interval '8 days' FROM generate_series(1, 2) n`, w.ID)
	held, err := jobs.ClaimWebhooks(t.Context(), h.pool, "a", time.Minute, []uuid.UUID{w.ID}, false)
	require.NoError(t, err)
	tx, err := h.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = held[0].Write(t.Context(), tx, time.Minute, jobs.WebhookProgress{Rows: []jobs.DeliveryRow{{
		Epoch: 1, Seq: 1, State: "parked", Line: "x", EventType: "job.dead", Body: []byte("{}"), Due: time.Hour,
	}}})
	require.NoError(t, err)
	forgotten := make(chan error, 1)
	go func() {
		_, err := jobs.ForgetDeliveries(t.Context(), h.pool, 7*24*time.Hour, 100)
		forgotten <- err
	}()
	pgtest.Eventually(t, 10*time.Second, "it waits for the row", func() bool {
		return pgtest.One[bool](t, h.db, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())`)
	})
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, pgtest.Receive(t, forgotten, 10*time.Second, "it is over"))
	require.Equal(t, []string{"parked"}, pgtest.One[[]string](t, h.db, `SELECT array_agg(state) FROM mini_asynq.webhook_deliveries`))
}
