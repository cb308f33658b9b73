package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// fixture is a database of its own, and the verbs that tests use again and again.
type fixture struct {
	t  *testing.T
	db *pgtest.DB
	*pgxpool.Pool
}

func setup(t *testing.T) fixture {
	t.Helper()
	t.Parallel()
	db := pgtest.NewDB(t)
	return fixture{t, db, db.Pool(t)}
}

func (f fixture) enqueue(params ...jobs.Params) []jobs.Enqueued {
	f.t.Helper()
	out, err := jobs.Enqueue(f.t.Context(), f, params...)
	require.NoError(f.t, err)
	return out
}

func (f fixture) claim(queue string, limit int) []*jobs.Claimed {
	f.t.Helper()
	return f.claimFor(queue, limit, time.Minute)
}

func (f fixture) claimFor(queue string, limit int, lease time.Duration) []*jobs.Claimed {
	f.t.Helper()
	turn := jobs.Turn{Claims: []jobs.Claim{{Queue: queue, Limit: limit, Worker: "w", Lease: lease}}}
	result, err := turn.Do(f.t.Context(), f)
	require.NoError(f.t, err)
	return result.Claimed[0]
}

func (f fixture) finish(outcomes ...jobs.Outcome) []jobs.Verdict {
	f.t.Helper()
	verdicts, err := jobs.Finish(f.t.Context(), f, outcomes)
	require.NoError(f.t, err)
	return verdicts
}

func (f fixture) get(id uuid.UUID) *jobs.Job {
	f.t.Helper()
	j, err := jobs.Get(f.t.Context(), f, id)
	require.NoError(f.t, err)
	return j
}

func (f fixture) attempts(id uuid.UUID) []jobs.Attempt {
	f.t.Helper()
	list, err := jobs.Attempts(f.t.Context(), f, id, 0, 1000)
	require.NoError(f.t, err)
	return list
}

// count runs a query that returns one number.
func (f fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.QueryRow(f.t.Context(), sql, args...).Scan(&n))
	return n
}

// events are the types of a job's events, in order.
func (f fixture) events(id uuid.UUID) (types []string) {
	f.t.Helper()
	rows, err := f.Query(context.Background(), `SELECT type::text FROM mini_asynq.events WHERE job_id = $1 ORDER BY id`, id)
	require.NoError(f.t, err)
	for rows.Next() {
		var s string
		require.NoError(f.t, rows.Scan(&s))
		types = append(types, s)
	}
	require.NoError(f.t, rows.Err())
	return types
}

func failure() *jobs.Failure { return jobs.NewFailure("k", "TestError", "it failed", "stack") }
