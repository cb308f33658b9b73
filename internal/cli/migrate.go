package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/app"
	"github.com/mini-asynq/mini-asynq/migrations"
)

// migrateDeadline bounds a migration from the command line: a table that is rewritten takes its time.
const migrateDeadline = time.Hour

// sayVersion tells where the schema stands now.
func sayVersion(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
	states, err := migrations.Status(ctx, conn)
	if err != nil {
		return err
	}
	var version int64
	for _, s := range states {
		if !s.AppliedAt.IsZero() {
			version = s.Version
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "the schema is at version %d of %d\n", version, len(states))
	return nil
}

func newMigrate(g *globals) *cobra.Command {
	var to int64
	// with runs fn on a connection to the configured database, or to the private one.
	with := func(fn func(context.Context, *cobra.Command, *pgx.Conn) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			env, err := ReadEnvironment(g.around.Environ, g.envFile)
			if err != nil {
				return err
			}
			config, err := AppConfig(env)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), migrateDeadline)
			defer cancel()
			return app.WithDatabase(ctx, config, func(conn *pgx.Conn) error { return fn(ctx, cmd, conn) })
		}
	}
	up := &cobra.Command{
		Use: "up", Short: "Bring the schema to the version of this server, or to an older one with --to", Args: noArgs,
		RunE: with(func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			if cmd.Flags().Changed("to") {
				if err := migrations.To(ctx, conn, to); err != nil {
					return err
				}
			} else if err := migrations.Up(ctx, conn); err != nil {
				return err
			}
			return sayVersion(ctx, cmd, conn)
		}),
	}
	up.Flags().Int64Var(&to, "to", 0, "version to stop at")
	down := &cobra.Command{
		Use: "down", Short: "Take the schema back by one version, or to the version of --to; this loses data", Args: noArgs,
		RunE: with(func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			if !cmd.Flags().Changed("to") {
				states, err := migrations.Status(ctx, conn)
				if err != nil {
					return err
				}
				for _, s := range states {
					if !s.AppliedAt.IsZero() {
						to = s.Version - 1
					}
				}
			}
			if err := migrations.Down(ctx, conn, to); err != nil {
				return err
			}
			return sayVersion(ctx, cmd, conn)
		}),
	}
	down.Flags().Int64Var(&to, "to", 0, "version to go back to; 0 removes everything")
	status := &cobra.Command{
		Use: "status", Short: "Show which migrations are applied", Args: noArgs,
		RunE: with(func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			states, err := migrations.Status(ctx, conn)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "VERSION\tFILE\tAPPLIED")
			for _, s := range states {
				applied := "pending"
				if !s.AppliedAt.IsZero() {
					applied = s.AppliedAt.UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(table, "%d\t%s\t%s\n", s.Version, s.File, applied)
			}
			return table.Flush()
		}),
	}
	return newGroup("migrate", "Change or show the database schema", up, down, status)
}
