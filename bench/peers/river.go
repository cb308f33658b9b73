package peers

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// riverPeer is River inside this process.
type riverPeer struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx] // of Start, and before that one that only inserts
	tuned  bool
	works  bool
}

// riverArgs is the payload as River has it.
type riverArgs payload

// Kind names the handler.
func (riverArgs) Kind() string { return Queue }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]

	work *Work
}

// Work is the handler.
func (w *riverWorker) Work(_ context.Context, job *river.Job[riverArgs]) error {
	return w.work.handle(job.Args.N, job.Attempt)
}

// NextRetry replaces River's own delays, so that all contenders wait equally long.
func (w *riverWorker) NextRetry(*river.Job[riverArgs]) time.Time {
	return time.Now().Add(w.work.RetryAfter)
} // River's clock

func openRiverDefaults(ctx context.Context, s Setting) (Session, error) {
	return openRiver(ctx, s, false)
}
func openRiverTuned(ctx context.Context, s Setting) (Session, error) { return openRiver(ctx, s, true) }

func openRiver(ctx context.Context, s Setting, tuned bool) (Session, error) {
	pool, err := openPool(ctx, s.DSN)
	if err != nil {
		return nil, err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: silent()})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: silent()})
	if err != nil {
		return nil, err
	}
	return &riverPeer{pool: pool, client: client, tuned: tuned}, nil
}

// silent keeps River from writing: its log is no part of the work.
func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (r *riverPeer) Start(_ context.Context, work *Work) error {
	if work == nil {
		return nil // a client that only inserts runs nothing
	}
	registry := river.NewWorkers()
	river.AddWorker(registry, &riverWorker{work: work})
	config := &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: Slots}},
		Workers: registry, Logger: silent(),
	}
	if r.tuned {
		config.FetchCooldown, config.FetchPollInterval = 2*time.Millisecond, 20*time.Millisecond
	}
	client, err := river.NewClient(riverpgxv5.New(r.pool), config)
	if err != nil {
		return err
	}
	// Its context ends the client, so it must not end with the call.
	if err := client.Start(context.Background()); err != nil {
		return err
	}
	r.client, r.works = client, true
	return nil
}

func (r *riverPeer) Batch(ctx context.Context, first int64, n int) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := r.client.InsertManyFast(ctx, riverParams(first, n))
	return err
}

func riverParams(first int64, n int) []river.InsertManyParams {
	all := make([]river.InsertManyParams, n)
	for i := range all {
		all[i].Args = riverArgs{first + int64(i)}
	}
	return all
}

func (r *riverPeer) Single(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := r.client.Insert(ctx, riverArgs{n}, nil)
	return err
}

func (r *riverPeer) Commit(ctx context.Context, first int64, n int) (time.Time, error) {
	return commit(ctx, r.pool, func(ctx context.Context, tx pgx.Tx) error {
		if n == 1 {
			_, err := r.client.InsertTx(ctx, tx, riverArgs{first}, nil)
			return err
		}
		_, err := r.client.InsertManyFastTx(ctx, tx, riverParams(first, n))
		return err
	})
}

func (r *riverPeer) Unfinished(ctx context.Context) (left bool, err error) {
	err = r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM river_job WHERE state = 'available')
		OR EXISTS (SELECT FROM river_job WHERE state IN ('running', 'retryable', 'scheduled', 'pending'))`).Scan(&left)
	return left, err
}

// Account counts the attempts that River keeps in the job's row. It has no events.
func (r *riverPeer) Account(ctx context.Context) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	a := Account{Events: -1, Published: -1}
	err := r.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE state <> $1), count(*) FILTER (WHERE state = $1),
		coalesce(sum(attempt), 0) FROM river_job`, string(rivertype.JobStateCompleted)).Scan(&a.Waiting, &a.Finished, &a.Attempts)
	return a, err
}

func (r *riverPeer) Stop() error {
	if !r.works {
		return nil
	}
	r.works = false
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := r.client.Stop(ctx); err != nil {
		return fmt.Errorf("stop River: %w", err)
	}
	return nil
}

func (r *riverPeer) Close() error {
	err := r.Stop()
	closePools(r.pool)
	return err
}
