package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mini-asynq/mini-asynq/internal/failpoint"
)

// Enqueued is what the database says about a job that was accepted.
type Enqueued struct {
	Job
	// Replayed: the idempotency key was used before for the same request. Of the job only ID and IdempotencyKey are set.
	Replayed bool
}

// Enqueue stores one job or thousands, in one statement, all or none. Given a pgx.Tx the jobs are the transaction's:
// they exist exactly if it commits. Otherwise they are stored when Enqueue returns nil.
//
// Errors: *ValidationError (pointers begin with the index when there are several jobs), ErrIdempotencyReused,
// ErrIdempotencyInFlight, ErrCommitUnknown, and what Unavailable recognises. Workers of other nodes are woken by the
// database; a node wakes its own idle workers through an Inserter.
func Enqueue(ctx context.Context, db DB, params ...Params) ([]Enqueued, error) {
	rows, err := newRows(params)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return r.params.IdempotencyKey != "" }) {
		return insert(ctx, db, rows)
	}
	return enqueueKeyed(ctx, db, rows)
}

func newRows(params []Params) ([]row, error) {
	rows := make([]row, len(params))
	var faults []Fault
	for i, p := range params {
		r, err := newRow(p)
		var invalid *ValidationError
		switch {
		case errors.As(err, &invalid):
			for _, f := range invalid.Faults {
				if len(params) > 1 {
					f.Pointer = "/" + strconv.Itoa(i) + f.Pointer
				}
				faults = append(faults, f)
			}
		case err != nil:
			return nil, err
		}
		rows[i] = r
	}
	if len(faults) > 0 {
		return nil, &ValidationError{Faults: faults}
	}
	return rows, nil
}

// insertSQL stores jobs from arrays. A job that is not due yet is scheduled; one whose run_at has passed is due now, so
// that nobody jumps the line. max_retries falls back to what the server published. No index is searched; no row is
// locked; a twin at the same time inserts other ids. unnest is planned for the length of its arrays, and the statement
// has one plan only. It returns the time and the default by which every row was decided.
const insertSQL = `
WITH clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now,
           coalesce((SELECT (value #>> '{}')::integer FROM mini_asynq.settings WHERE name = 'max_retries'), $13) AS retries
), new AS (
    SELECT n.*, CASE WHEN n.delay IS NULL THEN greatest(n.run_at, now) ELSE now + n.delay END AS due,
           coalesce(n.max_retries, retries) AS allowed, now
      FROM clock, unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::text[], $6::integer[], $7::timestamptz[],
                         $8::interval[], $9::interval[], $10::text[], $11::text[], $12::jsonb[], $14::text[], $15::text[])
           AS n(id, queue, kind, payload, priority, max_retries, run_at, delay, timeout, idempotency_key, tags,
                metadata, traceparent, source)
), inserted AS (
    INSERT INTO mini_asynq.jobs (id, queue, kind, payload, status, priority, max_retries, attempt_limit, run_at,
                                 created_at, updated_at, idempotency_key, timeout, tags, metadata, traceparent, source)
    SELECT id, queue, kind, payload,
           CASE WHEN due > now THEN 'scheduled'::mini_asynq.job_status ELSE 'pending'::mini_asynq.job_status END,
           CASE priority WHEN 'high' THEN 'high'::mini_asynq.job_priority
                         WHEN 'low' THEN 'low'::mini_asynq.job_priority ELSE 'normal'::mini_asynq.job_priority END,
           allowed, allowed + 1, due, now, now, idempotency_key, timeout, tags::text[], metadata, traceparent, source
      FROM new
)
SELECT now, retries FROM clock`

func insert(ctx context.Context, db DB, rows []row) ([]Enqueued, error) {
	args := insertArgs(rows)
	if err := failpoint.Hit("jobs.insert.before_commit"); err != nil {
		return nil, err
	}
	var now time.Time
	var retries int
	if err := db.QueryRow(ctx, insertSQL, args...).Scan(&now, &retries); err != nil {
		return nil, enqueueError(db, err)
	}
	out := make([]Enqueued, len(rows))
	for i := range rows {
		out[i] = rows[i].enqueued(now, retries)
	}
	return out, failpoint.Hit("jobs.insert.after_commit")
}

func insertArgs(rows []row) []any {
	n := len(rows)
	ids, queues, kinds := make([]uuid.UUID, n), make([]string, n), make([]string, n)
	priorities, sources := make([]string, n), make([]string, n)
	for i := range rows {
		p := &rows[i].params
		ids[i], queues[i], kinds[i], priorities[i], sources[i] = rows[i].id, p.Queue, p.Kind, string(p.Priority), p.Source
	}
	text := func(at func(p *Params) string) any {
		return optionalArray(n, func(i int) (string, bool) { s := at(&rows[i].params); return s, s != "" })
	}
	return []any{
		idArray(ids), queues, kinds, documentArray(n, func(i int) json.RawMessage { return rows[i].payload }), priorities,
		optionalArray(n, func(i int) (int, bool) { return orUnset(rows[i].params.MaxRetries) }),
		optionalArray(n, func(i int) (time.Time, bool) { return orUnset(rows[i].runAt) }),
		optionalArray(n, func(i int) (time.Duration, bool) { return orUnset(rows[i].delay) }),
		optionalArray(n, func(i int) (time.Duration, bool) { return orUnset(rows[i].timeout) }),
		text(func(p *Params) string { return p.IdempotencyKey }),
		text(func(p *Params) string {
			if len(p.Tags) == 0 {
				return ""
			}
			return arrayLiteral(p.Tags)
		}),
		documentArray(n, func(i int) json.RawMessage { return rows[i].metadata }),
		defaultRetries,
		text(func(p *Params) string { return p.Traceparent }), sources,
	}
}

func orUnset[T any](p *T) (value T, ok bool) {
	if p == nil {
		return value, false
	}
	return *p, true
}

// enqueued is the job as it was stored at a time by the database's clock: what insertSQL decides, decided here again, so
// that a thousand jobs are answered by one row.
func (r *row) enqueued(now time.Time, defaultRetries int) Enqueued {
	p := r.params
	retries, due, status := defaultRetries, now, Pending
	if p.MaxRetries != nil {
		retries = *p.MaxRetries
	}
	switch {
	case r.delay != nil:
		due = now.Add(r.delay.Truncate(time.Microsecond))
	case r.runAt != nil && r.runAt.After(now):
		due = r.runAt.Truncate(time.Microsecond)
	}
	if due.After(now) {
		status = Scheduled
	}
	return Enqueued{Job: Job{
		ID: r.id, Queue: p.Queue, Kind: p.Kind, Payload: r.payload, Status: status, Priority: p.Priority,
		MaxRetries: retries, AttemptLimit: retries + 1, RunAt: due, CreatedAt: now, UpdatedAt: now,
		IdempotencyKey: p.IdempotencyKey, Timeout: p.Timeout, Tags: p.Tags, Metadata: r.metadata, Source: p.Source,
		Traceparent: p.Traceparent, Version: 1,
	}}
}

// Preview is the job that Enqueue would store at a time by the database's clock, checked and with its defaults, without
// storing it. *ValidationError.
func (p Params) Preview(now time.Time) (*Job, error) {
	r, err := newRow(p)
	if err != nil {
		return nil, err
	}
	job := r.enqueued(now, defaultRetries).Job
	return &job, nil
}

// arrayLiteral writes a text[] as PostgreSQL reads it: unnest cannot take one array per row apart otherwise.
func arrayLiteral(items []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for _, c := range []byte(item) {
			if c == '"' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

func isRunAtBound(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == stateCheckViolation && pg.ConstraintName == "jobs_run_at_bound"
}

func runAtTooFar() error {
	return &ValidationError{Faults: []Fault{{"/run_at", "out_of_range", "at most 10 years ahead"}}}
}

// enqueueError classifies what an insert may answer. One that commits by itself may have taken effect; one inside a
// transaction has not, as long as that is not committed.
func enqueueError(db DB, err error) error {
	var pg *pgconn.PgError
	if isRunAtBound(err) {
		return runAtTooFar()
	}
	if errors.As(err, &pg) && pg.Code == stateLockNotAvailable {
		return ErrIdempotencyInFlight
	}
	if _, inTx := db.(pgx.Tx); !inTx {
		err = commitUnknown(err)
	}
	return fmt.Errorf("enqueue: %w", err)
}
