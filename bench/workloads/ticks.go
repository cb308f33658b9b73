package workloads

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// probeQueue is where probes go: nobody works for it, and the client asks for its events only, so that neither of them
// adds to the load. The server looks at every event for the client all the same.
const probeQueue = "probe"

// probeSQL is the transaction of a probe: a stranger's insert.
const probeSQL = `INSERT INTO mini_asynq.jobs (queue, kind) VALUES ('` + probeQueue + `', 'probe') RETURNING id::text`

const (
	probeEvery = 10 * time.Millisecond // at full drain
	eventLimit = 30 * time.Second      // for one event to arrive
)

// ticksIdle measures from COMMIT to the event at a client of our server, while nothing else happens.
func ticksIdle(ctx context.Context, c *cell) error {
	if err := peers.Migrate(ctx, c.db.DSN); err != nil {
		return err
	}
	return c.probe(ctx, idleGap, 0, func(_ context.Context, _ *peers.Server, sent int) (bool, error) {
		return sent >= c.Scale.Samples, nil
	})
}

// ticksDrain measures the same while the server works through a backlog as fast as it can.
func ticksDrain(ctx context.Context, c *cell) error {
	if err := peers.Migrate(ctx, c.db.DSN); err != nil {
		return err
	}
	n := heldShare * c.Scale.Jobs
	if err := peers.Load(ctx, c.db.DSN, n); err != nil {
		return err
	}
	return c.probe(ctx, probeEvery, int64(n), func(ctx context.Context, s *peers.Server, sent int) (bool, error) {
		// Every tenth probe asks: the question shares the processors.
		if sent == 0 || sent%10 != 0 {
			return false, nil
		}
		var pending bool
		err := s.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM mini_asynq.jobs WHERE queue = $1 AND status = 'pending')`,
			peers.Queue).Scan(&pending)
		return !pending, err
	})
}

// arrivals are the moments at which events of jobs arrived.
type arrivals struct {
	mu   sync.Mutex // guards the map; nothing blocks under it
	when map[string]time.Time
}

func (a *arrivals) add(id string, when time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, twice := a.when[id]; !twice {
		a.when[id] = when
	}
}

func (a *arrivals) all(ids []string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if _, there := a.when[id]; !there {
			return false
		}
	}
	return true
}

// probe commits probes one after the other, every so often, until done says so. Beside them the server finishes the
// jobs that were loaded.
func (c *cell) probe(ctx context.Context, every time.Duration, loaded int64,
	done func(ctx context.Context, s *peers.Server, sent int) (bool, error),
) error {
	server, err := peers.StartServer(ctx, c.server(true))
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }() // what it has done is checked below
	socket, response, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+server.Addr+"/api/v1/ws?queues="+probeQueue, nil)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	_ = response.Body.Close()
	seen := &arrivals{when: map[string]time.Time{}}
	listened := make(chan error, 1)
	// Ends when the socket is closed below.
	go func() { listened <- listen(socket, seen) }()
	sent, ids, err := c.sendProbes(ctx, every, func(n int) (bool, error) { return done(ctx, server, n) })
	if err == nil {
		err = machine.WaitFor(ctx, eventLimit, "every probe arrives as an event", func(context.Context) (bool, error) {
			return seen.all(ids), nil
		})
	}
	_ = socket.Close()
	heard := <-listened // the closed socket, or why it could not be read
	if err != nil {
		return errors.Join(err, heard)
	}
	spans := make([]time.Duration, len(ids))
	for i, id := range ids {
		spans[i] = seen.when[id].Sub(sent[i])
	}
	c.latencies(spans)
	c.metrics["probes"] = float64(len(ids))
	if err := server.Finished(ctx, time.Minute); err != nil {
		return err
	}
	return c.checkServer(ctx, server, finished(loaded))
}

func (c *cell) sendProbes(ctx context.Context, every time.Duration, done func(sent int) (bool, error)) (sent []time.Time, ids []string, err error) {
	conn, err := pgx.Connect(ctx, c.db.DSN)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		over, err := done(len(ids))
		if over || err != nil {
			return sent, ids, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-ticker.C:
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			return nil, nil, err
		}
		var id string
		if err := tx.QueryRow(ctx, probeSQL).Scan(&id); err != nil {
			return nil, nil, err
		}
		now := time.Now() // monotonic: a span on this machine
		if err := tx.Commit(ctx); err != nil {
			return nil, nil, err
		}
		sent, ids = append(sent, now), append(ids, id)
	}
}

func listen(socket *websocket.Conn, seen *arrivals) error {
	for {
		_, text, err := socket.ReadMessage()
		if err != nil {
			return err
		}
		now := time.Now() // monotonic: a span on this machine
		var event struct {
			JobID string `json:"job_id"`
		}
		if err := json.Unmarshal(text, &event); err != nil {
			return errors.Join(errors.New("read an event"), err)
		}
		seen.add(event.JobID, now)
	}
}
