package cli

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

// completionTimeout bounds the question behind a key press.
const completionTimeout = time.Second

// newCompletion writes the script that makes a shell ask this program for names, also live ones: queues, jobs, workers.
func newCompletion() *cobra.Command {
	shell := func(name, how string, write func(*cobra.Command) error) *cobra.Command {
		return &cobra.Command{
			Use: name, Short: "Write the completion script for " + name, Long: "To use it: " + how, Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return write(cmd) },
		}
	}
	return newGroup("completion", "Write a completion script for a shell",
		shell("bash", "source <(mini-asynq completion bash)", func(c *cobra.Command) error {
			return c.Root().GenBashCompletionV2(c.OutOrStdout(), true)
		}),
		shell("zsh", "mini-asynq completion zsh > \"${fpath[1]}/_mini-asynq\"", func(c *cobra.Command) error {
			return c.Root().GenZshCompletion(c.OutOrStdout())
		}),
		shell("fish", "mini-asynq completion fish | source", func(c *cobra.Command) error {
			return c.Root().GenFishCompletion(c.OutOrStdout(), true)
		}),
		shell("powershell", "mini-asynq completion powershell | Out-String | Invoke-Expression", func(c *cobra.Command) error {
			return c.Root().GenPowerShellCompletionWithDesc(c.OutOrStdout())
		}))
}

// names asks a server for what may stand at a place.
type names func(context.Context, *client.Client) []string

// completer offers live names. A server that does not answer at once offers none, and says nothing.
func completer(g *globals, f *clientFlags, ask names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		asked := *f
		asked.timeout = completionTimeout
		s, err := asked.open(g)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer s.client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		return ask(ctx, s.client), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag offers names for a flag that exists.
func completeFlag(cmd *cobra.Command, flag string, ask names, g *globals, f *clientFlags) {
	if err := cmd.RegisterFlagCompletionFunc(flag, completer(g, f, ask)); err != nil {
		panic(fmt.Sprintf("complete --%s of %s: %v", flag, cmd.Name(), err)) // the tree of commands is wrong
	}
}

func namesOf[T any](page client.List[T], err error, name func(T) string) []string {
	if err != nil {
		return nil
	}
	out := make([]string, len(page.Data))
	for i, item := range page.Data {
		out[i] = name(item.Value)
	}
	return out
}

func queueNames(ctx context.Context, c *client.Client) []string {
	page, err := c.Queues(ctx)
	return namesOf(page, err, func(q client.Queue) string { return q.Name })
}

func workerIDs(ctx context.Context, c *client.Client) []string {
	page, err := c.Workers(ctx)
	return namesOf(page, err, func(w client.Worker) string { return w.ID + "\t" + clean(w.Name) + ", " + w.State })
}

func consumerNames(ctx context.Context, c *client.Client) []string {
	page, err := c.Consumers(ctx)
	return namesOf(page, err, func(k client.Consumer) string { return k.Name })
}

func webhookIDs(ctx context.Context, c *client.Client) []string {
	page, err := c.Webhooks(ctx)
	return namesOf(page, err, func(w client.Webhook) string { return w.ID + "\t" + clean(hostOf(w.URL)) + ", " + stateOfWebhook(w) })
}

func keyIDs(ctx context.Context, c *client.Client) []string {
	page, err := c.Keys(ctx)
	return namesOf(page, err, func(k client.Key) string { return k.ID + "\t" + clean(k.Name) })
}

// jobIDs offers the newest jobs that a command can be meant for.
func jobIDs(command string) names {
	query := url.Values{"limit": {"50"}}
	switch command {
	case "retry":
		query.Set("status", "dead,retrying")
	case "cancel":
		query.Set("status", "scheduled,pending,blocked,retrying,running")
	case "run-now":
		query.Set("status", "scheduled,retrying")
	case "rm":
		query.Set("status", "completed,dead,cancelled")
	}
	return func(ctx context.Context, c *client.Client) []string {
		page, err := c.Jobs(ctx, query)
		return namesOf(page, err, func(j client.Job) string { return j.ID + "\t" + j.Kind + ", " + j.Status })
	}
}

// jobKinds offers the kinds of the newest jobs.
func jobKinds(ctx context.Context, c *client.Client) []string {
	page, err := c.Jobs(ctx, url.Values{"limit": {"200"}})
	seen := make(map[string]bool)
	var kinds []string
	for _, kind := range namesOf(page, err, func(j client.Job) string { return j.Kind }) {
		if !seen[kind] {
			seen[kind] = true
			kinds = append(kinds, kind)
		}
	}
	return kinds
}
