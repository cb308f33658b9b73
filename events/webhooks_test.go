package events_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// delivery is what a receiver got.
type delivery struct {
	ID      string // webhook-id
	Cursor  string `json:"cursor"`
	Seq     int64  `json:"seq"`
	Type    string `json:"type"`
	Job     string `json:"job_id"`
	Version int64  `json:"job_version"`

	header http.Header
	body   []byte
}

// receiver is the other side. answer decides about each call, before it counts as received.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(w http.ResponseWriter, d delivery) (taken bool)
	taken  []delivery
	calls  int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		d := delivery{ID: request.Header.Get("webhook-id"), header: request.Header}
		d.body, _ = io.ReadAll(request.Body)
		_ = json.Unmarshal(d.body, &d)
		r.mu.Lock()
		r.calls++
		answer := r.answer
		r.mu.Unlock()
		if answer != nil && !answer(w, d) {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.taken = append(r.taken, d)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answers(fn func(w http.ResponseWriter, d delivery) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = fn
}

func (r *receiver) got() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

func (r *receiver) called() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

func refusing(status int) func(http.ResponseWriter, delivery) bool {
	return func(w http.ResponseWriter, _ delivery) bool {
		w.WriteHeader(status)
		return false
	}
}

// hooks is a database, and nodes that send from it.
type hooks struct {
	t      *testing.T
	db     *pgtest.DB
	pool   *pgxpool.Pool
	secret []byte
}

func setupHooks(t *testing.T) *hooks {
	t.Helper()
	t.Parallel()
	db := pgtest.NewDB(t)
	return &hooks{t: t, db: db, pool: db.Pool(t), secret: []byte(strings.Repeat("k", 32))}
}

type hookNode struct {
	*events.Webhooks
	stream *follower
	stop   func()
}

// fast is a schedule for tests: as many tries as the real one has, and no waiting.
var fast = slices.Repeat([]time.Duration{10 * time.Millisecond}, 9)

func (h *hooks) start(name string, change func(*events.WebhooksConfig)) *hookNode {
	return h.startOn(name, h.db.DSN(), change)
}

// startOn starts a node that reaches the database by an address of its own.
func (h *hooks) startOn(name, dsn string, change func(*events.WebhooksConfig)) *hookNode {
	h.t.Helper()
	n := &hookNode{}
	var readers *events.Readers
	guard, err := events.NewGuard([]string{"127.0.0.1"}, true)
	require.NoError(h.t, err)
	n.stream = follow(h.t, h.db.DSN(), options{wire: func(s *events.Stream) {
		readers, err = events.NewReaders(events.ReadersConfig{Stream: s})
		require.NoError(h.t, err)
		config := events.WebhooksConfig{
			DB: pinned(h.t, dsn), Readers: readers, Guard: guard, Node: name,
			Lease: time.Second, Timeout: 300 * time.Millisecond, Backoff: fast,
		}
		if change != nil {
			change(&config)
		}
		n.Webhooks, err = events.NewWebhooks(config)
		require.NoError(h.t, err)
		s.Tap(n.Webhooks.Fold)
	}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = readers.Run(ctx) })
	wg.Go(func() { _ = n.Webhooks.Run(ctx) })
	n.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	h.t.Cleanup(n.stop)
	n.stream.ready(h.t)
	return n
}

// hook makes a webhook that begins with the present.
func (h *hooks) hook(n *hookNode, url string, filter map[string][]string) uuid.UUID {
	h.t.Helper()
	head, err := n.stream.Head()
	require.NoError(h.t, err)
	w, err := jobs.CreateWebhook(h.t.Context(), h.pool,
		jobs.Webhook{URL: url, Filter: filter, Enabled: true, Epoch: head.Epoch, Seq: head.Seq}, h.secret, act)
	require.NoError(h.t, err)
	return w.ID
}

var act = jobs.Act{Actor: "basic:admin"}

func (h *hooks) get(id uuid.UUID) *jobs.Webhook {
	h.t.Helper()
	w, err := jobs.GetWebhook(context.Background(), h.pool, id)
	require.NoError(h.t, err)
	return w
}

// work makes n jobs and takes each through all its events: enqueued, started, completed.
func (h *hooks) work(queue string, n int) {
	h.t.Helper()
	params := make([]jobs.Params, n)
	for i := range params {
		params[i] = jobs.Params{Queue: queue, Payload: json.RawMessage(`{"n":1}`)}
	}
	_, err := jobs.Enqueue(h.t.Context(), h.pool, params...)
	require.NoError(h.t, err)
	turn := jobs.Turn{Claims: []jobs.Claim{{Queue: queue, Limit: n, Worker: "w", Lease: time.Minute}}}
	result, err := turn.Do(h.t.Context(), h.pool)
	require.NoError(h.t, err)
	outcomes := make([]jobs.Outcome, len(result.Claimed[0]))
	for i, job := range result.Claimed[0] {
		outcomes[i] = jobs.Complete(&job.Job, nil)
	}
	_, err = jobs.Finish(h.t.Context(), h.pool, outcomes)
	require.NoError(h.t, err)
}

var ofJobs = map[string][]string{"types": {"job.*"}}

// whole tells whether three events of each of n jobs have arrived, each once at least.
func whole(got []delivery, n int) bool {
	seen := make(map[string]map[int64]bool)
	for _, d := range got {
		if seen[d.Job] == nil {
			seen[d.Job] = make(map[int64]bool)
		}
		seen[d.Job][d.Version] = true
	}
	full := 0
	for _, versions := range seen {
		if len(versions) == 3 {
			full++
		}
	}
	return full == n
}

// requireOrder holds that the first arrival of each event is in the order of its job.
func requireOrder(t *testing.T, got []delivery) {
	t.Helper()
	next := make(map[string]int64)
	for _, d := range got {
		require.LessOrEqual(t, d.Version, next[d.Job]+1, "job %s: version %d after %d", d.Job, d.Version, next[d.Job])
		next[d.Job] = max(next[d.Job], d.Version)
		require.Equal(t, "evt_"+d.Cursor, d.ID)
	}
}

func TestWebhookDeliversEachEventSignedAndInOrderAndLeavesNoRow(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	r := newReceiver(t)
	id := h.hook(n, r.URL+"/hook?token=x", ofJobs)
	h.work("q", 20)
	pgtest.Eventually(t, 20*time.Second, "all arrive", func() bool { return whole(r.got(), 20) })
	requireOrder(t, r.got())
	require.Len(t, r.got(), 60, "each once")
	verify, err := standardwebhooks.NewWebhook(events.WebhookSecretText(h.secret))
	require.NoError(t, err)
	for _, d := range r.got() {
		require.NoError(t, verify.Verify(d.body, d.header))
		require.NotContains(t, string(d.body), "payload")
	}
	pgtest.Eventually(t, 10*time.Second, "the progress is stored, and nobody holds an idle webhook", func() bool {
		return h.get(id).Delivered == 60 && pgtest.One[bool](t, h.db, `SELECT holder IS NULL FROM mini_asynq.webhooks`)
	})
	require.Zero(t, pgtest.One[int](t, h.db, `SELECT count(*) FROM mini_asynq.webhook_deliveries`))
	require.False(t, h.get(id).LastSuccess.IsZero())
	// An event takes it up again.
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "the next ones arrive", func() bool { return whole(r.got(), 21) })
}

func TestReceiverThatWasDownGetsEverythingInOrder(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	r.answers(refusing(http.StatusInternalServerError))
	n := h.start("a", func(c *events.WebhooksConfig) {
		c.Backoff = slices.Repeat([]time.Duration{50 * time.Millisecond}, 10_000)
	})
	id := h.hook(n, r.URL, ofJobs)
	h.work("q", 30)
	pgtest.Eventually(t, 20*time.Second, "all are parked, or wait behind what is", func() bool { return h.get(id).Parked == 90 })
	require.False(t, h.get(id).FailingSince.IsZero())
	pgtest.Eventually(t, 10*time.Second, "the cursor goes on", func() bool {
		return h.get(id).Seq >= pgtest.One[int64](t, h.db, `SELECT max(seq) FROM mini_asynq.webhook_deliveries`)
	})
	require.Empty(t, r.got())
	r.answers(nil)
	pgtest.Eventually(t, 20*time.Second, "all arrive after", func() bool { return whole(r.got(), 30) })
	requireOrder(t, r.got())
	pgtest.Eventually(t, 10*time.Second, "no row is left", func() bool { return h.get(id).Parked == 0 })
	require.True(t, h.get(id).FailingSince.IsZero())
}

// What one job's receiver refuses holds up that job alone.
func TestRefusedEventHoldsUpItsJobAlone(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	var sick string
	r.answers(func(w http.ResponseWriter, d delivery) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if sick == "" {
			sick = d.Job
		}
		if d.Job == sick {
			w.WriteHeader(http.StatusBadGateway)
			return false
		}
		return true
	})
	n := h.start("a", func(c *events.WebhooksConfig) { c.Backoff = []time.Duration{time.Hour} })
	id := h.hook(n, r.URL, ofJobs)
	h.work("q", 10)
	pgtest.Eventually(t, 20*time.Second, "the other nine arrive", func() bool { return whole(r.got(), 9) })
	pgtest.Eventually(t, 10*time.Second, "the sick one is parked", func() bool { return h.get(id).Parked == 3 })
	rows, err := jobs.Deliveries(t.Context(), h.pool, id, "", 0, 0, 10)
	require.NoError(t, err)
	require.Equal(t, []string{"parked", "waiting", "waiting"}, []string{rows[0].State, rows[1].State, rows[2].State})
	require.Equal(t, 502, rows[0].LastStatus)
	require.Equal(t, "answered 502 Bad Gateway", rows[0].LastError)
	require.Equal(t, sick, rows[0].JobID.String())
	hour := rows[0].DueAt.Sub(rows[0].UpdatedAt)
	require.InDelta(t, time.Hour, hour, float64(13*time.Minute))
}

func TestAnswersThatAreNoSuccess(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Backoff = []time.Duration{time.Hour}; c.Lease = 2 * time.Second })
	var hits int
	var mu sync.Mutex
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		hits++
	}))
	defer elsewhere.Close()
	release := make(chan struct{})
	defer close(release)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, d delivery) bool
		detail string
		status int
	}{
		"slow": {func(http.ResponseWriter, delivery) bool { <-release; return false }, "no answer within 300ms", 0},
		"redirecting": {func(w http.ResponseWriter, _ delivery) bool {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusFound)
			return false
		}, "answered 302 Found", 302},
		"closing": {func(w http.ResponseWriter, _ delivery) bool { panic(http.ErrAbortHandler) }, "EOF", 0},
	} {
		r := newReceiver(t)
		r.answers(c.answer)
		id := h.hook(n, r.URL, map[string][]string{"queues": {"q-" + name}})
		_, err := jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q-" + name})
		require.NoError(t, err)
		pgtest.Eventually(t, 10*time.Second, name+" is parked", func() bool { return h.get(id).Parked > 0 })
		rows, err := jobs.Deliveries(t.Context(), h.pool, id, "parked", 0, 0, 10)
		require.NoError(t, err)
		require.Contains(t, rows[0].LastError, c.detail, name)
		require.NotContains(t, rows[0].LastError, "http://", name)
		require.Equal(t, c.status, rows[0].LastStatus, name)
	}
	require.Zero(t, hits, "no redirect is followed")
}

// The head of an answer decides. What its body promises, and how long it is, costs this server nothing.
func TestAnswersThatLieOrNeverEndAreSuccesses(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", func(c *events.WebhooksConfig) { c.Lease = 5 * time.Second }) // the machine is busy writing
	for name, answer := range map[string]func(w http.ResponseWriter, d delivery) bool{
		"lying": func(w http.ResponseWriter, _ delivery) bool {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("short"))
			return true
		},
		"huge": func(w http.ResponseWriter, _ delivery) bool {
			block := make([]byte, 64<<10)
			written := 0
			for written < 1<<30 {
				m, err := w.Write(block)
				if written += m; err != nil {
					break
				}
			}
			return written < 1<<28 // cut off long before its end
		},
	} {
		r := newReceiver(t)
		r.answers(answer)
		id := h.hook(n, r.URL, map[string][]string{"queues": {"q-" + name}, "types": {"job.*"}})
		h.work("q-"+name, 1)
		pgtest.Eventually(t, 20*time.Second, name, func() bool { return whole(r.got(), 1) })
		pgtest.Eventually(t, 10*time.Second, name, func() bool { return h.get(id).Delivered >= 3 })
		require.Zero(t, h.get(id).Parked, name)
	}
}

func TestRetryAfterIsHonouredUpToADay(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	for header, want := range map[string]time.Duration{"7200": 2 * time.Hour, "900000": 24 * time.Hour, "a date": 3 * time.Hour} {
		r := newReceiver(t)
		r.answers(func(w http.ResponseWriter, _ delivery) bool {
			value := header
			if value == "a date" { // counted from the answer, however long that took to come
				value = time.Now().Add(want).UTC().Format(http.TimeFormat)
			}
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusTooManyRequests)
			return false
		})
		id := h.hook(n, r.URL, nil)
		_, err := jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q"})
		require.NoError(t, err)
		pgtest.Eventually(t, 10*time.Second, "it is parked", func() bool { return h.get(id).Parked > 0 })
		rows, err := jobs.Deliveries(t.Context(), h.pool, id, "parked", 0, 0, 1)
		require.NoError(t, err)
		require.InDelta(t, want, rows[0].DueAt.Sub(rows[0].UpdatedAt), float64(5*time.Second), header)
		require.NoError(t, jobs.DeleteWebhook(t.Context(), h.pool, id, act))
	}
}

func TestDeliveryIsGivenUpAfterTheLastTryAndTheNextOneGoes(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	r.answers(func(w http.ResponseWriter, d delivery) bool {
		if d.Type == "job.enqueued" {
			w.WriteHeader(http.StatusTeapot)
			return false
		}
		return true
	})
	n := h.start("a", nil)
	id := h.hook(n, r.URL, ofJobs)
	h.work("q", 1)
	pgtest.Eventually(t, 20*time.Second, "the other two arrive", func() bool { return len(r.got()) == 2 })
	pgtest.Eventually(t, 10*time.Second, "one was given up", func() bool { return h.get(id).Failed == 1 })
	require.Equal(t, 12, r.called())
	rows, err := jobs.Deliveries(t.Context(), h.pool, id, "failed", 0, 0, 10)
	require.NoError(t, err)
	require.Equal(t, 10, rows[0].Attempts)
	require.True(t, h.get(id).Enabled)

	// A replay sends it again, under its old name, and what has arrived too.
	r.answers(nil)
	w := h.get(id)
	_, err = jobs.ReplayWebhook(t.Context(), h.pool, id, w.Epoch, 0, 1<<40, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "the range arrives again", func() bool { return len(r.got()) == 5 })
	require.Equal(t, "evt_"+fmt.Sprintf("%d-%d", rows[0].Epoch, rows[0].Seq), r.got()[2].ID)
	pgtest.Eventually(t, 10*time.Second, "the replay is over, the row is gone", func() bool {
		now := h.get(id)
		return now.ReplayUntil == 0 && now.GivenUp == 0
	})
	require.GreaterOrEqual(t, h.get(id).Seq, w.Seq, "the cursor did not go back")
	_, err = jobs.ReplayWebhook(t.Context(), h.pool, id, w.Epoch+1, 0, 1, act)
	require.ErrorIs(t, err, jobs.ErrWrongEpoch)
	n.stop()
}

func TestGoneDisablesAtOnceAndSaysSo(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	r.answers(refusing(http.StatusGone))
	n := h.start("a", nil)
	id := h.hook(n, r.URL, ofJobs)
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "it is disabled", func() bool { return h.get(id).DisabledReason == jobs.WebhookGone })
	require.Equal(t, 1, r.called())
	require.Equal(t, 1, pgtest.One[int](t, h.db, `SELECT count(*) FROM mini_asynq.events WHERE type = 'webhook.disabled' AND reason = 'gone'
		AND data->>'webhook_id' = $1::text`, id.String()))
	r.answers(nil)
	_, err := jobs.ResumeWebhook(t.Context(), h.pool, id, 0, 0, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "nothing was lost", func() bool { return whole(r.got(), 1) })
	requireOrder(t, r.got())
}

func TestDaysWithoutSuccessDisable(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	r.answers(refusing(http.StatusInternalServerError))
	n := h.start("a", func(c *events.WebhooksConfig) {
		c.GiveUpAfter, c.Backoff = 400*time.Millisecond, slices.Repeat(fast, 1000)
	})
	id := h.hook(n, r.URL, nil)
	h.work("q", 1)
	pgtest.Eventually(t, 20*time.Second, "it is disabled", func() bool { return h.get(id).DisabledReason == jobs.WebhookFailing })
	require.Equal(t, 1, pgtest.One[int](t, h.db, `SELECT count(*) FROM mini_asynq.events WHERE type = 'webhook.disabled'`))
}

func TestParkedOnesStopTheCursorAtAThousand(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	r.answers(refusing(http.StatusInternalServerError))
	n := h.start("a", func(c *events.WebhooksConfig) { c.Backoff = slices.Repeat([]time.Duration{2 * time.Second}, 1000) })
	id := h.hook(n, r.URL, ofJobs)
	h.work("q", 400)
	pgtest.Eventually(t, 30*time.Second, "a thousand are parked", func() bool { return h.get(id).Parked == 1000 })
	stopped := h.get(id).Seq
	h.work("q", 10)
	h.heard(n)
	require.Equal(t, stopped, h.get(id).Seq)
	require.Equal(t, 1000, h.get(id).Parked)
	r.answers(nil)
	pgtest.Eventually(t, 60*time.Second, "all arrive after", func() bool { return whole(r.got(), 410) })
	requireOrder(t, r.got())
}

// The holder loses the database in the middle. Another node takes over; nothing is lost, order is kept, and what the first
// one still wants to write changes nothing.
func TestHolderThatDiesIsReplacedAndChangesNothingAfter(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	proxy := pgtest.NewProxy(t, h.db.DSN())
	first := h.startOn("first", proxy.DSN(h.db.DSN()), nil)
	id := h.hook(first, r.URL, ofJobs)
	h.work("q", 5)
	pgtest.Eventually(t, 10*time.Second, "the first node sends", func() bool { return whole(r.got(), 5) })
	cut := make(chan struct{})
	var once sync.Once
	r.answers(func(w http.ResponseWriter, d delivery) bool {
		once.Do(func() {
			proxy.Stall()
			close(cut)
		})
		return true
	})
	h.work("q", 100)
	pgtest.Receive(t, cut, 10*time.Second, "the database is away for the holder")
	h.start("second", nil)
	h.work("q", 5)
	pgtest.Eventually(t, 30*time.Second, "nothing is lost", func() bool { return whole(r.got(), 110) })
	requireOrder(t, r.got())
	newest := int64(0)
	for _, d := range r.got() {
		newest = max(newest, d.Seq)
	}
	pgtest.Eventually(t, 10*time.Second, "the second node has it all, and rests", func() bool {
		return h.get(id).Seq >= newest && h.get(id).Parked == 0 &&
			pgtest.One[bool](t, h.db, `SELECT holder IS NULL FROM mini_asynq.webhooks`)
	})
	before := h.get(id)
	proxy.Resume()
	first.stop()
	after := h.get(id)
	require.Equal(t, before.Seq, after.Seq)
	require.Equal(t, before.Delivered, after.Delivered)
}

func TestZombieCannotWrite(t *testing.T) {
	h := setupHooks(t)
	w, err := jobs.CreateWebhook(t.Context(), h.pool, jobs.Webhook{URL: "https://example.com", Enabled: true, Epoch: 1}, h.secret, act)
	require.NoError(t, err)
	claim := func(node string) *jobs.HeldWebhook {
		held, err := jobs.ClaimWebhooks(t.Context(), h.pool, node, time.Minute, []uuid.UUID{w.ID}, false)
		require.NoError(t, err)
		require.Len(t, held, 1)
		return held[0]
	}
	old := claim("old")
	none, err := jobs.ClaimWebhooks(t.Context(), h.pool, "new", time.Minute, []uuid.UUID{w.ID}, true)
	require.NoError(t, err)
	require.Empty(t, none, "it is held")
	h.db.Exec(t, `UPDATE mini_asynq.webhooks SET held_until = clock_timestamp()`)
	young := claim("new")
	_, err = young.Write(t.Context(), h.pool, time.Minute, jobs.WebhookProgress{Seq: 9})
	require.NoError(t, err)
	row := jobs.DeliveryRow{Epoch: 1, Seq: 3, State: "parked", Line: "x", EventType: "job.dead", Body: []byte("{}"), Due: time.Hour}
	_, err = old.Write(t.Context(), h.pool, time.Minute, jobs.WebhookProgress{Seq: 4, Rows: []jobs.DeliveryRow{row}, Disable: jobs.WebhookGone})
	require.ErrorIs(t, err, jobs.ErrLeaseLost)
	require.EqualValues(t, 9, h.get(w.ID).Seq)
	require.True(t, h.get(w.ID).Enabled)
	require.Zero(t, h.get(w.ID).Parked)
	// Also the same node, in another hold of its own.
	h.db.Exec(t, `UPDATE mini_asynq.webhooks SET held_until = clock_timestamp()`)
	again := claim("new")
	_, err = young.Write(t.Context(), h.pool, time.Minute, jobs.WebhookProgress{Seq: 5})
	require.ErrorIs(t, err, jobs.ErrLeaseLost)
	_, err = again.Write(t.Context(), h.pool, time.Minute, jobs.WebhookProgress{Seq: 10, Release: true})
	require.NoError(t, err)
}

func TestBothSecretsSignForADayAfterARotation(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	r := newReceiver(t)
	id := h.hook(n, r.URL, ofJobs)
	fresh := events.NewWebhookSecret()
	_, err := jobs.RotateWebhookSecret(t.Context(), h.pool, id, fresh, act)
	require.NoError(t, err)
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "they arrive", func() bool { return whole(r.got(), 1) })
	last := r.got()[2]
	for _, secret := range [][]byte{h.secret, fresh} {
		verify, err := standardwebhooks.NewWebhookRaw(secret)
		require.NoError(t, err)
		require.NoError(t, verify.Verify(last.body, last.header))
	}
	h.db.Exec(t, `UPDATE mini_asynq.webhooks SET previous_until = clock_timestamp(), version = version + 1`)
	require.Eventually(t, func() bool { // the change is an event, which takes its time
		h.work("q", 1)
		got := r.got()
		last := got[len(got)-1]
		return len(strings.Fields(last.header.Get("webhook-signature"))) == 1
	}, 10*time.Second, 20*time.Millisecond)
}

func TestPayloadIsSentOnlyWhereItIsWantedAndSmall(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	r := newReceiver(t)
	id := h.hook(n, r.URL, map[string][]string{"types": {"job.enqueued", "queue.paused"}})
	yes := true
	_, err := jobs.EditWebhook(t.Context(), h.pool, id, jobs.AnyVersion, jobs.WebhookEdit{IncludePayload: &yes}, act)
	require.NoError(t, err)
	big := `{"x":"` + strings.Repeat("x", 20<<10) + `"}`
	for _, payload := range []string{`{"to":"a"}`, big} {
		_, err := jobs.Enqueue(t.Context(), h.pool, jobs.Params{Queue: "q", Payload: json.RawMessage(payload)})
		require.NoError(t, err)
	}
	pgtest.Eventually(t, 10*time.Second, "they arrive", func() bool { return len(r.got()) == 2 })
	got := r.got()
	slices.SortFunc(got, func(a, b delivery) int { return int(a.Seq - b.Seq) })
	var small, large map[string]any
	require.NoError(t, json.Unmarshal(got[0].body, &small))
	require.NoError(t, json.Unmarshal(got[1].body, &large))
	require.Equal(t, map[string]any{"to": "a"}, small["payload"])
	require.NotContains(t, small, "payload_omitted")
	require.Nil(t, large["payload"])
	require.Equal(t, true, large["payload_omitted"])
}

func TestTestSendsAnEventAndMovesNothing(t *testing.T) {
	h := setupHooks(t)
	n := h.start("a", nil)
	r := newReceiver(t)
	id := h.hook(n, r.URL, ofJobs)
	_, err := jobs.PauseWebhook(t.Context(), h.pool, id, act)
	require.NoError(t, err)
	out, err := n.Test(t.Context(), id)
	require.NoError(t, err)
	require.True(t, out.Delivered)
	require.Equal(t, "webhook.test", r.got()[0].Type)
	verify, err := standardwebhooks.NewWebhookRaw(h.secret)
	require.NoError(t, err)
	require.NoError(t, verify.Verify(r.got()[0].body, r.got()[0].header))
	_, err = n.Test(t.Context(), uuid.New())
	require.ErrorIs(t, err, jobs.ErrNotFound)
	h.work("q", 1)
	_, err = jobs.ResumeWebhook(t.Context(), h.pool, id, 0, 0, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "what came during the pause arrives", func() bool { return whole(r.got()[1:], 1) })
}

// A gap is never silent: a webhook whose next events are gone, or whose history is another one, is disabled and says so.
func TestWebhookThatWouldLeaveAGapIsDisabled(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	n := h.start("a", nil)
	id := h.hook(n, r.URL, ofJobs)
	h.db.Exec(t, `UPDATE mini_asynq.webhooks SET epoch = epoch - 1, version = version + 1`)
	h.work("q", 1)
	pgtest.Eventually(t, 20*time.Second, "it is disabled", func() bool { return h.get(id).DisabledReason == jobs.WebhookEpochChanged })
	require.Empty(t, r.got())
	head, err := n.stream.Head()
	require.NoError(t, err)
	_, err = jobs.ResumeWebhook(t.Context(), h.pool, id, head.Epoch, 0, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "it begins where it was told to", func() bool { return whole(r.got(), 1) })

	_, err = jobs.PauseWebhook(t.Context(), h.pool, id, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 10*time.Second, "the node has let go of it", func() bool {
		return pgtest.One[bool](t, h.db, `SELECT holder IS NULL FROM mini_asynq.webhooks`)
	})
	stands := h.get(id).Seq
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "the events are read", func() bool {
		at, err := n.stream.Head()
		return err == nil && at.Seq >= stands+3
	})
	h.db.Exec(t, `UPDATE mini_asynq.epochs SET floor_seq = $1`, stands+2)
	n.stream.Missed()
	pgtest.Eventually(t, 10*time.Second, "the node knows", func() bool { return n.stream.Floor().Seq > stands })
	_, err = jobs.ResumeWebhook(t.Context(), h.pool, id, 0, 0, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "it is disabled", func() bool { return h.get(id).DisabledReason == jobs.WebhookExpired })
}

// Nobody asks the database for a webhook that has nothing to do, and one that is for others is no reason to.
func TestIdleWebhookCostsNoStatement(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	proxy := pgtest.NewProxy(t, h.db.DSN())
	var asked atomic.Int64
	proxy.OnClientMessage(func(kind byte, _ []byte) pgtest.Action {
		if kind == 'P' || kind == 'B' || kind == 'Q' {
			asked.Add(1)
		}
		return pgtest.Forward
	})
	n := h.startOn("a", proxy.DSN(h.db.DSN()), nil)
	h.hook(n, r.URL, map[string][]string{"queues": {"mine"}, "types": {"job.*"}})
	h.work("mine", 1)
	pgtest.Eventually(t, 10*time.Second, "it has sent, and rests", func() bool {
		return whole(r.got(), 1) && pgtest.One[bool](t, h.db, `SELECT holder IS NULL FROM mini_asynq.webhooks`)
	})
	// The node looks once more after it has let go; nothing tells when that is over but that nothing comes.
	before, since := asked.Load(), time.Now()
	pgtest.Eventually(t, 10*time.Second, "the last look is over", func() bool {
		if now := asked.Load(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	for range 10 { // ten ticks, all for others
		h.work("others", 1)
	}
	h.heard(n)
	require.Equal(t, before, asked.Load())
	h.work("mine", 1)
	pgtest.Eventually(t, 10*time.Second, "its own wake it", func() bool { return whole(r.got(), 2) })
	require.Greater(t, asked.Load(), before)
}

func TestWebhookMetrics(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	n := h.start("a", nil)
	id := h.hook(n, r.URL, ofJobs)
	r.answers(refusing(http.StatusInternalServerError))
	h.work("q", 1)
	pgtest.Eventually(t, 10*time.Second, "one was given up", func() bool { return h.get(id).Failed > 0 })
	r.answers(nil)
	pgtest.Eventually(t, 10*time.Second, "the rest arrives, or is given up", func() bool {
		w := h.get(id)
		return w.Failed+w.Delivered == 3
	})
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(n.Webhooks))
	families, err := registry.Gather()
	require.NoError(t, err)
	sums := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != "miniasynq_webhook_deliveries_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			require.Equal(t, id.String(), m.GetLabel()[0].GetValue())
			sums[m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	w := h.get(id)
	require.InDelta(t, w.Delivered, sums["delivered"], 0)
	require.InDelta(t, w.Failed, sums["failed"], 0)
	require.GreaterOrEqual(t, sums["retried"], 9*sums["failed"])
}
