package hub_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// E7: a consumer gets what a plain socket gets, however small its credit, and is told where it stands.
func TestConsumerGetsEveryEventInOrder(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.enqueue(450, "q")
	d.mark("middle")
	all := d.dial("plain", "after=earliest").until("middle")
	for _, credit := range []int{1000, 20, 1} {
		if credit == 1 {
			all = all[len(all)-30:]
		}
		f := d.dialFramed("consumer")
		after := "earliest"
		if credit == 1 {
			after = all[0].before()
		}
		f.say(`{"t":"sub","id":"s1","class":"consumer","after":%q,"credit":%d}`, after, credit)
		subbed := f.next()
		require.Equal(t, "subbed", subbed.T)
		require.EqualValues(t, seqOf(t, d.head())-all[0].Seq+1, *subbed.Behind)
		require.Equal(t, all, f.upTo("s1", "middle", credit))
		if credit == 1000 {
			caught, _ := f.until("caught_up", "s1")
			require.Equal(t, all[len(all)-1].Cursor, caught.Cursor)
			d.mark("later")
			require.Equal(t, "later", f.next().events(t)[0].Queue)
		}
	}
}

// E10: whoever resumes after a cut, anywhere, with another credit, sees exactly what he would have seen.
func TestConsumerResumesAtRandomCuts(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 64}, func(c *hub.Config) { c.MarkEvery = 20 * time.Millisecond })
	writers := d.write(20)
	rng := rand.New(rand.NewPCG(5, 1))
	after := "earliest"
	var got []seen
	cut := func() {
		f := d.dialFramed("consumer")
		credit := 1 + rng.IntN(40)
		f.say(`{"t":"sub","id":"s1","class":"consumer","after":%q,"credit":%d}`, after, credit)
		for frames := 1 + rng.IntN(4); frames > 0; frames-- {
			next := f.next()
			if next.T == "ev" {
				got = append(got, next.events(t)...)
				after = next.Cursor
			}
			if next.T == "mark" || next.T == "caught_up" {
				after = next.Cursor
			}
		}
		_ = f.NetConn().Close()
	}
	for range 30 {
		cut()
	}
	writers.Wait()
	d.mark("end")
	for range 30 {
		cut()
	}
	all := d.dial("plain", "after=earliest").until("end")
	f := d.dialFramed("consumer")
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":%q,"credit":10000}`, after)
	if len(got) < len(all) {
		got = append(got, f.upTo("s1", "end", 10_000)...)
	}
	require.Equal(t, all, got)
}

// E12: what a filter holds back is covered by marks, of which one comes after a thousand events at the latest.
func TestMarksCoverWhatTheFilterHoldsBack(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.MarkEvery = time.Hour })
	d.enqueue(2600, "noise")
	d.mark("end")
	d.dial("plain", "after=earliest&queues=end").next()
	f := d.dialFramed("consumer")
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":"earliest","filter":{"queues":["end"]},"credit":10}`)
	require.Equal(t, "subbed", f.next().T)
	was := int64(0)
	for {
		got := f.next()
		if got.T == "ev" {
			require.Equal(t, d.head(), got.Cursor)
			break
		}
		require.Equal(t, "mark", got.T)
		at := seqOf(t, got.Cursor)
		require.Less(t, at-was, int64(1300), "a page more at most")
		was = at
	}
	require.Greater(t, was, int64(2000))
	caught, _ := f.until("caught_up", "s1")
	require.Equal(t, d.head(), caught.Cursor)
}

// A subscription that is at rest says where it stands, and moves over what is not for it.
func TestMarksComeWhenNothingHappens(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.MarkEvery = 20 * time.Millisecond })
	f := d.dialFramed("consumer")
	f.say(`{"t":"sub","id":"s1","class":"consumer","filter":{"queues":["nothing"]},"credit":10}`)
	f.say(`{"t":"sub","id":"s0","class":"consumer","after":"earliest"}`)
	_, before := f.until("subbed", "s0")
	require.Equal(t, "subbed", before[0].T)
	for range 3 {
		f.until("mark", "s1")
	}
	d.enqueue(10, "noise")
	d.mark("end")
	d.dial("plain", "after=earliest&queues=end").next()
	head := d.head()
	for {
		if mark, _ := f.until("mark", "s1"); mark.Cursor == head {
			break
		}
	}
	mark, _ := f.until("mark", "s0")
	require.Equal(t, d.stream.Floor().String(), mark.Cursor, "without credit it does not move")
}

// W6: a cursor with which the log cannot go on ends the subscription, before it begins or later; the socket lives on.
func TestW6EndedKeepsTheSocket(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 16})
	d.enqueue(300, "q")
	d.mark("end")
	d.dial("plain", "after=earliest").until("end")
	f := d.dialFramed("consumer")
	old := d.stream.Floor().String()
	f.say(`{"t":"sub","id":"waits","class":"consumer","after":"earliest"}`)
	f.until("subbed", "waits")
	f.say(`{"t":"sub","id":"live","class":"consumer","credit":10}`)
	f.until("caught_up", "live")
	floor := seqOf(t, d.head()) - 5
	d.db.Exec(t, `UPDATE mini_asynq.epochs SET floor_seq = $1`, floor)
	d.stream.Missed()
	require.Eventually(t, func() bool { return d.stream.Floor().Seq == floor }, limit, time.Millisecond)
	f.say(`{"t":"credit","id":"waits","n":5}`)
	ended, _ := f.until("ended", "waits")
	require.Equal(t, "cursor_expired", ended.Code)
	require.Equal(t, d.stream.Floor().String(), ended.Floor)
	f.say(`{"t":"sub","id":"late","class":"consumer","after":%q}`, old)
	ended, before := f.until("ended", "late")
	require.Equal(t, "cursor_expired", ended.Code)
	require.Empty(t, before, "it never began")

	d.db.Exec(t, `INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity)
		SELECT epoch + 1, pg_current_snapshot(), 500, 500, identity FROM mini_asynq.epochs`)
	d.stream.Missed()
	ended, _ = f.until("ended", "live")
	require.Equal(t, "epoch_changed", ended.Code)
	f.say(`{"t":"sub","id":"old","class":"view","after":%q}`, old)
	ended, _ = f.until("ended", "old")
	require.Equal(t, "epoch_changed", ended.Code)
	f.say(`{"t":"sub","id":"live","class":"consumer"}`)
	subbed, _ := f.until("subbed", "live")
	require.Equal(t, d.head(), subbed.Cursor)
}

// A change of the filter holds from the cursor on, and an id is free again once its subscription is over.
func TestFilterChangeKeepsTheCursor(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.enqueue(20, "a")
	d.enqueue(20, "b")
	d.mark("end")
	all := d.dial("plain", "after=earliest").until("end")
	f := d.dialFramed("consumer")
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":"earliest","filter":{"queues":["a"]},"credit":5}`)
	ev, _ := f.until("ev", "s1")
	require.Len(t, ev.Ev, 5)
	f.say(`{"t":"filter","id":"s1","filter":{"queues":["b","end"]}}`)
	f.say(`{"t":"credit","id":"s1","n":100}`)
	var want []seen
	for _, e := range all {
		if e.Queue == "b" || e.Queue == "end" {
			want = append(want, e)
		}
	}
	require.Equal(t, want, f.upTo("s1", "end", 0))
	f.say(`{"t":"filter","id":"s1","filter":{}}`)
	d.mark("more")
	require.Equal(t, "more", f.upTo("s1", "more", 0)[0].Queue)
	f.say(`{"t":"unsub","id":"s1"}`)
	f.was["s1"] = 0
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":"earliest","credit":1}`)
	f.until("subbed", "s1")
	ev, _ = f.until("ev", "s1")
	require.Equal(t, all[0], ev.events(t)[0])
}

// A subscription without credit is not read for, and keeps nobody waiting on its socket or elsewhere.
func TestWithoutCreditNothingIsRead(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 16}, func(c *hub.Config) { c.MarkEvery = 10 * time.Millisecond })
	d.enqueue(500, "q")
	d.mark("end")
	d.dial("plain", "after=earliest&queues=end").next()
	f := d.dialFramed("consumer")
	for _, id := range []string{"s1", "s2", "s3"} {
		f.say(`{"t":"sub","id":%q,"class":"consumer","after":"earliest"}`, id)
		f.until("subbed", id)
	}
	ring, table := d.stream.Reads()
	for range 20 {
		f.until("mark", "s2")
	}
	ringThen, tableThen := d.stream.Reads()
	require.Equal(t, table, tableThen)
	require.InDelta(t, ring, ringThen, 2, "the fan and the plain socket may have read")
	f.say(`{"t":"sub","id":"live","class":"consumer","credit":10}`)
	f.until("caught_up", "live")
	d.mark("now")
	ev, _ := f.until("ev", "live")
	require.Equal(t, "now", ev.events(t)[0].Queue)
	f.say(`{"t":"credit","id":"s2","n":3}`)
	ev, _ = f.until("ev", "s2")
	require.Len(t, ev.Ev, 3)
}

// E7: sixteen subscriptions of one socket, from memory and from the table, do not disturb each other.
func TestManySubscriptionsOnOneSocket(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 32})
	d.enqueue(300, "q1")
	f := d.dialFramed("consumer")
	got := make(map[string][]seen)
	for n := range 16 {
		f.say(`{"t":"sub","id":"s%d","class":"consumer","after":"earliest","filter":{"queues":["q%d","end"]},"credit":5000}`, n, n%4)
	}
	d.write(10).Wait()
	d.mark("end")
	all := d.dial("plain", "after=earliest").until("end")
	for over := 0; over < 16; {
		next := f.next()
		if next.T != "ev" {
			continue
		}
		got[next.ID] = append(got[next.ID], next.events(t)...)
		if last := got[next.ID][len(got[next.ID])-1]; last.Queue == "end" {
			over++
		}
	}
	for n := range 16 {
		var want []seen
		for _, e := range all {
			if e.Queue == "end" || e.Queue == []string{"q0", "q1", "q2", "q3"}[n%4] {
				want = append(want, e)
			}
		}
		require.Equal(t, want, got["s"+strconv.Itoa(n)])
	}
}

// W8: a node that drains says when to come back, in a frame and in the reason.
func TestW8DrainSaysBye(t *testing.T) {
	t.Parallel()
	d := open(t)
	f := d.dialFramed("consumer")
	f.say(`{"t":"sub","id":"s1","class":"view"}`)
	f.until("caught_up", "s1")
	d.hub.Drain(t.Context())
	code, why, before := f.closed()
	require.Equal(t, hub.CloseGoingAway, code)
	require.Len(t, before, 1)
	require.Equal(t, "bye", before[0].T)
	require.Equal(t, why.RetryMS, before[0].RetryMS)
	require.InDelta(t, 1100, why.RetryMS, 900)
	require.Empty(t, why.Cursor)
}

// W7: a client that reads nothing is cut off, and a subscription goes on from the last frame that it got.
func TestW7SlowClientIsCutOff(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.SlowAfter, c.SendBuffer = 2*time.Second, 32<<10 })
	f := d.dialFramed("slow", narrow())
	f.say(`{"t":"sub","id":"s1","class":"consumer","credit":10000}`)
	f.until("caught_up", "s1")
	d.enqueue(3000, "q")
	d.mark("end")
	d.await("slow", "slow")
	code, why, before := f.closed()
	require.Equal(t, hub.CloseSlow, code)
	require.Positive(t, why.RetryMS)
	got := 0
	for _, next := range before {
		got += len(next.Ev)
	}
	require.Less(t, got, 3000)
	again := d.dialFramed("again")
	again.say(`{"t":"sub","id":"s1","class":"consumer","after":%q,"credit":10000}`, before[len(before)-1].Cursor)
	rest := again.upTo("s1", "end", 0)
	require.Equal(t, 3001, got+len(rest), "the last one, too")
}

// W8, E14: the credential ends, or the scope is gone at the next subscription.
func TestW8LostRightsCloseTheSocket(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	var lost atomic.Bool
	d := open(t, func(c *hub.Config) {
		c.Principal = func(*http.Request) hub.Caller {
			return hub.Caller{Ended: ended, Reads: func() bool { return !lost.Load() }, Queues: []string{"mail"}}
		}
	})
	d.enqueue(1, "secret")
	d.enqueue(1, "mail")
	pgtest.Eventually(t, limit, "both are in the stream", func() bool {
		head, err := d.stream.Head()
		return err == nil && head.Seq >= 2
	})
	f, other := d.dialFramed(""), d.dialFramed("")
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":"earliest","credit":100}`)
	other.say(`{"t":"sub","id":"s1","class":"view","after":"earliest","filter":{"queues":["secret","mail"]}}`)
	for _, s := range []*framed{f, other} {
		_, before := s.until("caught_up", "s1")
		var all []seen
		for _, next := range before {
			all = append(all, next.events(t)...)
		}
		require.NotEmpty(t, all)
		for _, e := range all {
			require.Equal(t, "mail", e.Queue)
		}
	}
	lost.Store(true)
	f.say(`{"t":"sub","id":"s2","class":"view"}`)
	code, why, _ := f.closed()
	require.Equal(t, hub.CloseForbidden, code)
	require.Equal(t, "forbidden", why.Code)
	close(ended)
	code, why, _ = other.closed()
	require.Equal(t, hub.CloseUnauthorized, code)
	require.Equal(t, "unauthorized", why.Code)
}

// Payloads go to consumers who may read them.
func TestConsumerWithPayloads(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) {
		c.Principal = func(*http.Request) hub.Caller { return hub.Caller{Payloads: true} }
	})
	const n = 80 // more than are read at once
	params := make([]jobs.Params, n)
	for i := range params {
		params[i] = jobs.Params{Queue: "mail", Payload: json.RawMessage(strconv.Itoa(i))}
	}
	made, err := jobs.Enqueue(t.Context(), d.pool, params...)
	require.NoError(t, err)
	f := d.dialFramed("")
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":"earliest","filter":{"types":["job.*"]},"include":["payload"],"credit":100}`)
	payloads := make(map[string]string)
	for len(payloads) < n {
		got, _ := f.until("ev", "s1")
		for _, raw := range got.Ev {
			var e struct {
				JobID   string          `json:"job_id"`
				Payload json.RawMessage `json:"payload"`
			}
			require.NoError(t, json.Unmarshal(raw, &e))
			payloads[e.JobID] = string(e.Payload)
		}
	}
	for i, job := range made {
		require.Equal(t, strconv.Itoa(i), payloads[job.ID.String()])
	}
}
