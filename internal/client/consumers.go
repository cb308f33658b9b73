package client

import (
	"context"
	"net/http"
	"time"
)

// Consumer is a named place in the event stream.
type Consumer struct {
	Name       string              `json:"name"`
	Filter     map[string][]string `json:"filter"`
	Cursor     string              `json:"cursor"`
	LagEvents  *int64              `json:"lag_events"`  // nil: of another history
	LagSeconds *float64            `json:"lag_seconds"` // the same
	Problem    string              `json:"problem"`     // the code that its next read gets; "": none
	Reader     string              `json:"reader"`      // "": nobody
	FreeIn     string              `json:"free_in"`
	AckedAt    *time.Time          `json:"acked_at"`
}

// Consumers lists them all, by name.
func (c *Client) Consumers(ctx context.Context) (List[Consumer], error) {
	return get[List[Consumer]](ctx, c, call{method: http.MethodGet, path: "/consumers"})
}

// ResetConsumer puts one elsewhere.
func (c *Client) ResetConsumer(ctx context.Context, name string, body any) (Doc[Consumer], error) {
	return get[Doc[Consumer]](ctx, c, call{method: http.MethodPost, path: at("admin", "consumers", name, "reset"), body: body})
}

// DeleteConsumer takes one away.
func (c *Client) DeleteConsumer(ctx context.Context, name string, body any) error {
	_, err := c.do(ctx, call{method: http.MethodDelete, path: at("admin", "consumers", name), body: body}, nil)
	return err
}
