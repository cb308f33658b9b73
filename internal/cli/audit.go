package cli

import (
	"context"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func newAudit(g *globals) *cobra.Command {
	f := &clientFlags{}
	list := &cobra.Command{Use: "ls", Short: "List who did what, the newest first", Args: noArgs}
	filters := []struct{ name, help string }{
		{"actor", "who"}, {"action", "what"}, {"target", "on which job, queue, key .."},
		{"after", "time, as 2026-03-01T12:00:00Z"}, {"before", "time"}, {"cursor", "go on where a page ended (next_cursor)"},
	}
	for _, filter := range filters {
		list.Flags().String(filter.name, "", filter.help)
	}
	limit := list.Flags().Int("limit", 50, "entries of a page, up to 500")
	all := list.Flags().Bool("all", false, "all pages")
	list.RunE = f.with(g, func(ctx context.Context, s *session, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(*limit)}}
		for _, filter := range filters {
			if flag := list.Flags().Lookup(filter.name); flag.Changed {
				query.Set(filter.name, flag.Value.String())
			}
		}
		return listPages(ctx, s, *all, query, s.client.Audit, auditRows)
	})
	return onServer(g, newGroup("audit", "Read the audit log", list), f)
}

func auditRows(items []client.Doc[client.AuditEntry]) table {
	t := table{head: []string{"TIME", "ACTOR", "ACTION", "TARGET", "REASON", "ADDRESS", "REQUEST"}}
	for _, item := range items {
		e := item.Value
		t.rows = append(t.rows, plain(moment(e.Time), e.Actor, e.Action, orDash(e.Target), orDash(e.Reason),
			orDash(e.Address), orDash(e.RequestID)))
	}
	return t
}
