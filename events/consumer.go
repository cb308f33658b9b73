package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/jobs"
)

const (
	// MaxConsumers is how many named consumers there may be.
	MaxConsumers = 100
	// ConsumerClaim is how long a claim lasts after the last sign of life of its reader.
	ConsumerClaim = 30 * time.Second
)

// Consumer is a named place in the stream, kept in the database: what was acknowledged, and who reads on from there.
type Consumer struct {
	Name   string
	Filter map[string][]string // as ParseFilter takes it; empty: lets all through
	Cursor Position            // all up to here is acknowledged

	Reader string        // who holds it; "": nobody
	FreeIn time.Duration // until the claim lapses; 0: nobody holds it

	// LagEvents is how many events lie between the cursor and the head, whatever the filter makes of them; -1: the cursor
	// is of another epoch. Lag is for how long the first of them has been in the log; 0: there is none, or -1.
	LagEvents int64
	Lag       time.Duration
	// Lost is what the next read is told: *EpochError, *ExpiredError, or nil when it can go on.
	Lost error

	AckedAt              time.Time // zero: never
	CreatedBy, UpdatedBy string
	CreatedAt, UpdatedAt time.Time
}

// ConsumerRef names a consumer. Within are the only queues that exist for who asks, nil is all of them: a consumer whose
// filter lets anything else through does not exist for him either, since to acknowledge for himself is to do so for others.
type ConsumerRef struct {
	Name   string
	Within []string
}

// BusyError means that the claim on a consumer is not this reader's: Reader has it for FreeIn; or nobody has it any more ("",
// 0), but it went through other hands, or was reset, since this one had it.
type BusyError struct {
	Reader string
	FreeIn time.Duration
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("events: the consumer is held by %q for %s", e.Reader, e.FreeIn)
}

// Target is a place in the stream as somebody states it: a cursor, "earliest" or "latest" ("" is that too); or a time,
// which goes first.
type Target struct {
	Cursor string
	Time   time.Time
}

// visibleSQL holds for consumers c that exist for a caller with the queues $2. A name that ends in * is no queue.
const visibleSQL = `($2::text[] IS NULL OR to_jsonb($2::text[]) @> (c.filter->'queues'))`

// consumersSQL reads consumers by name ($1; null is all), with their lag: for each that has one, the tick of its next event,
// by the primary key.
const consumersSQL = `WITH head AS (` + epochSQL + `)
SELECT c.name, c.filter, c.epoch, c.seq, coalesce(c.reader, ''),
       greatest(coalesce(c.held_until - clock_timestamp(), '0'), '0'),
       coalesce(head.epoch, 0), coalesce(head.floor_seq, 0), coalesce(head.seq, 0),
       CASE WHEN c.epoch = head.epoch AND c.seq < head.seq THEN greatest(clock_timestamp() - (
            SELECT at FROM mini_asynq.ticks t
             WHERE t.epoch = c.epoch AND t.first_seq <= greatest(c.seq, head.floor_seq) + 1
             ORDER BY t.first_seq DESC LIMIT 1), '0') ELSE '0' END,
       c.acked_at, c.created_by, c.created_at, c.updated_by, c.updated_at
  FROM mini_asynq.consumers c LEFT JOIN head ON true
 WHERE ($1::text IS NULL OR c.name = $1) AND ` + visibleSQL + `
 ORDER BY c.name COLLATE "C"`

func scanConsumer(row pgx.CollectableRow) (Consumer, error) {
	var c Consumer
	var filter []byte
	var head Epoch
	var acked *time.Time
	var lag *time.Duration // null: retention has just taken the tick away
	err := row.Scan(&c.Name, &filter, &c.Cursor.Epoch, &c.Cursor.Seq, &c.Reader, &c.FreeIn, &head.Number, &head.Floor.Seq,
		&head.Head.Seq, &lag, &acked, &c.CreatedBy, &c.CreatedAt, &c.UpdatedBy, &c.UpdatedAt)
	if err != nil {
		return c, err
	}
	if c.FreeIn == 0 {
		c.Reader = ""
	}
	if acked != nil {
		c.AckedAt = *acked
	}
	if lag != nil {
		c.Lag = *lag
	}
	head.Floor.Epoch, head.Head.Epoch = head.Number, head.Number
	if c.LagEvents = max(0, head.Head.Seq-c.Cursor.Seq); c.Cursor.Epoch != head.Number {
		c.LagEvents = -1
	}
	if err := head.check(c.Cursor); !errors.Is(err, ErrCursorInvalid) {
		c.Lost = err
	}
	return c, json.Unmarshal(filter, &c.Filter)
}

// Consumers lists those that exist for a caller with these queues (nil: all), by name.
func Consumers(ctx context.Context, db jobs.DB, within []string) ([]Consumer, error) {
	rows, err := db.Query(ctx, consumersSQL, nil, within)
	if err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanConsumer)
	if err != nil {
		return nil, fmt.Errorf("list consumers: %w", err)
	}
	return found, nil
}

// GetConsumer returns one. jobs.ErrNotFound.
func GetConsumer(ctx context.Context, db jobs.DB, ref ConsumerRef) (Consumer, error) {
	rows, err := db.Query(ctx, consumersSQL, ref.Name, ref.Within)
	if err != nil {
		return Consumer{}, fmt.Errorf("read a consumer: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanConsumer)
	if errors.Is(err, pgx.ErrNoRows) {
		return Consumer{}, jobs.ErrNotFound
	}
	if err != nil {
		return Consumer{}, fmt.Errorf("read a consumer: %w", err)
	}
	return c, nil
}

// PutConsumer makes a consumer that begins at a place, or gives one that is there another filter: that one stays where it is,
// so that the same call can be made again and again. A new filter holds for what is not acknowledged yet, and sends a read
// that is under way back to begin anew. The filter is one that ParseFilter takes.
//
// jobs.ErrNotFound: it is there, and does not exist for the caller. *jobs.ValidationError: there are MaxConsumers already.
// ErrCursorInvalid, *EpochError, *ExpiredError: there is no such place. ErrNotReady: there is no stream yet.
func PutConsumer(ctx context.Context, db jobs.DB, ref ConsumerRef, filter map[string][]string, begin Target, act jobs.Act) (
	c Consumer, created bool, err error,
) {
	if filter == nil {
		filter = map[string][]string{}
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// Two of these follow each other, so that the count is right; readers and their acknowledgements go on meanwhile.
		if _, err := tx.Exec(ctx, `LOCK TABLE mini_asynq.consumers IN SHARE UPDATE EXCLUSIVE MODE`); err != nil {
			return err
		}
		var there int
		var old json.RawMessage
		err := tx.QueryRow(ctx, `
			SELECT count(*), (SELECT filter FROM mini_asynq.consumers WHERE name = $1) FROM mini_asynq.consumers`, ref.Name).
			Scan(&there, &old)
		if err != nil {
			return err
		}
		if created = old == nil; created {
			if there >= MaxConsumers {
				return &jobs.ValidationError{Faults: []jobs.Fault{{
					Code: "too_many", Detail: "there are " + strconv.Itoa(MaxConsumers) + " consumers, and may be no more",
				}}}
			}
			return createConsumer(ctx, tx, ref.Name, filter, begin, act)
		}
		tag, err := tx.Exec(ctx, `
			UPDATE mini_asynq.consumers c SET filter = $3, updated_by = $4, updated_at = clock_timestamp(),
			       fence = CASE WHEN filter = $3 THEN fence ELSE nextval('mini_asynq.consumer_fences') END
			 WHERE name = $1 AND `+visibleSQL, ref.Name, ref.Within, filter, act.Actor)
		if err == nil && tag.RowsAffected() == 0 {
			err = jobs.ErrNotFound
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, jobs.Entry{
			Action: "consumer.update", Target: ref.Name, Before: saidOf(old), After: saidOf(filter),
		})
	})
	if err != nil {
		return Consumer{}, false, consumerError("put a consumer", err)
	}
	c, err = GetConsumer(ctx, db, ConsumerRef{Name: ref.Name})
	return c, created, err
}

func createConsumer(ctx context.Context, tx pgx.Tx, name string, filter map[string][]string, begin Target, act jobs.Act) error {
	at, err := begin.resolve(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO mini_asynq.consumers (name, filter, epoch, seq, created_by, updated_by) VALUES ($1, $2, $3, $4, $5, $5)`,
		name, filter, at.Epoch, at.Seq, act.Actor)
	if err != nil {
		return err
	}
	return act.Record(ctx, tx, jobs.Entry{Action: "consumer.create", Target: name, After: struct {
		Cursor string `json:"cursor"`
		Filter any    `json:"filter"`
	}{at.String(), filter}})
}

// saidOf is what the audit log keeps of a filter.
func saidOf(filter any) any { return map[string]any{"filter": filter} }

// DeleteConsumer takes a consumer away; its reader is told with its next call. jobs.ErrNotFound.
func DeleteConsumer(ctx context.Context, db jobs.DB, ref ConsumerRef, act jobs.Act) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var at Position
		var filter json.RawMessage
		err := tx.QueryRow(ctx, `
			DELETE FROM mini_asynq.consumers c WHERE name = $1 AND `+visibleSQL+` RETURNING epoch, seq, filter`,
			ref.Name, ref.Within).Scan(&at.Epoch, &at.Seq, &filter)
		if errors.Is(err, pgx.ErrNoRows) {
			return jobs.ErrNotFound
		}
		if err != nil {
			return err
		}
		return act.Record(ctx, tx, jobs.Entry{Action: "consumer.delete", Target: ref.Name, Before: struct {
			Cursor string          `json:"cursor"`
			Filter json.RawMessage `json:"filter"`
		}{at.String(), filter}})
	})
	return consumerError("delete a consumer", err)
}

// ResetConsumer puts the cursor elsewhere, forward or back, whatever it was, and ends the claim: what its reader still
// acknowledges is refused, or it would undo the reset. Errors as of PutConsumer, and a *jobs.ValidationError for a time that
// lies ahead.
func ResetConsumer(ctx context.Context, db jobs.DB, ref ConsumerRef, to Target, act jobs.Act) (Consumer, error) {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var old Position
		err := tx.QueryRow(ctx, `
			SELECT epoch, seq FROM mini_asynq.consumers c WHERE name = $1 AND `+visibleSQL+` FOR UPDATE`, ref.Name, ref.Within).
			Scan(&old.Epoch, &old.Seq)
		if errors.Is(err, pgx.ErrNoRows) {
			return jobs.ErrNotFound
		}
		if err != nil {
			return err
		}
		at, err := to.resolve(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE mini_asynq.consumers SET epoch = $2, seq = $3, reader = NULL, held_until = NULL, updated_by = $4,
			       updated_at = clock_timestamp(), fence = nextval('mini_asynq.consumer_fences')
			 WHERE name = $1`, ref.Name, at.Epoch, at.Seq, act.Actor)
		if err != nil {
			return err
		}
		said := func(p Position) any { return map[string]string{"cursor": p.String()} }
		return act.Record(ctx, tx, jobs.Entry{Action: "consumer.reset", Target: ref.Name, Before: said(old), After: said(at)})
	})
	if err != nil {
		return Consumer{}, consumerError("reset a consumer", err)
	}
	return GetConsumer(ctx, db, ConsumerRef{Name: ref.Name})
}

// resolve finds the place.
func (to Target) resolve(ctx context.Context, db jobs.DB) (Position, error) {
	epoch, ok, err := readEpoch(ctx, db)
	switch {
	case err != nil:
		return Position{}, err
	case !ok:
		return Position{}, ErrNotReady
	case !to.Time.IsZero():
		return epoch.at(ctx, db, to.Time)
	}
	switch to.Cursor {
	case "", "latest":
		return epoch.Head, nil
	case "earliest":
		return epoch.Floor, nil
	}
	p, err := ParseCursor(to.Cursor)
	if err == nil {
		err = epoch.check(p)
	}
	return p, err
}

// at is a place before everything that was published at a time or after it, and so before everything that happened since: no
// tick is older than its events. What happened shortly before and was committed late may come behind it too. A time before
// what is kept is the floor. Index ticks_at. (A clock that was set back makes two ticks of the same time; the one that comes
// first by the clock is taken.)
func (e Epoch) at(ctx context.Context, db jobs.DB, when time.Time) (Position, error) {
	var ahead bool
	var before *int64
	err := db.QueryRow(ctx, `
		SELECT $2 > clock_timestamp(),
		       (SELECT first_seq - 1 FROM mini_asynq.ticks WHERE at >= $2 AND epoch = $1 ORDER BY at, first_seq LIMIT 1)`,
		e.Number, when).Scan(&ahead, &before)
	switch {
	case err != nil:
		return Position{}, fmt.Errorf("look for a time in the stream: %w", err)
	case ahead:
		return Position{}, &jobs.ValidationError{Faults: []jobs.Fault{{Pointer: "/to", Code: "out_of_range", Detail: "lies ahead"}}}
	case before == nil:
		return e.Head, nil
	}
	return Position{e.Number, max(*before, e.Floor.Seq)}, nil
}

// Confined tells whether a filter lets only events of some queues through; nil: that is all of them.
func (f *Filter) Confined(queues []string) bool {
	if queues == nil {
		return true
	}
	return f != nil && len(f.queues.exact) > 0 && len(f.queues.prefixes) == 0 &&
		!slices.ContainsFunc(f.queues.exact, func(name string) bool { return !slices.Contains(queues, name) })
}

// consumerError names what was tried, unless the error is for the caller.
func consumerError(action string, err error) error {
	var busy *BusyError
	var refused *jobs.ValidationError
	_, told := Refused(err)
	if err == nil || told || errors.Is(err, jobs.ErrNotFound) || errors.As(err, &busy) || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%s: %w", action, err)
}

// filterOf reads a filter as it is stored, for a reader with some queues.
func filterOf(raw []byte, within []string) (*Filter, error) {
	var fields map[string][]string
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	filter, err := ParseFilter(fields)
	if err != nil {
		return nil, errors.New(err.Error()) // it was taken once, perhaps by a later version: no fault of who reads
	}
	return filter.Within(within), nil
}
