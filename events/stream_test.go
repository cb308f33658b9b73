package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func TestCursorsReadBackEqual(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := events.Position{Epoch: rapid.Int64Range(0, 1<<53-1).Draw(t, "epoch"), Seq: rapid.Int64Range(0, 1<<53-1).Draw(t, "seq")}
		got, err := events.ParseCursor(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	})
	for _, bad := range []string{"", "1", "1-", "-1", "1-2-3", "a-b", "01-2", "1-+2", " 1-2", "1-9007199254740992", "1-2\n", "-1--1"} {
		_, err := events.ParseCursor(bad)
		require.ErrorIs(t, err, events.ErrCursorInvalid, bad)
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add("3-918273")
	f.Add("--")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := events.ParseCursor(s); err == nil {
			require.Equal(t, s, p.String())
		}
	})
}

// TestHistoryAndLiveHaveNoSeam: a reader that begins anywhere, in the table or in the ring, gets exactly what follows.
func TestHistoryAndLiveHaveNoSeam(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	conn := db.Conn(t)
	first := follow(t, db.DSN(), options{})
	first.ready(t)
	add := func(n int) {
		params := make([]jobs.Params, n)
		for i := range params {
			params[i] = jobs.Params{Queue: "q", Tags: []string{"t"}, Delay: time.Hour}
		}
		_, err := jobs.Enqueue(t.Context(), conn, params...)
		require.NoError(t, err)
	}
	add(500)
	pgtest.Eventually(t, 5*time.Second, "the history is published", func() bool { return len(first.events()) == 500 })
	late := follow(t, db.DSN(), options{}) // its ring begins here
	start := late.ready(t)
	require.EqualValues(t, 500, start.Seq)
	add(300)
	pgtest.Eventually(t, 5*time.Second, "the rest is published", func() bool { return len(late.events()) == 300 })
	all := replay(t, db.DSN())
	require.Len(t, all, 800)
	for _, from := range []int64{0, 1, 250, 499, 500, 501, 799, 800} {
		at := events.Position{Epoch: start.Epoch, Seq: from}
		want := from
		for {
			batch, err := late.Read(t.Context(), at, 64)
			require.NoError(t, err)
			if len(batch) == 0 {
				break
			}
			for _, e := range batch {
				want++
				require.Equal(t, want, e.Seq)
				require.Equal(t, string(all[want-1].JSON()), string(e.JSON()))
			}
			at = batch[len(batch)-1].Position
		}
		require.EqualValues(t, 800, want)
	}
	ring, table := late.Reads()
	require.Positive(t, ring)
	require.Positive(t, table)
	_, err := late.Resolve(t.Context(), events.Position{Epoch: start.Epoch, Seq: 801}.String())
	require.ErrorIs(t, err, events.ErrCursorInvalid) // ahead of the log

	// Who has gone is not waited for.
	gone, leave := context.WithCancelCause(t.Context())
	leave(errGone)
	_, err = late.Resolve(gone, events.Position{Epoch: start.Epoch, Seq: 801}.String())
	require.ErrorIs(t, err, errGone)
	at, err := late.Resolve(gone, start.String())
	require.NoError(t, err)
	require.Equal(t, start, at)
}

var errGone = errors.New("the caller has gone")

func TestWaitReturnsWithTheNextEvent(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	f := follow(t, db.DSN(), options{})
	head := f.ready(t)
	done := make(chan error, 1)
	go func() { done <- f.Wait(context.Background(), head) }()
	_, err := jobs.Enqueue(t.Context(), db.Conn(t), jobs.Params{Queue: "q"})
	require.NoError(t, err)
	require.NoError(t, pgtest.Receive(t, done, 5*time.Second, "the waiter is told"))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	now, err := f.Head()
	require.NoError(t, err)
	require.ErrorIs(t, f.Wait(ctx, now), context.DeadlineExceeded)
}

func TestEventsAreWellFormed(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	pool := db.Pool(t)
	f := follow(t, db.DSN(), options{})
	f.ready(t)
	stored, err := jobs.Enqueue(t.Context(), pool, jobs.Params{Queue: "q", Kind: "k", Tags: []string{`a"b`, "<ü>"}, MaxRetries: jobs.Retries(0)})
	require.NoError(t, err)
	turn := jobs.Turn{Claims: []jobs.Claim{{Queue: "q", Limit: 1, Worker: "w1", Lease: time.Minute}}}
	result, err := turn.Do(t.Context(), pool)
	require.NoError(t, err)
	job := &result.Claimed[0][0].Job
	require.NoError(t, jobs.SetProgress(t.Context(), pool, jobs.Lease{JobID: job.ID, Fence: job.Fence}, 50, "half", 0))
	_, err = jobs.Finish(t.Context(), pool, []jobs.Outcome{jobs.Fail(job, jobs.NewFailure("k", "T", `m "quoted"`, "s"), 0)})
	require.NoError(t, err)
	_, err = jobs.PauseQueue(t.Context(), pool, "q", jobs.Pause{For: time.Hour}, jobs.Act{Actor: "me", Reason: "why"})
	require.NoError(t, err)
	pgtest.Eventually(t, 5*time.Second, "all events are published", func() bool { return len(f.events()) == 6 })
	var types []string
	for _, e := range f.events() {
		var decoded map[string]any
		require.NoError(t, json.Unmarshal(e.JSON(), &decoded), string(e.JSON()))
		types = append(types, decoded["type"].(string))
		require.Equal(t, e.Cursor(), decoded["cursor"])
		require.Len(t, decoded, 18)
		data := decoded["data"].(map[string]any)
		switch e.Type {
		case "job.enqueued":
			require.Equal(t, "go", data["source"])
		case "job.started":
			require.InDelta(t, job.Fence, data["fence"], 0)
			require.Equal(t, "w1", decoded["worker"])
		case "job.progress":
			require.InDelta(t, 50, data["percent"], 0)
		case "job.dead":
			require.Equal(t, "exhausted", data["reason"])
			require.Equal(t, "error", data["cause"])
			require.Equal(t, `m "quoted"`, data["error"].(map[string]any)["message"])
			require.NotContains(t, data["error"], "stack")
		case "queue.paused":
			require.Equal(t, "why", data["reason"])
			require.Contains(t, data, "until")
			require.Equal(t, "me", decoded["actor"])
		}
	}
	require.Equal(t, []string{"job.enqueued", "job.started", "job.progress", "job.dead", "queue.created", "queue.paused"}, types)

	history, truncated, err := events.History(t.Context(), pinned(t, db.DSN()), stored[0].ID, 0, 100)
	require.NoError(t, err)
	require.False(t, truncated)
	require.Len(t, history, 4)
	for i, e := range history {
		require.Equal(t, string(f.events()[i].JSON()), string(e.JSON()))
	}
}

// TestRetentionTellsAndKeepsWhatIsNeeded: the floor moves first, readers behind it are told, and a partition that a young
// tick still needs stays.
func TestRetentionTellsAndKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	conn := db.Conn(t)
	f := follow(t, db.DSN(), options{})
	start := f.ready(t)
	for n := range 3 { // a tick each
		_, err := jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "q"})
		require.NoError(t, err)
		pgtest.Eventually(t, 5*time.Second, "the event is published", func() bool { return len(f.events()) == n+1 })
	}
	f.stop()
	witness := follow(t, db.DSN(), options{noPacer: true, noListener: true})
	witness.ready(t)
	// The first two events move into an old day; the third stays young although its row lies there, too.
	exec := func(sql string) {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec(`SELECT mini_asynq.create_partition('outbox', '2024-05-01'), mini_asynq.create_partition('outbox', '2024-05-02')`)
	exec(`UPDATE mini_asynq.outbox SET at = '2024-05-01 10:00+00' WHERE id = 1`)
	exec(`UPDATE mini_asynq.outbox SET at = '2024-05-02 10:00+00' WHERE id > 1`)
	exec(`UPDATE mini_asynq.ticks SET at = '2024-05-02 11:00+00' WHERE first_seq <= 2`)
	require.NoError(t, events.Retire(t.Context(), conn, events.Keep{Age: 24 * time.Hour}))
	left := replay(t, db.DSN())
	require.Len(t, left, 1)
	require.EqualValues(t, 3, left[0].Seq)

	f = follow(t, db.DSN(), options{noPacer: true, noListener: true})
	f.ready(t)
	_, err := f.Read(t.Context(), start, 10)
	var expired *events.ExpiredError
	require.ErrorAs(t, err, &expired)
	require.EqualValues(t, 2, expired.Floor.Seq)
	// A node that was there all the while has the old floor in mind until it reads into the gap.
	_, err = witness.Read(t.Context(), start, 10)
	require.ErrorAs(t, err, &expired)
	first, err := witness.Resolve(t.Context(), "earliest")
	require.NoError(t, err)
	rest, err := witness.Read(t.Context(), first, 10)
	require.NoError(t, err)
	require.Len(t, rest, 1)
	var partitions int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.partitions()
		WHERE parent = 'outbox' AND begins < '2025-01-01'`).Scan(&partitions))
	require.Equal(t, 1, partitions)
}
