package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Webhook is an address to which the server sends events.
type Webhook struct {
	ID             string              `json:"id"`
	URL            string              `json:"url"` // "": the caller may not see it
	Filter         map[string][]string `json:"filter"`
	Enabled        bool                `json:"enabled"`
	DisabledReason string              `json:"disabled_reason"` // "": it is enabled
	Cursor         string              `json:"cursor"`
	LagEvents      int64               `json:"lag_events"`
	Replay         *Replay             `json:"replay"` // nil: none is under way
	Parked         int                 `json:"parked"`
	GivenUp        int                 `json:"given_up"`
	Delivered      int64               `json:"delivered_total"`
	LastSuccessAt  *time.Time          `json:"last_success_at"`
	FailingSince   *time.Time          `json:"failing_since"`
}

// Replay is a range of the stream that is sent once more.
type Replay struct {
	Cursor string `json:"cursor"`
	Until  string `json:"until"`
}

// WebhookTest is how the call of a test ended.
type WebhookTest struct {
	Delivered bool   `json:"delivered"`
	Status    *int   `json:"status"` // nil: no answer
	TookMS    int64  `json:"took_ms"`
	Detail    string `json:"detail"` // "": nothing went wrong
}

// Webhooks lists them all, oldest first.
func (c *Client) Webhooks(ctx context.Context) (List[Webhook], error) {
	return get[List[Webhook]](ctx, c, call{method: http.MethodGet, path: at("admin", "webhooks"), query: url.Values{"limit": {"500"}}})
}

// TestWebhook sends a test event and tells how that ended.
func (c *Client) TestWebhook(ctx context.Context, id string, body any) (Doc[WebhookTest], error) {
	return get[Doc[WebhookTest]](ctx, c, call{method: http.MethodPost, path: at("admin", "webhooks", id, "test"), body: body})
}

// ReplayWebhook has a range of events sent once more.
func (c *Client) ReplayWebhook(ctx context.Context, id string, body any) (Doc[Webhook], error) {
	return get[Doc[Webhook]](ctx, c, call{method: http.MethodPost, path: at("admin", "webhooks", id, "replay"), body: body})
}
