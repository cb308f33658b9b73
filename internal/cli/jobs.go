package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
	"github.com/mini-asynq/mini-asynq/jobs"
)

func newJobs(g *globals) *cobra.Command {
	f := &clientFlags{}
	var attempts bool
	get := &cobra.Command{
		Use: "get ID..", Short: "Show jobs with payload, result and error", Args: someArgs(1, 0, "the ids of jobs"),
		RunE: f.with(g, func(ctx context.Context, s *session, ids []string) error {
			return s.forEach(ctx, ids, func(id string) error {
				job, err := s.client.Job(ctx, id, attempts)
				if err != nil {
					return err
				}
				return s.showOne(job, func() table { return jobLines(job.Value) })
			})
		}),
	}
	get.Flags().BoolVar(&attempts, "attempts", false, "with its attempts")
	wait := &cobra.Command{
		Use: "wait ID..", Short: "Wait for the end of jobs; exit with 1 if one did not complete",
		Args: someArgs(1, 0, "the ids of jobs"),
		RunE: f.with(g, func(ctx context.Context, s *session, ids []string) error { return s.awaitAll(ctx, ids) }),
	}
	group := newGroup("jobs", "List jobs, look at them, act on them",
		newJobsList(g, f), get, newJobAction(g, f, "retry", "Run dead jobs again; a job that waits for its retry runs now"),
		newJobAction(g, f, "cancel", "Cancel jobs; a running one is asked to stop"),
		newJobAction(g, f, "run-now", "Run jobs now that wait for their time"), newJobRemove(g, f), wait, newJobEvents(g, f))
	for _, c := range group.Commands() {
		if c.Name() != "ls" {
			c.ValidArgsFunction = completer(g, f, jobIDs(c.Name()))
		}
	}
	return onServer(g, group, f)
}

// jobFilters are the parameters of GET /jobs that are flags, with their helps.
var jobFilters = []struct{ name, help string }{
	{"status", "statuses: scheduled, pending, running, completed, retrying, dead, blocked, cancelled"},
	{"queue", "queues; a * at the end stands for any"},
	{"kind", "kinds; a * at the end stands for any"},
	{"priority", "high, normal, low"},
	{"tag", "tags"},
	{"worker", "workers that run them"},
	{"id", "ids"},
	{"fingerprint", "fingerprints of errors"},
	{"attempt_min", "attempts, at least"},
	{"created_after", "time, as 2026-03-01T12:00:00Z"},
	{"created_before", "time"},
	{"run_after", "time"},
	{"run_before", "time"},
	{"finished_after", "time"},
	{"finished_before", "time"},
	{"payload", "JSON that the payload contains; needs a queue or a kind beside it"},
}

// addJobFilters adds the flags; the query is made after they were parsed.
func addJobFilters(cmd *cobra.Command) (query func() (url.Values, error)) {
	flags := cmd.Flags()
	for _, filter := range jobFilters {
		flags.String(strings.ReplaceAll(filter.name, "_", "-"), "", filter.help)
	}
	metadata := flags.StringArray("metadata", nil, "KEY=VALUE of the metadata, repeatable")
	return func() (url.Values, error) {
		values := url.Values{}
		for _, filter := range jobFilters {
			flag := flags.Lookup(strings.ReplaceAll(filter.name, "_", "-"))
			if flag.Changed {
				values.Set(filter.name, flag.Value.String())
			}
		}
		for status := range strings.SplitSeq(values.Get("status"), ",") {
			if status != "" && !jobs.Status(status).Valid() {
				return nil, unknownStatus(status)
			}
		}
		if payload := values.Get("payload"); payload != "" {
			if err := checkJSON("--payload", []byte(payload)); err != nil {
				return nil, err
			}
		}
		for _, pair := range *metadata {
			key, value, ok := strings.Cut(pair, "=")
			if !ok || key == "" {
				return nil, fmt.Errorf("%w: --metadata %s: write KEY=VALUE", errUsage, pair)
			}
			values.Set("metadata."+key, value)
		}
		return values, nil
	}
}

// statuses of a job, in the order of its life.
var statuses = []string{
	string(jobs.Scheduled), string(jobs.Pending), string(jobs.Blocked), string(jobs.Running), string(jobs.Retrying),
	string(jobs.Completed), string(jobs.Dead), string(jobs.Cancelled),
}

func unknownStatus(status string) error {
	meant := ""
	if near, ok := nearest(status, statuses); ok {
		meant = " did you mean " + near + "?"
	}
	return fmt.Errorf("%w: unknown status %q:%s The statuses are %s", errUsage, status, meant, strings.Join(statuses, ", "))
}

func newJobsList(g *globals, f *clientFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List jobs, the newest first", Args: noArgs}
	query := addJobFilters(cmd)
	sort := cmd.Flags().String("sort", "", "created_at, run_at or finished_at, with - in front for descending")
	limit := cmd.Flags().Int("limit", 50, "jobs of a page, up to 500")
	cursor := cmd.Flags().String("cursor", "", "go on where a page ended (next_cursor)")
	include := cmd.Flags().String("include", "", "payload, result, stack")
	all := cmd.Flags().Bool("all", false, "all pages")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, _ []string) error {
		values, err := query()
		if err != nil {
			return err
		}
		for name, value := range map[string]string{"sort": *sort, "cursor": *cursor, "include": *include} {
			if value != "" {
				values.Set(name, value)
			}
		}
		if *all && !cmd.Flags().Changed("limit") {
			*limit = 500
		}
		values.Set("limit", strconv.Itoa(*limit))
		return listPages(ctx, s, *all, values, s.client.Jobs, jobRows)
	})
	completeFlag(cmd, "status", func(context.Context, *client.Client) []string { return statuses }, g, f)
	completeFlag(cmd, "queue", queueNames, g, f)
	return cmd
}

// listPages shows one page, or all of them: lines as they come, tables and JSON as a whole.
func listPages[T any](ctx context.Context, s *session, all bool, query url.Values,
	read func(context.Context, url.Values) (client.List[T], error), rows func([]client.Doc[T]) table,
) error {
	var found []client.Doc[T]
	for {
		page, err := read(ctx, query)
		if err != nil {
			return err
		}
		found = append(found, page.Data...)
		if all && s.form == formLines {
			if err := showList(&s.screen, found, "", rows); err != nil {
				return err
			}
			found = found[:0]
		}
		if !all || page.NextCursor == "" {
			if err := showList(&s.screen, found, page.NextCursor, rows); err != nil {
				return err
			}
			if page.NextCursor != "" && s.form != formJSON {
				s.talk("there are more: --all, or --cursor %s", page.NextCursor)
			}
			return nil
		}
		query.Set("cursor", page.NextCursor)
	}
}

func jobRows(items []client.Doc[client.Job]) table {
	t := table{head: []string{"ID", "QUEUE", "KIND", "STATUS", "ATTEMPT", "RUN AT", "CREATED", "ERROR"}}
	for _, item := range items {
		j := item.Value
		failure := ""
		if j.Error != nil {
			failure = shortened(j.Error.Type+": "+j.Error.Message, 60)
		}
		t.rows = append(t.rows, append(plain(j.ID, j.Queue, j.Kind), coloured(j.Status),
			cell{text: number(j.Attempt)}, cell{text: moment(j.RunAt)}, cell{text: moment(j.CreatedAt)}, cell{text: failure}))
	}
	return t
}

// jobLines shows one job, without what it does not have.
func jobLines(j client.Job) table {
	var t table
	add := func(name, value string) {
		if value != "" && value != "-" {
			t.rows = append(t.rows, plain(name, value))
		}
	}
	add("id", j.ID)
	add("queue", j.Queue)
	add("kind", j.Kind)
	t.rows = append(t.rows, []cell{{text: "status"}, coloured(j.Status)})
	add("reason", j.Reason)
	add("priority", j.Priority)
	add("attempts", fmt.Sprintf("%d, %d left", j.Attempt, j.AttemptsLeft))
	if j.Progress != nil {
		add("progress", fmt.Sprintf("%g%% %s", j.Progress.Percent, j.Progress.Message))
	}
	add("worker", j.LockedBy)
	add("tags", listOf(j.Tags))
	for _, key := range slices.Sorted(mapKeys(j.Metadata)) {
		add("metadata."+key, j.Metadata[key])
	}
	add("key", j.IdempotencyKey)
	add("timeout", j.Timeout)
	add("created", moment(j.CreatedAt))
	add("run at", moment(j.RunAt))
	add("started", moment(j.StartedAt))
	add("stop asked", moment(j.CancelRequestedAt))
	add("finished", moment(j.FinishedAt))
	add("payload", string(j.Payload))
	add("result", string(j.Result))
	if j.Error != nil {
		add("error", j.Error.Type+": "+j.Error.Message)
		for line := range strings.Lines(j.Error.Stack) {
			add("", strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    "))
		}
	}
	for _, a := range j.Attempts {
		add(fmt.Sprintf("attempt %d", a.Number), strings.Join([]string{
			moment(a.StartedAt), a.Status, "waited " + seconds(&a.WaitSeconds), "ran " + seconds(a.RunSeconds), a.Worker,
			a.ErrorMessage}, "  "))
	}
	add("possible", listOf(j.AllowedActions))
	return t
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

// newJobAction is an action on single jobs.
func newJobAction(g *globals, f *clientFlags, action, short string) *cobra.Command {
	cmd := &cobra.Command{Use: action + " ID..", Short: short, Args: someArgs(1, 0, "the ids of jobs")}
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	delay := new(string)
	if action == "retry" {
		delay = cmd.Flags().String("delay", "", "run so much later, as 10m")
	}
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, ids []string) error {
		return s.forEach(ctx, ids, func(id string) error {
			job, err := s.client.ActOnJob(ctx, id, action, fields("reason", *reason, "delay", *delay))
			if err != nil {
				return err
			}
			if action == "cancel" && job.Value.Status == string(jobs.Running) {
				s.talk("%s runs and was asked to stop", id)
			}
			return s.showOne(job, func() table { return table{rows: jobRows([]client.Doc[client.Job]{job}).rows} })
		})
	})
	return cmd
}

// fields is a body of the members that have a value; nil if none has.
func fields(pairs ...string) any {
	body := make(map[string]string)
	for ; len(pairs) >= 2; pairs = pairs[2:] {
		if name, value := pairs[0], pairs[1]; value != "" {
			body[name] = value
		}
	}
	if len(body) == 0 {
		return nil
	}
	return body
}

func newJobRemove(g *globals, f *clientFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "rm ID..", Short: "Delete finished jobs", Args: someArgs(1, 0, "the ids of jobs")}
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, ids []string) error {
		return s.forEach(ctx, ids, func(id string) error {
			if err := s.client.DeleteJob(ctx, id, fields("reason", *reason)); err != nil {
				return err
			}
			s.talk("%s is deleted", id)
			return nil
		})
	})
	return cmd
}

func newJobEvents(g *globals, f *clientFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "events ID", Short: "List what happened to a job, oldest first", Args: someArgs(1, 1, "the id of a job"),
	}
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, ids []string) error {
		var found []client.Doc[client.Event]
		query := url.Values{"limit": {"1000"}}
		for {
			page, err := s.client.JobEvents(ctx, ids[0], query)
			if err != nil {
				return err
			}
			if page.Truncated {
				s.talk("older events are gone")
			}
			found = append(found, page.Data...)
			if page.NextCursor == "" {
				return showList(&s.screen, found, "", eventRows)
			}
			query.Set("after", page.NextCursor)
		}
	})
	return cmd
}

// errNotCompleted is a job that ended otherwise, and has been shown.
var errNotCompleted = errors.New("did not complete")

// awaitAll waits for the end of jobs and shows each; the time of one is time of the others as well.
func (s *session) awaitAll(ctx context.Context, ids []string) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var failed []string
	err := s.forEach(ctx, ids, func(id string) error {
		job, err := s.await(ctx, id)
		if err != nil {
			return err
		}
		if job.Value.Status != string(jobs.Completed) {
			failed = append(failed, fmt.Sprintf("%s is %s", id, job.Value.Status))
		}
		return s.showOne(job, func() table { return jobLines(job.Value) })
	})
	switch {
	case err != nil:
		return waitError(ctx, err)
	case len(failed) > 0:
		return fmt.Errorf("%w: %s", errNotCompleted, strings.Join(failed, ", "))
	}
	return nil
}

// await returns a job once it has finished.
func (s *session) await(ctx context.Context, id string) (client.Doc[client.Job], error) {
	for {
		job, err := s.client.AwaitJob(ctx, id, client.MaxWait/2)
		if err != nil || job.Value.Finished() {
			return job, err
		}
	}
}

// checkJSON says where JSON is wrong: line, column and what stands there.
func checkJSON(what string, raw []byte) error {
	var value any
	err := json.Unmarshal(raw, &value)
	var syntax *json.SyntaxError
	if err == nil {
		return nil
	}
	if !errors.As(err, &syntax) {
		return fmt.Errorf("%w: %s is no JSON: %w", errUsage, what, err)
	}
	before := string(raw[:min(max(0, int(syntax.Offset)-1), len(raw))])
	line := strings.Count(before, "\n") + 1
	column := len([]rune(before[strings.LastIndex(before, "\n")+1:])) + 1
	end := len(before) + strings.IndexAny(string(raw[len(before):])+"\n", "\n")
	near := shortened(string(raw[len(before):end]), 30)
	if near == "" {
		near = "the end"
	}
	return fmt.Errorf("%w: %s is no JSON: line %d, column %d, at %s: %w", errUsage, what, line, column, clean(near), err)
}
