package events_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// past is a database whose stream has a history: some days of it lie years back.
type past struct {
	t    *testing.T
	db   *pgtest.DB
	conn *pgx.Conn
	live *follower
}

// perDay is how many events a day of it has, in two ticks.
const perDay = 40

// newPast makes days of history from 2024-05-01 on, and perDay events of today.
func newPast(t *testing.T, days int) *past {
	t.Helper()
	db := pgtest.NewDB(t)
	p := &past{t: t, db: db, conn: db.Conn(t), live: follow(t, db.DSN(), options{})}
	p.live.ready(t)
	for n := range days + 1 {
		for range 2 {
			p.enqueue(perDay / 2)
		}
		if n < days {
			p.move(n, int64(n*perDay))
		}
	}
	return p
}

// enqueue makes n jobs in one statement, and waits until their events are published.
func (p *past) enqueue(n int) {
	p.t.Helper()
	head, err := p.live.Head()
	require.NoError(p.t, err)
	params := make([]jobs.Params, n)
	for i := range params {
		params[i] = jobs.Params{Queue: "q"}
	}
	_, err = jobs.Enqueue(p.t.Context(), p.conn, params...)
	require.NoError(p.t, err)
	p.published(head.Seq + int64(n))
}

func (p *past) published(seq int64) {
	p.t.Helper()
	pgtest.Eventually(p.t, 10*time.Second, "the events are published", func() bool {
		head, err := p.live.Head()
		return err == nil && head.Seq >= seq
	})
}

// move makes what came after a position the history of a day.
func (p *past) move(day int, after int64) {
	p.t.Helper()
	at := time.Date(2024, 5, 1+day, 12, 0, 0, 0, time.UTC)
	p.db.Exec(p.t, `SELECT mini_asynq.create_partition('outbox', $1)`, at.Truncate(24*time.Hour))
	p.db.Exec(p.t, `UPDATE mini_asynq.outbox SET at = $1 WHERE at > '2025-01-01'`, at)
	p.db.Exec(p.t, `UPDATE mini_asynq.ticks SET at = $1 WHERE first_seq > $2`, at.Add(time.Minute), after)
}

// left are the days of the past that still have a partition, and those whose events are there.
func (p *past) left() (shells, full []string) {
	p.t.Helper()
	shells = pgtest.All[string](p.t, p.db, `SELECT partition FROM mini_asynq.partitions()
		WHERE parent = 'outbox' AND begins < '2025-01-01' ORDER BY 1`)
	full = pgtest.All[string](p.t, p.db, `SELECT DISTINCT 'outbox_p' || to_char(at AT TIME ZONE 'UTC', 'YYYYMMDD')
		FROM mini_asynq.outbox WHERE at < '2025-01-01' ORDER BY 1`)
	return shells, full
}

func (p *past) floor() int64 {
	p.t.Helper()
	return pgtest.One[int64](p.t, p.db, `SELECT max(floor_seq) FROM mini_asynq.epochs`)
}

// extent is the room that all takes, and that of a day of the past.
func (p *past) extent() (all, day int64) {
	p.t.Helper()
	extent, err := jobs.EndedPartitions(p.t.Context(), p.conn, jobs.ClassEvents)
	require.NoError(p.t, err)
	require.NotEmpty(p.t, extent.Ended)
	all = extent.Present
	for _, ended := range extent.Ended {
		require.Positive(p.t, ended.Bytes)
		all += ended.Bytes
	}
	return all, extent.Ended[0].Bytes
}

// never is an age that nothing has.
const never = 100 * 365 * 24 * time.Hour

// TestRetentionBySizeTakesTheOldestDays: as many whole days go as it takes for the others to fit, the oldest first, ticks
// with them and the floor before them; each is told; the present day stays however large it is.
func TestRetentionBySizeTakesTheOldestDays(t *testing.T) {
	t.Parallel()
	p := newPast(t, 3)
	all, day := p.extent()
	require.NoError(t, events.Retire(t.Context(), p.conn, events.Keep{Age: never, Bytes: all}))
	shells, _ := p.left()
	require.Len(t, shells, 3, "what fits stays")
	require.Zero(t, p.floor())

	require.NoError(t, events.Retire(t.Context(), p.conn, events.Keep{Age: never, Bytes: all - 1}))
	shells, _ = p.left()
	require.Equal(t, []string{"outbox_p20240502", "outbox_p20240503"}, shells)
	require.EqualValues(t, perDay, p.floor())
	require.EqualValues(t, perDay+1, pgtest.One[int64](t, p.db, `SELECT min(first_seq) FROM mini_asynq.ticks`))

	require.NoError(t, events.Retire(t.Context(), p.conn, events.Keep{Age: never, Bytes: all - day - 1}))
	require.NoError(t, events.Retire(t.Context(), p.conn, events.Keep{Age: never, Bytes: 1}))
	shells, _ = p.left()
	require.Empty(t, shells)
	require.EqualValues(t, 3*perDay, p.floor())
	p.published(4*perDay + 3)
	rest := replay(t, p.db.DSN())
	require.Len(t, rest, perDay+3, "the present day, and what was told of the others")
	for i, e := range rest {
		require.EqualValues(t, 3*perDay+1+i, e.Seq)
	}
	for i, e := range rest[perDay:] {
		require.Equal(t, "history.dropped", e.Type)
		require.Contains(t, string(e.JSON()), fmt.Sprintf(`"day": "2024-05-%02d"`, i+1))
	}
}

// TestRetentionWaitsForNobody: a partition that a transaction holds is left for the next round. The others are emptied,
// inserts go on, and a round takes moments.
func TestRetentionWaitsForNobody(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]events.Keep{"age": {Age: 24 * time.Hour}, "size": {Age: never, Bytes: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPast(t, 2)
			holder, err := p.db.Conn(t).Begin(t.Context())
			require.NoError(t, err)
			// What a transaction holds that wrote into that day and is still open.
			_, err = holder.Exec(t.Context(), `LOCK TABLE ONLY mini_asynq.outbox, mini_asynq.outbox_p20240501 IN ROW EXCLUSIVE MODE`)
			require.NoError(t, err)

			rounds, cancel := context.WithCancel(t.Context())
			defer cancel()
			var inserted atomic.Int64
			done := make(chan error, 1) // sent to once, by the goroutine below, which ends with rounds
			go func() {
				conn, err := pgx.Connect(t.Context(), p.db.DSN())
				for err == nil && rounds.Err() == nil {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					_, err = jobs.Enqueue(ctx, conn, jobs.Params{Queue: "q"})
					cancel()
					inserted.Add(1)
				}
				done <- errors.Join(err, conn.Close(t.Context()))
			}()
			for round := range 3 {
				before := inserted.Load()
				err := events.Retire(t.Context(), p.conn, keep)
				require.True(t, jobs.Transient(err), "round %d: %v", round, err)
				pgtest.Eventually(t, 10*time.Second, "inserts go on", func() bool { return inserted.Load() > before })
			}
			cancel()
			require.NoError(t, pgtest.Receive(t, done, 10*time.Second, "the writer ends"))
			shells, full := p.left()
			require.Equal(t, []string{"outbox_p20240501", "outbox_p20240502"}, shells, "no shell goes while the parent is held")
			require.Equal(t, []string{"outbox_p20240501"}, full, "a day that nobody holds is emptied")

			require.NoError(t, holder.Rollback(t.Context()))
			require.NoError(t, events.Retire(t.Context(), p.conn, keep))
			shells, _ = p.left()
			require.Empty(t, shells)
			require.Equal(t, 2, pgtest.One[int](t, p.db, `SELECT count(*) FROM mini_asynq.events WHERE type = 'history.dropped'`),
				"a day is told of once, however often its partition was tried")
		})
	}
}

// TestReaderNeverSeesAHole: who reads history while retention takes it gets each next event, or is told the floor.
func TestReaderNeverSeesAHole(t *testing.T) {
	t.Parallel()
	const days = 6
	p := newPast(t, days)
	reader := follow(t, p.db.DSN(), options{noListener: true, noPacer: true})
	reader.ready(t)
	retired := make(chan error, 1) // sent to once, by the goroutine below
	go func() {
		conn, err := pgx.Connect(t.Context(), p.db.DSN())
		for err == nil {
			var extent jobs.Extent
			if extent, err = jobs.EndedPartitions(t.Context(), conn, jobs.ClassEvents); err != nil || len(extent.Ended) == 0 {
				break
			}
			keep := extent.Present - 1
			for _, ended := range extent.Ended {
				keep += ended.Bytes
			}
			if err = events.Retire(t.Context(), conn, events.Keep{Age: never, Bytes: keep}); jobs.Transient(err) {
				err = nil // the reader holds what goes; once more
			}
		}
		retired <- errors.Join(err, conn.Close(t.Context()))
	}()
	told, ended := 0, false
	for !ended {
		select {
		case err := <-retired:
			require.NoError(t, err)
			ended = true // and once more through what is left
		default:
		}
		at, err := reader.Resolve(t.Context(), "earliest")
		require.NoError(t, err)
		for {
			batch, err := reader.Read(t.Context(), at, 7)
			if expired := (*events.ExpiredError)(nil); errors.As(err, &expired) {
				require.Greater(t, expired.Floor.Seq, at.Seq)
				told++
				break
			}
			require.NoError(t, err)
			for _, e := range batch {
				require.Equal(t, at.Seq+1, e.Seq)
				at = e.Position
			}
			if len(batch) == 0 {
				break
			}
		}
	}
	require.Positive(t, told)
	require.EqualValues(t, days*perDay, p.floor())
}

// TestLongTransactionStallsNobody: while a transaction that has enqueued a job stays open, the events of others are
// published, and retention goes on around the partition that it wrote into. Its event comes after its commit, and stays
// readable as long as the tick that it fell into is young.
func TestLongTransactionStallsNobody(t *testing.T) {
	t.Parallel()
	p := newPast(t, 2)
	open, err := p.db.Conn(t).Begin(t.Context())
	require.NoError(t, err)
	late, err := jobs.Enqueue(t.Context(), open, jobs.Params{Queue: "late"})
	require.NoError(t, err)
	// As if it had been open since then. Partition by partition: it would hold all that one statement looks at.
	moved := int64(0)
	for _, today := range pgtest.All[string](t, p.db, `SELECT partition FROM mini_asynq.partitions() WHERE parent = 'outbox'
		AND begins BETWEEN clock_timestamp() - interval '1 day' AND clock_timestamp() + interval '1 day'`) {
		tag, err := open.Exec(t.Context(), `
			WITH gone AS (DELETE FROM mini_asynq.`+today+` WHERE xid = pg_current_xact_id() RETURNING *)
			INSERT INTO mini_asynq.outbox SELECT id, xid, '2024-05-02 23:00+00', n, job_ids, events FROM gone`)
		require.NoError(t, err)
		moved += tag.RowsAffected()
	}
	require.EqualValues(t, 1, moved)

	p.enqueue(perDay)
	require.True(t, jobs.Transient(events.Retire(t.Context(), p.conn, events.Keep{Age: 24 * time.Hour})))
	p.enqueue(perDay)
	_, full := p.left()
	require.Equal(t, []string{"outbox_p20240502"}, full)
	for _, e := range p.live.events() {
		require.NotEqual(t, late[0].ID, e.JobID)
	}

	head, err := p.live.Head()
	require.NoError(t, err)
	require.NoError(t, open.Commit(t.Context()))
	pgtest.Eventually(t, 10*time.Second, "the late event is published", func() bool { return p.live.has(late[0].ID.String()) })
	// The others are two hours older: a partition does not go by size for an event that came so late.
	p.db.Exec(t, `UPDATE mini_asynq.ticks SET at = at - interval '2 hours' WHERE first_seq <= $1`, head.Seq)
	for _, keep := range []events.Keep{{Age: 24 * time.Hour}, {Age: never, Bytes: 1}} {
		require.NoError(t, events.Retire(t.Context(), p.conn, keep))
		_, full = p.left()
		require.Equal(t, []string{"outbox_p20240502"}, full, "a young tick needs it")
	}
	rest := replay(t, p.db.DSN())
	require.EqualValues(t, 2*perDay+1, rest[0].Seq)
	found := false
	for i, e := range rest {
		require.EqualValues(t, 2*perDay+1+i, e.Seq)
		found = found || e.JobID == late[0].ID && e.Seq > head.Seq
	}
	require.True(t, found)

	p.enqueue(1)
	p.db.Exec(t, `UPDATE mini_asynq.ticks SET at = '2024-05-04 12:00+00'
		WHERE first_seq < (SELECT max(first_seq) FROM mini_asynq.ticks)`)
	require.NoError(t, events.Retire(t.Context(), p.conn, events.Keep{Age: 24 * time.Hour}))
	_, full = p.left()
	require.Empty(t, full, "once its tick is old it goes")
}
