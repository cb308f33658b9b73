package workers

import (
	"context"
	"errors"
	"time"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

const (
	partitionsAhead = 7 * 24 * time.Hour // how far ahead partitions are made
	houseEvery      = time.Hour          // how often partitions and keys are looked after
	houseRetry      = time.Minute        // after a lock that was not to be had
	stepDeadline    = 10 * time.Minute   // of one step: the ticks of days may have to go
	keepWorkers     = 24 * time.Hour     // how long a remote worker that is silent is remembered
	keepAudit       = 400 * 24 * time.Hour
	keepDeliveries  = 7 * 24 * time.Hour  // of webhooks, that were given up
	keepOperations  = 30 * 24 * time.Hour // after their end
	atOnce          = 5000                // rows deleted in one statement
)

// keepHouse makes partitions ahead of time, retires old ones, drops expired keys, and makes the rows of new queues: all
// on the node of the preferred pacer. It ends with ctx.
func (e *Engine) keepHouse(ctx context.Context) error {
	log := e.config.Log.With().Str("component", "housekeeping").Str("node", e.Node).Logger()
	timer := time.NewTimer(time.Second) // not at once: a node that starts has more urgent things to do
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case names := <-e.queues:
			if !e.Pacer.Leads() {
				continue
			}
			if err := bounded(ctx, func(ctx context.Context) error { return jobs.AddQueues(ctx, e.keeper, names) }); err != nil {
				log.Warn().Err(err).Msg("rows of new queues could not be made")
			}
		case <-timer.C:
			timer.Reset(houseEvery)
			if !e.Pacer.Leads() {
				timer.Reset(houseRetry)
				continue
			}
			if err := e.house(ctx); err != nil && ctx.Err() == nil {
				timer.Reset(houseRetry)
				log.Warn().Err(err).Msg("housekeeping could not finish, trying again")
			}
		}
	}
}

// bounded gives a step a deadline.
func bounded(ctx context.Context, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepDeadline)
	defer cancel()
	return step(ctx)
}

// house does one round. A step that fails keeps none of the others from being done.
func (e *Engine) house(ctx context.Context) error {
	return errors.Join(
		bounded(ctx, func(ctx context.Context) error {
			_, err := jobs.CreatePartitions(ctx, e.keeper, partitionsAhead)
			return err
		}),
		bounded(ctx, func(ctx context.Context) error { return e.dropOld(ctx, jobs.ClassDone, e.config.KeepDone) }),
		bounded(ctx, func(ctx context.Context) error { return e.dropOld(ctx, jobs.ClassDead, e.config.KeepDead) }),
		bounded(ctx, func(ctx context.Context) error {
			return events.Retire(ctx, e.keeper, events.Keep{Age: e.config.KeepEvents, Bytes: e.config.KeepEventBytes})
		}),
		bounded(ctx, func(ctx context.Context) error {
			return inPortions(func() (int64, error) { return jobs.DropExpiredKeys(ctx, e.keeper, atOnce) })
		}),
		bounded(ctx, func(ctx context.Context) error {
			return inPortions(func() (int64, error) { return jobs.DropWorkers(ctx, e.keeper, keepWorkers, atOnce) })
		}),
		bounded(ctx, func(ctx context.Context) error {
			return inPortions(func() (int64, error) { return jobs.ForgetDeliveries(ctx, e.keeper, keepDeliveries, atOnce) })
		}),
		bounded(ctx, func(ctx context.Context) error {
			return inPortions(func() (int64, error) { return jobs.ForgetLogins(ctx, e.keeper, atOnce) })
		}),
		bounded(ctx, func(ctx context.Context) error {
			return inPortions(func() (int64, error) { return jobs.ForgetOperations(ctx, e.keeper, keepOperations, atOnce) })
		}),
		bounded(ctx, func(ctx context.Context) error {
			return inPortions(func() (int64, error) { return jobs.ForgetAudit(ctx, e.keeper, keepAudit, atOnce) })
		}),
	)
}

// inPortions repeats a step that deletes up to atOnce rows until there are no more.
func inPortions(step func() (int64, error)) error {
	for {
		if n, err := step(); err != nil || n < atOnce {
			return err
		}
	}
}

// dropOld drops the partitions of a class that are older than keep.
func (e *Engine) dropOld(ctx context.Context, class jobs.PartitionClass, keep time.Duration) error {
	old, err := jobs.OldPartitions(ctx, e.keeper, class, keep)
	if err != nil {
		return err
	}
	var faults []error // one that somebody holds keeps none of the others
	for _, name := range old {
		_, err := jobs.DropPartition(ctx, e.keeper, name, "")
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
