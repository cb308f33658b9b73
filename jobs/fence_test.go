package jobs_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestFenceOfLostClaimIsNotGivenAgain: a crash takes back a claim that was not on the disk yet, and with it the advance of
// the sequence. The job is pending again with its attempt uncharged, and the late word of the first claimant is refused.
func TestFenceOfLostClaimIsNotGivenAgain(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, map[string]string{"wal_writer_delay": "10s", "checkpoint_timeout": "1h", "autovacuum": "off"})
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), cluster.DSN())
		require.NoError(t, err)
		return conn
	}
	claim := func(conn *pgx.Conn) []*jobs.Claimed {
		result, err := jobs.Turn{Claims: []jobs.Claim{{Queue: "q", Limit: 10, Worker: "w", Lease: time.Minute}}}.Do(t.Context(), conn)
		require.NoError(t, err)
		return result.Claimed[0]
	}
	conn := connect()
	// One job: the log of a larger claim fills pages, which are written out before the commit.
	_, err := jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	lost := claim(conn)
	require.Len(t, lost, 1)
	cluster.Crash()
	cluster.Start()

	conn = connect()
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	job, err := jobs.Get(t.Context(), conn, lost[0].ID)
	require.NoError(t, err)
	require.Equal(t, jobs.Pending, job.Status, "the claim was on the disk: this test shows nothing")
	require.Zero(t, job.Attempt)
	again := claim(conn)
	require.Len(t, again, 1)
	require.Greater(t, again[0].Fence, lost[0].Fence)
	verdicts, err := jobs.Finish(t.Context(), conn, []jobs.Outcome{jobs.Complete(&lost[0].Job, nil)})
	require.NoError(t, err)
	require.False(t, verdicts[0].Landed)
	// Mending once is enough: the fence goes on from there.
	_, err = jobs.Enqueue(t.Context(), conn, jobs.Params{Queue: "q"})
	require.NoError(t, err)
	require.Equal(t, again[0].Fence+1, claim(conn)[0].Fence)
}
