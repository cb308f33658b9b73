package hub_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
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
