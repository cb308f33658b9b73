package hub_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
)

// TestFramedClientsThatNeverReadDoNotGrow: subscriptions of both classes whose client takes nothing, and consumers without
// credit, cost no memory that grows with what happens, and a client that reads is served meanwhile. It measures the heap, so
// it runs alone.
func TestFramedClientsThatNeverReadDoNotGrow(t *testing.T) {
	d := openWith(t, events.StreamConfig{Ring: 1024}, func(c *hub.Config) {
		c.SlowAfter, c.SendBuffer, c.ViewEvery = time.Hour, 32<<10, time.Millisecond
	})
	quick := d.dialFramed("quick")
	quick.say(`{"t":"sub","id":"s","class":"consumer","filter":{"queues":["quick"]},"credit":1000}`)
	quick.until("caught_up", "s")
	const clients = 30
	for n := range clients {
		f := d.dialFramed("stalled", narrow())
		switch n % 3 {
		case 0:
			f.say(`{"t":"sub","id":"s","class":"consumer","credit":10000}`)
		case 1:
			f.say(`{"t":"sub","id":"s","class":"view"}`)
		case 2: // it reads what it is sent, and is sent nothing
			f.say(`{"t":"sub","id":"s","class":"consumer","after":"earliest"}`)
		}
		f.until("subbed", "s")
	}
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	more := func(rounds int) {
		for range rounds {
			for range 20 {
				d.enqueue(100, "fill") // so few at once that a view is not told to skip
			}
			d.mark("quick")
			d.db.Exec(t, `DELETE FROM mini_asynq.queues WHERE name = 'quick'`)
			ev, _ := quick.until("ev", "s")
			require.Equal(t, "quick", ev.events(t)[0].Queue)
		}
	}
	more(3)
	for range 2 * clients / 3 {
		d.await("blocked", "stalled")
	}
	before := heap()
	more(7)
	after := heap()
	// 14000 events of half a kilobyte for 30 clients would be 210 MB if anybody kept them.
	require.Less(t, int64(after)-int64(before), int64(clients*64<<10), "before %d, after %d", before, after)
}
