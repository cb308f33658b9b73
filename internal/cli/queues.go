package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func newQueues(g *globals) *cobra.Command {
	f := &clientFlags{}
	list := &cobra.Command{
		Use: "ls", Short: "List queues with what waits in them", Args: noArgs,
		RunE: f.with(g, func(ctx context.Context, s *session, _ []string) error {
			page, err := s.client.Queues(ctx)
			if err != nil {
				return err
			}
			return showList(&s.screen, page.Data, page.NextCursor, s.queueRows)
		}),
	}
	get := &cobra.Command{
		Use: "get QUEUE..", Short: "Show queues", Args: someArgs(1, 0, "the names of queues"),
		RunE: f.with(g, func(ctx context.Context, s *session, names []string) error {
			return s.forEach(ctx, names, func(name string) error {
				queue, err := s.client.Queue(ctx, name)
				if err != nil {
					return err
				}
				return s.showOne(queue, func() table { return s.queueLines(queue.Value) })
			})
		}),
	}
	pause := &cobra.Command{
		Use: "pause QUEUE..", Short: "Let no job of a queue start; it still takes new ones",
		Args: someArgs(1, 0, "the names of queues"),
	}
	reason := pause.Flags().String("reason", "", "why")
	span := pause.Flags().String("for", "", "how long, as 30m (default: until resumed)")
	until := pause.Flags().String("until", "", "until when, as 2026-03-01T12:00:00Z")
	pause.RunE = f.with(g, func(ctx context.Context, s *session, names []string) error {
		if *span != "" && *until != "" {
			return fmt.Errorf("%w: --for or --until, not both", errUsage)
		}
		return s.actOnQueues(ctx, names, "pause", fields("reason", *reason, "for", *span, "until", *until))
	})
	resume := &cobra.Command{
		Use: "resume QUEUE..", Short: "Let the jobs of a queue start again", Args: someArgs(1, 0, "the names of queues"),
	}
	why := resume.Flags().String("reason", "", "why")
	resume.RunE = f.with(g, func(ctx context.Context, s *session, names []string) error {
		return s.actOnQueues(ctx, names, "resume", fields("reason", *why))
	})
	for _, c := range []*cobra.Command{get, pause, resume} {
		c.ValidArgsFunction = completer(g, f, queueNames)
	}
	return onServer(g, newGroup("queues", "List queues, pause and resume them", list, get, pause, resume), f)
}

func (s *session) actOnQueues(ctx context.Context, names []string, action string, body any) error {
	return s.forEach(ctx, names, func(name string) error {
		queue, err := s.client.ActOnQueue(ctx, name, action, body)
		if err != nil {
			return err
		}
		return s.showOne(queue, func() table { return s.queueLines(queue.Value) })
	})
}

// oldestWait is how long the oldest pending job has waited, by the server's clock.
func (s *session) oldestWait(q client.Queue) string {
	now, ok := s.client.Now()
	if q.OldestPendingAt == nil || !ok {
		return "-"
	}
	return roughly(now.Sub(*q.OldestPendingAt))
}

func perSecond(n float64) string { return rate(n) + "/s" }

func rate(n float64) string { return strconv.FormatFloat(n, 'f', 1, 64) }

func (s *session) queueRows(items []client.Doc[client.Queue]) table {
	t := table{head: []string{"QUEUE", "STATE", "PENDING", "RUNNING", "RETRYING", "SCHEDULED", "DEAD", "OLDEST", "IN", "OUT"}}
	for _, item := range items {
		q := item.Value
		t.rows = append(t.rows, append([]cell{{text: q.Name}, stateOf(q)}, plain(
			number(q.Counts["pending"]), number(q.Counts["running"]), number(q.Counts["retrying"]),
			number(q.Counts["scheduled"]), number(q.Counts["dead"]), s.oldestWait(q), perSecond(q.Rates.Enqueued),
			perSecond(q.Rates.Completed))...))
	}
	return t
}

func stateOf(q client.Queue) cell {
	if q.Paused {
		return coloured("paused")
	}
	return cell{text: "active"}
}

func (s *session) queueLines(q client.Queue) table {
	t := table{rows: [][]cell{plain("queue", q.Name), {{text: "state"}, stateOf(q)}}}
	add := func(name, value string) { t.rows = append(t.rows, plain(name, value)) }
	if q.Pause != nil {
		add("paused by", orDash(q.Pause.Actor)+" at "+moment(q.Pause.At))
		add("reason", orDash(q.Pause.Reason))
		add("until", moment(q.Pause.Until))
	}
	for _, status := range []string{"pending", "running", "retrying", "scheduled", "blocked", "dead"} {
		add(status, number(q.Counts[status]))
	}
	add("oldest wait", s.oldestWait(q))
	add("rates", fmt.Sprintf("%s in, %s started, %s out, %s failed", perSecond(q.Rates.Enqueued),
		perSecond(q.Rates.Started), perSecond(q.Rates.Completed), perSecond(q.Rates.Failed)))
	add("wait p50 p95 p99", seconds(q.WaitSeconds.P50)+" "+seconds(q.WaitSeconds.P95)+" "+seconds(q.WaitSeconds.P99))
	add("run p50 p95 p99", seconds(q.RunSeconds.P50)+" "+seconds(q.RunSeconds.P95)+" "+seconds(q.RunSeconds.P99))
	add("slots", fmt.Sprintf("%d of %d busy", q.Busy, q.Slots))
	return t
}

// age is how long ago something was, by the server's clock.
func (s *session) age(at *time.Time) string {
	now, ok := s.client.Now()
	if at == nil || !ok {
		return "-"
	}
	return roughly(now.Sub(*at))
}
