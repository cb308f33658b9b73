package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

const (
	clearScreen = "\x1b[H\x1b[2J"
	beginScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	endScreen   = "\x1b[?25h\x1b[?1049l"
	ctrlC       = 3
)

// newTop shows queues, workers and the event feed, live.
func newTop(g *globals) *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{Use: "top", Short: "Watch queues, workers and events live; q ends it", Args: noArgs}
	once := cmd.Flags().Bool("once", false, "print one frame and end")
	every := cmd.Flags().Duration("every", time.Second, "time between two frames, from 200ms")
	cmd.RunE = f.with(g, func(ctx context.Context, s *session, _ []string) error {
		if *every < 200*time.Millisecond {
			return fmt.Errorf("%w: --every: from 200ms", errUsage)
		}
		t := &top{session: s}
		if *once {
			t.refresh(ctx)
			if t.err != nil {
				return t.err
			}
			width, height := t.size()
			_, err := io.WriteString(s.out, strings.Join(t.frame(width, height), "\n")+"\n")
			return err
		}
		if !isTerminal(s.out) {
			return fmt.Errorf("%w: top needs a terminal; --once prints one frame", errUsage)
		}
		return t.run(ctx, *every)
	})
	return onServer(g, cmd, f)
}

// top is what the screen shows.
type top struct {
	*session
	queues  []client.Queue
	workers []client.Worker
	health  client.Health
	err     error // of the latest refresh: what is shown is older

	mu   sync.Mutex // guards what follows
	feed []string   // the newest last
}

// maxFeed is more than fits on a screen.
const maxFeed = 200

// refresh reads the numbers. What cannot be read stays as it was.
func (t *top) refresh(ctx context.Context) {
	queues, err := t.client.Queues(ctx)
	if err == nil {
		t.queues = valuesOf(queues.Data)
		var workers client.List[client.Worker]
		if workers, err = t.client.Workers(ctx); err == nil {
			t.workers = valuesOf(workers.Data)
		}
	}
	if err == nil {
		var health client.Doc[client.Health]
		if health, err = t.client.Health(ctx); err == nil {
			t.health = health.Value
		}
	}
	t.err = err
}

func valuesOf[T any](items []client.Doc[T]) []T {
	out := make([]T, len(items))
	for i, item := range items {
		out[i] = item.Value
	}
	return out
}

func (t *top) size() (width, height int) {
	if file, ok := t.out.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}

// run redraws until q, ctrl-c or the end of ctx.
func (t *top) run(ctx context.Context, every time.Duration) error {
	t.refresh(ctx)
	if t.err != nil {
		return t.err // better said on the screen that stays
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if file, ok := t.in.(*os.File); ok && isTerminal(file) {
		before, err := term.MakeRaw(int(file.Fd()))
		if err != nil {
			return fmt.Errorf("read single keys: %w", err)
		}
		defer func() { _ = term.Restore(int(file.Fd()), before) }()
	}
	// Reads keys until one that ends, or with the process: a read from a terminal cannot be interrupted. Nobody waits.
	go watchKeys(t.in, cancel)
	fmt.Fprint(t.out, beginScreen)
	defer fmt.Fprint(t.out, endScreen)
	var group errgroup.Group // waited for below; ends with ctx
	group.Go(func() error {
		t.watch(ctx)
		return nil
	})
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for ctx.Err() == nil {
		width, height := t.size()
		fmt.Fprint(t.out, clearScreen+strings.Join(t.frame(width, height), "\r\n"))
		select {
		case <-ctx.Done():
		case <-ticks.C:
			t.refresh(ctx)
		}
	}
	return group.Wait()
}

func watchKeys(in io.Reader, end context.CancelFunc) {
	key := make([]byte, 1)
	for {
		if _, err := in.Read(key); err != nil {
			return
		}
		if key[0] == 'q' || key[0] == ctrlC {
			end()
			return
		}
	}
}

// watch keeps the feed. A stream that cannot be followed is said in it; the numbers go on.
func (t *top) watch(ctx context.Context) {
	add := func(line string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.feed = append(t.feed, line)
		if len(t.feed) > maxFeed {
			t.feed = slices.Delete(t.feed, 0, len(t.feed)-maxFeed)
		}
	}
	err := t.client.Follow(ctx, client.Following{Lost: func(err error) { add(clean(err.Error())) }},
		func(e client.Doc[client.Event]) error {
			shown := e.Value
			add(fmt.Sprintf("%s  %-18s %-16s %s  %s", shown.Timestamp.UTC().Format(time.TimeOnly), clean(shown.Type),
				clean(shortened(shown.Queue, 16)), clean(shown.Kind), clean(eventDetail(shown))))
			return nil
		})
	if err != nil && ctx.Err() == nil {
		add(clean(err.Error()))
	}
}

// frame lays out one screen: a head, the queues with the oldest wait first, workers, and the newest events in what is left.
func (t *top) frame(width, height int) []string {
	lines := []string{t.headLine(), ""}
	room := max(3, height-len(lines)-2)
	queues := table{head: []string{"QUEUE", "STATE", "PEND", "RUN", "RETRY", "DEAD", "OLDEST", "IN/S", "OUT/S", "FAIL"}}
	sorted := slices.SortedFunc(slices.Values(t.queues), byOldest)
	for _, q := range sorted[:min(len(sorted), max(1, room/2))] {
		queues.rows = append(queues.rows, append([]cell{{text: shortened(q.Name, 14)}, stateOf(q)}, plain(
			number(q.Counts["pending"]), number(q.Counts["running"]), number(q.Counts["retrying"]), number(q.Counts["dead"]),
			t.oldestWait(q), rate(q.Rates.Enqueued), rate(q.Rates.Completed), rate(q.Rates.Failed))...))
	}
	lines = append(lines, queues.lines(t.colour)...)
	if more := len(sorted) - len(queues.rows); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more queues", more))
	}
	if len(t.workers) > 0 {
		workers := table{head: []string{"WORKER", "STATE", "BUSY", "QUEUES", "SEEN"}}
		for _, w := range t.workers[:min(len(t.workers), max(1, room/4))] {
			workers.rows = append(workers.rows, append([]cell{{text: shortened(w.Name, 24)}, coloured(w.State)},
				plain(fmt.Sprintf("%d/%d", w.Busy, w.Slots), shortened(weights(w.Queues), 24), t.age(w.LastSeenAt))...))
		}
		lines = append(append(lines, ""), workers.lines(t.colour)...)
		if more := len(t.workers) - len(workers.rows); more > 0 {
			lines = append(lines, fmt.Sprintf("and %d more workers", more))
		}
	}
	t.mu.Lock()
	feed := slices.Clone(t.feed)
	t.mu.Unlock()
	if left := height - len(lines) - 1; left > 0 && len(feed) > 0 {
		lines = append(append(lines, ""), feed[max(0, len(feed)-left):]...)
	}
	lines = lines[:min(len(lines), height)]
	for i := range lines {
		lines[i] = fitted(lines[i], width)
	}
	return lines
}

func (t *top) headLine() string {
	var pending, running, busy, slots int64
	for _, q := range t.queues {
		pending += q.Counts["pending"]
		running += q.Counts["running"]
	}
	for _, w := range t.workers {
		busy, slots = busy+int64(w.Busy), slots+int64(w.Slots)
	}
	now := "--:--:--"
	if at, ok := t.client.Now(); ok {
		now = at.Format(time.TimeOnly)
	}
	line := fmt.Sprintf("%s  %s  %s  %d pending, %d running, %d workers (%d/%d busy)", now, clean(t.client.Server()),
		clean(orDash(t.health.Status)), pending, running, len(t.workers), busy, slots)
	if t.err != nil {
		line = paint("STALE", red, t.colour) + " " + clean(t.err.Error())
	}
	return line
}

// byOldest puts what has waited longest first, then by name.
func byOldest(a, b client.Queue) int {
	switch {
	case a.OldestPendingAt == nil && b.OldestPendingAt == nil:
		return cmp.Compare(a.Name, b.Name)
	case a.OldestPendingAt == nil:
		return 1
	case b.OldestPendingAt == nil:
		return -1
	}
	return cmp.Or(a.OldestPendingAt.Compare(*b.OldestPendingAt), cmp.Compare(a.Name, b.Name))
}

// fitted cuts a line to a width; colours take no room, and one that is cut open is closed.
func fitted(line string, width int) string {
	var out strings.Builder
	room, coloured := width, false
	for line != "" {
		if strings.HasPrefix(line, "\x1b[") {
			end := strings.IndexByte(line, 'm') + 1
			if end == 0 {
				break
			}
			out.WriteString(line[:end])
			coloured = line[:end] != "\x1b[0m"
			line = line[end:]
			continue
		}
		if room == 0 {
			break
		}
		r, size := utf8.DecodeRuneInString(line)
		out.WriteRune(r)
		line, room = line[size:], room-1
	}
	if coloured {
		out.WriteString("\x1b[0m")
	}
	return out.String()
}
