package relay_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/sinks/nats/relay"
)

// remembered is the cursor in the bucket; empty: there is none.
func (c *natsCluster) remembered() string {
	bucket, err := c.jetstream().KeyValue(c.t.Context(), "MINIASYNQ_RELAY")
	if err != nil {
		return ""
	}
	entry, err := bucket.Get(c.t.Context(), "MINIASYNQ")
	if err != nil {
		return ""
	}
	return string(entry.Value())
}

// TestTheLastEventIsRememberedAlsoWhenNothingFollows: consumers may take the last message out, and a relay that is killed
// later than ids are remembered would copy anew what came after the cursor.
func TestTheLastEventIsRememberedAlsoWhenNothingFollows(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	stop, _ := local(t, s, c, nil)
	require.NoError(t, s.enqueue(20))
	settled(t, s, c)
	all := c.messages()
	pgtest.Eventually(t, 30*time.Second, "the cursor of the last event is stored", func() bool {
		return c.remembered() == all[len(all)-1].id
	})
	require.NoError(t, stop())
}

// TestFromLatestIsSaidOnce: a relay that has seen no event yet comes back to where it began, not to what is the latest then.
func TestFromLatestIsSaidOnce(t *testing.T) {
	t.Parallel()
	s, c := serve(t), newCluster(t)
	require.NoError(t, s.enqueue(5))
	s.finished()
	before := len(s.log())
	latest := func(log *pgtest.Log) func(*relay.Config) {
		// Of one server, so that nobody who lags answers for the bucket.
		return func(config *relay.Config) { config.From, config.Log, config.Replicas = "latest", zerolog.New(log), 1 }
	}
	log := &pgtest.Log{}
	stop, _ := local(t, s, c, latest(log))
	pgtest.Eventually(t, 30*time.Second, "the relay has begun", func() bool { return strings.Contains(log.String(), "the relay goes on") })
	require.NotEmpty(t, c.remembered(), "before anything is read: it may be killed")
	require.NoError(t, stop())

	require.NoError(t, s.enqueue(5))
	s.finished()
	lines := s.log()[before:]
	stop, _ = local(t, s, c, latest(&pgtest.Log{}))
	pgtest.Eventually(t, 30*time.Second, "what came meanwhile is copied", func() bool { return c.last() >= uint64(len(lines)) })
	require.NoError(t, stop())
	for i, m := range c.messages() {
		require.Equal(t, lines[i], m.body)
	}
}

// pretend is a server whose calls of /events are answered by next.
func pretend(t *testing.T, position string, next func(w http.ResponseWriter, after string)) *server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/events/position", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, position)
	})
	mux.HandleFunc("GET /api/v1/events", func(w http.ResponseWriter, r *http.Request) { next(w, r.URL.Query().Get("after")) })
	listening := httptest.NewServer(mux)
	t.Cleanup(listening.Close)
	return &server{t: t, address: listening.Listener.Addr().String()}
}

// TestAKeyThatSeesSomeQueuesOnlyNamesThem: without a filter each page holds every event up to its cursor; what a key does not
// see would be missing, and nobody would know.
func TestAKeyThatSeesSomeQueuesOnlyNamesThem(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, body := range map[string]string{
		"between":  `{"data":[{"epoch":1,"seq":2,"type":"job.ready"}],"cursor":"1-2"}`,
		"behind":   `{"data":[{"epoch":1,"seq":1,"type":"job.ready"}],"cursor":"1-4"}`,
		"all":      `{"data":[],"cursor":"1-4"}`,
		"backward": `{"data":[{"epoch":1,"seq":1,"type":"job.ready"}],"cursor":"1-0"}`,
	} {
		s := pretend(t, `{"cursor":"1-9","floor":"1-0"}`, func(w http.ResponseWriter, _ string) { _, _ = fmt.Fprint(w, body) })
		_, ended := local(t, s, c, nil)
		var hole *relay.HoleError
		require.ErrorAs(t, pgtest.Receive(t, ended, 30*time.Second, "the relay stops"), &hole, name)
		require.Zero(t, c.last(), name)
	}
}

// TestANodeThatIsBehindIsAskedAgain: a node that has not read so far, or has not heard of the new epoch, knows less than the one
// that gave the cursor out. That is no lost history, and nothing of the old epoch is copied once more.
func TestANodeThatIsBehindIsAskedAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var calls atomic.Int64
	s := pretend(t, `{"cursor":"1-9","floor":"1-0"}`, func(w http.ResponseWriter, after string) {
		refuse := func(status int, code string) {
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"status":%d,"code":%q}`, status, code)
		}
		n := calls.Add(1)
		switch {
		case after == "2-6":
			_, _ = fmt.Fprint(w, `{"data":[],"cursor":"2-6"}`)
		case after != "2-5":
			refuse(http.StatusTeapot, "nobody_was_to_ask_for_"+after)
		case n%2 == 1:
			refuse(http.StatusBadRequest, "cursor_invalid")
		case n < 5:
			refuse(http.StatusConflict, "epoch_changed")
		default:
			_, _ = fmt.Fprint(w, `{"data":[{"epoch":2,"seq":6,"type":"job.ready"}],"cursor":"2-6"}`)
		}
	})
	stop, _ := local(t, s, c, func(config *relay.Config) { config.From, config.OnLost = "2-5", relay.GoOn })
	pgtest.Eventually(t, 30*time.Second, "it goes on", func() bool { return c.last() == 1 })
	require.NoError(t, stop())
	require.Equal(t, "2-6", c.messages()[0].id)
}
