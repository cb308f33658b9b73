package jobs

import (
	"context"
	"encoding/json"
	"fmt"
)

// Kind is a kind of job: its name, its payload's type, and what is usual for its jobs. Declared once, it serves whoever
// enqueues and whoever works (workers.Handle), so that the two cannot disagree:
//
//	var SendEmail = jobs.Kind[Email]{Name: "email.send", Defaults: jobs.Params{Queue: "mail"}}
type Kind[T any] struct {
	Name string
	// Defaults are for jobs that do not say otherwise. Kind and Payload in it mean nothing.
	Defaults Params
}

// Params is a job of this kind to be: for Enqueue, with jobs of other kinds if need be, and for Inserter. Fields of with
// that are not zero take the place of the defaults; of several the later ones win. Kind and Payload in them mean nothing.
func (k Kind[T]) Params(payload T, with ...Params) Params {
	p := k.Defaults
	for _, w := range with {
		p = p.overlaid(w)
	}
	p.Kind, p.Payload = k.Name, payload
	return p
}

// Enqueue stores one job, as the function Enqueue does; with is as for Params.
func (k Kind[T]) Enqueue(ctx context.Context, db DB, payload T, with ...Params) (Enqueued, error) {
	stored, err := Enqueue(ctx, db, k.Params(payload, with...))
	if err != nil {
		return Enqueued{}, err
	}
	return stored[0], nil
}

// EnqueueMany stores one job for each payload, in one statement, all or none, as the function Enqueue does; with is as for
// Params. An idempotency key in it would be the same for all: such jobs are made one by one (Params).
func (k Kind[T]) EnqueueMany(ctx context.Context, db DB, payloads []T, with ...Params) ([]Enqueued, error) {
	params := make([]Params, len(payloads))
	for i, payload := range payloads {
		params[i] = k.Params(payload, with...)
	}
	return Enqueue(ctx, db, params...)
}

// Decode reads the payload of a job.
func (k Kind[T]) Decode(job *Job) (payload T, err error) {
	if err := json.Unmarshal(job.Payload, &payload); err != nil {
		return payload, fmt.Errorf("decode the payload: %w", err)
	}
	return payload, nil
}

// overlaid is p with the fields of other that are not zero.
func (p Params) overlaid(other Params) Params {
	if !other.RunAt.IsZero() || other.Delay != 0 {
		p.RunAt, p.Delay = other.RunAt, other.Delay // two words for one thing
	}
	p.Queue = orElse(other.Queue, p.Queue)
	p.Priority = orElse(other.Priority, p.Priority)
	p.MaxRetries = orElse(other.MaxRetries, p.MaxRetries)
	p.Timeout = orElse(other.Timeout, p.Timeout)
	p.IdempotencyKey = orElse(other.IdempotencyKey, p.IdempotencyKey)
	p.Traceparent = orElse(other.Traceparent, p.Traceparent)
	p.Source = orElse(other.Source, p.Source)
	p.MaxPayload = orElse(other.MaxPayload, p.MaxPayload)
	if other.Tags != nil {
		p.Tags = other.Tags
	}
	if other.Metadata != nil {
		p.Metadata = other.Metadata
	}
	return p
}

func orElse[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
