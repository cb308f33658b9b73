package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"github.com/mini-asynq/mini-asynq/bench/figures"
)

// asynqPeer is asynq inside this process, on a redis-server of its own. It has no call for batches: they are sent one
// by one. Finished jobs are deleted, as asynq does by default; it counts them.
type asynqPeer struct {
	redis     asynq.RedisClientOpt
	client    *asynq.Client
	inspector *asynq.Inspector
	server    *asynq.Server
}

func openAsynq(_ context.Context, s Setting) (Session, error) {
	if s.RedisAddr == "" {
		return nil, &UnavailableError{figures.Asynq, "no redis-server was found on this machine"}
	}
	redis := asynq.RedisClientOpt{Addr: s.RedisAddr, PoolSize: Connections}
	return &asynqPeer{redis: redis, client: asynq.NewClient(redis), inspector: asynq.NewInspector(redis)}, nil
}

func (a *asynqPeer) Start(_ context.Context, work *Work) error {
	if work == nil {
		return nil
	}
	a.server = asynq.NewServer(a.redis, asynq.Config{
		Concurrency: Slots, Queues: map[string]int{Queue: 1}, LogLevel: asynq.FatalLevel,
		RetryDelayFunc:           func(int, error, *asynq.Task) time.Duration { return work.RetryAfter },
		DelayedTaskCheckInterval: time.Second,
	})
	return a.server.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		var p payload
		if err := json.Unmarshal(task.Payload(), &p); err != nil {
			return err
		}
		retried, _ := asynq.GetRetryCount(ctx)
		return work.handle(p.N, retried+1)
	}))
}

func (a *asynqPeer) Batch(ctx context.Context, first int64, n int) error {
	for i := range int64(n) {
		if err := a.Single(ctx, first+i); err != nil {
			return err
		}
	}
	return nil
}

func (a *asynqPeer) Single(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	text, err := json.Marshal(payload{n})
	if err != nil {
		return err
	}
	_, err = a.client.EnqueueContext(ctx, asynq.NewTask(Queue, text), asynq.Queue(Queue))
	return err
}

// Commit has no transaction to join; the moment is the one before the call, so the call is in the latency.
func (a *asynqPeer) Commit(ctx context.Context, first int64, n int) (time.Time, error) {
	sent := time.Now() // monotonic: a span on this machine
	return sent, a.Batch(ctx, first, n)
}

func (a *asynqPeer) Unfinished(context.Context) (bool, error) {
	info, err := a.inspector.GetQueueInfo(Queue)
	if err != nil {
		return false, err
	}
	return info.Size > 0, nil
}

// Account counts attempts as what was processed, failures among them; a retry is one more.
func (a *asynqPeer) Account(context.Context) (Account, error) {
	info, err := a.inspector.GetQueueInfo(Queue)
	if err != nil {
		return Account{}, fmt.Errorf("ask asynq: %w", err)
	}
	return Account{
		Waiting: int64(info.Size), Finished: int64(info.ProcessedTotal - info.FailedTotal), Attempts: int64(info.ProcessedTotal),
		Events: -1, Published: -1,
	}, nil
}

func (a *asynqPeer) Stop() error {
	if a.server != nil {
		a.server.Shutdown()
		a.server = nil
	}
	return nil
}

func (a *asynqPeer) Close() error {
	_ = a.Stop()
	// Closing twice is an error to them, and nothing can be done about any other.
	_, _ = a.inspector.Close(), a.client.Close()
	return nil
}
