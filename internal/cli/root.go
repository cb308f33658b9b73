package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version and commit are set by the linker (make build).
var (
	version = "dev"
	commit  = "unknown"
)

// Surroundings are what a command line reads and writes.
type Surroundings struct {
	In       io.Reader
	Out, Err io.Writer
	Environ  []string // NAME=value
}

// Run executes a command line of this process and returns its exit code. ctx ends at a signal to stop. Data goes to
// stdout, talk to stderr.
func Run(ctx context.Context, args []string) int {
	return Execute(ctx, args, Surroundings{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ()})
}

// Execute is Run in surroundings of the caller's choice. (The log of a server goes to stderr whatever they are.)
func Execute(ctx context.Context, args []string, around Surroundings) int {
	root := newRoot(around)
	root.SetArgs(args)
	root.SetIn(around.In)
	root.SetOut(around.Out)
	root.SetErr(around.Err)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	if err != nil {
		explain(around.Err, err, code)
	}
	return code
}

// globals are the flags of every command, and the surroundings.
type globals struct {
	envFile string
	around  Surroundings
}

func newRoot(around Surroundings) *cobra.Command {
	g := &globals{around: around}
	serve := newServe(g)
	root := &cobra.Command{
		Use:   "mini-asynq",
		Short: "A background-job server on PostgreSQL",
		Long: "Mini Asynq runs background jobs on PostgreSQL: enqueue over REST, from Go or in your own SQL transaction,\n" +
			"and follow every change of every job as one gap-free stream of events. Without a command it serves.",
		Args: noArgs, RunE: serve.RunE, SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&g.envFile, "env-file", "", "file with NAME=value lines (default: .env, if there is one)")
	root.Flags().AddFlagSet(serve.Flags())
	root.SetFlagErrorFunc(refuseFlag)
	root.AddCommand(serve, newMigrate(g), newHealthcheck(g), newDSN(g), newDoctor(g), &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "mini-asynq %s (%s)\n", version, commit)
		},
	})
	root.AddCommand(newEnqueue(g), newJobs(g), newQueues(g), newWorkers(g), newEvents(g), newConsumers(g), newWebhooks(g), newKeys(g), newAudit(g),
		newConfig(g), newHealth(g), newTop(g), newCompletion())
	return root
}

// newGroup is a command that only holds others.
func newGroup(name, short string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{Use: name, Short: short, Args: noArgs}
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.Name()
	}
	group.RunE = func(*cobra.Command, []string) error {
		return fmt.Errorf("%w: %s needs one of %s", errUsage, name, strings.Join(names, ", "))
	}
	group.AddCommand(commands...)
	return group
}

// noArgs refuses arguments: where commands are expected, with the nearest one.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%w: unknown command %q: did you mean %s?", errUsage, args[0], strings.Join(near, " or "))
	}
	return fmt.Errorf("%w: unknown command or argument %q", errUsage, args[0])
}

// someArgs wants from least to most arguments, whose names are in what; most 0: any number.
func someArgs(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most > 0 && len(args) > most {
			return fmt.Errorf("%w: %s takes %s", errUsage, cmd.CommandPath(), what)
		}
		return nil
	}
}

// refuseFlag names the nearest flag to one that does not exist.
func refuseFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near, ok := nearest(unknown.GetSpecifiedName(), names); ok {
			return fmt.Errorf("%w: %w: did you mean --%s?", errUsage, err, near)
		}
	}
	return fmt.Errorf("%w: %w", errUsage, err)
}

// nearest is the name with the smallest edit distance, if it is near enough to be what was meant.
func nearest(name string, names []string) (string, bool) {
	best, least := "", len(name)
	for _, candidate := range names {
		if d := distance(name, candidate); d < least {
			best, least = candidate, d
		}
	}
	return best, best != "" && least <= max(2, len(name)/3)
}
