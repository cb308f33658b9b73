package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Handler works on one attempt. The error says how it ends: nil completes the job; jobs.Snooze, jobs.RetryAfter,
// jobs.NonRetryable and jobs.Cancel steer; any other error is retried while the budget lasts. It should return soon
// after its context ends; context.Cause tells why that did.
//
// The context carries the attempt: jobs.SetResult, jobs.ReportProgress, jobs.HandlingOf.
type Handler interface {
	Handle(ctx context.Context, job *jobs.Claimed) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, job *jobs.Claimed) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, job *jobs.Claimed) error { return f(ctx, job) }

// Middleware wraps a handler: logging, tracing, transactions.
type Middleware func(Handler) Handler

// Registry knows the handlers by kind. Safe for concurrent use; what is added after an engine was made from it is not
// claimed.
type Registry struct {
	mu         sync.RWMutex // guards the rest
	handlers   map[string]Handler
	fallback   Handler
	middleware []Middleware
}

// NewRegistry makes an empty registry.
func NewRegistry() *Registry { return &Registry{handlers: make(map[string]Handler)} }

// Add sets the handler of a kind. It panics if the kind is no valid name or has one already: a programmer's error.
func (r *Registry) Add(kind string, h Handler) {
	if !jobs.ValidName(kind) {
		panic(fmt.Sprintf("workers: %q is no valid kind", kind))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.handlers[kind]; twice {
		panic(fmt.Sprintf("workers: the kind %q has a handler already", kind))
	}
	r.handlers[kind] = h
}

// Fallback sets the handler of every other kind. Without one, jobs of other kinds stay pending, in plain sight.
func (r *Registry) Fallback(h Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fallback = h
}

// Use adds middleware around every handler; the first added is the outermost.
func (r *Registry) Use(m ...Middleware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.middleware = append(r.middleware, m...)
}

// Kinds returns the kinds that have a handler, sorted; nil when there is a fallback, which takes any.
func (r *Registry) Kinds() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.fallback != nil {
		return nil
	}
	return append([]string{}, slices.Sorted(maps.Keys(r.handlers))...)
}

// handler returns the handler of a kind with its middleware, nil if there is none.
func (r *Registry) handler(kind string) Handler {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.handlers[kind]
	if h == nil {
		h = r.fallback
	}
	if h == nil {
		return nil
	}
	for _, m := range slices.Backward(r.middleware) {
		h = m(h)
	}
	return h
}

// Handle sets a typed handler: the payload is decoded into T first. A payload that does not fit T fails the attempt for
// good, because no retry can mend it.
//
//	workers.Handle(registry, "email.send", func(ctx context.Context, job *jobs.Claimed, email Email) error {
//		return send(ctx, email)
//	})
func Handle[T any](r *Registry, kind string, fn func(ctx context.Context, job *jobs.Claimed, payload T) error) {
	r.Add(kind, HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
		var payload T
		if err := json.Unmarshal(job.Payload, &payload); err != nil {
			return jobs.NonRetryable(fmt.Errorf("decode the payload: %w", err))
		}
		return fn(ctx, job, payload)
	}))
}
