package events_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// rowIs waits until the overview knows what is in a queue's row.
func rowIs(t *testing.T, db *pgtest.DB, o *events.Overview, name string) jobs.Queue {
	t.Helper()
	stored, err := jobs.GetQueue(t.Context(), db.Pool(t), name)
	require.NoError(t, err)
	var q events.QueueNumbers
	pgtest.Eventually(t, 20*time.Second, "the row is known as it is stored", func() bool {
		q, _ = o.Queue(name)
		return q.RowKnown && q.Row.Version == stored.Version
	})
	require.Equal(t, stored, q.Row)
	require.Equal(t, stored.Paused, q.Paused)
	return stored
}

// TestRowsAndWorkersAreKnownAsTheyAreStored: whatever happens to queues and workers, before the first look and after, the
// numbers in memory say of it what the database does; and so do those of a node that starts later.
func TestRowsAndWorkersAreKnownAsTheyAreStored(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	pool := db.Pool(t)
	by := func(actor, reason string) jobs.Act { return jobs.Act{Actor: actor, Reason: reason} }
	pause := func(name string, p jobs.Pause, act jobs.Act) {
		t.Helper()
		_, err := jobs.PauseQueue(t.Context(), pool, name, p, act)
		require.NoError(t, err)
	}
	register := func() jobs.Worker {
		t.Helper()
		w, err := jobs.RegisterWorker(t.Context(), pool, jobs.Worker{Name: "w", Queues: map[string]int{"*": 1}, Slots: 1})
		require.NoError(t, err)
		return w
	}
	pause("mail", jobs.Pause{}, by("ada", "provider down"))
	stays, leaves := register(), register()

	o, _ := overviewOn(t, db, events.OverviewConfig{Recount: -1})
	caughtUp(t, db, o)
	row := rowIs(t, db, o, "mail")
	require.Equal(t, "provider down", row.PauseReason)
	require.Equal(t, "ada", row.Actor)
	counted := func(want events.WorkerNumbers) {
		t.Helper()
		caughtUp(t, db, o)
		got, ok := o.Workers()
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	counted(events.WorkerNumbers{Online: 2})

	pause("mail", jobs.Pause{For: time.Hour}, by("bob", "still down"))
	rowIs(t, db, o, "mail")
	_, err := jobs.ResumeQueue(t.Context(), pool, "mail", by("eve", ""))
	require.NoError(t, err)
	rowIs(t, db, o, "mail")
	pause("new", jobs.Pause{}, by("ada", ""))
	rowIs(t, db, o, "new")
	// The same once more is no change, of which nobody would be told.
	before := rowIs(t, db, o, "new")
	pause("new", jobs.Pause{}, by("bob", ""))
	require.Equal(t, before, rowIs(t, db, o, "new"))

	late := register()
	counted(events.WorkerNumbers{Online: 3})
	_, err = jobs.AskWorker(t.Context(), pool, leaves.ID, jobs.AskedDrain, jobs.Act{})
	require.NoError(t, err)
	counted(events.WorkerNumbers{Online: 2, Draining: 1})
	require.NoError(t, jobs.RemoveWorker(t.Context(), pool, leaves.ID))
	counted(events.WorkerNumbers{Online: 2})
	db.Exec(t, `UPDATE mini_asynq.workers SET last_seen_at = last_seen_at - interval '1 hour' WHERE id = $1`, stays.ID)
	_, _, err = jobs.SeeWorkers(t.Context(), pool, nil)
	require.NoError(t, err)
	counted(events.WorkerNumbers{Online: 1})
	_, _, err = jobs.SeeWorkers(t.Context(), pool, []uuid.UUID{stays.ID, late.ID})
	require.NoError(t, err)
	counted(events.WorkerNumbers{Online: 2})

	second, _ := overviewOn(t, db, events.OverviewConfig{Recount: -1})
	caughtUp(t, db, second)
	got, ok := second.Workers()
	require.True(t, ok)
	require.Equal(t, events.WorkerNumbers{Online: 2}, got)
	rowIs(t, db, second, "new")
}

// TestRowsAreRightWhereverTheBaseFalls: of a course of events any number is folded before a count begins and before it ends,
// and any number is in its snapshot; at each step from then on the numbers are what was stored.
func TestRowsAreRightWhereverTheBaseFalls(t *testing.T) {
	t.Parallel()
	a, b := uuid.New(), uuid.New()
	var course []*events.Event
	happens := func(kind, queue string, worker uuid.UUID) {
		seq := int64(len(course) + 1)
		course = append(course, &events.Event{
			Position: events.Position{Epoch: 1, Seq: seq}, XID: 100 + uint64(seq), At: time.Now(), Type: kind, Queue: queue,
			Data: []byte(fmt.Sprintf(`{"worker_id":%q}`, worker)),
		})
	}
	happens("worker.online", "", a)
	happens("queue.paused", "mail", uuid.Nil)
	happens("worker.draining", "", a)
	happens("worker.online", "", b)
	happens("queue.resumed", "mail", uuid.Nil)
	happens("worker.offline", "", a)
	happens("worker.online", "", a)
	happens("queue.paused", "mail", uuid.Nil)
	happens("worker.draining", "", b)

	// What is stored after each of them.
	states := []events.Base{{}}
	for _, e := range course {
		last := states[len(states)-1]
		next := events.Base{Workers: maps.Clone(last.Workers), Rows: last.Rows}
		if next.Workers == nil {
			next.Workers = make(map[uuid.UUID]jobs.WorkerState)
		}
		id := uuid.MustParse(string(e.Data[len(`{"worker_id":"`):][:36]))
		switch e.Type {
		case "worker.online":
			next.Workers[id] = jobs.WorkerOnline
		case "worker.draining":
			next.Workers[id] = jobs.WorkerDraining
		case "worker.offline":
			delete(next.Workers, id)
		default:
			next.Rows = []jobs.Queue{{Name: "mail", Paused: e.Type == "queue.paused"}}
		}
		states = append(states, next)
	}
	for begun := range len(course) + 1 {
		for seen := begun; seen <= len(course); seen++ { // what was folded before the count begins is in its snapshot
			for ended := begun; ended <= len(course); ended++ {
				o := events.NewOverview(events.OverviewConfig{Probe: -1, Stream: events.NewReadyStream(events.Position{Epoch: 1})})
				o.Fold(course[:begun])
				finish := o.BeginCount()
				o.Fold(course[begun:ended])
				base := states[seen]
				base.Snapshot = fmt.Sprintf("%d:%d:", 101+seen, 101+seen)
				require.NoError(t, finish(base))
				// From now on the numbers are those of the snapshot, or of what was folded behind it.
				for folded := ended; ; folded++ {
					want := states[max(folded, seen)]
					got, ok := o.Workers()
					require.True(t, ok)
					require.Equal(t, workersOf(want), got, "%d %d %d %d", begun, seen, ended, folded)
					if q, ok := o.Queue("mail"); ok || len(want.Rows) > 0 {
						require.Equal(t, len(want.Rows) > 0 && want.Rows[0].Paused, q.Paused, "%d %d %d %d", begun, seen, ended, folded)
					}
					if folded == len(course) {
						break
					}
					o.Fold(course[folded : folded+1])
				}
			}
		}
	}
}

func workersOf(b events.Base) (n events.WorkerNumbers) {
	for _, state := range b.Workers {
		if state == jobs.WorkerOnline {
			n.Online++
		} else {
			n.Draining++
		}
	}
	return n
}

// TestARowThatChangedIsUnknownUntilItIsRead: the moment is not bridged with what was, and a look that fails is repeated.
func TestARowThatChangedIsUnknownUntilItIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, _ := inBubble(t, events.OverviewConfig{Recount: -1}, func(context.Context) (events.Base, error) {
			return events.Base{Snapshot: "1:1:", Rows: []jobs.Queue{{Name: "mail", Version: 1}}}, nil
		})
		looks := 0
		o.ReadRowsWith(func(_ context.Context, names []string) ([]jobs.Queue, error) {
			require.Equal(t, []string{"mail"}, names)
			if looks++; looks == 1 {
				return nil, errors.New("away")
			}
			return []jobs.Queue{{Name: "mail", Paused: true, Version: 2}}, nil
		})
		q, _ := o.Queue("mail")
		require.True(t, q.RowKnown)
		require.EqualValues(t, 1, q.Row.Version)
		o.Fold([]*events.Event{{Position: events.Position{Epoch: 1, Seq: 1}, XID: 5, Type: "queue.paused", Queue: "mail", At: time.Now()}})
		synctest.Wait()
		require.Equal(t, 1, looks)
		q, _ = o.Queue("mail")
		require.True(t, q.Paused)
		require.False(t, q.RowKnown)
		pass(6 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, looks)
		q, _ = o.Queue("mail")
		require.True(t, q.RowKnown)
		require.EqualValues(t, 2, q.Row.Version)
		pass(time.Hour)
		require.Equal(t, 2, looks, "nobody looks while nothing changes")

		// A row that was read ahead of the stream does not contradict what the stream has told.
		o.ReadRowsWith(func(context.Context, []string) ([]jobs.Queue, error) {
			return []jobs.Queue{{Name: "mail", Version: 9}}, nil // resumed meanwhile
		})
		o.Fold([]*events.Event{{Position: events.Position{Epoch: 1, Seq: 2}, XID: 6, Type: "queue.paused", Queue: "mail", At: time.Now()}})
		synctest.Wait()
		q, _ = o.Queue("mail")
		require.True(t, q.Paused)
		require.False(t, q.RowKnown)
		o.Fold([]*events.Event{{Position: events.Position{Epoch: 1, Seq: 3}, XID: 7, Type: "queue.resumed", Queue: "mail", At: time.Now()}})
		synctest.Wait()
		q, _ = o.Queue("mail")
		require.True(t, q.RowKnown)
		require.EqualValues(t, 9, q.Row.Version)
	})
}

// TestWhatWasPassedOverIsCountedAnew: a node that was away for longer than the log reaches back goes on behind the gap; what
// happened in it is in no event.
func TestWhatWasPassedOverIsCountedAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		o, stream := inBubble(t, events.OverviewConfig{Recount: -1}, func(context.Context) (events.Base, error) {
			reads++
			return events.Base{
				Snapshot: "2000:2000:", Counts: map[string]map[jobs.Status]int64{"q": {jobs.Pending: int64(reads)}},
				Workers: map[uuid.UUID]jobs.WorkerState{uuid.New(): jobs.WorkerOnline},
			}, nil
		})
		o.Fold([]*events.Event{happened(1, "q", time.Now(), "", jobs.Pending), happened(2, "q", time.Now(), "", jobs.Pending)})
		synctest.Wait()
		require.Equal(t, 1, reads)
		o.Fold([]*events.Event{happened(9, "q", time.Now(), "", jobs.Pending)})
		synctest.Wait()
		require.Equal(t, 2, reads)
		q, _ := o.Queue("q")
		require.EqualValues(t, 2, q.Counts[jobs.Pending])
		// Also if nothing more happens.
		stream.SetHead(events.Position{Epoch: 1, Seq: 30})
		pass(6 * time.Second)
		synctest.Wait()
		require.Equal(t, 3, reads)
		n, ok := o.Workers()
		require.True(t, ok)
		require.Equal(t, 1, n.Online)
		pass(time.Hour)
		require.Equal(t, 3, reads)
		require.Empty(t, o.Drift())
	})
}
