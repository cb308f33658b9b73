package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func newWorkers(g *globals) *cobra.Command {
	f := &clientFlags{}
	list := &cobra.Command{
		Use: "ls", Short: "List workers", Args: noArgs,
		RunE: f.with(g, func(ctx context.Context, s *session, _ []string) error {
			page, err := s.client.Workers(ctx)
			if err != nil {
				return err
			}
			return showList(&s.screen, page.Data, page.NextCursor, s.workerRows)
		}),
	}
	get := &cobra.Command{
		Use: "get ID..", Short: "Show workers", Args: someArgs(1, 0, "the ids of workers"),
		RunE: f.with(g, func(ctx context.Context, s *session, ids []string) error {
			return s.forEach(ctx, ids, func(id string) error {
				worker, err := s.client.Worker(ctx, id)
				if err != nil {
					return err
				}
				return s.showOne(worker, func() table { return s.workerLines(worker.Value) })
			})
		}),
	}
	group := newGroup("workers", "List workers, and ask them to stop", list, get,
		newWorkerAction(g, f, "drain", "Ask workers to finish what they run and to go"),
		newWorkerAction(g, f, "quiet", "Ask workers to claim no more"))
	for _, c := range group.Commands() {
		if c != list {
			c.ValidArgsFunction = completer(g, f, workerIDs)
		}
	}
	return onServer(g, group, f)
}

func newWorkerAction(g *globals, f *clientFlags, what, short string) *cobra.Command {
	cmd := &cobra.Command{Use: what + " ID..", Short: short, Args: someArgs(1, 0, "the ids of workers")}
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, ids []string) error {
		return s.forEach(ctx, ids, func(id string) error {
			if err := s.client.AskWorker(ctx, id, what, fields("reason", *reason)); err != nil {
				return err
			}
			s.talk("%s was asked: %s", id, what)
			return nil
		})
	})
	return cmd
}

func (s *session) workerRows(items []client.Doc[client.Worker]) table {
	t := table{head: []string{"ID", "NAME", "STATE", "BUSY", "SLOTS", "QUEUES", "KINDS", "SEEN", "VERSION"}}
	for _, item := range items {
		w := item.Value
		t.rows = append(t.rows, append(plain(w.ID, w.Name), append([]cell{coloured(w.State)}, plain(number(w.Busy),
			number(w.Slots), weights(w.Queues), kindsOf(w), s.age(w.LastSeenAt)+" ago", orDash(w.Version))...)...))
	}
	return t
}

func (s *session) workerLines(w client.Worker) table {
	return table{rows: [][]cell{
		plain("id", w.ID), plain("name", w.Name), {{text: "state"}, coloured(w.State)},
		plain("busy", fmt.Sprintf("%d of %d", w.Busy, w.Slots)), plain("queues", weights(w.Queues)),
		plain("kinds", kindsOf(w)), plain("last seen", moment(w.LastSeenAt)), plain("asked to", orDash(w.Asked)),
		plain("version", orDash(w.Version)),
	}}
}

func kindsOf(w client.Worker) string {
	if w.Kinds == nil {
		return "*"
	}
	return strings.Join(w.Kinds, ",")
}

// weights are queues as MINIASYNQ_WORKER_QUEUES writes them.
func weights(queues map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(mapKeys(queues)) {
		if n := queues[name]; n != 1 {
			name = fmt.Sprintf("%s:%d", name, n)
		}
		parts = append(parts, name)
	}
	return listOf(parts)
}
