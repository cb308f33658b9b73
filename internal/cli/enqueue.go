package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

const (
	batchJobs  = 1000     // of one request: all or none
	batchBytes = 12 << 20 // of one request; the server takes 16 MiB
	maxLine    = 5 << 20  // a job with the largest payload
)

// enqueueFlags is what enqueue was given.
type enqueueFlags struct {
	queue, data, at, delay, priority, key, batch string
	maxRetries                                   int
	tags                                         []string
	wait                                         bool
}

func newEnqueue(g *globals) *cobra.Command {
	f, e := &clientFlags{}, &enqueueFlags{}
	cmd := &cobra.Command{
		Use: "enqueue KIND", Short: "Enqueue a job, or many with --batch",
		Args: someArgs(0, 1, "one kind"),
		Example: `  mini-asynq enqueue email.send --data '{"to":"a@example.com"}' --wait
  mini-asynq enqueue email.send --data @mail.json --delay 10m --key welcome-42
  mini-asynq enqueue --batch jobs.jsonl`,
	}
	flags := cmd.Flags()
	flags.StringVar(&e.queue, "queue", "", "queue (default: default)")
	flags.StringVar(&e.data, "data", "", "payload: JSON, @FILE, or - for stdin")
	flags.StringVar(&e.at, "at", "", "run at this time, as 2026-03-01T12:00:00Z")
	flags.StringVar(&e.delay, "delay", "", "run so much later, as 90s, 1h30m or 7d")
	flags.StringVar(&e.priority, "priority", "", "high, normal or low")
	flags.IntVar(&e.maxRetries, "max-retries", 0, "retries after the first attempt (default: as the server has it)")
	flags.StringVar(&e.key, "key", "", "idempotency key: with the same key this happens once")
	flags.StringArrayVar(&e.tags, "tag", nil, "tag, repeatable")
	flags.StringVar(&e.batch, "batch", "", "FILE or - with a job in JSON on each line; KIND and --queue fill in what a line leaves out")
	flags.BoolVar(&e.wait, "wait", false, "wait for the end; exit with 1 if it is not completed")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, args []string) error {
		kind := strings.Join(args, "")
		if e.batch != "" {
			for _, name := range []string{"data", "at", "delay", "priority", "max-retries", "tag"} {
				if flags.Changed(name) {
					return fmt.Errorf("%w: --%s and --batch: write it into the lines", errUsage, name)
				}
			}
			return s.enqueueBatch(ctx, kind, e)
		}
		if kind == "" {
			return fmt.Errorf("%w: enqueue takes a kind, or --batch FILE", errUsage)
		}
		body, err := e.body(kind, s.in, flags.Changed("max-retries"))
		if err != nil {
			return err
		}
		job, err := s.client.Enqueue(ctx, body, e.key)
		if err != nil {
			return err
		}
		if e.wait {
			s.talk("enqueued %s", job.Value.ID)
			return s.awaitAll(ctx, []string{job.Value.ID})
		}
		return s.showOne(job, func() table { return jobRows([]client.Doc[client.Job]{job}) })
	})
	completeFlag(cmd, "queue", queueNames, g, f)
	completeFlag(cmd, "priority", func(context.Context, *client.Client) []string { return []string{"high", "normal", "low"} }, g, f)
	cmd.ValidArgsFunction = completer(g, f, jobKinds)
	return onServer(g, cmd, f)
}

// body is that of POST /jobs.
func (e *enqueueFlags) body(kind string, stdin io.Reader, retries bool) (map[string]any, error) {
	if e.at != "" && e.delay != "" {
		return nil, fmt.Errorf("%w: --at or --delay, not both", errUsage)
	}
	body := map[string]any{"kind": kind}
	for name, value := range map[string]string{
		"queue": e.queue, "run_at": e.at, "delay": e.delay, "priority": e.priority,
	} {
		if value != "" {
			body[name] = value
		}
	}
	if retries {
		body["max_retries"] = e.maxRetries
	}
	if len(e.tags) > 0 {
		body["tags"] = e.tags
	}
	if e.data == "" {
		return body, nil
	}
	raw, what, err := readData(e.data, stdin)
	if err != nil {
		return nil, err
	}
	if err := checkJSON(what, raw); err != nil {
		return nil, err
	}
	body["payload"] = json.RawMessage(raw)
	return body, nil
}

// readData reads --data; what names the source in errors.
func readData(given string, stdin io.Reader) (raw []byte, what string, err error) {
	path, isFile := strings.CutPrefix(given, "@")
	switch {
	case given == "-":
		raw, err = io.ReadAll(io.LimitReader(stdin, maxLine))
		what = "stdin"
	case isFile:
		raw, err = os.ReadFile(path)
		what = path
	default:
		return []byte(given), "--data", nil
	}
	if err != nil {
		return nil, what, fmt.Errorf("read --data: %w", err)
	}
	return raw, what, nil
}

// enqueueBatch sends lines in chunks; each chunk is stored as a whole or not at all.
func (s *session) enqueueBatch(ctx context.Context, kind string, e *enqueueFlags) error {
	source := s.in
	if e.batch != "-" {
		file, err := os.Open(e.batch)
		if err != nil {
			return fmt.Errorf("open --batch: %w", err)
		}
		defer func() { _ = file.Close() }() // it was only read
		source = file
	}
	lines := bufio.NewScanner(source)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	b := batch{session: s, key: e.key, defaults: map[string]string{"kind": kind, "queue": e.queue}}
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		job, err := b.read(n, lines.Bytes())
		if err == nil {
			err = b.add(ctx, n, job)
		}
		if err != nil {
			return b.stopped(err)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return b.stopped(fmt.Errorf("%w: a line of more than %d MiB", errUsage, maxLine>>20))
	} else if err := lines.Err(); err != nil {
		return b.stopped(fmt.Errorf("read --batch: %w", err))
	}
	if err := b.send(ctx); err != nil {
		return b.stopped(err)
	}
	if e.wait {
		s.talk("waiting for %d jobs", len(b.stored))
		return s.awaitAll(ctx, b.ids())
	}
	return showList(&s.screen, b.stored, "", storedRows)
}

// batch is the chunk that fills, and what is stored already.
type batch struct {
	*session
	key      string
	defaults map[string]string
	chunk    []json.RawMessage
	lines    []int // of the chunk
	size     int
	chunks   int // that were sent
	stored   []client.Doc[client.Stored]
}

func (b *batch) read(n int, line []byte) (json.RawMessage, error) {
	if err := checkJSON("line "+strconv.Itoa(n), line); err != nil {
		return nil, err
	}
	var job map[string]json.RawMessage
	if err := json.Unmarshal(line, &job); err != nil || job == nil {
		return nil, fmt.Errorf("%w: line %d is no JSON object", errUsage, n)
	}
	for name, value := range b.defaults {
		if _, given := job[name]; !given && value != "" {
			raw, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			job[name] = raw
		}
	}
	return json.Marshal(job)
}

func (b *batch) add(ctx context.Context, line int, job json.RawMessage) error {
	if len(b.chunk) == batchJobs || len(b.chunk) > 0 && b.size+len(job) > batchBytes {
		if err := b.send(ctx); err != nil {
			return err
		}
	}
	b.chunk, b.lines, b.size = append(b.chunk, job), append(b.lines, line), b.size+len(job)
	return nil
}

func (b *batch) send(ctx context.Context) error {
	if len(b.chunk) == 0 {
		return nil
	}
	key := b.key
	if key != "" {
		key += "-" + strconv.Itoa(b.chunks) // the same lines with the same key make the same chunks
	}
	stored, err := b.client.EnqueueBatch(ctx, b.chunk, key)
	if err != nil {
		return fmt.Errorf("lines %d to %d: %w", b.lines[0], b.lines[len(b.lines)-1], b.named(err))
	}
	b.chunks++
	b.stored = append(b.stored, stored...)
	b.chunk, b.lines, b.size = b.chunk[:0], b.lines[:0], 0
	b.talk("%d jobs stored", len(b.stored))
	return nil
}

// named says of the first fault which line it is in: the server counts the jobs of a chunk.
func (b *batch) named(err error) error {
	var problem *client.Problem
	if !errors.As(err, &problem) {
		return err
	}
	for _, fault := range problem.Errors {
		index, _, _ := strings.Cut(strings.TrimPrefix(fault.Pointer, "/jobs/"), "/")
		if i, numberErr := strconv.Atoi(index); numberErr == nil && i < len(b.lines) {
			return fmt.Errorf("line %d: %s: %w", b.lines[i], fault.Detail, err)
		}
	}
	return err
}

// stopped shows what was stored before an error: those jobs exist.
func (b *batch) stopped(err error) error {
	if len(b.stored) == 0 {
		return err
	}
	if shown := showList(&b.screen, b.stored, "", storedRows); shown != nil {
		return errors.Join(err, shown)
	}
	return fmt.Errorf("%d jobs are stored, then: %w", len(b.stored), err)
}

func (b *batch) ids() []string {
	ids := make([]string, len(b.stored))
	for i, job := range b.stored {
		ids[i] = job.Value.ID
	}
	return ids
}

func storedRows(items []client.Doc[client.Stored]) table {
	t := table{head: []string{"ID", "QUEUE", "STATUS", "RUN AT"}}
	for _, item := range items {
		t.rows = append(t.rows, append(plain(item.Value.ID, item.Value.Queue), coloured(orDash(item.Value.Status)),
			cell{text: moment(item.Value.RunAt)}))
	}
	return t
}
