package hub_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// R6: a framed socket at rest, with two subscriptions, costs 64 KiB at most: heap and stacks of both ends here.
func TestIdleFramedSocketIsSmall(t *testing.T) {
	d := open(t)
	const sockets = 200
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := used()
	for range sockets {
		f := d.dialFramed("idle")
		f.say(`{"t":"sub","id":"s1","class":"view","filter":{"queues":["nothing"]}}`)
		f.until("caught_up", "s1")
		f.say(`{"t":"sub","id":"s2","class":"consumer","credit":10}`)
		f.until("caught_up", "s2")
	}
	each := (used() - before) / sockets
	t.Logf("%d bytes", each)
	require.Less(t, each, uint64(64<<10))
}
