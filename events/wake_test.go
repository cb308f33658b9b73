package events_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestNoWakeupLost: with the safety sweeps switched off, writers in every isolation level hold their transaction open for
// a random while between the insert and the commit; pacers are killed and cut off at random. No committed event waits
// for longer than the bound, although nothing but hints and promises tells of it.
func TestNoWakeupLost(t *testing.T) {
	t.Parallel()
	const bound = 2 * time.Second // without a fault of the pacer it is 1 s; a killed one is replaced within that
	db := pgtest.NewDB(t)
	proxy := pgtest.NewProxy(t, db.DSN())
	watcher := follow(t, db.DSN(), options{noSweeps: true, noPacer: true}) // sees what the others publish
	steady := follow(t, db.DSN(), options{noSweeps: true})
	watcher.ready(t)
	steady.ready(t)

	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	var faults sync.WaitGroup
	faults.Go(func() { // pacers that come and die
		random := rand.New(rand.NewPCG(1, 1))
		for ctx.Err() == nil {
			f := follow(t, proxy.DSN(db.DSN()), options{noSweeps: true})
			pause(ctx, time.Duration(random.IntN(700))*time.Millisecond)
			f.stop()
		}
	})
	faults.Go(func() { // their connections stall, or are cut
		random := rand.New(rand.NewPCG(2, 2))
		for ctx.Err() == nil {
			pause(ctx, time.Duration(random.IntN(600))*time.Millisecond)
			if random.IntN(2) == 0 {
				proxy.Cut()
				continue
			}
			proxy.Stall()
			pause(ctx, time.Duration(random.IntN(300))*time.Millisecond)
			proxy.Resume()
		}
		proxy.Resume()
	})

	var late atomic.Int64
	var writers sync.WaitGroup
	for n := range 3 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(3, uint64(n)))
			conn, err := pgx.Connect(ctx, db.DSN())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close(context.Background()) }()
			for ctx.Err() == nil {
				job, err := slowly(ctx, conn, levels[n], random)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				committed := time.Now()
				for !watcher.has(job) {
					if time.Since(committed) > bound {
						late.Add(1)
						return
					}
					pause(context.Background(), time.Millisecond)
				}
				pause(ctx, time.Duration(random.IntN(120))*time.Millisecond) // let the pacer park, or not
			}
		})
	}
	writers.Wait()
	faults.Wait()
	require.Zero(t, late.Load(), "events waited for longer than %s", bound)
	require.Greater(t, len(watcher.events()), 50)
	watcher.stop()
	steady.stop()
	requireInvariants(t, db.Conn(t))
}

// slowly enqueues a job in a transaction that stays open for a while before and after the insert.
func slowly(ctx context.Context, conn *pgx.Conn, level pgx.TxIsoLevel, random *rand.Rand) (id string, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT count(*) FROM mini_asynq.queues`); err != nil { // the snapshot is taken here
			return err
		}
		pause(ctx, time.Duration(random.IntN(60))*time.Millisecond)
		stored, err := jobs.Enqueue(ctx, tx, jobs.Params{Queue: "q", Delay: time.Hour})
		if err != nil {
			return err
		}
		id = stored[0].ID.String()
		pause(ctx, time.Duration(random.IntN(240))*time.Millisecond)
		return nil
	})
	return id, err
}

// pause waits a span that is part of the scenario: it is no synchronisation.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (f *follower) has(job string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.seen) - 1; i >= 0; i-- {
		if f.seen[i].JobID.String() == job {
			return true
		}
	}
	return false
}

// TestPacerParksAndIsWoken: a quiet pacer withdraws its promise, so the next writer notifies, and the event is there in
// milliseconds.
func TestPacerParksAndIsWoken(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	f := follow(t, db.DSN(), options{noSweeps: true})
	f.ready(t)
	conn := db.Conn(t)
	promised := func() bool {
		var last int64
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT last_value FROM mini_asynq.promise`).Scan(&last))
		return last > 0
	}
	for range 3 {
		pgtest.Eventually(t, 5*time.Second, "the pacer parks", func() bool { return !promised() })
		stored, err := jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "q"})
		require.NoError(t, err)
		pgtest.Eventually(t, time.Second, "the event is published", func() bool { return f.has(stored[0].ID.String()) })
	}
	// The pacer counts a tick when its answer has come back; the stream may have read it before.
	pgtest.Eventually(t, time.Second, "one tick for each event", func() bool { return f.pacer.Ticks() == 3 })
}

// TestListenerHealsHalfOpenConnection: a line that is up and dead is noticed by its silence, and what was missed is
// caught up.
func TestListenerHealsHalfOpenConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	proxy := pgtest.NewProxy(t, db.DSN())
	f := follow(t, db.DSN(), options{noSweeps: true, listenDSN: proxy.DSN(db.DSN())})
	f.ready(t)
	pgtest.Eventually(t, 5*time.Second, "the listener hears", f.listener.Hears)
	proxy.Stall()
	stored, err := jobs.Enqueue(t.Context(), db.Conn(t), jobs.Params{Queue: "q"})
	require.NoError(t, err)
	pgtest.Eventually(t, 5*time.Second, "the dead line is noticed", func() bool { return !f.listener.Hears() })
	proxy.Cut()
	proxy.Resume()
	pgtest.Eventually(t, 10*time.Second, "the listener hears again", f.listener.Hears)
	pgtest.Eventually(t, 10*time.Second, "what was missed is caught up", func() bool { return f.has(stored[0].ID.String()) })
	require.Positive(t, f.listener.Reconnects())
}

// TestWithoutAnyNotifyEventsStillCome: NOTIFY is a hint; a node that hears none finds its events by itself.
func TestWithoutAnyNotifyEventsStillCome(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	proxy := pgtest.NewProxy(t, db.DSN())
	proxy.Refuse(true)
	f := follow(t, db.DSN(), options{noSweeps: true, listenDSN: proxy.DSN(db.DSN())})
	f.ready(t)
	stored, err := jobs.Enqueue(t.Context(), db.Conn(t), jobs.Params{Queue: "q"})
	require.NoError(t, err)
	pgtest.Eventually(t, 5*time.Second, "the event is found", func() bool { return f.has(stored[0].ID.String()) })
}

// TestNewHistoryIsANewEpoch: when the database is another one than before, positions begin anew under another number, the
// rows of the old history are set aside, and a reader of the old one is told.
func TestNewHistoryIsANewEpoch(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	conn := db.Conn(t)
	f := follow(t, db.DSN(), options{})
	old := f.ready(t)
	_, err := jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	pgtest.Eventually(t, 5*time.Second, "the event is published", func() bool { return len(f.events()) == 1 })
	f.stop()

	// As after a restore: the stored identity is another database's, and there are rows from beyond the present ids.
	_, err = conn.Exec(t.Context(), `UPDATE mini_asynq.epochs SET identity = 'elsewhere'`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `SELECT mini_asynq.note(121, 'ghost', NULL, NULL, NULL, NULL, NULL)`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `UPDATE mini_asynq.outbox SET xid = (xid::text::bigint + 6)::text::xid8
		WHERE events[1].queue = 'ghost'`)
	require.NoError(t, err)
	f = follow(t, db.DSN(), options{})
	now := f.ready(t)
	pgtest.Eventually(t, 5*time.Second, "the new epoch is followed", func() bool {
		head, err := f.Head()
		now = head
		return err == nil && head.Epoch > old.Epoch
	})
	_, err = f.Read(t.Context(), events.Position{Epoch: old.Epoch, Seq: 1}, 10)
	var changed *events.EpochError
	require.ErrorAs(t, err, &changed)
	for range 20 { // past the ids of the ghost
		_, err = jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "new"})
		require.NoError(t, err)
	}
	pgtest.Eventually(t, 5*time.Second, "new events flow", func() bool { return len(f.events()) >= 20 })
	for i, e := range f.events() {
		require.Equal(t, "new", e.Queue)
		require.Equal(t, now.Epoch, e.Epoch)
		require.Equal(t, now.Seq+int64(i)+1, e.Seq)
	}
}
