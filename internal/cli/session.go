package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

// clientFlags are the flags of all commands that call a server.
type clientFlags struct {
	server, keyFile, user, form string
	quiet, noColor              bool
	timeout                     time.Duration
}

// onServer gives a command, and those below it, the flags of clients.
func onServer(g *globals, cmd *cobra.Command, f *clientFlags) *cobra.Command {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.server, "server", "", "address of the server (MINIASYNQ_SERVER, default "+defaultServer+")")
	flags.StringVar(&f.keyFile, "api-key-file", "", "file that holds the API key (else MINIASYNQ_API_KEY)")
	flags.StringVar(&f.user, "user", "", "name for basic auth; the password is asked for (or MINIASYNQ_PASSWORD)")
	flags.DurationVar(&f.timeout, "timeout", 0, "longest time of a call (default 30s); of a wait or a follow, of the whole (default: no end)")
	addFormFlags(cmd, f)
	completeFlag(cmd, "output", func(context.Context, *client.Client) []string { return []string{formTable, formJSON, formLines} }, g, f)
	return cmd
}

func addFormFlags(cmd *cobra.Command, f *clientFlags) {
	flags := cmd.PersistentFlags()
	flags.StringVarP(&f.form, "output", "o", "", "table, json or jsonl (default: table on a terminal, else json)")
	flags.BoolVar(&f.quiet, "quiet", false, "no talk on stderr, except errors")
	flags.BoolVar(&f.noColor, "no-color", false, "no colours (or NO_COLOR)")
}

// screen is how a command shows things.
type screen struct {
	in       io.Reader
	out, err io.Writer
	form     string
	colour   bool
	quiet    bool
}

// session is one run of a command that calls a server.
type session struct {
	screen
	client  *client.Client
	timeout time.Duration // as given; 0: not
}

// show opens the screen.
func (f *clientFlags) show(g *globals) (screen, error) {
	s := screen{in: g.around.In, out: g.around.Out, err: g.around.Err, form: f.form, quiet: f.quiet}
	terminal := isTerminal(s.out)
	switch {
	case s.form == "" && terminal:
		s.form = formTable
	case s.form == "":
		s.form = formJSON
	case !slices.Contains([]string{formTable, formJSON, formLines}, s.form):
		return s, fmt.Errorf("%w: -o %s: table, json or jsonl", errUsage, s.form)
	}
	s.colour = terminal && !f.noColor && !slices.ContainsFunc(g.around.Environ, func(entry string) bool {
		value, ok := strings.CutPrefix(entry, "NO_COLOR=")
		return ok && value != ""
	})
	return s, nil
}

// open reads the settings and makes the client. The caller closes it.
func (f *clientFlags) open(g *globals) (*session, error) {
	shown, err := f.show(g)
	if err != nil {
		return nil, err
	}
	if f.timeout < 0 {
		return nil, fmt.Errorf("%w: --timeout is negative", errUsage)
	}
	read, err := readSettings(g.around.Environ, g.envFile, nil)
	if err != nil {
		return nil, err
	}
	config := client.Config{
		Server: f.server, Key: read.values["MINIASYNQ_API_KEY"], Timeout: f.timeout, Agent: "mini-asynq/" + version,
	}
	if config.Server == "" {
		config.Server = read.values["MINIASYNQ_SERVER"]
	}
	if config.Server == "" {
		config.Server = defaultServer
	}
	switch {
	case f.keyFile != "" && f.user != "":
		return nil, fmt.Errorf("%w: --api-key-file or --user, not both", errUsage)
	case f.keyFile != "":
		if config.Key, err = readKey(f.keyFile); err != nil {
			return nil, err
		}
	case f.user != "":
		config.Key, config.User = "", f.user
		if config.Password, err = password(shown, f.user, read.values["MINIASYNQ_PASSWORD"]); err != nil {
			return nil, err
		}
	}
	c, err := client.New(config)
	if err != nil {
		return nil, err
	}
	return &session{screen: shown, client: c, timeout: f.timeout}, nil
}

func readKey(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read --api-key-file: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	if key == "" {
		return "", fmt.Errorf("read --api-key-file: %s is empty", path)
	}
	return key, nil
}

// password asks for it on a terminal, without echo.
func password(shown screen, user, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	file, ok := shown.in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return "", fmt.Errorf("%w: --user needs a terminal to ask for the password, or MINIASYNQ_PASSWORD", errUsage)
	}
	fmt.Fprintf(shown.err, "Password of %s: ", clean(user))
	raw, err := term.ReadPassword(int(file.Fd()))
	fmt.Fprintln(shown.err)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(raw), nil
}

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// with runs a command on a session.
func (f *clientFlags) with(g *globals, run func(context.Context, *session, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := f.open(g)
		if err != nil {
			return err
		}
		defer s.client.Close()
		return run(cmd.Context(), s, args)
	}
}

// bounded is ctx with the end that --timeout sets for a whole wait; over tells whether that was what ended it.
func (s *session) bounded(ctx context.Context) (bound context.Context, cancel context.CancelFunc) {
	if s.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, s.timeout, errWaitRanOut)
}

// waitError tells a wait that ran out from other errors.
func waitError(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errWaitRanOut) {
		return errWaitRanOut
	}
	return err
}

// talk says something to the person at the terminal.
func (s *screen) talk(format string, args ...any) {
	if !s.quiet {
		fmt.Fprintln(s.err, cleanLines(fmt.Sprintf(format, args...)))
	}
}

// showOne writes a resource: as JSON, or as lines of a name and a value.
func (s *screen) showOne(value any, lines func() table) error {
	if s.form == formTable {
		return lines().write(s.out, s.colour)
	}
	return writeJSON(s.out, value, s.form == formLines)
}

// showList writes a list: {"data":[..]} as the server writes it, a line for each, or a table.
func showList[T any](s *screen, items []client.Doc[T], nextCursor string, rows func([]client.Doc[T]) table) error {
	switch s.form {
	case formTable:
		if len(items) == 0 {
			s.talk("nothing found")
			return nil
		}
		return rows(items).write(s.out, s.colour)
	case formLines:
		for _, item := range items {
			if err := writeJSON(s.out, item, true); err != nil {
				return err
			}
		}
		return nil
	}
	if items == nil {
		items = []client.Doc[T]{}
	}
	var next *string
	if nextCursor != "" {
		next = &nextCursor
	}
	return writeJSON(s.out, map[string]any{"data": items, "next_cursor": next}, false)
}

// forEach does something for each argument, goes on after a refusal, and returns the first error; the others are told.
func (s *session) forEach(ctx context.Context, args []string, do func(string) error) error {
	var first error
	for i, arg := range args {
		err := do(arg)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return err
		case len(args) > 1:
			err = fmt.Errorf("%s: %w", arg, err)
		}
		var unreachable *client.UnreachableError
		if first == nil {
			first = err
		} else {
			s.talk("mini-asynq: %v", err)
		}
		if errors.As(err, &unreachable) {
			if left := len(args) - i - 1; left > 0 {
				s.talk("%d more were not tried", left)
			}
			break
		}
	}
	return first
}
