package cli

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func newWebhooks(g *globals) *cobra.Command {
	f := &clientFlags{}
	list := &cobra.Command{
		Use: "ls", Short: "List webhooks", Args: noArgs,
		RunE: f.with(g, func(ctx context.Context, s *session, _ []string) error {
			page, err := s.client.Webhooks(ctx)
			if err != nil {
				return err
			}
			return showList(&s.screen, page.Data, page.NextCursor, s.webhookRows)
		}),
	}
	test, replay := newWebhookTest(f, g), newWebhookReplay(f, g)
	for _, c := range []*cobra.Command{test, replay} {
		c.ValidArgsFunction = completer(g, f, webhookIDs)
	}
	return onServer(g, newGroup("webhooks", "List, test and replay webhooks", list, test, replay), f)
}

func newWebhookTest(f *clientFlags, g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "test ID", Short: "Send a test event, and say how that ended (exit code 1: not delivered)",
		Args: someArgs(1, 1, "the id of a webhook"),
	}
	why := cmd.Flags().String("reason", "", "why, for the audit log")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, args []string) error {
		test, err := s.client.TestWebhook(ctx, args[0], fields("reason", *why))
		if err != nil {
			return err
		}
		end := test.Value
		err = s.showOne(test, func() table {
			status := "-"
			if end.Status != nil {
				status = number(*end.Status)
			}
			took := roughly(time.Duration(end.TookMS) * time.Millisecond)
			return table{rows: [][]cell{
				plain("delivered", yesOrNo(end.Delivered)), plain("status", status), plain("took", took), plain("detail", orDash(end.Detail)),
			}}
		})
		if err == nil && !end.Delivered {
			err = fmt.Errorf("%w: the test was not delivered: %s", errRed, end.Detail)
		}
		return err
	})
	return cmd
}

func newWebhookReplay(f *clientFlags, g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "replay ID", Short: "Send a range of events once more, with the same ids",
		Args:    someArgs(1, 1, "the id of a webhook"),
		Example: "  mini-asynq webhooks replay 0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e --after 3-918000 --until 3-918273",
	}
	after := cmd.Flags().String("after", "", "a cursor, or earliest")
	until := cmd.Flags().String("until", "", "a cursor (default: as far as the webhook has come)")
	why := cmd.Flags().String("reason", "", "why, for the audit log")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, args []string) error {
		if *after == "" {
			return fmt.Errorf("%w: webhooks replay needs --after", errUsage)
		}
		hook, err := s.client.ReplayWebhook(ctx, args[0], fields("after", *after, "until", *until, "reason", *why))
		if err != nil {
			return err
		}
		switch w := hook.Value; {
		case w.Replay == nil:
			s.talk("there is nothing to send again: the webhook has come to %s", w.Cursor)
		case !w.Enabled:
			s.talk("what is after %s up to %s is sent again once the webhook is resumed: it is %s", w.Replay.Cursor, w.Replay.Until,
				stateOfWebhook(w))
		default:
			s.talk("what is after %s up to %s is sent again", w.Replay.Cursor, w.Replay.Until)
		}
		return s.showOne(hook, func() table { return s.webhookRows([]client.Doc[client.Webhook]{hook}) })
	})
	return cmd
}

func yesOrNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// stateOfWebhook is one word: why it sends nothing, or whether it gets through.
func stateOfWebhook(w client.Webhook) string {
	switch {
	case !w.Enabled:
		return orDash(w.DisabledReason)
	case w.FailingSince != nil:
		return "failing"
	}
	return "ok"
}

// webhookRows shows of an address the host alone: the rest may be secret, and a terminal has spectators.
func (s *session) webhookRows(items []client.Doc[client.Webhook]) table {
	t := table{head: []string{"ID", "HOST", "STATE", "BEHIND", "PARKED", "GIVEN UP", "DELIVERED", "LAST SUCCESS"}}
	for _, item := range items {
		w := item.Value
		success := "-"
		if w.LastSuccessAt != nil {
			success = s.age(w.LastSuccessAt) + " ago"
		}
		row := plain(w.ID, hostOf(w.URL), "", number(w.LagEvents), number(w.Parked), number(w.GivenUp), number(w.Delivered), success)
		row[2] = coloured(stateOfWebhook(w))
		t.rows = append(t.rows, row)
	}
	return t
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "-"
	}
	return orDash(u.Host)
}
