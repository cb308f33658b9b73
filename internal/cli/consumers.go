package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func newConsumers(g *globals) *cobra.Command {
	f := &clientFlags{}
	list := &cobra.Command{
		Use: "ls", Short: "List named consumers of the event stream", Args: noArgs,
		RunE: f.with(g, func(ctx context.Context, s *session, _ []string) error {
			page, err := s.client.Consumers(ctx)
			if err != nil {
				return err
			}
			return showList(&s.screen, page.Data, page.NextCursor, s.consumerRows)
		}),
	}
	reset := &cobra.Command{
		Use: "reset NAME", Short: "Put a consumer elsewhere in the stream, and end the claim of its reader",
		Args:    someArgs(1, 1, "the name of a consumer"),
		Example: "  mini-asynq consumers reset billing --to earliest\n  mini-asynq consumers reset billing --to 2026-03-01T12:00:00Z",
	}
	to := reset.Flags().String("to", "", "earliest, latest, a cursor, or a time as 2026-03-01T12:00:00Z")
	why := reset.Flags().String("reason", "", "why, for the audit log")
	reset.RunE = f.with(g, func(ctx context.Context, s *session, args []string) error {
		if *to == "" {
			return fmt.Errorf("%w: consumers reset needs --to", errUsage)
		}
		consumer, err := s.client.ResetConsumer(ctx, args[0], fields("to", *to, "reason", *why))
		if err != nil {
			return err
		}
		s.talk("%s is at %s", consumer.Value.Name, consumer.Value.Cursor)
		return s.showOne(consumer, func() table { return s.consumerRows([]client.Doc[client.Consumer]{consumer}) })
	})
	remove := &cobra.Command{Use: "rm NAME..", Short: "Delete consumers", Args: someArgs(1, 0, "the names of consumers")}
	reason := remove.Flags().String("reason", "", "why, for the audit log")
	remove.RunE = f.with(g, func(ctx context.Context, s *session, names []string) error {
		return s.forEach(ctx, names, func(name string) error {
			if err := s.client.DeleteConsumer(ctx, name, fields("reason", *reason)); err != nil {
				return err
			}
			s.talk("%s is deleted", name)
			return nil
		})
	})
	for _, c := range []*cobra.Command{reset, remove} {
		c.ValidArgsFunction = completer(g, f, consumerNames)
	}
	return onServer(g, newGroup("consumers", "List, reset and delete named consumers of the stream", list, reset, remove), f)
}

func (s *session) consumerRows(items []client.Doc[client.Consumer]) table {
	t := table{head: []string{"NAME", "CURSOR", "BEHIND", "SINCE", "READER", "FREE IN", "ACKED", "PROBLEM"}}
	for _, item := range items {
		c := item.Value
		behind := "-"
		if c.LagEvents != nil {
			behind = number(*c.LagEvents)
		}
		acked := "-"
		if c.AckedAt != nil {
			acked = s.age(c.AckedAt) + " ago"
		}
		t.rows = append(t.rows, plain(c.Name, c.Cursor, behind, seconds(c.LagSeconds), orDash(c.Reader), orDash(c.FreeIn),
			acked, orDash(c.Problem)))
	}
	return t
}
