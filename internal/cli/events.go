package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

// eventFilters are the filters of the stream.
var eventFilters = []struct{ name, help string }{
	{"types", "types of events, as job.dead or job.*"},
	{"queues", "queues; a * at the end stands for any"},
	{"kinds", "kinds; a * at the end stands for any"},
	{"job_ids", "ids of jobs"},
	{"tags", "tags"},
}

func addEventFilters(cmd *cobra.Command) (query func() url.Values) {
	flags := cmd.Flags()
	for _, filter := range eventFilters {
		flags.String(strings.ReplaceAll(filter.name, "_", "-"), "", filter.help)
	}
	return func() url.Values {
		values := url.Values{}
		for _, filter := range eventFilters {
			if flag := flags.Lookup(strings.ReplaceAll(filter.name, "_", "-")); flag.Changed {
				values.Set(filter.name, flag.Value.String())
			}
		}
		return values
	}
}

func newEvents(g *globals) *cobra.Command {
	f := &clientFlags{}
	list := &cobra.Command{Use: "ls", Short: "List events, oldest first", Args: noArgs}
	listFilter := addEventFilters(list)
	from := list.Flags().String("after", "earliest", "a cursor, or earliest")
	limit := list.Flags().Int("limit", 50, "events of a page, up to 1000")
	all := list.Flags().Bool("all", false, "all pages")
	list.RunE = f.with(g, func(ctx context.Context, s *session, _ []string) error {
		query := listFilter()
		query.Set("after", *from)
		if *all && !list.Flags().Changed("limit") {
			*limit = 1000
		}
		query.Set("limit", strconv.Itoa(*limit))
		return s.listEvents(ctx, query, *all)
	})

	follow := &cobra.Command{
		Use: "follow", Short: "Print events as they happen; a broken line is opened again, without gap or double", Args: noArgs,
	}
	followFilter := addEventFilters(follow)
	after := follow.Flags().String("after", "latest", "a cursor, earliest or latest")
	count := follow.Flags().Int("count", 0, "end after so many events (default: no end)")
	follow.RunE = f.with(g, func(ctx context.Context, s *session, _ []string) error {
		return s.follow(ctx, client.Following{After: *after, Filter: followFilter()}, *count)
	})
	for _, c := range []*cobra.Command{list, follow} {
		completeFlag(c, "queues", queueNames, g, f)
	}
	return onServer(g, newGroup("events", "Read the event stream", list, follow), f)
}

func (s *session) listEvents(ctx context.Context, query url.Values, all bool) error {
	var found []client.Doc[client.Event]
	for {
		page, err := s.client.Events(ctx, query, 0)
		if err != nil {
			return err
		}
		found = append(found, page.Data...)
		more := !page.CaughtUp && len(page.Data) > 0
		if !all || !more {
			if err := showList(&s.screen, found, "", eventRows); err != nil {
				return err
			}
			if more {
				s.talk("there are more: --all, or --after %s", page.Cursor)
			}
			return nil
		}
		query.Set("after", page.Cursor)
	}
}

// errEnough ends a follow that has what it wanted.
var errEnough = errors.New("enough")

// follow prints events until ctx ends, count is reached or --timeout has passed.
func (s *session) follow(ctx context.Context, want client.Following, count int) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	want.Lost = func(err error) { s.talk("%v; coming back", err) }
	seen := 0
	err := s.client.Follow(ctx, want, func(e client.Doc[client.Event]) error {
		var err error
		if s.form == formTable {
			_, err = fmt.Fprintln(s.out, s.eventLine(e.Value))
		} else {
			err = writeJSON(s.out, e, true)
		}
		if seen++; err == nil && seen == count {
			return errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return waitError(ctx, err)
}

// eventLine is an event in a feed: columns that fit most names, so that they stand below each other.
func (s *screen) eventLine(e client.Event) string {
	return fmt.Sprintf("%s  %s  %-14s  %-20s  %s  %s", e.Timestamp.UTC().Format(time.TimeOnly),
		paint(fmt.Sprintf("%-16s", clean(e.Type)), statusColours[e.Status], s.colour), clean(e.Queue), clean(e.Kind),
		clean(e.JobID), clean(eventDetail(e)))
}

// eventDetail is what an event says beside its columns.
func eventDetail(e client.Event) string {
	var parts []string
	if e.Attempt > 0 {
		parts = append(parts, "attempt "+strconv.Itoa(e.Attempt))
	}
	if e.Worker != "" {
		parts = append(parts, "on "+e.Worker)
	}
	if e.Actor != "" {
		parts = append(parts, "by "+e.Actor)
	}
	for _, name := range slices.Sorted(mapKeys(e.Data)) {
		switch value := e.Data[name].(type) {
		case string:
			parts = append(parts, name+" "+value)
		case float64:
			parts = append(parts, name+" "+strconv.FormatFloat(value, 'f', -1, 64))
		case map[string]any: // the error
			parts = append(parts, fmt.Sprintf("%v: %v", value["type"], value["message"]))
		}
	}
	return shortened(strings.Join(parts, ", "), 100)
}

func eventRows(items []client.Doc[client.Event]) table {
	t := table{head: []string{"CURSOR", "TIME", "TYPE", "QUEUE", "KIND", "JOB", "DETAIL"}}
	for _, item := range items {
		e := item.Value
		t.rows = append(t.rows, append(plain(e.Cursor, moment(&e.Timestamp)), append([]cell{{e.Type, statusColours[e.Status]}},
			plain(e.Queue, e.Kind, e.JobID, eventDetail(e))...)...))
	}
	return t
}
