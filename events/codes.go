package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// meaning is what a code of the outbox stands for.
type meaning struct {
	event    string
	from, to jobs.Status
}

// codebook holds the meaning of each code: the table event_codes. A code never changes its meaning.
type codebook map[int16]meaning

// builtin is what this build knows. A newer node may write codes that it does not: then the table is read (readCodes).
var builtin = func() codebook {
	book := codebook{
		101: {"job.cancel_requested", jobs.Running, jobs.Running},
		102: {"job.progress", jobs.Running, jobs.Running},
		103: {"job.updated", jobs.Scheduled, jobs.Scheduled},
		104: {"job.updated", jobs.Pending, jobs.Pending},
		105: {"job.updated", jobs.Running, jobs.Running},
		106: {"job.updated", jobs.Retrying, jobs.Retrying},
		107: {"job.updated", jobs.Blocked, jobs.Blocked},
		121: {event: "queue.created"},
		122: {event: "queue.paused"},
		123: {event: "queue.resumed"},
		124: {event: "queue.updated"},
		125: {event: "history.dropped"},
		126: {event: "worker.online"},
		127: {event: "worker.draining"},
		128: {event: "worker.offline"},
		129: {event: "key.created"},
		130: {event: "key.revoked"},
		131: {event: "operation.progress"},
		132: {event: "operation.finished"},
		140: {event: "webhook.updated"},
		141: {event: "webhook.disabled"},
	}
	for _, s := range jobs.Steps() {
		book[s.Code] = meaning{s.Event, s.From, s.To}
	}
	return book
}()

// errUnknownCode means that an event has a code that the codebook does not hold.
var errUnknownCode = errors.New("event code of a newer version")

// readCodes reads the codebook of the database.
func readCodes(ctx context.Context, db jobs.DB) (codebook, error) {
	rows, err := db.Query(ctx, `
		SELECT code, event::text, coalesce(from_status::text, ''), coalesce(to_status::text, '')
		  FROM mini_asynq.event_codes`)
	if err != nil {
		return nil, fmt.Errorf("read the event codes: %w", err)
	}
	book := make(codebook)
	var code int16
	var m meaning
	_, err = pgx.ForEachRow(rows, []any{&code, &m.event, &m.from, &m.to}, func() error { book[code] = m; return nil })
	if err != nil {
		return nil, fmt.Errorf("read the event codes: %w", err)
	}
	return book, nil
}
