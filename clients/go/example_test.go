package miniasynq_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"

	miniasynq "github.com/mini-asynq/mini-asynq/clients/go"
)

// Tells of every job that is dead, and remembers in a file how far it has come.
func ExampleConsume() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := miniasynq.Consume(ctx, miniasynq.Options{
		URL:     "https://jobs.example.com",
		Auth:    miniasynq.Bearer(os.Getenv("JOBS_KEY")),
		Filter:  miniasynq.Filter{Types: []string{"job.dead"}},
		Cursors: miniasynq.FileCursors("dead.cursor"),
	}, func(_ context.Context, e miniasynq.Event) error {
		fmt.Println(e.JobID, e.Queue, e.Kind, string(e.Data))
		return nil
	})
	if ctx.Err() == nil {
		fmt.Println("cannot go on:", err)
	}
}

// Keeps a copy of the jobs of a queue. Where the log cannot go on, it is filled anew from a list, and goes on from there.
func ExampleConsume_snapshot() {
	const server = "http://localhost:8080"
	status := make(map[string]string)
	cursors := miniasynq.FileCursors("mail.cursor")

	snapshot := func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/api/v1/jobs?queue=mail&limit=1000", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		var page struct { // the first page; next_cursor leads to the others
			Data []struct{ ID, Status string } `json:"data"`
			AsOf string                        `json:"as_of"`
		}
		if err := json.NewDecoder(answer.Body).Decode(&page); err != nil {
			return err
		}
		clear(status)
		for _, job := range page.Data {
			status[job.ID] = job.Status
		}
		return cursors.Save(ctx, page.AsOf)
	}
	follow := func(ctx context.Context) error {
		return miniasynq.Consume(ctx, miniasynq.Options{
			URL: server, Filter: miniasynq.Filter{Queues: []string{"mail"}}, Cursors: cursors,
		}, func(_ context.Context, e miniasynq.Event) error {
			status[e.JobID] = e.Status
			return nil
		})
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for err := snapshot(ctx); err == nil; {
		err = follow(ctx)
		var expired *miniasynq.ExpiredError
		var epoch *miniasynq.EpochError
		if errors.As(err, &expired) || errors.As(err, &epoch) {
			err = snapshot(ctx)
		}
	}
}
