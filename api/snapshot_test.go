package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
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

// seenJob is what a snapshot or an event says of a job.
type seenJob struct {
	ID      string
	Status  string
	Version int64
}

// snapshot is what a client knows that has read all pages of a list: everything up to the as_of of the first one, and maybe more.
type snapshot struct {
	asOf events.Position
	jobs map[string]seenJob
}

func (d *door) listed(query string) (s snapshot) {
	d.t.Helper()
	s.jobs = make(map[string]seenJob)
	for cursor := ""; ; {
		var page struct {
			Data       []seenJob
			NextCursor string `json:"next_cursor"`
			AsOf       string `json:"as_of"`
		}
		a := d.get("/jobs?" + query + cursor).is(http.StatusOK)
		require.NoError(d.t, json.Unmarshal(a.raw, &page))
		if s.asOf == (events.Position{}) {
			s.asOf = must(events.ParseCursor(page.AsOf))
		}
		for _, job := range page.Data {
			if was, twice := s.jobs[job.ID]; !twice || was.Version < job.Version {
				s.jobs[job.ID] = job
			}
		}
		if page.NextCursor == "" {
			return s
		}
		cursor = "&cursor=" + page.NextCursor
	}
}

// follow takes what comes after a snapshot of a queue into it, as documented: what is not newer than what is known changes nothing, and
// what is newer is the next version.
func (s snapshot) follow(t *testing.T, queue string, all []*events.Event) {
	t.Helper()
	for _, e := range all {
		if !e.AboutJob() || e.Queue != queue || !s.asOf.Before(e.Position) {
			continue
		}
		id := e.JobID.String()
		known := s.jobs[id] // a job that is not in it has the version 0
		if e.JobVersion <= known.Version {
			continue
		}
		require.Equal(t, known.Version+1, e.JobVersion, "a hole behind %s: %s of %s at %s", s.asOf, e.Type, id, e.Position)
		s.jobs[id] = seenJob{id, string(e.Status), e.JobVersion}
	}
}

// bustle writes to a queue from three sides until ctx ends: transactions that stay open for a moment, some rolled back;
// attempts that end in every way; operators. It returns when all of it has ended.
func (d *door) bustle(ctx context.Context, rng *rand.Rand, queue string) {
	var made sync.Map // ids
	some := func(rng *rand.Rand) (id uuid.UUID, ok bool) {
		n := rng.IntN(20)
		made.Range(func(key, _ any) bool {
			id, ok = key.(uuid.UUID)
			n--
			return n > 0
		})
		return id, ok
	}
	var writers sync.WaitGroup
	defer writers.Wait()
	for range 2 {
		for _, step := range []func(*rand.Rand) error{
			func(rng *rand.Rand) error {
				err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
					params := make([]jobs.Params, 1+rng.IntN(4))
					for i := range params {
						params[i] = jobs.Params{Queue: queue}
					}
					stored, err := jobs.Enqueue(ctx, tx, params...)
					if err != nil {
						return err
					}
					if _, err = tx.Exec(ctx, `SELECT pg_sleep($1)`, rng.Float64()/50); err != nil {
						return err
					}
					if rng.IntN(4) == 0 {
						return errRolledBack
					}
					for _, job := range stored {
						made.Store(job.ID, nil)
					}
					return nil
				})
				if errors.Is(err, errRolledBack) {
					err = nil
				}
				return err
			},
			func(rng *rand.Rand) error {
				turn := jobs.Turn{Claims: []jobs.Claim{{Queue: queue, Limit: 1 + rng.IntN(3), Worker: "w", Lease: time.Minute}}}
				result, err := turn.Do(ctx, d.pool)
				if err != nil {
					return err
				}
				var outcomes []jobs.Outcome
				for _, claimed := range result.Claimed[0] {
					outcomes = append(outcomes, []jobs.Outcome{
						jobs.Complete(&claimed.Job, nil), jobs.FailFinally(&claimed.Job, fails("x")),
						jobs.Fail(&claimed.Job, fails("x"), time.Hour), jobs.SnoozeFor(&claimed.Job, time.Hour),
					}[rng.IntN(4)])
				}
				_, err = jobs.Finish(ctx, d.pool, outcomes)
				return err
			},
			func(rng *rand.Rand) error {
				id, ok := some(rng)
				if !ok {
					return nil
				}
				var err error
				if rng.IntN(2) == 0 {
					_, _, err = jobs.CancelJob(ctx, d.pool, id, jobs.Act{})
				} else {
					_, err = jobs.RetryJob(ctx, d.pool, id, 0, jobs.Act{})
				}
				var state *jobs.TransitionError
				if errors.As(err, &state) || errors.Is(err, jobs.ErrNotFound) {
					err = nil // its state forbids it, or its transaction was rolled back
				}
				return err
			},
		} {
			rng := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
			writers.Go(func() {
				for ctx.Err() == nil {
					if err := step(rng); err != nil && ctx.Err() == nil {
						d.t.Error(err)
						return
					}
				}
			})
		}
	}
}

var errRolledBack = errors.New("rolled back on purpose")

// TestSnapshotAndWhatFollowsItAreTheWhole: whoever lists jobs or queues, or reads the history of a job, while others write,
// and then reads the stream behind as_of, misses nothing and is thrown back by nothing.
func TestSnapshotAndWhatFollowsItAreTheWhole(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	d := setup(t)
	d.settled(0)
	const queue = "busy"
	first := d.enqueue(`{"queue":"` + queue + `"}`)
	pgtest.Eventually(t, eventLimit, "queues are counted", func() bool {
		return d.counts(queue)["pending"] == 1
	})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	writing := rand.New(rand.NewPCG(seed, 2))
	over := make(chan struct{})
	go func() { // ends with ctx
		defer close(over)
		d.bustle(ctx, writing, queue)
	}()
	var lists []snapshot
	var queues []queueSeen
	var histories []historySeen
	for range 8 {
		lists = append(lists, d.listed(fmt.Sprintf("queue=%s&limit=%d", queue, 20+rng.IntN(60))))
		queues = append(queues, d.queueSeen(queue))
		for id := range lists[len(lists)-1].jobs {
			histories = append(histories, d.historySeen(id))
			if len(histories)%4 == 0 {
				break
			}
		}
	}
	cancel()
	pgtest.Receive(t, over, eventLimit, "the writers end")
	d.enqueue(`{"queue":"end"}`)
	var all []*events.Event
	pgtest.Eventually(t, eventLimit, "the last event is read", func() bool {
		at := d.stream.Floor()
		for all = nil; ; {
			batch := must(d.stream.Read(t.Context(), at, 1000))
			if len(batch) == 0 {
				break
			}
			all, at = append(all, batch...), batch[len(batch)-1].Position
		}
		return all[len(all)-1].Queue == "end" || all[len(all)-2].Queue == "end"
	})

	want := d.listed("queue=" + queue + "&limit=500").jobs
	require.Contains(t, want, first)
	require.Greater(t, len(want), 20)
	for _, s := range lists {
		s.follow(t, queue, all)
		require.Equal(t, want, s.jobs, "from %s on", s.asOf)
	}
	for _, s := range queues {
		s.check(t, queue, all)
	}
	for _, s := range histories {
		s.check(t, all)
	}
}

// counts are the numbers of a queue.
func (d *door) counts(queue string) map[string]int64 { return d.queueSeen(queue).counts }

// queueSeen is a queue in the list of queues, and where the log was before and after.
type queueSeen struct {
	asOf, until events.Position
	counts      map[string]int64
}

func (d *door) queueSeen(queue string) (s queueSeen) {
	d.t.Helper()
	var list struct {
		Data []struct {
			Name   string
			Counts map[string]int64
		}
		AsOf string `json:"as_of"`
	}
	require.NoError(d.t, json.Unmarshal(d.get("/queues").is(http.StatusOK).raw, &list))
	s.asOf, s.until = must(events.ParseCursor(list.AsOf)), must(d.stream.Head())
	for _, q := range list.Data {
		if q.Name == queue {
			s.counts = q.Counts
		}
	}
	return s
}

// check holds the numbers against the log: they are those of one place in it, at as_of or behind.
func (s queueSeen) check(t *testing.T, queue string, all []*events.Event) {
	t.Helper()
	counts := make(map[string]int64)
	for status := range s.counts {
		counts[status] = 0
	}
	for _, e := range all {
		if e.Queue == queue && e.AboutJob() {
			if _, ok := counts[string(e.From)]; ok {
				counts[string(e.From)]--
			}
			if _, ok := counts[string(e.Status)]; ok {
				counts[string(e.Status)]++
			}
		}
		if !e.Position.Before(s.asOf) && maps.Equal(counts, s.counts) {
			return
		}
	}
	require.Fail(t, "numbers of no place behind as_of", "%s: %v", s.asOf, s.counts)
}

// historySeen is the history of a job.
type historySeen struct {
	asOf events.Position
	id   string
	seen []seenEvent
}

type seenEvent struct {
	Seq     int64
	Version int64 `json:"job_version"`
}

func (d *door) historySeen(id string) (s historySeen) {
	d.t.Helper()
	var list struct {
		Data []seenEvent
		AsOf string `json:"as_of"`
	}
	require.NoError(d.t, json.Unmarshal(d.get("/jobs/"+id+"/events?limit=1000").is(http.StatusOK).raw, &list))
	return historySeen{must(events.ParseCursor(list.AsOf)), id, list.Data}
}

// check holds a history against the log: its beginning, up to as_of or further.
func (s historySeen) check(t *testing.T, all []*events.Event) {
	t.Helper()
	for i, version := 0, int64(1); i < len(all); i++ {
		e := all[i]
		if e.JobID.String() != s.id {
			continue
		}
		if int(version) > len(s.seen) {
			require.True(t, s.asOf.Before(e.Position), "%s at %s is missing as of %s", e.Type, e.Position, s.asOf)
			return
		}
		require.Equal(t, seenEvent{e.Seq, e.JobVersion}, s.seen[version-1])
		version++
	}
}
