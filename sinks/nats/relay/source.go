package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	pageLimit = 1000             // the most that the server gives at once
	pageWait  = 20 * time.Second // how long it parks a call that has nothing to say
	callLimit = pageWait + 15*time.Second
	maxPage   = 64 << 20 // bytes
	maxFault  = 64 << 10
)

// event is one of the server's: what the relay looks at, and the whole of it as it came.
type event struct {
	at   Cursor
	kind string
	body json.RawMessage
}

// page is an answer of the server.
type page struct {
	events []event
	cursor Cursor // behind what the filter held back, too
}

// source reads the stream of a server. Safe for concurrent use.
type source struct {
	base   string
	key    string
	filter url.Values
	client *http.Client
}

func newSource(c Config) *source {
	filter := url.Values{}
	for name, values := range map[string][]string{"types": c.Types, "queues": c.Queues} {
		if len(values) > 0 {
			filter.Set(name, strings.Join(values, ","))
		}
	}
	return &source{
		base: strings.TrimSuffix(c.Server, "/") + "/api/v1", key: c.APIKey, filter: filter,
		// Of its own, so that nothing stays open when the relay ends.
		client: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()},
	}
}

func (s *source) close() { s.client.CloseIdleConnections() }

// problem is what the server answers when it refuses.
type problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string {
	return fmt.Sprintf("the server answered %d %s: %s", p.Status, p.Code, p.Detail)
}

// lasting tells whether asking again is no use.
func lasting(err error) bool {
	p := (*problem)(nil)
	return errors.As(err, &p) && p.Status < 500 && p.Status != http.StatusTooManyRequests && p.Status != http.StatusRequestTimeout
}

// errBehind means that the node that was asked does not know a cursor that another one gave out: it has read less, or has not
// heard of the new epoch. That passes, unless the server was put back to an older state in the same epoch.
var errBehind = errors.New("the server does not know this cursor yet")

// next returns the events after a cursor, and waits a while if there are none. *ExpiredError, *EpochError, *HoleError,
// errBehind.
func (s *source) next(ctx context.Context, at Cursor) (page, error) {
	query := url.Values{"after": {at.String()}, "limit": {strconv.Itoa(pageLimit)}, "wait": {pageWait.String()}}
	for name, values := range s.filter {
		query[name] = values
	}
	var body struct {
		Data   []json.RawMessage `json:"data"`
		Cursor string            `json:"cursor"`
	}
	err := s.get(ctx, "/events?"+query.Encode(), &body)
	if refused := (*problem)(nil); errors.As(err, &refused) {
		return page{}, s.lost(ctx, at, refused)
	}
	if err != nil {
		return page{}, err
	}
	out := page{events: make([]event, len(body.Data))}
	if out.cursor, err = ParseCursor(body.Cursor); err != nil {
		return page{}, err
	}
	for i, raw := range body.Data {
		var head struct {
			Epoch int64  `json:"epoch"`
			Seq   int64  `json:"seq"`
			Type  string `json:"type"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return page{}, fmt.Errorf("read an event: %w", err)
		}
		e := event{at: Cursor{head.Epoch, head.Seq}, kind: head.Type, body: raw}
		if e.at.compare(at) <= 0 || len(s.filter) == 0 && e.at != (Cursor{at.Epoch, at.Seq + 1}) {
			return page{}, &HoleError{At: at, Next: e.at}
		}
		at, out.events[i] = e.at, e
	}
	// Without a filter nothing is held back, so the page ends with its last event.
	if out.cursor.compare(at) < 0 || len(s.filter) == 0 && out.cursor != at {
		return page{}, &HoleError{At: at, Next: out.cursor}
	}
	return out, nil
}

// lost says what a refusal means for who wants to go on after a cursor.
func (s *source) lost(ctx context.Context, at Cursor, refused *problem) error {
	switch refused.Code {
	case "cursor_invalid":
		return fmt.Errorf("%w: %w", errBehind, refused)
	case "cursor_expired", "epoch_changed":
	default:
		return refused
	}
	begin, _, err := s.ends(ctx)
	switch {
	case err != nil:
		return err
	case begin.Epoch < at.Epoch:
		return fmt.Errorf("%w: %w", errBehind, refused)
	case refused.Code == "epoch_changed" || begin.Epoch != at.Epoch:
		return &EpochError{At: at, Floor: begin}
	}
	return &ExpiredError{At: at, Floor: begin}
}

// ends returns the cursors before the oldest event and after the newest.
func (s *source) ends(ctx context.Context) (begin, end Cursor, err error) {
	var body struct {
		Cursor string `json:"cursor"`
		Floor  string `json:"floor"`
	}
	if err = s.get(ctx, "/events/position", &body); err != nil {
		return begin, end, err
	}
	if begin, err = ParseCursor(body.Floor); err == nil {
		end, err = ParseCursor(body.Cursor)
	}
	return begin, end, err
}

func (s *source) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	request.Header.Set("Accept", "application/json")
	if s.key != "" {
		request.Header.Set("Authorization", "Bearer "+s.key)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		p := &problem{}
		if raw, err := io.ReadAll(io.LimitReader(answer.Body, maxFault)); err != nil || json.Unmarshal(raw, p) != nil {
			p.Detail = "no problem document"
		}
		p.Status = answer.StatusCode
		return p
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxPage)).Decode(into); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
