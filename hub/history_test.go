package hub_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/hub"
)

// A page of the past that takes its time holds up nobody on the socket, and is thrown away when the filter has changed
// meanwhile.
func TestHistoryThatTakesLongHoldsUpNobody(t *testing.T) {
	t.Parallel()
	d := openWith(t, events.StreamConfig{Ring: 8}, func(c *hub.Config) {
		c.MarkEvery = 20 * time.Millisecond
		c.Principal = func(*http.Request) hub.Caller { return hub.Caller{Payloads: true} }
	})
	d.enqueue(30, "a")
	d.enqueue(30, "b")
	d.mark("end")
	all := d.dial("plain", "after=earliest").until("end")
	f := d.dialFramed("consumer")
	f.say(`{"t":"sub","id":"live","class":"view"}`)
	f.until("caught_up", "live")

	tx, err := d.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE mini_asynq.ticks IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	f.say(`{"t":"sub","id":"s1","class":"consumer","after":"earliest","filter":{"queues":["a"]},"include":["payload"],"credit":100}`)
	f.until("subbed", "s1")
	f.until("mark", "s1") // it is being read
	f.until("mark", "live")
	f.say(`{"t":"filter","id":"s1","filter":{"queues":["b","end"]}}`)
	f.say(`{"t":"ping","n":1}`)
	_, before := f.until("pong", "")
	require.Empty(t, before)
	require.NoError(t, tx.Rollback(t.Context()))

	var want []seen
	for _, e := range all {
		if e.Queue != "a" {
			want = append(want, e)
		}
	}
	var got []seen
	for len(got) < len(want) {
		ev, _ := f.until("ev", "s1")
		got = append(got, ev.events(t)...)
		for _, raw := range ev.Ev {
			require.Contains(t, string(raw), `"payload":`, "those of the old filter were read with it, these anew")
		}
	}
	require.Equal(t, want, got)
}
