package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// MaxWait is the longest that the server parks a call.
const MaxWait = time.Minute

// Enqueue stores a job: the body of POST /jobs. key, if not "", makes a repeat the same request.
func (c *Client) Enqueue(ctx context.Context, job any, key string) (Doc[Job], error) {
	return get[Doc[Job]](ctx, c, call{method: http.MethodPost, path: "/jobs", body: job, key: key})
}

// EnqueueBatch stores up to 1000 jobs, all or none.
func (c *Client) EnqueueBatch(ctx context.Context, jobs []json.RawMessage, key string) ([]Doc[Stored], error) {
	body := map[string]any{"jobs": jobs}
	page, err := get[List[Stored]](ctx, c, call{method: http.MethodPost, path: "/jobs/batch", body: body, key: key})
	return page.Data, err
}

// Jobs lists jobs; query is that of GET /jobs.
func (c *Client) Jobs(ctx context.Context, query url.Values) (List[Job], error) {
	return get[List[Job]](ctx, c, call{method: http.MethodGet, path: "/jobs", query: query})
}

// Job reads one job, with its attempts if asked.
func (c *Client) Job(ctx context.Context, id string, attempts bool) (Doc[Job], error) {
	query := url.Values{}
	if attempts {
		query.Set("include", "attempts")
	}
	return get[Doc[Job]](ctx, c, call{method: http.MethodGet, path: at("jobs", id), query: query})
}

// AwaitJob reads a job once it has finished, or as it is after span, which is at most MaxWait. A node that shuts down
// answers sooner.
func (c *Client) AwaitJob(ctx context.Context, id string, span time.Duration) (Doc[Job], error) {
	span = min(span, MaxWait)
	query := url.Values{"wait": {parked(span)}, "until": {"finished"}}
	return get[Doc[Job]](ctx, c, call{method: http.MethodGet, path: at("jobs", id), query: query, patience: span})
}

// JobEvents lists what happened to a job, oldest first.
func (c *Client) JobEvents(ctx context.Context, id string, query url.Values) (List[Event], error) {
	return get[List[Event]](ctx, c, call{method: http.MethodGet, path: at("jobs", id, "events"), query: query})
}

// ActOnJob does what an operator may do: retry, run-now, cancel, clone. body may be nil.
func (c *Client) ActOnJob(ctx context.Context, id, action string, body any) (Doc[Job], error) {
	return get[Doc[Job]](ctx, c, call{method: http.MethodPost, path: at("admin", "jobs", id, action), body: body})
}

// DeleteJob removes a finished job.
func (c *Client) DeleteJob(ctx context.Context, id string, body any) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: at("admin", "jobs", id), body: body}, nil)
	return err
}

// Queues lists all queues.
func (c *Client) Queues(ctx context.Context) (List[Queue], error) {
	return get[List[Queue]](ctx, c, call{method: http.MethodGet, path: "/queues"})
}

// Queue reads one.
func (c *Client) Queue(ctx context.Context, name string) (Doc[Queue], error) {
	return get[Doc[Queue]](ctx, c, call{method: http.MethodGet, path: at("queues", name)})
}

// ActOnQueue pauses or resumes. body may be nil.
func (c *Client) ActOnQueue(ctx context.Context, name, action string, body any) (Doc[Queue], error) {
	return get[Doc[Queue]](ctx, c, call{method: http.MethodPost, path: at("admin", "queues", name, action), body: body})
}

// Workers lists the registered workers.
func (c *Client) Workers(ctx context.Context) (List[Worker], error) {
	return get[List[Worker]](ctx, c, call{method: http.MethodGet, path: "/workers"})
}

// Worker reads one.
func (c *Client) Worker(ctx context.Context, id string) (Doc[Worker], error) {
	return get[Doc[Worker]](ctx, c, call{method: http.MethodGet, path: at("workers", id)})
}

// AskWorker asks a worker to drain or to be quiet.
func (c *Client) AskWorker(ctx context.Context, id, what string, body any) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: at("admin", "workers", id, what), body: body}, nil)
	return err
}

// Events reads a page of the stream; the server may park the call for span.
func (c *Client) Events(ctx context.Context, query url.Values, span time.Duration) (Events, error) {
	return get[Events](ctx, c, call{method: http.MethodGet, path: "/events", query: query, patience: span})
}

// CreateKey makes an API key. The answer holds its secret, once.
func (c *Client) CreateKey(ctx context.Context, body any) (Doc[Key], error) {
	return get[Doc[Key]](ctx, c, call{method: http.MethodPost, path: "/admin/keys", body: body})
}

// RotateKey makes a new key in place of another, which ends after the overlap.
func (c *Client) RotateKey(ctx context.Context, id string, body any) (Doc[Key], error) {
	return get[Doc[Key]](ctx, c, call{method: http.MethodPost, path: at("admin", "keys", id, "rotate"), body: body})
}

// Keys lists the keys, without their secrets.
func (c *Client) Keys(ctx context.Context) (List[Key], error) {
	return get[List[Key]](ctx, c, call{method: http.MethodGet, path: "/admin/keys"})
}

// RevokeKey ends a key.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: at("admin", "keys", id)}, nil)
	return err
}

// Audit lists who did what.
func (c *Client) Audit(ctx context.Context, query url.Values) (List[AuditEntry], error) {
	return get[List[AuditEntry]](ctx, c, call{method: http.MethodGet, path: "/admin/audit", query: query})
}

// Health asks how the node is. One that is unavailable has answered, too.
func (c *Client) Health(ctx context.Context) (Doc[Health], error) {
	return get[Doc[Health]](ctx, c, call{
		method: http.MethodGet, path: "/health", accept: []int{http.StatusServiceUnavailable},
	})
}

func get[T any](ctx context.Context, c *Client, what call) (T, error) {
	var out T
	_, err := c.do(ctx, what, &out)
	return out, err
}
