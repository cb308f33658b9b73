package workers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	attempts "github.com/mini-asynq/mini-asynq/internal/attempt"
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

// Registry knows the handlers by kind. It is a Handler itself: of every kind that it knows. Safe for concurrent use; what
// is added after an engine was made from it is not claimed.
type Registry struct {
	mu         sync.RWMutex // guards the rest
	handlers   map[string]Handler
	fallback   Handler
	middleware []Middleware
	chains     map[string]Handler // handlers with their middleware, as they are first needed; "" is the fallback's
}

// NewRegistry makes an empty registry.
func NewRegistry() *Registry { return &Registry{handlers: make(map[string]Handler)} }

// Add sets the handler of a kind, inside middleware of its own. It panics if the kind is no valid name or has one already:
// a programmer's error.
func (r *Registry) Add(kind string, h Handler, own ...Middleware) {
	if !jobs.ValidName(kind) {
		panic(fmt.Sprintf("workers: %q is no valid kind", kind))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.handlers[kind]; twice {
		panic(fmt.Sprintf("workers: the kind %q has a handler already", kind))
	}
	r.handlers[kind], r.chains = chain(h, own), nil
}

// Fallback sets the handler of every other kind. Without one, jobs of other kinds stay pending, in plain sight.
func (r *Registry) Fallback(h Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fallback, r.chains = h, nil
}

// Use adds middleware around every handler, also those that were added before.
func (r *Registry) Use(m ...Middleware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.middleware, r.chains = append(r.middleware, m...), nil
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

// Handle works on a job of any kind that the registry knows, with all middleware.
func (r *Registry) Handle(ctx context.Context, job *jobs.Claimed) error {
	h := r.handler(job.Kind)
	if h == nil {
		return attempts.ErrNoHandler
	}
	return h.Handle(ctx, job)
}

// handler returns the handler of a kind with its middleware, nil if there is none.
func (r *Registry) handler(kind string) Handler {
	r.mu.RLock()
	h, own := r.handlers[kind]
	if !own {
		h, kind = r.fallback, ""
	}
	whole, made := r.chains[kind]
	r.mu.RUnlock()
	if made || h == nil {
		return whole
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if whole, made = r.chains[kind]; made {
		return whole
	}
	if r.chains == nil {
		r.chains = make(map[string]Handler)
	}
	whole = chain(h, r.middleware)
	r.chains[kind] = whole
	return whole
}

// Handle sets the handler of a kind, which gets the payload decoded. A payload that does not fit T fails the attempt for
// good, because no retry can mend it. own is middleware of this kind alone.
//
//	workers.Handle(registry, SendEmail, func(ctx context.Context, job *jobs.Claimed, email Email) error {
//		return send(ctx, email)
//	})
func Handle[T any](
	r *Registry, kind jobs.Kind[T], fn func(ctx context.Context, job *jobs.Claimed, payload T) error, own ...Middleware,
) {
	r.Add(kind.Name, HandlerFunc(func(ctx context.Context, job *jobs.Claimed) error {
		payload, err := kind.Decode(&job.Job)
		if err != nil {
			return jobs.NonRetryable(err)
		}
		return fn(ctx, job, payload)
	}), own...)
}
