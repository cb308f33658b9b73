package events_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// TestTicksEqualCommitted: whatever writers do, the union of the ticks is the committed set, each event once, positions
// dense, the order per job causal, and a stranger who replays later reads the same. Writers are concurrent, roll back,
// stay open for long, use savepoints and two-phase commit with the NOTIFY switched off; others write in another database
// of the cluster; two pacers tick; PostgreSQL is killed in between.
func TestTicksEqualCommitted(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, nil)
	dsn := cluster.DSN()
	first := follow(t, dsn, options{})
	second := follow(t, dsn, options{})
	first.ready(t)
	second.ready(t)

	w := &writers{t: t, dsn: dsn, committed: make(map[uuid.UUID]bool), maybe: make(map[uuid.UUID]bool)}
	for round := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		w.run(ctx, uint64(round))
		cancel()
		if round == 0 {
			cluster.Crash()
			cluster.Start()
		}
	}
	w.finishPrepared()

	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var outbox int64
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.events`).Scan(&outbox))
	pgtest.Eventually(t, 60*time.Second, "every committed event is published", func() bool {
		head, err := first.Head()
		return err == nil && head.Seq >= outbox
	})
	first.stop()
	second.stop()
	requireInvariants(t, conn)

	all := replay(t, dsn)
	require.Len(t, all, int(outbox))
	versions := make(map[uuid.UUID]int64)
	enqueued := make(map[uuid.UUID]bool)
	for i, e := range all {
		require.EqualValues(t, i+1, e.Seq)
		require.Equal(t, versions[e.JobID]+1, e.JobVersion, "the order per job is causal")
		versions[e.JobID] = e.JobVersion
		enqueued[e.JobID] = true
	}
	for id := range w.committed {
		require.True(t, enqueued[id], "a committed job has no event")
	}
	for id := range enqueued {
		require.True(t, w.committed[id] || w.maybe[id], "an event of a job that nobody committed")
	}
	// What the live readers saw, before and after the crash, is what the stranger read.
	for _, live := range [][]*events.Event{first.events(), second.events()} {
		for _, e := range live {
			require.Equal(t, string(all[e.Seq-1].JSON()), string(e.JSON()))
		}
	}
	require.Greater(t, len(first.events()), 100)
	requireHistories(t, dsn, all)
}

// requireHistories: what the way back from a job's row finds is what the stream says of it, at the same positions.
func requireHistories(t *testing.T, dsn string, all []*events.Event) {
	t.Helper()
	perJob := make(map[uuid.UUID][]string)
	for _, e := range all {
		perJob[e.JobID] = append(perJob[e.JobID], string(e.JSON()))
	}
	pool := pinned(t, dsn)
	checked := 0
	for id, want := range perJob { // in random order
		found, truncated, err := events.History(t.Context(), pool, id, 0, 100)
		require.NoError(t, err)
		require.False(t, truncated)
		got := make([]string, 0, len(found))
		for _, e := range found {
			got = append(got, string(e.JSON()))
		}
		require.Equal(t, want, got)
		if len(want) > 1 {
			last, truncated, err := events.History(t.Context(), pool, id, 1, 1)
			require.NoError(t, err)
			require.False(t, truncated)
			require.Len(t, last, 1)
			require.Equal(t, want[1], string(last[0].JSON()))
		}
		if checked++; checked == 200 {
			return
		}
	}
}

// writers enqueue and change jobs in every way that a transaction can go.
type writers struct {
	t   *testing.T
	dsn string

	mu        sync.Mutex
	committed map[uuid.UUID]bool
	maybe     map[uuid.UUID]bool // the answer to the commit was lost
}

func (w *writers) run(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	for n, act := range []func(context.Context, *pgx.Conn, *rand.Rand){
		w.plain, w.plain, w.rolledBack, w.long, w.savepoints, w.twoPhase, w.otherDatabase,
	} {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			conn, err := pgx.Connect(ctx, w.dsn)
			if err != nil {
				return
			}
			defer func() { _ = conn.Close(context.Background()) }()
			for ctx.Err() == nil && !conn.IsClosed() {
				act(ctx, conn, random)
			}
		})
	}
	wg.Wait()
}

func (w *writers) note(ids []uuid.UUID, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		if err == nil {
			w.committed[id] = true
		} else {
			w.maybe[id] = true
		}
	}
}

// write enqueues a few jobs and cancels one of them, so that some have a second version.
func write(ctx context.Context, db jobs.DB, random *rand.Rand) ([]uuid.UUID, error) {
	params := make([]jobs.Params, 1+random.IntN(5))
	if random.IntN(20) == 0 {
		params = make([]jobs.Params, 100) // more events than one row of the outbox holds
	}
	for i := range params {
		params[i] = jobs.Params{Queue: fmt.Sprintf("q%d", random.IntN(3)), Delay: time.Hour}
	}
	stored, err := jobs.Enqueue(ctx, db, params...)
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(stored))
	for i, j := range stored {
		ids[i] = j.ID
	}
	_, _, err = jobs.CancelJob(ctx, db, ids[0], jobs.Act{})
	return ids, err
}

func (w *writers) in(ctx context.Context, conn *pgx.Conn, options pgx.TxOptions, fn func(pgx.Tx) ([]uuid.UUID, error)) {
	tx, err := conn.BeginTx(ctx, options)
	if err != nil {
		return
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	ids, err := fn(tx)
	if err != nil {
		return
	}
	w.note(ids, tx.Commit(ctx))
}

var levels = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

func (w *writers) plain(ctx context.Context, conn *pgx.Conn, random *rand.Rand) {
	w.in(ctx, conn, pgx.TxOptions{IsoLevel: levels[random.IntN(3)]}, func(tx pgx.Tx) ([]uuid.UUID, error) {
		return write(ctx, tx, random)
	})
}

func (w *writers) rolledBack(ctx context.Context, conn *pgx.Conn, random *rand.Rand) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return
	}
	_, _ = write(ctx, tx, random)
	_ = tx.Rollback(context.Background())
}

// long holds its transaction open, before and after it writes: first without an id, then with one.
func (w *writers) long(ctx context.Context, conn *pgx.Conn, random *rand.Rand) {
	w.in(ctx, conn, pgx.TxOptions{}, func(tx pgx.Tx) ([]uuid.UUID, error) {
		if random.IntN(2) == 0 {
			if _, err := tx.Exec(ctx, `SELECT pg_current_xact_id()`); err != nil {
				return nil, err
			}
		}
		pause := func() error {
			_, err := tx.Exec(ctx, `SELECT pg_sleep($1)`, random.Float64()/2)
			return err
		}
		if err := pause(); err != nil {
			return nil, err
		}
		ids, err := write(ctx, tx, random)
		if err != nil {
			return nil, err
		}
		return ids, pause()
	})
}

func (w *writers) savepoints(ctx context.Context, conn *pgx.Conn, random *rand.Rand) {
	w.in(ctx, conn, pgx.TxOptions{}, func(tx pgx.Tx) ([]uuid.UUID, error) {
		kept, err := write(ctx, tx, random)
		if err != nil {
			return nil, err
		}
		for range 2 {
			inner, err := tx.Begin(ctx)
			if err != nil {
				return nil, err
			}
			ids, err := write(ctx, inner, random)
			if err != nil {
				return nil, err
			}
			if random.IntN(2) == 0 {
				err = inner.Rollback(ctx)
			} else if err = inner.Commit(ctx); err == nil {
				kept = append(kept, ids...)
			}
			if err != nil {
				return nil, err
			}
		}
		return kept, nil
	})
}

// twoPhase prepares, and commits later or rolls back. PostgreSQL refuses to prepare after a NOTIFY.
func (w *writers) twoPhase(ctx context.Context, conn *pgx.Conn, random *rand.Rand) {
	name := uuid.NewString()
	exec := func(sql string) error {
		_, err := conn.Exec(ctx, sql)
		return err
	}
	if exec(`BEGIN`) != nil || exec(`SET LOCAL mini_asynq.notify = off`) != nil {
		return
	}
	stored, err := jobs.Enqueue(ctx, conn, jobs.Params{Queue: "two-phase", Delay: time.Hour})
	if err != nil {
		_, _ = conn.Exec(context.Background(), `ROLLBACK`)
		return
	}
	ids := []uuid.UUID{stored[0].ID}
	w.note(ids, context.Canceled) // may or may not, also when the answer to PREPARE is lost
	if exec(`PREPARE TRANSACTION '`+name+`'`) != nil {
		_, _ = conn.Exec(context.Background(), `ROLLBACK`)
		return
	}
	if exec(fmt.Sprintf(`SELECT pg_sleep(%f)`, random.Float64()/4)) != nil {
		return
	}
	if random.IntN(3) == 0 {
		_ = exec(`ROLLBACK PREPARED '` + name + `'`)
		return
	}
	if exec(`COMMIT PREPARED '`+name+`'`) == nil {
		w.note(ids, nil)
		_ = exec(`SELECT mini_asynq.wake()`)
	}
}

// otherDatabase burns transaction ids elsewhere in the cluster: snapshots see them.
func (w *writers) otherDatabase(ctx context.Context, _ *pgx.Conn, random *rand.Rand) {
	config, err := pgx.ParseConfig(w.dsn)
	if err != nil {
		return
	}
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for range 20 {
		if _, err := conn.Exec(ctx, `SELECT pg_current_xact_id(), pg_sleep($1)`, random.Float64()/20); err != nil {
			return
		}
	}
}

// finishPrepared commits what a crash left prepared.
func (w *writers) finishPrepared() {
	conn, err := pgx.Connect(w.t.Context(), w.dsn)
	require.NoError(w.t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(w.t.Context(), `SELECT gid FROM pg_prepared_xacts`)
	require.NoError(w.t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	for _, name := range names {
		_, err := conn.Exec(w.t.Context(), `COMMIT PREPARED '`+name+`'`)
		require.NoError(w.t, err)
	}
	_, err = conn.Exec(w.t.Context(), `SELECT mini_asynq.wake()`)
	require.NoError(w.t, err)
}
