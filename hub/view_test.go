package hub_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// newestOf is the plain way to say what a view sees of some events.
func newestOf(all []seen) (kept []seen) {
	for i, e := range all {
		if e.JobID == "" || !slices.ContainsFunc(all[i+1:], func(later seen) bool { return later.JobID == e.JobID }) {
			kept = append(kept, e)
		}
	}
	return kept
}

// A pane holds the newest event of each job that the filter lets through, in order, and nothing is lost where a frame is
// full: the next pane begins behind the last event of this one.
func TestPaneIsTheNewestEventOfEachJob(t *testing.T) {
	t.Parallel()
	filter, err := events.ParseFilter(map[string][]string{"queues": {"a*"}})
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		var batch []*events.Event
		var want []seen
		jobCount := rapid.SampledFrom([]int{1, 3, 50, 500}).Draw(t, "jobs")
		large := rapid.SampledFrom([]int{0, 0, 3000, 300_000}).Draw(t, "bytes")
		for n := range rapid.IntRange(1, 600).Draw(t, "events") {
			e := &events.Event{
				Position: events.Position{Epoch: 3, Seq: int64(n + 1)}, Type: "job.updated", Status: jobs.Pending, At: time.Unix(1, 0),
				Queue: rapid.SampledFrom([]string{"a", "a", "b"}).Draw(t, "queue"),
			}
			if rapid.IntRange(0, 9).Draw(t, "about") > 0 {
				e.JobID = uuid.UUID{15: byte(n % jobCount), 14: byte(n % jobCount >> 8), 0: 1}
			} else {
				e.Type = "queue.updated"
			}
			if large > 0 && n%100 == 0 {
				e.Reason = strings.Repeat("x", large)
			}
			batch = append(batch, e)
			if e.Queue == "a" {
				var s seen
				require.NoError(t, json.Unmarshal(e.JSON(), &s))
				want = append(want, s)
			}
		}
		want = newestOf(want)
		var got []seen
		for rest := batch; len(rest) > 0; {
			list, n, upTo, skip := hub.PaneOf(rest, filter)
			if skip {
				require.Empty(t, list)
				require.Equal(t, batch[len(batch)-1].Position, upTo)
				require.Greater(t, len(want)-len(got), 200)
				return
			}
			require.LessOrEqual(t, n, 200)
			if n > 1 {
				require.Less(t, len(list), 256<<10)
			}
			var some []seen
			require.NoError(t, json.Unmarshal(fmt.Appendf(nil, "[%s]", list), &some))
			require.Len(t, some, n)
			got = append(got, some...)
			rest = rest[upTo.Seq-rest[0].Seq+1:]
		}
		require.Equal(t, want, got)
	})
}

// What a view is sent is, between any two of its frames, the newest event of each job there, or a skip over exactly that
// stretch; and it comes ten times a second at most.
func TestViewSeesTheNewestOfEachJobOrIsToldToSkip(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.ViewEvery = 50 * time.Millisecond })
	f := d.dialFramed("view")
	f.say(`{"t":"sub","id":"s1","class":"view","after":"earliest"}`)
	f.until("caught_up", "s1")
	begin, frames := time.Now(), 0
	go func() { // ends with its writes; the mark comes after them
		for round := range 30 {
			n := 1 + round%5
			if round%10 == 9 {
				n = 300 // more than a view is shown at once
			}
			if round == 15 {
				n = 2500
			}
			made, err := jobs.Enqueue(t.Context(), d.pool, slices.Repeat([]jobs.Params{{Queue: "q"}}, n)...)
			if err != nil {
				t.Error(err)
				return
			}
			for _, job := range made[:1] {
				if _, _, err := jobs.CancelJob(t.Context(), d.pool, job.ID, jobs.Act{Actor: "test"}); err != nil {
					t.Error(err)
					return
				}
			}
		}
		if _, err := d.pool.Exec(t.Context(), `INSERT INTO mini_asynq.queues (name) VALUES ('end')`); err != nil {
			t.Error(err)
		}
	}()
	all := d.dial("plain", "after=earliest").until("end")
	first := all[0].Seq
	at := first - 1
	skipped, fewer := int64(0), false
	for at < all[len(all)-1].Seq {
		got := f.next()
		if got.T == "caught_up" || got.T == "mark" {
			require.Equal(t, at, seqOf(t, got.Cursor))
			continue
		}
		upTo := seqOf(t, got.Cursor)
		require.Greater(t, upTo, at)
		between := all[at-first+1 : upTo-first+1]
		switch got.T {
		case "ev":
			frames++
			require.Equal(t, newestOf(between), got.events(t))
			fewer = fewer || len(got.Ev) < len(between)
		case "skip":
			require.Equal(t, at, seqOf(t, got.From))
			require.Equal(t, upTo-at, got.N)
			require.Greater(t, len(newestOf(between)), 200)
			skipped += got.N
		default:
			require.Fail(t, "another frame", string(got.raw))
		}
		at = upTo
	}
	require.GreaterOrEqual(t, skipped, int64(2500))
	require.True(t, fewer, "something was coalesced")
	require.LessOrEqual(t, frames, 1+int(time.Since(begin)/(50*time.Millisecond)))
}

// A view that begins far behind jumps to the head; one that is near is shown what there was, also from the table.
func TestViewThatBeginsBehind(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 16})
	d.enqueue(2500, "q")
	d.mark("end")
	all := d.dial("plain", "after=earliest").until("end")
	f := d.dialFramed("view")
	f.say(`{"t":"sub","id":"far","class":"view","after":"earliest"}`)
	skip, _ := f.until("skip", "far")
	require.Equal(t, all[0].before(), skip.From)
	require.Equal(t, d.head(), skip.Cursor)
	require.EqualValues(t, len(all), skip.N)
	f.until("caught_up", "far")
	near := all[len(all)-150]
	f.say(`{"t":"sub","id":"near","class":"view","after":%q}`, near.before())
	ev, _ := f.until("ev", "near")
	require.Equal(t, all[len(all)-150:], ev.events(t))
	f.say(`{"t":"sub","id":"filtered","class":"view","after":%q,"filter":{"types":["queue.*"]}}`, all[len(all)-1000].before())
	ev, _ = f.until("ev", "filtered")
	require.Equal(t, "end", ev.events(t)[0].Queue)
}

// Views that ask alike share the work, each under its own id; those that do not never do. What is kept for that is bounded.
func TestViewsThatAskAlikeShare(t *testing.T) {
	t.Parallel()
	batch := []*events.Event{event(1, 10), event(2, 10)}
	ask := func(queue string) map[string][]string { return map[string][]string{"queues": {queue}} }
	require.True(t, hub.SamePane(batch, ask("a"), ask("a")))
	require.False(t, hub.SamePane(batch, ask("a"), ask("b")))
	require.False(t, hub.SamePane(batch, ask("a"), nil))
	held, _ := hub.HeldPanes(batch, 1000)
	require.Equal(t, 64, held)
	held, bytes := hub.HeldPanes([]*events.Event{event(1, 250_000)}, 1000)
	require.Equal(t, 16, held)
	require.LessOrEqual(t, bytes, 4<<20)

	d := open(t)
	sockets := make([]*framed, 6)
	for n := range sockets {
		sockets[n] = d.dialFramed("view")
		sockets[n].say(`{"t":"sub","id":"s%d","class":"view","filter":{"queues":["q%d","end"]}}`, n, n%2)
		sockets[n].until("caught_up", "s"+strconv.Itoa(n))
	}
	d.enqueue(20, "q0")
	d.enqueue(20, "q1")
	d.mark("end")
	for n, f := range sockets {
		for _, e := range f.upTo("s"+strconv.Itoa(n), "end", 0) {
			require.Contains(t, []string{"end", "q" + strconv.Itoa(n%2)}, e.Queue)
		}
	}
}
