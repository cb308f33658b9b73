package events_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// clock is the time of a test that lets time go by where it is kept, in the database.
type clock struct {
	*hooks
	began   time.Time
	skipped time.Duration
}

// until skips what is left of a span since the test began. The nodes look, and it waits until they have nothing to do.
func (c *clock) until(at time.Duration) {
	c.t.Helper()
	skip := at - time.Since(c.began) - c.skipped
	require.Positive(c.t, skip, "the machine is too slow for this test")
	c.skipped += skip
	require.NoError(c.t, pgx.BeginFunc(c.t.Context(), c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(c.t.Context(), `UPDATE mini_asynq.webhooks SET failing_since = failing_since - $1::interval, version = version + 1`, skip); err != nil {
			return err
		}
		_, err := tx.Exec(c.t.Context(), `UPDATE mini_asynq.webhook_deliveries SET due_at = due_at - $1::interval`, skip)
		return err
	}))
	c.rests()
}

// rests waits until all that is known has been sent, or parked for seconds.
func (h *hooks) rests() {
	h.t.Helper()
	pgtest.Eventually(h.t, 20*time.Second, "the nodes rest", func() bool {
		return pgtest.One[bool](h.t, h.db, `
			SELECT NOT EXISTS (SELECT FROM mini_asynq.webhooks WHERE holder IS NOT NULL)
			   AND NOT EXISTS (SELECT FROM mini_asynq.webhook_deliveries WHERE due_at < clock_timestamp() + interval '1 s')
			   AND (SELECT min(seq) FROM mini_asynq.webhooks) >= (SELECT sum(n) FROM mini_asynq.outbox)`)
	})
}

// Five minutes, with the schedule of a server. Two nodes send, and neither of them alone.
func TestReceiverThatIsDownForFiveMinutesMissesNothing(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	r.answers(refusing(http.StatusServiceUnavailable))
	schedule := func(c *events.WebhooksConfig) { c.Backoff = nil }
	a := h.start("a", schedule)
	h.start("b", schedule)
	id := h.hook(a, r.URL, ofJobs)
	c := &clock{hooks: h, began: time.Now()}
	h.work("q", 10)
	h.rests()
	for _, at := range []struct {
		seconds, calls int
	}{
		{8, 20},  // the first event of each job, again after 5 s and a fifth at most; the others wait behind it
		{20, 20}, // not before 30 s less a fifth
		{47, 30},
	} {
		c.until(time.Duration(at.seconds) * time.Second)
		require.Equal(t, at.calls, r.called(), "after %d s", at.seconds)
	}
	h.work("q", 5)
	h.rests()
	for _, at := range []struct {
		seconds, calls int
	}{
		{60, 40}, {100, 45}, {115, 45}, // two tries of the new ones; two minutes less a fifth are not over for the old ones
		{250, 60}, {300, 60},
	} {
		c.until(time.Duration(at.seconds) * time.Second)
		require.Equal(t, at.calls, r.called(), "after %d s", at.seconds)
	}
	down := h.get(id)
	require.True(t, down.Enabled)
	require.Equal(t, 45, down.Parked)
	require.Zero(t, down.Failed)
	require.InDelta(t, 5*time.Minute, time.Since(down.FailingSince), float64(30*time.Second))
	require.Empty(t, r.got())

	r.answers(nil)
	c.until(time.Second * (250 + 720 + 10)) // ten minutes and a fifth after the fourth try
	require.True(t, whole(r.got(), 15))
	requireOrder(t, r.got())
	require.Len(t, r.got(), 45, "each once")
	up := h.get(id)
	require.EqualValues(t, 45, up.Delivered)
	require.Zero(t, up.Parked)
	require.True(t, up.FailingSince.IsZero())
}

// A name that led to the internet and leads to this network now is not followed. What could not be delivered is kept.
func TestReceiverWhoseNameTurnsPrivateIsNotCalledAndMissesNothing(t *testing.T) {
	h := setupHooks(t)
	r := newReceiver(t)
	port := r.URL[strings.LastIndexByte(r.URL, ':'):]
	n := h.start("a", func(c *events.WebhooksConfig) {
		guard, err := events.NewGuard([]string{"rebind.example.com"}, true)
		require.NoError(t, err)
		guard.ResolveWith(nameServer(t, "192.88.99.1", "127.0.0.1"))
		c.Guard = guard
	})
	id := h.hook(n, "http://rebind.example.com"+port, ofJobs)
	h.work("q", 1)
	pgtest.Eventually(t, 20*time.Second, "the first event is given up, and the next ones too", func() bool { return h.get(id).Failed == 3 })
	require.Zero(t, r.called())
	rows, err := jobs.Deliveries(t.Context(), h.pool, id, "failed", 0, 0, 10)
	require.NoError(t, err)
	for _, row := range rows {
		require.Equal(t, "rebind.example.com resolves to an address that this server may not be made to call", row.LastError)
		require.Equal(t, 10, row.Attempts)
	}
	n.stop()
	// Somebody finds that the name is one of his own, and says so.
	h.start("b", func(c *events.WebhooksConfig) {
		guard, err := events.NewGuard([]string{"private:rebind.example.com"}, true)
		require.NoError(t, err)
		guard.ResolveWith(nameServer(t, "127.0.0.1"))
		c.Guard = guard
	})
	w := h.get(id)
	_, err = jobs.ReplayWebhook(t.Context(), h.pool, id, w.Epoch, 0, w.Seq, act)
	require.NoError(t, err)
	pgtest.Eventually(t, 20*time.Second, "nothing was lost", func() bool { return whole(r.got(), 1) && h.get(id).GivenUp == 0 })
	requireOrder(t, r.got())
}

// storm is a receiver of every mood, and nodes that come and go.
type storm struct {
	*hooks
	r      *receiver
	id     uuid.UUID
	nodes  [2]*hookNode
	proxy  [2]*pgtest.Proxy
	born   int
	mu     sync.Mutex // guards what follows
	random *rand.Rand
	calm   bool
}

// poisoned events are never taken: every seventh job, its second event.
func poisoned(d delivery) bool {
	id := uuid.MustParse(d.Job)
	return d.Version == 2 && id[15]%7 == 0
}

func (s *storm) n(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

func (s *storm) answer(w http.ResponseWriter, d delivery) bool {
	if poisoned(d) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return false
	}
	s.mu.Lock()
	mood, calm := s.random.IntN(100), s.calm
	s.mu.Unlock()
	switch {
	case calm || mood < 60:
		return true
	case mood < 72:
		w.WriteHeader(http.StatusBadGateway)
	case mood < 80:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	case mood < 81:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	case mood < 82:
		w.WriteHeader(http.StatusGone)
	case mood < 90:
		panic(http.ErrAbortHandler)
	default:
		s.r.mu.Lock() // it takes the event, and hangs up before it says so
		s.r.taken = append(s.r.taken, d)
		s.r.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	return false
}

func (s *storm) begin(i int) {
	s.born++
	s.proxy[i] = pgtest.NewProxy(s.t, s.db.DSN())
	s.nodes[i] = s.startOn(fmt.Sprintf("node-%d", s.born), s.proxy[i].DSN(s.db.DSN()), nil)
}

// strike lets one thing happen that must cost nothing.
func (s *storm) strike() {
	i := s.n(2)
	ctx := s.t.Context()
	switch s.n(8) {
	case 0, 1: // killed: it says nothing more to the database
		s.proxy[i].Refuse(true)
		s.proxy[i].Cut()
		s.nodes[i].stop()
		s.begin(i)
	case 2: // stopped
		s.nodes[i].stop()
		s.begin(i)
	case 3: // its connections break, in the middle of whatever it does
		s.proxy[i].Cut()
	case 4: // the answer to a commit gets lost
		s.proxy[i].LoseNextAnswer()
	case 5:
		_, err := jobs.PauseWebhook(ctx, s.pool, s.id, act)
		require.NoError(s.t, err)
	case 6:
		url := fmt.Sprintf("%s/%d", s.r.URL, s.born)
		_, err := jobs.EditWebhook(ctx, s.pool, s.id, jobs.AnyVersion, jobs.WebhookEdit{URL: &url}, act)
		require.NoError(s.t, err)
	case 7:
		w := s.get(s.id)
		_, err := jobs.ReplayWebhook(ctx, s.pool, s.id, w.Epoch, int64(s.n(int(w.Seq)+1)), w.Seq, act)
		require.NoError(s.t, err)
	}
}

// Whatever the receiver answers and whichever node dies: every event arrives, or has failed after its tries, and those of a job
// arrive in their order.
func TestStormOfWebhooks(t *testing.T) {
	for run := range 2 {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			h := setupHooks(t)
			seed := rand.Uint64()
			t.Log("seed", seed)
			s := &storm{hooks: h, r: newReceiver(t), random: rand.New(rand.NewPCG(seed, 0))}
			s.r.answers(s.answer)
			s.begin(0)
			s.begin(1)
			s.id = h.hook(s.nodes[0], s.r.URL, map[string][]string{"queues": {"q"}, "types": {"job.*"}})
			total := 0
			for range 12 {
				n := 1 + s.n(20)
				h.work("q", n)
				total += n
				s.strike()
				s.resumes()
			}
			s.mu.Lock()
			s.calm = true
			s.mu.Unlock()
			h.work("q", 1)
			last := pgtest.One[int64](t, h.db, `SELECT sum(n) FROM mini_asynq.outbox`)
			pgtest.Eventually(t, 60*time.Second, "all is settled", func() bool {
				s.resumes()
				w := h.get(s.id)
				return w.Parked == 0 && w.ReplayUntil == 0 && w.Seq >= last
			})
			s.requireAll(total + 1)
		})
	}
}

// resumes enables the webhook, if it was paused or the receiver wanted no more.
func (s *storm) resumes() {
	if !s.get(s.id).Enabled {
		_, err := jobs.ResumeWebhook(s.t.Context(), s.pool, s.id, 0, 0, act)
		require.NoError(s.t, err)
	}
}

func (s *storm) requireAll(total int) {
	t := s.t
	t.Helper()
	failed := make(map[string]bool)
	rows, err := jobs.Deliveries(t.Context(), s.pool, s.id, "", 0, 0, 10_000)
	require.NoError(t, err)
	for _, row := range rows {
		require.Equal(t, "failed", row.State)
		require.Equal(t, 10, row.Attempts)
		require.Equal(t, http.StatusUnprocessableEntity, row.LastStatus)
		failed[fmt.Sprintf("evt_%d-%d", row.Epoch, row.Seq)] = true
	}
	arrived := make(map[string]map[int64]bool)
	for _, d := range s.r.got() {
		if arrived[d.Job] == nil {
			arrived[d.Job] = make(map[int64]bool)
		}
		arrived[d.Job][d.Version] = true
		for before := int64(1); before < d.Version; before++ {
			require.True(t, arrived[d.Job][before] || poisoned(delivery{Job: d.Job, Version: before}),
				"job %s: version %d arrived before %d", d.Job, d.Version, before)
		}
	}
	require.Len(t, arrived, total)
	for _, e := range replay(t, s.db.DSN()) {
		if e.AboutJob() && !arrived[e.JobID.String()][e.JobVersion] {
			require.True(t, failed["evt_"+e.Cursor()], "%s of job %s is lost", e.Cursor(), e.JobID)
			require.True(t, poisoned(delivery{Job: e.JobID.String(), Version: e.JobVersion}))
		}
	}
}
