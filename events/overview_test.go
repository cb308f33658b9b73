package events_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func ms(n int64) *int64 { return &n }

// world is a database in miniature: transactions with ids, commits, ticks. It knows what is true.
type world struct {
	nextXID   uint64
	nextSeq   int64
	nextWrite int64
	running   map[uint64]*txn
	order     []uint64 // of running, for choices that can be repeated
	jobs      map[uuid.UUID]*modelJob
	ids       []uuid.UUID
	unticked  []modelWrite // committed
	stream    []*events.Event
	folded    int
}

type txn struct {
	xid    uint64
	writes []modelWrite
}

type modelWrite struct {
	id    int64
	event *events.Event
}

type modelJob struct {
	queue     string
	committed jobs.Status
	now       jobs.Status // as the transaction that holds it sees it
	holder    uint64      // 0: nobody
}

func newWorld() *world {
	return &world{nextXID: 100, running: make(map[uint64]*txn), jobs: make(map[uuid.UUID]*modelJob)}
}

func (w *world) begin() *txn {
	tx := &txn{xid: w.nextXID}
	w.nextXID++
	w.running[tx.xid] = tx
	w.order = append(w.order, tx.xid)
	return tx
}

// step makes a legal change of a job in a transaction: of a new job, or of one that nobody else holds.
func (w *world) step(t *rapid.T, tx *txn) {
	id := uuid.New()
	free := slices.DeleteFunc(slices.Clone(w.ids), func(id uuid.UUID) bool {
		j := w.jobs[id]
		return j.holder != 0 && j.holder != tx.xid || j.now == "" || j.now == jobs.Completed
	})
	if len(free) > 0 && rapid.IntRange(0, 2).Draw(t, "old") > 0 {
		id = rapid.SampledFrom(free).Draw(t, "job")
	}
	j := w.jobs[id]
	if j == nil {
		j = &modelJob{queue: rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "queue")}
		w.jobs[id] = j
		w.ids = append(w.ids, id)
	}
	var legal []jobs.Step
	for _, s := range jobs.Steps() {
		if s.From == j.now {
			legal = append(legal, s)
		}
	}
	s := rapid.SampledFrom(legal).Draw(t, "step")
	w.nextWrite++
	tx.writes = append(tx.writes, modelWrite{w.nextWrite, &events.Event{
		XID: tx.xid, Type: s.Event, From: s.From, Status: s.To, JobID: id, Queue: j.queue, At: time.Now(), RunAt: time.Now(),
	}})
	j.now, j.holder = s.To, tx.xid
}

func (w *world) end(tx *txn, commit bool) {
	delete(w.running, tx.xid)
	w.order = slices.DeleteFunc(w.order, func(xid uint64) bool { return xid == tx.xid })
	for _, j := range w.jobs {
		if j.holder != tx.xid {
			continue
		}
		if j.holder = 0; commit {
			j.committed = j.now
		} else {
			j.now = j.committed
		}
	}
	if !commit {
		w.ids = slices.DeleteFunc(w.ids, func(id uuid.UUID) bool {
			return w.jobs[id].committed == "" && w.jobs[id].now == "" && w.jobs[id].holder == 0
		})
		return
	}
	w.unticked = append(w.unticked, tx.writes...)
}

func (w *world) tick() {
	slices.SortFunc(w.unticked, func(a, b modelWrite) int { return int(a.id - b.id) })
	for _, wr := range w.unticked {
		w.nextSeq++
		wr.event.Position = events.Position{Epoch: 1, Seq: w.nextSeq}
		w.stream = append(w.stream, wr.event)
	}
	w.unticked = nil
}

func (w *world) snapshot() string {
	xmin := w.nextXID
	var xip []string
	for xid := range w.running {
		xmin = min(xmin, xid)
		xip = append(xip, strconv.FormatUint(xid, 10))
	}
	slices.Sort(xip)
	return fmt.Sprintf("%d:%d:%s", xmin, w.nextXID, strings.Join(xip, ","))
}

// counts is the naive model: a count of what is committed.
func (w *world) counts() map[string]map[jobs.Status]int64 {
	out := make(map[string]map[jobs.Status]int64)
	for _, j := range w.jobs {
		if j.committed == "" || j.committed == jobs.Completed || j.committed == jobs.Cancelled {
			continue
		}
		if out[j.queue] == nil {
			out[j.queue] = make(map[jobs.Status]int64)
		}
		out[j.queue][j.committed]++
	}
	return out
}

func (w *world) fold(o *events.Overview, n int) {
	n = min(n, len(w.stream)-w.folded)
	o.Fold(w.stream[w.folded : w.folded+n])
	w.folded += n
}

func requireCounts(t require.TestingT, want map[string]map[jobs.Status]int64, o *events.Overview) {
	got := make(map[string]map[jobs.Status]int64)
	for _, q := range o.Queues() {
		for status, n := range q.Counts {
			if n == 0 {
				continue
			}
			if got[q.Name] == nil {
				got[q.Name] = make(map[jobs.Status]int64)
			}
			got[q.Name][status] = n
		}
	}
	require.Equal(t, want, got)
}

// TestCountsAreExactWhereverTheBaseFalls: transactions begin, write, commit and roll back in any order, ticks and reads
// lag, counts are taken at any point of it; in the end the numbers are those of a plain count, and there is no drift.
func TestCountsAreExactWhereverTheBaseFalls(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		o := events.NewOverview(events.OverviewConfig{
			DB: nil, Stream: events.NewReadyStream(events.Position{Epoch: 1}), Probe: -1,
			MaxQueues: rapid.SampledFrom([]int{3, 100}).Draw(t, "max_queues"),
		})
		var finish func(events.Base) error
		var taken *events.Base
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				tx := (*txn)(nil)
				if len(w.order) > 0 && rapid.Bool().Draw(t, "in_open") {
					tx = w.running[rapid.SampledFrom(w.order).Draw(t, "tx")]
				} else {
					tx = w.begin()
				}
				for range rapid.IntRange(1, 3).Draw(t, "n") {
					w.step(t, tx)
				}
			},
			"end": func(t *rapid.T) {
				if len(w.order) > 0 {
					w.end(w.running[rapid.SampledFrom(w.order).Draw(t, "tx")], rapid.IntRange(0, 4).Draw(t, "commit") > 0)
				}
			},
			"tick": func(*rapid.T) { w.tick() },
			"fold": func(t *rapid.T) { w.fold(o, rapid.IntRange(1, 10).Draw(t, "n")) },
			"count": func(t *rapid.T) {
				switch {
				case finish == nil:
					finish = o.BeginCount()
				case taken == nil:
					taken = &events.Base{Snapshot: w.snapshot(), Counts: w.counts()}
				default:
					require.NoError(t, finish(*taken))
					finish, taken = nil, nil
				}
			},
		})
		if finish == nil {
			finish = o.BeginCount()
		}
		if taken == nil {
			taken = &events.Base{Snapshot: w.snapshot(), Counts: w.counts()}
		}
		require.NoError(t, finish(*taken))
		for _, xid := range slices.Clone(w.order) {
			w.end(w.running[xid], true)
		}
		w.tick()
		w.fold(o, len(w.stream))
		want := w.counts()
		if numbers := o.Queues(); slices.ContainsFunc(numbers, func(q events.QueueNumbers) bool { return q.Name == events.OtherQueue }) {
			// Names share a place: the sum must be right.
			var sum, wanted int64
			for _, q := range numbers {
				for _, n := range q.Counts {
					sum += n
				}
			}
			for _, counts := range want {
				for _, n := range counts {
					wanted += n
				}
			}
			require.Equal(t, wanted, sum)
			return
		}
		requireCounts(t, want, o)
		for queue, n := range o.SettleAudit() {
			require.Zero(t, n, queue)
		}
	})
}

func TestSnapshotSeesWhatPostgreSQLSees(t *testing.T) {
	t.Parallel()
	conn := pgtest.NewDB(t).Conn(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		xmin := 1000 + rng.Uint64N(50)
		xmax := xmin + rng.Uint64N(20)
		var xip []string
		for xid := xmin; xid < xmax; xid++ {
			if xid == xmin || rng.IntN(3) == 0 {
				xip = append(xip, strconv.FormatUint(xid, 10))
			}
		}
		text := fmt.Sprintf("%d:%d:%s", xmin, xmax, strings.Join(xip, ","))
		xid := 995 + rng.Uint64N(80)
		var want bool
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT pg_visible_in_snapshot($1::text::xid8, $2::text::pg_snapshot)`,
			strconv.FormatUint(xid, 10), text).Scan(&want))
		got, err := events.SnapshotSees(text, xid)
		require.NoError(t, err)
		require.Equal(t, want, got, "%d in %s", xid, text)
	}
	for _, text := range []string{"", "1:2", "1:2:3:4", "x:2:", "5:2:", "1:9:a", "-1:2:"} {
		_, err := events.SnapshotSees(text, 1)
		require.Error(t, err, text)
	}
}

// overviewOn follows a real database.
func overviewOn(t testing.TB, db *pgtest.DB, config events.OverviewConfig) (*events.Overview, *events.Stream) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pool := pinned(t, db.DSN())
	connect := func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, db.DSN()) }
	stream := events.NewStream(events.StreamConfig{DB: pool})
	var pacer *events.Pacer
	listener := events.NewListener(events.ListenerConfig{
		Connect: connect, DB: pool,
		Heard:  func(n events.Note) { pacer.Hear(n); stream.Heard(n) },
		Missed: func() { pacer.Wake(); stream.Missed() },
	})
	pacer = events.NewPacer(events.PacerConfig{
		Connect: connect, Published: func(events.Tick) { stream.Wake() }, Hearing: listener.Hears,
	})
	config.DB, config.Stream = pool, stream
	o := events.NewOverview(config)
	stream.Tap(o.Fold)
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{stream.Run, pacer.Run, listener.Run, o.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return o, stream
}

// caughtUp waits until everything committed before is folded: a queue's row made last is known.
func caughtUp(t testing.TB, db *pgtest.DB, o *events.Overview) {
	t.Helper()
	name := "mark-" + uuid.NewString()
	db.Exec(t, `INSERT INTO mini_asynq.queues (name) VALUES ($1)`, name)
	pgtest.Eventually(t, 20*time.Second, "the overview has seen a queue made last", func() bool {
		_, ok := o.Queue(name)
		return ok
	})
}

// TestCountsAreExactBesideConcurrentWriters: writers in all isolation levels, with open transactions and rollbacks, while
// the overview counts anew all the time.
func TestCountsAreExactBesideConcurrentWriters(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	o, _ := overviewOn(t, db, events.OverviewConfig{Recount: 10 * time.Millisecond})
	pool := db.Pool(t)
	ctx := t.Context()
	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(n)))
			levels := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}
			for range 60 {
				tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: levels[rng.IntN(3)]})
				if err != nil {
					t.Error(err)
					return
				}
				queue := "q" + strconv.Itoa(rng.IntN(3))
				params := make([]jobs.Params, 1+rng.IntN(20))
				for i := range params {
					params[i] = jobs.Params{Queue: queue, MaxRetries: new(int)}
					if rng.IntN(4) == 0 {
						params[i].Delay = time.Hour
					}
				}
				_, err = jobs.Enqueue(ctx, tx, params...)
				if err == nil {
					_, err = tx.Exec(ctx, `SELECT pg_sleep($1)`, rng.Float64()/100)
				}
				if err != nil || rng.IntN(4) == 0 {
					_ = tx.Rollback(ctx)
				} else if err := tx.Commit(ctx); err != nil && pgtest.SQLState(err) != "40001" {
					t.Error(err)
				}
				turn := jobs.Turn{Claims: []jobs.Claim{{Queue: queue, Limit: 1 + rng.IntN(10), Worker: "w", Lease: time.Minute}}}
				result, err := turn.Do(ctx, pool)
				if err != nil {
					t.Error(err)
					return
				}
				var outcomes []jobs.Outcome
				for _, c := range result.Claimed[0] {
					switch rng.IntN(5) {
					case 0:
						outcomes = append(outcomes, jobs.FailFinally(&c.Job, jobs.NewFailure("k", "E", "no", "")))
					case 1:
						outcomes = append(outcomes, jobs.SnoozeFor(&c.Job, time.Hour))
					case 2: // it keeps running
					default:
						outcomes = append(outcomes, jobs.Complete(&c.Job, nil))
					}
				}
				if _, err := jobs.Finish(ctx, pool, outcomes); err != nil {
					t.Error(err)
				}
				if len(outcomes) > 0 {
					_, _ = jobs.RetryJob(ctx, pool, outcomes[0].JobID, 0, jobs.Act{}) // not every status allows it
				}
			}
		})
	}
	writers.Wait()
	caughtUp(t, db, o)
	backlogs, err := jobs.Backlogs(ctx, pool)
	require.NoError(t, err)
	want := make(map[string]map[jobs.Status]int64)
	for name, b := range backlogs {
		want[name] = b.Counts
	}
	require.NotEmpty(t, want)
	requireCounts(t, want, o)
	for queue, n := range o.SettleAudit() {
		require.Zero(t, n, queue)
	}
	for _, q := range o.Queues() {
		if b := backlogs[q.Name]; b != nil {
			require.WithinDuration(t, b.OldestPending, q.OldestPendingAt, 0, q.Name)
		}
	}
}

// TestOldestPendingIsLookedUpWhileSomebodyAsks: the jobs at the head of the line go away without the line getting empty.
func TestOldestPendingIsLookedUpWhileSomebodyAsks(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	o, _ := overviewOn(t, db, events.OverviewConfig{Probe: time.Nanosecond})
	pool := db.Pool(t)
	_, err := jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "mail"})
	require.NoError(t, err)
	second, err := jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "mail", Priority: jobs.Low})
	require.NoError(t, err)
	_, err = (&jobs.Turn{Claims: []jobs.Claim{{Queue: "mail", Limit: 1, Worker: "w", Lease: time.Minute}}}).Do(t.Context(), pool)
	require.NoError(t, err)
	caughtUp(t, db, o)
	q, ok := o.Queue("mail")
	require.True(t, ok)
	require.EqualValues(t, 1, q.Counts[jobs.Pending])
	require.Equal(t, 1, q.Busy)
	require.WithinDuration(t, second[0].RunAt, q.OldestPendingAt, 0)
	_, err = jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "other", Delay: time.Hour})
	require.NoError(t, err)
	caughtUp(t, db, o)
	q, ok = o.Queue("other")
	require.True(t, ok)
	require.Zero(t, q.OldestPendingAt)
	_, ok = o.Queue("nobody")
	require.False(t, ok)
}

// TestPausesAndNewQueuesAreKnown: a name without a row is offered, and a pause counts wherever it falls.
func TestPausesAndNewQueuesAreKnown(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	pool := db.Pool(t)
	_, err := jobs.PauseQueue(t.Context(), pool, "before", jobs.Pause{}, jobs.Act{})
	require.NoError(t, err)
	_, err = jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "old"})
	require.NoError(t, err)
	offered := make(chan []string, 100)
	o, _ := overviewOn(t, db, events.OverviewConfig{NewQueues: func(names []string) { offered <- names }})
	require.Equal(t, []string{"old"}, pgtest.Receive(t, offered, 20*time.Second, "the count finds a queue without a row"))
	caughtUp(t, db, o)
	_, err = jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "new"}, jobs.Params{Queue: "new"})
	require.NoError(t, err)
	// "old" is offered until it has a row, so it may come again before.
	for seen := false; !seen; {
		names := pgtest.Receive(t, offered, 20*time.Second, "an event names a queue without a row")
		require.Subset(t, []string{"old", "new"}, names)
		seen = slices.Contains(names, "new")
	}
	_, err = jobs.PauseQueue(t.Context(), pool, "new", jobs.Pause{}, jobs.Act{})
	require.NoError(t, err)
	_, err = jobs.ResumeQueue(t.Context(), pool, "before", jobs.Act{})
	require.NoError(t, err)
	caughtUp(t, db, o)
	q, _ := o.Queue("new")
	require.True(t, q.Paused)
	q, _ = o.Queue("before")
	require.False(t, q.Paused)
}

// happened makes an event of a step.
func happened(seq int64, queue string, at time.Time, from, to jobs.Status, change ...func(*events.Event)) *events.Event {
	e := &events.Event{
		Position: events.Position{Epoch: 1, Seq: seq}, XID: 1000 + uint64(seq), At: at, RunAt: at, Type: "job.x",
		JobID: uuid.New(), Queue: queue, Kind: queue, From: from, Status: to,
	}
	for _, fn := range change {
		fn(e)
	}
	return e
}

// inBubble is an overview whose base is empty, in a synctest bubble.
func inBubble(t *testing.T, config events.OverviewConfig, read func(context.Context) (events.Base, error)) (*events.Overview, *events.Stream) {
	t.Helper()
	stream := events.NewReadyStream(events.Position{Epoch: 1})
	config.Stream, config.DB = stream, noDB{}
	config.Probe = -1
	o := events.NewOverview(config)
	if read == nil {
		read = func(context.Context) (events.Base, error) { return events.Base{Snapshot: "1:1:"}, nil }
	}
	o.ReadBaseWith(read)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	synctest.Wait()
	return o, stream
}

// noDB is a database that a test never reaches.
type noDB struct{ jobs.DB }

func TestIdleServerIsNotCountedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		o, _ := inBubble(t, events.OverviewConfig{}, func(context.Context) (events.Base, error) {
			reads++
			return events.Base{Snapshot: "1:1:"}, nil
		})
		require.Equal(t, 1, reads)
		pass(3 * time.Hour) // of the bubble
		synctest.Wait()
		require.Equal(t, 1, reads)
		o.Fold([]*events.Event{happened(1, "q", time.Now(), "", jobs.Pending)})
		pass(11 * time.Minute)
		synctest.Wait()
		require.Equal(t, 2, reads)
	})
}

func TestCountThatFailsIsTriedAgainAndNumbersWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		o, _ := inBubble(t, events.OverviewConfig{}, func(context.Context) (events.Base, error) {
			if reads++; reads < 4 {
				return events.Base{}, errors.New("away")
			}
			return events.Base{Snapshot: "1:1:"}, nil
		})
		o.Fold([]*events.Event{happened(1, "q", time.Now(), "", jobs.Pending)})
		_, ok := o.Queue("q")
		require.False(t, ok, "nothing is true before the first count")
		require.Empty(t, o.Queues())
		pass(time.Minute)
		synctest.Wait()
		require.Equal(t, 4, reads)
		// The event was folded before the count that succeeded began: its snapshot saw it, and found the job gone.
		q, ok := o.Queue("q")
		require.True(t, ok)
		require.Zero(t, q.Counts[jobs.Pending])
	})
}

func TestNewEpochAndDroppedHistoryAreCountedAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dead := int64(5)
		reads := 0
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		var o *events.Overview
		var uncounted error
		o, stream := inBubble(t, events.OverviewConfig{}, func(context.Context) (events.Base, error) {
			if reads++; reads == 3 {
				uncounted = o.Counted(gone)
			}
			return events.Base{
				Snapshot: "50:50:", Counts: map[string]map[jobs.Status]int64{"q": {jobs.Dead: dead}},
			}, nil
		})
		dead = 2
		o.Fold([]*events.Event{{Position: events.Position{Epoch: 1, Seq: 1}, XID: 60, Type: "history.dropped", At: time.Now()}})
		synctest.Wait()
		require.Equal(t, 2, reads)
		q, _ := o.Queue("q")
		require.EqualValues(t, 2, q.Counts[jobs.Dead])
		require.Empty(t, o.Drift(), "jobs that retention dropped are no drift")

		dead = 1
		next := happened(7, "q", time.Now(), "", jobs.Pending)
		next.Epoch = 2
		o.Fold([]*events.Event{next})
		synctest.Wait()
		require.Equal(t, 3, reads)
		require.ErrorIs(t, uncounted, context.Canceled, "those of another history are none")
		require.NoError(t, o.Counted(t.Context()))
		q, _ = o.Queue("q")
		require.EqualValues(t, 1, q.Counts[jobs.Dead])

		// An epoch in which nothing has happened yet is noticed, too.
		stream.SetHead(events.Position{Epoch: 3, Seq: 7})
		pass(6 * time.Second)
		synctest.Wait()
		require.Equal(t, 4, reads)
	})
}

func TestDriftIsFoundAndRepaired(t *testing.T) {
	t.Parallel()
	o := events.NewOverview(events.OverviewConfig{Probe: -1, Stream: events.NewReadyStream(events.Position{Epoch: 1})})
	require.NoError(t, o.BeginCount()(events.Base{Snapshot: "1:1:", Counts: map[string]map[jobs.Status]int64{"q": {jobs.Pending: 7}}}))
	late := happened(1, "q", time.Now(), jobs.Pending, jobs.Running)
	finish := o.BeginCount()
	// The recount saw the start (6 pending, 1 running) before it was folded, and it knows of 2 fewer pending jobs.
	require.NoError(t, finish(events.Base{
		Snapshot: "9000:9000:", Counts: map[string]map[jobs.Status]int64{"q": {jobs.Pending: 4, jobs.Running: 1}},
	}))
	o.Fold([]*events.Event{late})
	q, _ := o.Queue("q")
	require.EqualValues(t, 4, q.Counts[jobs.Pending])
	require.EqualValues(t, 1, q.Counts[jobs.Running])
	require.Equal(t, map[string]int64{"q": 2}, o.SettleAudit())
}

func TestTooManyChangesGiveTheCountUp(t *testing.T) {
	t.Parallel()
	o := events.NewOverview(events.OverviewConfig{Probe: -1, MaxDeltas: 2, Stream: events.NewReadyStream(events.Position{Epoch: 1})})
	finish := o.BeginCount()
	for n := range int64(3) {
		o.Fold([]*events.Event{happened(n+1, "q", time.Now(), "", jobs.Pending)})
	}
	require.Error(t, finish(events.Base{Snapshot: "1:1:"}))
	_, ok := o.Queue("q")
	require.False(t, ok)
	// Equal changes of one transaction take one place.
	finish = o.BeginCount()
	for n := range int64(1000) {
		o.Fold([]*events.Event{happened(n+4, "q", time.Now(), "", jobs.Pending, func(e *events.Event) { e.XID = 5000 })})
	}
	require.NoError(t, finish(events.Base{Snapshot: "1:1:"}))
	q, _ := o.Queue("q")
	require.EqualValues(t, 1000, q.Counts[jobs.Pending])
}

func TestRatesAndPercentilesAreOfTheLastMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, _ := inBubble(t, events.OverviewConfig{Slots: func(string) int { return 8 }}, nil)
		pass(10 * time.Minute)
		seq := int64(0)
		for range 60 { // a minute of one job a second; every fourth attempt fails
			seq++
			at := time.Now()
			run := func(e *events.Event) { e.RunMS = ms(40) }
			o.Fold([]*events.Event{
				happened(3*seq-2, "q", at, "", jobs.Pending),
				happened(3*seq-1, "q", at, jobs.Pending, jobs.Running, func(e *events.Event) { e.WaitMS = ms(2) }),
			})
			if seq%4 == 0 {
				o.Fold([]*events.Event{happened(3*seq, "q", at, jobs.Running, jobs.Retrying, run)})
			} else {
				o.Fold([]*events.Event{happened(3*seq, "q", at, jobs.Running, jobs.Completed, run)})
			}
			pass(time.Second)
		}
		q, ok := o.Queue("q")
		require.True(t, ok)
		require.InDelta(t, 1, q.EnqueuedPerSec, .1)
		require.InDelta(t, 1, q.StartedPerSec, .1)
		require.InDelta(t, .75, q.CompletedPerSec, .1)
		require.InDelta(t, .25, q.FailedPerSec, .05)
		require.InDelta(t, .002, q.WaitP50, .0015)
		require.InDelta(t, .04, q.RunP99, .015)
		require.EqualValues(t, 15, q.Counts[jobs.Retrying])
		require.Equal(t, 8, q.Slots)

		pass(2 * time.Minute)
		q, _ = o.Queue("q")
		require.Zero(t, q.EnqueuedPerSec)
		require.NotZero(t, q.WaitP50, "of the last five minutes")
		pass(5 * time.Minute)
		q, _ = o.Queue("q")
		require.Zero(t, q.WaitP50)
		require.EqualValues(t, 15, q.Counts[jobs.Retrying])
	})
}

func TestSeriesAddUpAndTheBacklogFits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, _ := inBubble(t, events.OverviewConfig{Recount: -1}, func(context.Context) (events.Base, error) {
			return events.Base{Snapshot: "1:1:", Counts: map[string]map[jobs.Status]int64{"a": {jobs.Pending: 100}}}, nil
		})
		pass(2 * time.Hour)
		var seq int64
		fold := func(queue string, from, to jobs.Status) {
			seq++
			o.Fold([]*events.Event{happened(seq, queue, time.Now(), from, to)})
		}
		for range 30 { // 15 minutes: two come, one goes
			fold("a", "", jobs.Pending)
			fold("a", "", jobs.Pending)
			fold("a", jobs.Pending, jobs.Running)
			fold("a", jobs.Running, jobs.Dead)
			fold("b", "", jobs.Pending)
			pass(30 * time.Second)
		}
		for _, row := range []struct {
			window, step, width time.Duration
			points              int
		}{
			{20 * time.Minute, 5 * time.Second, 5 * time.Second, 240},
			{20 * time.Minute, 7 * time.Second, 10 * time.Second, 120},
			{time.Hour, time.Minute, time.Minute, 60},
			{2 * time.Hour, 5 * time.Second, time.Minute, 120},
			{2 * time.Hour, 10 * time.Minute, 10 * time.Minute, 12},
		} {
			s := o.Stats("a", row.window, row.step)
			require.Equal(t, row.width, s.Step)
			require.Len(t, s.Points, row.points)
			require.Equal(t, s.From, s.Points[0].At)
			var enqueued, dead, failed int64
			for i, p := range s.Points {
				require.Equal(t, s.From.Add(time.Duration(i)*s.Step), p.At)
				enqueued, dead, failed = enqueued+p.Enqueued, dead+p.Dead, failed+p.Failed
			}
			require.EqualValues(t, []int64{60, 30, 30}, []int64{enqueued, dead, failed}, row)
			require.EqualValues(t, 100, s.Points[0].Backlog, "before it began: %v", row)
			require.EqualValues(t, 130, s.Points[len(s.Points)-1].Backlog)
			all := o.Stats("", row.window, row.step)
			require.EqualValues(t, 160, all.Points[len(all.Points)-1].Backlog)
		}
		// A day, on a node that is younger: no points are invented for before.
		s := o.Stats("a", 24*time.Hour, time.Minute)
		require.InDelta(t, 135, len(s.Points), 2)
		require.Empty(t, o.Stats("nobody", time.Hour, time.Minute).Points)
	})
}

func TestQueuesBeyondTheBoundShareOnePlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, _ := inBubble(t, events.OverviewConfig{MaxQueues: 3, MaxSeries: 2, Recount: -1}, nil)
		for n := range int64(10) {
			o.Fold([]*events.Event{happened(n+1, "q"+strconv.FormatInt(n, 10), time.Now(), "", jobs.Pending)})
		}
		require.Len(t, o.Queues(), 4)
		other, ok := o.Queue(events.OtherQueue)
		require.True(t, ok)
		require.EqualValues(t, 7, other.Counts[jobs.Pending])
		// The history of the third reaches five minutes back.
		require.Len(t, o.Stats("q2", time.Hour, 5*time.Second).Points, 1)
		pass(time.Hour)
		require.Len(t, o.Stats("q0", time.Hour, 5*time.Second).Points, 720)
		require.Len(t, o.Stats("q2", time.Hour, 5*time.Second).Points, 62)
		// Without jobs and events a queue is forgotten after a day.
		o.Fold([]*events.Event{happened(11, "q0", time.Now(), jobs.Pending, jobs.Cancelled)})
		pass(25 * time.Hour)
		_, ok = o.Queue("q0")
		require.False(t, ok)
		require.Len(t, o.Queues(), 3)
	})
}

// BenchmarkFold is what the tailer pays for each event.
func BenchmarkFold(b *testing.B) {
	o := events.NewOverview(events.OverviewConfig{Probe: -1, Stream: events.NewReadyStream(events.Position{Epoch: 1})})
	require.NoError(b, o.BeginCount()(events.Base{Snapshot: "1:1:"}))
	batch := make([]*events.Event, 500)
	for i := range batch {
		batch[i] = happened(int64(i+1), "q"+strconv.Itoa(i%8), time.Now(), jobs.Pending, jobs.Running,
			func(e *events.Event) { e.WaitMS = ms(3) })
	}
	for b.Loop() {
		o.Fold(batch)
		for _, e := range batch {
			e.Seq += int64(len(batch))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/event")
}
