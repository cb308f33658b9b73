package hub_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// E14, A2: history and live, a reader that is held to queues gets their events and no others.
func TestCallerHeldToQueuesSeesNothingElse(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) {
		c.Principal = func(r *http.Request) hub.Caller {
			caller := hub.Caller{Name: r.Header.Get("X-Caller")}
			switch caller.Name {
			case "mail":
				caller.Queues = []string{"mail", "end"}
			case "none":
				caller.Queues = []string{}
			}
			return caller
		}
	})
	write := func() {
		d.enqueue(2, "mail")
		d.enqueue(2, "secret")
		_, err := jobs.RegisterWorker(t.Context(), d.pool, jobs.Worker{Name: "w", Queues: map[string]int{"mail": 1}, Slots: 1})
		require.NoError(t, err)
	}
	write()
	bound := d.dial("mail", "after=earliest")
	none := d.dial("none", "after=earliest&queues=secret")
	asked := d.dial("mail", "after=earliest&queues=secret,end")
	everything := d.dial("all", "after=earliest")
	d.await("parked", "none")
	write()
	d.mark("end")
	all := everything.until("end")
	var secret, workers int
	for _, e := range all {
		if e.Queue == "mail" || e.Queue == "end" {
			require.Equal(t, e, bound.next())
		}
		if e.Queue == "secret" {
			secret++
		}
		if e.Type == "worker.online" {
			workers++
		}
	}
	require.Equal(t, 4, secret)
	require.Equal(t, 2, workers)
	require.Equal(t, all[len(all)-1], asked.next(), "what is asked for beyond is not there")
	d.hub.Drain(t.Context())
	code, _, before := none.closed()
	require.Equal(t, hub.CloseGoingAway, code)
	require.Empty(t, before)
}

func TestPayloadsForWhoMayReadThem(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) {
		c.Principal = func(*http.Request) hub.Caller { return hub.Caller{Payloads: true, Queues: []string{"mail"}} }
	})
	const n = 80 // more than are read at once
	var params []jobs.Params
	for i := range n {
		params = append(params, jobs.Params{Queue: "mail", Payload: json.RawMessage(strconv.Itoa(i))},
			jobs.Params{Queue: "secret", Payload: json.RawMessage(`"secret"`)})
	}
	made, err := jobs.Enqueue(t.Context(), d.pool, params...)
	require.NoError(t, err)
	d.mark("end")
	payloads := make(map[string]string)
	conn := d.dial("", "after=earliest&include=payload&types=job.enqueued")
	for range n {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(limit)))
		_, raw, err := conn.ReadMessage()
		require.NoError(t, err)
		var e struct {
			JobID   string          `json:"job_id"`
			Payload json.RawMessage `json:"payload"`
		}
		require.NoError(t, json.Unmarshal(raw, &e), "%s", raw)
		payloads[e.JobID] = string(e.Payload)
	}
	for i := range n {
		require.Equal(t, strconv.Itoa(i), payloads[made[2*i].ID.String()])
	}
}

// W8: a credential that ends closes its sockets, those at rest and those that send; others stay.
func TestW8EndOfTheCredentialClosesItsSockets(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	var held atomic.Int64
	d := open(t, func(c *hub.Config) {
		c.SendBuffer = 32 << 10
		c.Principal = func(r *http.Request) hub.Caller {
			caller := hub.Caller{Name: r.Header.Get("X-Caller")}
			if caller.Name != "other" {
				caller.Ended = ended
				caller.Hold = func() func() {
					held.Add(1)
					return func() { held.Add(-1) }
				}
			}
			return caller
		}
	})
	resting, other := d.dial("resting", "queues=none"), d.dial("other", "")
	stalled := d.dial("stalled", "", narrow())
	d.await("parked", "resting")
	d.await("parked", "stalled")
	d.enqueue(3000, "q")
	d.await("blocked", "stalled")
	require.EqualValues(t, 2, held.Load())
	close(ended)
	code, why, _ := resting.closed()
	require.Equal(t, hub.CloseUnauthorized, code)
	require.Equal(t, "unauthorized", why.Code)
	require.NotEmpty(t, why.Cursor)
	code, _, _ = stalled.closed()
	require.Equal(t, hub.CloseUnauthorized, code)
	pgtest.Eventually(t, limit, "the credential is let go", func() bool { return held.Load() == 0 })
	d.mark("end")
	other.until("end")
	require.Equal(t, 1, d.hub.Sockets())
}
