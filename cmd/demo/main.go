// Command demo makes jobs over REST, so that there is something to look at: bursts, delays, priorities, jobs that fail and
// are retried, a poison job, and requests that are sent twice under one idempotency key. It ends by itself after -for,
// or with Ctrl-C, and says what it did. The server runs the jobs with its demo handler.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	server := flag.String("server", orDefault(os.Getenv("MINIASYNQ_SERVER"), "http://localhost:8080"), "address of the server")
	span := flag.Duration("for", time.Minute, "how long to make jobs; 0 is until Ctrl-C")
	rate := flag.Float64("rate", 10, "jobs a second, on average")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random mix; the same seed makes the same jobs")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *span > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *span)
		defer cancel()
	}
	d := &demo{
		base:   strings.TrimSuffix(*server, "/") + "/api/v1",
		client: &http.Client{Timeout: 10 * time.Second},
		random: rand.New(rand.NewPCG(*seed, 0)), //nolint:gosec // a mix needs no secrecy
	}
	fmt.Fprintf(os.Stderr, "making jobs on %s (seed %d)\n", *server, *seed)
	if err := d.run(ctx, *rate); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// job is the body of a POST.
type job struct {
	Queue          string         `json:"queue"`
	Kind           string         `json:"kind"`
	Payload        map[string]any `json:"payload"`
	Priority       string         `json:"priority,omitempty"`
	MaxRetries     *int           `json:"max_retries,omitempty"`
	Delay          string         `json:"delay,omitempty"`
	Tags           []string       `json:"tags,omitempty"`
	IdempotencyKey string         `json:"idempotency_key,omitempty"`
}

type demo struct {
	base   string
	client *http.Client
	random *rand.Rand // used by one goroutine
	serial int

	accepted, replayed, refused, failed atomic.Int64
	lastError                           error
}

// run makes jobs until ctx ends: a steady trickle, and a burst every few seconds.
func (d *demo) run(ctx context.Context, rate float64) error {
	if err := d.reach(ctx); err != nil {
		return err
	}
	next := time.NewTicker(time.Duration(float64(time.Second) / max(rate, 0.1)))
	defer next.Stop()
	line := time.NewTicker(time.Second)
	defer line.Stop()
	burst := time.NewTicker(7 * time.Second)
	defer burst.Stop()
	started := time.Now()
	for {
		select {
		case <-ctx.Done():
			d.progress(started)
			fmt.Fprintln(os.Stderr)
			if d.failed.Load() > 0 {
				return fmt.Errorf("%d requests failed, the last with: %w", d.failed.Load(), d.lastError)
			}
			return nil
		case <-line.C:
			d.progress(started)
		case <-burst.C:
			d.sendBatch(ctx, d.burst())
		case <-next.C:
			d.send(ctx, d.one())
		}
	}
}

// reach asks for the server's health, so that a wrong address is told at once.
func (d *demo) reach(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := d.client.Do(request)
	if err != nil {
		return fmt.Errorf("the server does not answer (is it running? make run): %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the server is not well: %s", answer.Status)
	}
	return nil
}

func (d *demo) progress(started time.Time) {
	fmt.Fprintf(os.Stderr, "\r%4.0fs  accepted %d  repeated %d  refused %d  failed %d   ",
		time.Since(started).Seconds(), d.accepted.Load(), d.replayed.Load(), d.refused.Load(), d.failed.Load())
}

var kinds = []struct{ queue, kind string }{
	{"mail", "email.send"}, {"mail", "email.digest"}, {"media", "image.resize"}, {"media", "video.probe"},
	{"billing", "invoice.create"}, {"billing", "card.charge"}, {"reports", "report.build"}, {"default", "cache.warm"},
}

// one makes the next job of the mix.
func (d *demo) one() job {
	d.serial++
	k := kinds[d.random.IntN(len(kinds))]
	j := job{
		Queue: k.queue, Kind: k.kind,
		Payload: map[string]any{"serial": d.serial, "sleep_ms": 5 + d.random.IntN(200)},
		Tags:    []string{"demo"},
	}
	switch dice := d.random.IntN(100); {
	case dice < 15:
		j.Priority = "high"
	case dice < 30:
		j.Priority = "low"
	case dice < 42:
		j.Delay = fmt.Sprintf("%dms", 200+d.random.IntN(8000))
	case dice < 54:
		j.Payload["fail"] = 1 + d.random.IntN(2) // fails at first, then succeeds
	case dice < 57:
		none := 0
		j.Payload["fail"], j.MaxRetries = "a poison job: no attempt of it succeeds", &none
	case dice < 63:
		j.Payload["sleep_ms"], j.Payload["progress"] = 3000, true
	case dice < 70:
		j.IdempotencyKey = fmt.Sprintf("demo-%d-%d", d.serial/20, d.random.Uint64())
	}
	return j
}

// burst makes many jobs of one kind at once.
func (d *demo) burst() []job {
	jobs := make([]job, 50+d.random.IntN(150))
	for i := range jobs {
		d.serial++
		jobs[i] = job{
			Queue: "reports", Kind: "report.row", Priority: "low", Tags: []string{"demo", "burst"},
			Payload: map[string]any{"serial": d.serial, "sleep_ms": d.random.IntN(20)},
		}
	}
	return jobs
}

// send posts a job, and one with an idempotency key twice, as a client would that did not hear the answer.
func (d *demo) send(ctx context.Context, j job) {
	d.post(ctx, "/jobs", j, 1)
	if j.IdempotencyKey != "" {
		d.post(ctx, "/jobs", j, 1)
	}
}

func (d *demo) sendBatch(ctx context.Context, jobs []job) {
	d.post(ctx, "/jobs/batch", map[string]any{"jobs": jobs}, int64(len(jobs)))
}

func (d *demo) post(ctx context.Context, path string, body any, n int64) {
	raw, err := json.Marshal(body)
	if err != nil {
		d.fail(err)
		return
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+path, bytes.NewReader(raw))
	if err != nil {
		d.fail(err)
		return
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := d.client.Do(request)
	if err != nil {
		if ctx.Err() == nil { // what the end of the demo cut off is no failure
			d.fail(err)
		}
		return
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	switch {
	case err != nil && ctx.Err() == nil:
		d.fail(err)
	case answer.StatusCode == http.StatusCreated && answer.Header.Get("Idempotency-Replayed") == "true":
		d.replayed.Add(n)
	case answer.StatusCode == http.StatusCreated:
		d.accepted.Add(n)
	case answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable:
		d.refused.Add(n)
	case err == nil:
		d.fail(fmt.Errorf("%s: %s: %w", path, answer.Status, errors.New(string(text))))
	}
}

func (d *demo) fail(err error) {
	d.failed.Add(1)
	d.lastError = err
}
