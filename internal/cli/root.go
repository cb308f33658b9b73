package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version and commit are set by the linker (make build).
var (
	version = "dev"
	commit  = "unknown"
)

// Exit codes of the command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errUsage marks what the caller got wrong.
var errUsage = errors.New("usage")

// Run executes a command line and returns its exit code. ctx ends at a signal to stop. Data goes to stdout, talk to
// stderr.
func Run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "%v\nRun 'mini-asynq --help' for usage.\n", err)
		return exitUsage
	}
	fmt.Fprintln(os.Stderr, "mini-asynq: "+err.Error())
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return exitFailed
}

// globals are the flags of every command.
type globals struct{ envFile string }

func newRoot() *cobra.Command {
	var g globals
	serve := newServe(&g)
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.AddCommand(serve, newMigrate(&g), newHealthcheck(&g), newDSN(&g), newDoctor(&g), &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "mini-asynq %s (%s)\n", version, commit)
		},
	})
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: unknown command or argument %q", errUsage, args[0])
	}
	return nil
}
