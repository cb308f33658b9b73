package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/app"
)

// newDSN prints the address of the database, for psql and for programs that enqueue or work by themselves.
func newDSN(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "dsn", Short: "Print the address of the database that the server uses, password included", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := ReadEnvironment(g.around.Environ, g.envFile)
			if err != nil {
				return err
			}
			config, err := AppConfig(env)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Minute)
			defer cancel()
			address, err := app.DatabaseAddress(ctx, config)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), address)
			return nil
		},
	}
}
