package events_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestCodesAgreeWithDatabase(t *testing.T) {
	t.Parallel()
	builtin, stored, err := events.Codes(t.Context(), pinned(t, pgtest.NewDB(t).DSN()))
	require.NoError(t, err)
	require.NotEmpty(t, stored)
	require.Equal(t, stored, builtin)
}

// A node of the version before reads what a newer one writes.
func TestCodeOfNewerVersionIsLearned(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	f := follow(t, db.DSN(), options{})
	f.ready(t)
	conn, err := pgx.Connect(t.Context(), db.DSN())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	for _, sql := range []string{
		`ALTER TYPE mini_asynq.event_type ADD VALUE 'queue.renamed'`,
		`INSERT INTO mini_asynq.event_codes (code, event) VALUES (199, 'queue.renamed')`,
		`SELECT mini_asynq.note(code, queue, NULL, NULL, NULL, NULL, NULL) FROM (VALUES (121, 'a'), (199, 'b'), (121, 'c')) AS n(code, queue)`,
		`SELECT mini_asynq.wake()`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	pgtest.Eventually(t, 10*time.Second, "the events arrive", func() bool { return len(f.events()) == 3 })
	var types []string
	for i, e := range f.events() {
		require.EqualValues(t, i+1, e.Seq)
		types = append(types, e.Type+" "+e.Queue)
	}
	require.Equal(t, []string{"queue.created a", "queue.renamed b", "queue.created c"}, types)
}
