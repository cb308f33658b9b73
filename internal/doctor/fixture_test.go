package doctor_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/doctor"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// config is that of a server with the defaults, on a database.
func config(dsn string) doctor.Config {
	return doctor.Config{
		Open: func(context.Context) (doctor.Database, error) { return doctor.Database{URL: dsn}, nil },
		Bind: "127.0.0.1", Address: "127.0.0.1:0", Loopback: true,
		AdminPassword: "password", DocumentedPassword: "password",
		DocumentedDatabaseUser: "postgres", DocumentedDatabasePassword: "postgres",
		KeepDone: 72 * time.Hour, KeepDead: 90 * 24 * time.Hour, KeepEvents: 72 * time.Hour,
		Connections: 21, Server: "http://127.0.0.1:1",
		// Other tests of this machine are at work: no check is skipped for want of time.
		TotalLimit: time.Minute, CheckLimit: 10 * time.Second, Patience: 200 * time.Millisecond,
	}
}

// examine gives the findings by id.
func examine(t *testing.T, c doctor.Config) map[string]doctor.Finding {
	t.Helper()
	report := doctor.Examine(t.Context(), c)
	require.Len(t, report.Findings, len(doctor.Checks()), "every check has a finding")
	byID := make(map[string]doctor.Finding, len(report.Findings))
	for _, f := range report.Findings {
		require.NotEmpty(t, f.Detail, f.ID)
		require.NotContains(t, f.Detail, "the check itself is broken", f.ID)
		if f.Status == doctor.Warn || f.Status == doctor.Fail {
			require.NotEmpty(t, f.Advice, f.ID)
		}
		byID[f.ID] = f
	}
	return byID
}

// requireFinding asserts the status of a check and a part of what it says.
func requireFinding(t *testing.T, found map[string]doctor.Finding, id string, status doctor.Status, says string) doctor.Finding {
	t.Helper()
	f, there := found[id]
	require.True(t, there, id)
	require.Equal(t, status, f.Status, "%s: %s", id, f.Detail)
	require.Contains(t, f.Detail, says, id)
	return f
}

// requireOnly asserts that, beside the named checks, nothing is wrong.
func requireOnly(t *testing.T, found map[string]doctor.Finding, ids ...string) {
	t.Helper()
	for id, f := range found {
		if f.Status == doctor.Warn || f.Status == doctor.Fail {
			require.Contains(t, ids, id, f.Detail)
		}
	}
}

// sharedServerFaults are those of the server of the tests: it trades durability for speed.
var sharedServerFaults = []string{"database.durability", "vacuum.on"}

// as is an address with other credentials.
func as(t *testing.T, dsn, user, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.User = url.UserPassword(user, password)
	return u.String()
}

// newRole makes a role of this test's own, which may connect and no more, and gives its name and address.
func newRole(t *testing.T, db *pgtest.DB) (name, dsn string) {
	t.Helper()
	name = "doctor_" + db.Name()
	db.Exec(t, `CREATE ROLE `+name+` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		db.Exec(t, `DROP OWNED BY `+name+`; DROP ROLE `+name)
	})
	return name, as(t, db.DSN(), name, "secret")
}

// begin opens a transaction that stays open until the test ends.
func begin(t *testing.T, db *pgtest.DB, sql string) {
	t.Helper()
	conn := db.Conn(t)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), sql)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ctx)
	})
}

// addJob stores a job by hand, as old as age.
func addJob(t *testing.T, db *pgtest.DB, queue, kind, age string) {
	t.Helper()
	db.Exec(t, `INSERT INTO mini_asynq.jobs (queue, kind, attempt_limit, run_at) VALUES ($1, $2, 4, clock_timestamp() - $3::text::interval)`,
		queue, kind, age)
}
