package miniasynq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	miniasynq "github.com/mini-asynq/mini-asynq/clients/go"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// way is a reader of the log that was made by hand, in one of the forms that it is there in. It goes on from what it has,
// wherever the node is now, until the event that write makes last.
type way struct {
	name string
	node *atomic.Pointer[string] // host and port
	at   string                  // the cursor of what it has
	seq  int64
	all  []string // events as they came
	cuts int
	err  error // what no break in the line explains
	done chan struct{}
}

// errLast ends a way: there is nothing more to read.
var errLast = errors.New("the last event")

// take keeps an event; it has to be the next one. A named consumer may get one again.
func (w *way) take(raw []byte, again bool) error {
	var e miniasynq.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("%w: half an event", io.ErrUnexpectedEOF)
	}
	if again && e.Seq <= w.seq {
		return nil
	}
	if e.Seq != w.seq+1 {
		w.err = fmt.Errorf("%s: %d follows %d", w.name, e.Seq, w.seq)
		return errLast
	}
	w.at, w.seq, w.all = e.Cursor, e.Seq, append(w.all, string(raw))
	if e.Type == "queue.created" && e.Queue == "last" {
		return errLast
	}
	return nil
}

// run reads again and again, each time as far as the line holds.
func (w *way) run(ctx context.Context, rng *rand.Rand, read func(context.Context, *way) error) {
	defer close(w.done)
	for {
		err := read(ctx, w)
		switch {
		case errors.Is(err, errLast):
			return
		case ctx.Err() != nil:
			w.err = fmt.Errorf("%s at %s: %w, %w", w.name, w.at, ctx.Err(), err)
			return
		case err != nil:
			w.cuts++
			time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond) // as a client does, so that it does not turn in circles
		}
	}
}

// call asks the node. What says that the log cannot go on ends the way; all other refusals are the weather.
func (w *way) call(ctx context.Context, method, path, accept, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+*w.node.Load()+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := lasting.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode < 300 {
		return answer, nil
	}
	text, _ := io.ReadAll(answer.Body) // as much as came
	_ = answer.Body.Close()
	for _, lost := range []string{"cursor_expired", "epoch_changed", "consumer_busy", "invalid_parameter", "not_found"} {
		if bytes.Contains(text, []byte(`"code":"`+lost+`"`)) {
			w.err = fmt.Errorf("%s at %s: %s", w.name, w.at, text)
			return nil, errLast
		}
	}
	return nil, fmt.Errorf("%s %s", answer.Status, text)
}

// lasting has no time limit: streams last. No keep-alive, so that no connection outlives its node.
var lasting = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func readSocket(ctx context.Context, w *way) error {
	conn, answer, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+*w.node.Load()+"/api/v1/ws?after="+w.at, nil)
	if answer != nil {
		_ = answer.Body.Close()
	}
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	for {
		_, raw, err := conn.ReadMessage()
		if closed := (*websocket.CloseError)(nil); errors.As(err, &closed) && (closed.Code == 4410 || closed.Code == 4412) {
			w.err = fmt.Errorf("%s at %s: %w", w.name, w.at, err)
			return errLast
		}
		if err == nil {
			err = w.take(raw, false)
		}
		if err != nil {
			return err
		}
	}
}

func readStream(ctx context.Context, w *way) error {
	answer, err := w.call(ctx, http.MethodGet, "/events?after="+w.at, "text/event-stream", "")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := bufio.NewReader(answer.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		if raw, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			if err := w.take(bytes.TrimSpace(raw), false); err != nil {
				return err
			}
		}
	}
}

func readLines(ctx context.Context, w *way) error {
	answer, err := w.call(ctx, http.MethodGet, "/events?until=latest&after="+w.at, "application/x-ndjson", "")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := bufio.NewReader(answer.Body)
	for n := 0; ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			if n == 0 {
				time.Sleep(10 * time.Millisecond) // nothing is new: this form does not wait
			}
			return nil
		}
		n++
		if err == nil {
			err = w.take(bytes.TrimSpace(line), false)
		}
		if err != nil {
			return err
		}
	}
}

// page reads one, and takes its events.
func (w *way) page(ctx context.Context, path string, again bool) (cursor string, err error) {
	answer, err := w.call(ctx, http.MethodGet, path, "application/json", "")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var page struct {
		Data   []json.RawMessage
		Cursor string
	}
	if err := json.NewDecoder(answer.Body).Decode(&page); err != nil {
		return "", err
	}
	for _, raw := range page.Data {
		if err := w.take(raw, again); err != nil {
			return page.Cursor, err
		}
	}
	return page.Cursor, nil
}

func readPages(ctx context.Context, w *way) error {
	_, err := w.page(ctx, "/events?limit=37&wait=20s&after="+w.at, false)
	return err
}

// readConsumer reads as the named consumer of the way, and acknowledges what it has.
func readConsumer(ctx context.Context, w *way) error {
	path := "/consumers/" + w.name
	cursor, err := w.page(ctx, path+"/events?limit=29&wait=20s&reader=r", true)
	if err != nil {
		return err
	}
	answer, err := w.call(ctx, http.MethodPost, path+"/ack", "application/json", fmt.Sprintf(`{"reader":"r","cursor":%q}`, cursor))
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// putConsumer makes a named consumer that begins at a cursor.
func putConsumer(t *testing.T, address, name, after string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, (&url.URL{
		Scheme: "http", Host: address, Path: "/api/v1/admin/consumers/" + name,
	}).String(), strings.NewReader(fmt.Sprintf(`{"after":%q}`, after)))
	require.NoError(t, err)
	r.SetBasicAuth("admin", "password")
	r.Header.Set("Content-Type", "application/json")
	answer, err := plain.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusCreated, answer.StatusCode)
}

// D2, N1, E7, E8, E10: twenty readers, some of each form that the log is there in, go on where they were after the node was
// killed and after the database crashed and was restarted: each sees every event once, and all see the same.
func TestReadersOfAllFormsOutliveNodeAndDatabase(t *testing.T) {
	t.Parallel()
	rng := dice(t)
	cluster := pgtest.NewCluster(t, nil)
	address, kill := spawnNode(t, cluster.DSN())
	var node atomic.Pointer[string]
	first := address
	node.Store(&first)
	start := field(t, address, "/events/position", "cursor")
	var from int64
	_, err := fmt.Sscanf(start[strings.Index(start, "-")+1:], "%d", &from)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var ways []*way
	for _, form := range []struct {
		name string
		read func(context.Context, *way) error
	}{{"socket", readSocket}, {"stream", readStream}, {"lines", readLines}, {"pages", readPages}, {"consumer", readConsumer}} {
		for n := range 4 {
			w := &way{name: fmt.Sprintf("%s-%d", form.name, n), node: &node, at: start, seq: from, done: make(chan struct{})}
			if form.name == "consumer" {
				putConsumer(t, address, w.name, start)
			}
			ways = append(ways, w)
			go w.run(ctx, rand.New(rand.NewPCG(rng.Uint64(), 1)), form.read) // ends with the last event, or with ctx
		}
	}

	over, written := make(chan struct{}), make(chan struct{})
	pool := poolOf(t, cluster.DB())
	writing := rand.New(rand.NewPCG(rng.Uint64(), 1))
	go func() { // ends when the faults are over and the work is done
		defer close(written)
		write(t, pool, writing, over)
	}()
	back := func() {
		cluster.Start()
		pgtest.EventuallyNoError(t, time.Minute, "the database is back", func() error { return pool.Ping(t.Context()) })
	}
	another := func() {
		next, killNext := spawnNode(t, cluster.DSN())
		address, kill = next, killNext
		node.Store(&next)
	}
	for _, fault := range []func(){
		func() { cluster.Crash(); back() },
		func() { kill(); another() },
		func() { cluster.Stop(); back() },
		func() { cluster.Crash(); kill(); back(); another() },
	} {
		awaitEvents(t, pool, 100)
		fault()
	}
	awaitEvents(t, pool, 100)
	close(over)
	pgtest.Receive(t, written, 2*time.Minute, "the work is done")

	var want []string
	for _, w := range ways {
		pgtest.Receive(t, w.done, 2*time.Minute, w.name+" has read the last event")
		require.NoError(t, w.err)
		require.Positive(t, w.cuts, "%s was never cut", w.name)
		if want == nil {
			want = w.all
		}
		require.Equal(t, want, w.all, w.name)
	}
	last := ways[0].at
	status, body := get(t, address, "/events?after="+start+"&until="+last, "Accept", "application/x-ndjson")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, strings.Join(want, "\n")+"\n", string(body), "what the log holds")
	t.Logf("%d events", len(want))
}
