package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mini-asynq/mini-asynq/internal/client"
)

func newKeys(g *globals) *cobra.Command {
	f := &clientFlags{}
	create := &cobra.Command{
		Use: "create NAME", Short: "Make an API key; its secret is printed once", Args: someArgs(1, 1, "a name for the key"),
		Example: "  mini-asynq keys create ci --scope enqueue --queue mail --expires 90d",
	}
	scopes := create.Flags().StringSlice("scope", nil, "enqueue, work, read, read:payload, operate, admin")
	role := create.Flags().String("role", "", "viewer, operator or admin, instead of scopes")
	queues := create.Flags().StringSlice("queue", nil, "the only queues that exist for the key (default: all)")
	expires := create.Flags().String("expires", "", "when it ends: 90d, or 2027-03-01T12:00:00Z (default: never)")
	create.RunE = f.with(g, func(ctx context.Context, s *session, args []string) error {
		body := map[string]any{"name": args[0]}
		switch {
		case len(*scopes) > 0 && *role != "":
			return fmt.Errorf("%w: --scope or --role, not both", errUsage)
		case len(*scopes) > 0:
			body["scopes"] = *scopes
		case *role != "":
			body["role"] = *role
		default:
			return fmt.Errorf("%w: keys create needs --scope or --role", errUsage)
		}
		if len(*queues) > 0 {
			body["queues"] = *queues
		}
		if *expires != "" {
			at, err := s.expiry(ctx, *expires)
			if err != nil {
				return err
			}
			body["expires_at"] = at
		}
		key, err := s.client.CreateKey(ctx, body)
		if err != nil {
			return err
		}
		return s.showSecret(key)
	})
	list := &cobra.Command{
		Use: "ls", Short: "List API keys", Args: noArgs,
		RunE: f.with(g, func(ctx context.Context, s *session, _ []string) error {
			page, err := s.client.Keys(ctx)
			if err != nil {
				return err
			}
			return showList(&s.screen, page.Data, page.NextCursor, keyRows)
		}),
	}
	revoke := &cobra.Command{
		Use: "revoke ID..", Short: "End API keys, on all nodes within seconds", Args: someArgs(1, 0, "the ids of keys"),
		RunE: f.with(g, func(ctx context.Context, s *session, ids []string) error {
			return s.forEach(ctx, ids, func(id string) error {
				if err := s.client.RevokeKey(ctx, id); err != nil {
					return err
				}
				s.talk("%s is revoked", id)
				return nil
			})
		}),
	}
	rotate := &cobra.Command{
		Use: "rotate ID", Short: "Make a key in place of another, which ends after the overlap",
		Args: someArgs(1, 1, "the id of a key"),
	}
	overlap := rotate.Flags().String("overlap", "", "how long both are valid (default 24h)")
	rotate.RunE = f.with(g, func(ctx context.Context, s *session, args []string) error {
		key, err := s.client.RotateKey(ctx, args[0], fields("overlap", *overlap))
		if err != nil {
			return err
		}
		return s.showSecret(key)
	})
	for _, c := range []*cobra.Command{revoke, rotate} {
		c.ValidArgsFunction = completer(g, f, keyIDs)
	}
	return onServer(g, newGroup("keys", "Make, list, rotate and revoke API keys", create, list, revoke, rotate), f)
}

// expiry is the end of a key: a time, or a span from the server's present.
func (s *session) expiry(ctx context.Context, given string) (string, error) {
	var span Duration
	if span.UnmarshalText([]byte(given)) != nil {
		if _, err := time.Parse(time.RFC3339, given); err != nil {
			return "", fmt.Errorf("%w: --expires %s: write 90d, or a time as 2027-03-01T12:00:00Z", errUsage, given)
		}
		return given, nil
	}
	if _, err := s.client.Health(ctx); err != nil {
		return "", err
	}
	now, ok := s.client.Now()
	if !ok {
		return "", errors.New("the server does not say what time it is: give --expires as a time")
	}
	return now.Add(time.Duration(span)).Format(time.RFC3339), nil
}

// showSecret puts the secret, and in a table nothing else, on stdout.
func (s *session) showSecret(key client.Doc[client.Key]) error {
	k := key.Value
	s.talk("key %s (%s), %s, queues %s, expires %s. The secret is shown this once.", k.Name, k.ID, rightsOf(k),
		queuesOf(k), moment(k.ExpiresAt))
	return s.showOne(key, func() table { return table{rows: [][]cell{plain(k.Secret)}} })
}

func rightsOf(k client.Key) string {
	if k.Role != "" {
		return "role " + k.Role
	}
	return strings.Join(k.Scopes, ",")
}

func queuesOf(k client.Key) string {
	if k.Queues == nil {
		return "*"
	}
	return strings.Join(k.Queues, ",")
}

func keyRows(items []client.Doc[client.Key]) table {
	t := table{head: []string{"ID", "NAME", "RIGHTS", "QUEUES", "CREATED", "BY", "EXPIRES", "LAST USED"}}
	for _, item := range items {
		k := item.Value
		t.rows = append(t.rows, plain(k.ID, k.Name, rightsOf(k), queuesOf(k), moment(k.CreatedAt), orDash(k.CreatedBy),
			moment(k.ExpiresAt), moment(k.LastUsedAt)))
	}
	return t
}
