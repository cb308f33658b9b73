package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

// newHealth asks the server how it is. Exit codes: 0 well, 1 a check is red, 6 unavailable or out of reach.
func newHealth(g *globals) *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "health", Short: "Show how the server is, check by check", Args: noArgs,
		RunE: f.with(g, func(ctx context.Context, s *session, _ []string) error {
			health, err := s.client.Health(ctx)
			if err != nil {
				return err
			}
			if err := s.showOne(health, func() table { return healthLines(health.Value) }); err != nil {
				return err
			}
			switch health.Value.Status {
			case "ok":
				return nil
			case "degraded":
				return fmt.Errorf("%w: the server is degraded", errRed)
			}
			return fmt.Errorf("%w: it is %s", errUnwell, health.Value.Status)
		}),
	}
	return onServer(g, cmd, f)
}

func healthLines(h client.Health) table {
	t := table{rows: [][]cell{{{text: "status"}, coloured(h.Status)}}}
	add := func(name, value string) {
		if value != "" {
			t.rows = append(t.rows, plain(name, value))
		}
	}
	add("node", h.Node)
	add("version", h.Version)
	add("environment", h.Environment)
	if h.Leader != nil && *h.Leader {
		add("leader", "yes")
	}
	for _, name := range slices.Sorted(mapKeys(h.Checks)) {
		value := cell{h.Checks[name], red}
		if value.text == "ok" {
			value.colour = green
		}
		t.rows = append(t.rows, []cell{{text: name}, value})
	}
	return t
}
