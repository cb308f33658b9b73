package workers_test

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// Thumbnail is a payload.
type Thumbnail struct {
	Image string `json:"image"`
	Width int    `json:"width"`
}

// MakeThumbnail is declared once, for whoever enqueues and for whoever works.
var MakeThumbnail = jobs.Kind[Thumbnail]{Name: "thumbnail.make", Defaults: jobs.Params{Queue: "images"}}

// A program that enqueues and works. One that only enqueues needs no node: it calls the first of the two on its pool. One
// that only works does without that.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool := openPool(ctx)
	defer pool.Close()

	_, err := MakeThumbnail.Enqueue(ctx, pool, Thumbnail{Image: "cat.jpg", Width: 120})
	check(err)

	registry := workers.NewRegistry()
	workers.Handle(registry, MakeThumbnail, func(ctx context.Context, job *jobs.Claimed, t Thumbnail) error {
		fmt.Printf("%s at %d pixels\n", t.Image, t.Width)
		stop() // as SIGTERM does
		return nil
	})
	check(workers.Run(ctx, workers.Config{Pool: pool, Registry: registry, Slots: 20}))
	// Output: cat.jpg at 120 pixels
}

// The payload is decoded before the handler is called; one of another shape fails the attempt for good.
func ExampleHandle() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	registry := workers.NewRegistry()
	workers.Handle(registry, MakeThumbnail, func(ctx context.Context, job *jobs.Claimed, t Thumbnail) error {
		fmt.Println(t.Image, "of queue", job.Queue, "attempt", job.Attempt)
		return nil
	})
	stored, err := jobs.Enqueue(ctx, pool,
		jobs.Params{Queue: "images", Kind: MakeThumbnail.Name, Payload: "no thumbnail", Priority: jobs.High},
		MakeThumbnail.Params(Thumbnail{Image: "dog.jpg", Width: 120}))
	check(err)
	runUntilDone(pool, registry)

	broken, err := jobs.Get(ctx, pool, stored[0].ID)
	check(err)
	fmt.Println("the other one is", broken.Status, broken.Reason)
	// Output:
	// dog.jpg of queue images attempt 1
	// the other one is dead not_retryable
}

var errBusy = errors.New("the provider is busy")

// Middleware is around all handlers, or around those of one kind. It may measure, add to the context, and change what the
// error says.
func ExampleRegistry_Use() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	logged := func(next workers.Handler) workers.Handler {
		return workers.HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
			err := next.Handle(ctx, job)
			fmt.Printf("%s attempt %d: %v\n", job.Kind, job.Attempt, err)
			return err
		})
	}
	// An hour in production. The job comes back, and no attempt is counted.
	patient := func(next workers.Handler) workers.Handler {
		return workers.HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
			err := next.Handle(ctx, job)
			if errors.Is(err, errBusy) {
				return jobs.Snooze(100 * time.Millisecond)
			}
			return err
		})
	}

	registry := workers.NewRegistry()
	registry.Use(logged)
	workers.Handle(registry, MakeThumbnail, func(ctx context.Context, job *jobs.Claimed, t Thumbnail) error {
		if job.Snoozes == 0 {
			return errBusy
		}
		return nil
	}, patient)
	_, err := MakeThumbnail.Enqueue(ctx, pool, Thumbnail{Image: "cat.jpg"})
	check(err)
	runUntilDone(pool, registry)
	// Output:
	// thumbnail.make attempt 1: jobs: snoozed for 100ms
	// thumbnail.make attempt 1: <nil>
}

// When ctx ends the node claims nothing more, and its handlers have the grace to finish. After that their contexts end,
// with jobs.ErrShutdown as the cause, and what they leave unfinished goes back to its queue, its attempt uncharged.
func ExampleRun_stop() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	pool := openPool(ctx)
	defer pool.Close()

	type Report struct{ Pages int }
	makeReport := jobs.Kind[Report]{Name: "report.make"}

	var running sync.WaitGroup
	running.Add(2)
	registry := workers.NewRegistry()
	workers.Handle(registry, makeReport, func(ctx context.Context, job *jobs.Claimed, r Report) error {
		running.Done()
		running.Wait()
		stop() // a deployment, while both are running
		if r.Pages < 100 {
			fmt.Println("the short one: done within the grace")
			return nil
		}
		<-ctx.Done()
		fmt.Println("the long one:", context.Cause(ctx))
		return context.Cause(ctx)
	})
	_, err := makeReport.EnqueueMany(ctx, pool, []Report{{Pages: 3}, {Pages: 5000}})
	check(err)
	err = workers.Run(ctx, workers.Config{Pool: pool, Registry: registry, Slots: 2, Grace: 100 * time.Millisecond})
	fmt.Println("stopped:", err)
	// Unordered output:
	// the short one: done within the grace
	// the long one: jobs: the node is stopping
	// stopped: <nil>
}
