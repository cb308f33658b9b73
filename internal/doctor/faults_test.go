package doctor_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/doctor"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
	"github.com/mini-asynq/mini-asynq/migrations"
	"github.com/mini-asynq/mini-asynq/workers"
)

// TestFaultsInADatabaseAreFound breaks one thing in a database of its own, by SQL, and expects the check that is meant for it
// to say so. mend: what is printed as SQL mends it.
func TestFaultsInADatabaseAreFound(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, sql, id string
		status        doctor.Status
		says          string
		mend          bool
	}{
		{"a table is gone", `DROP TABLE mini_asynq.idempotency_keys`, "schema.tables", doctor.Fail, "table idempotency_keys", false},
		{"a column is gone", `ALTER TABLE mini_asynq.audit DROP COLUMN reason`, "schema.tables", doctor.Fail, "column audit.reason", false},
		{"a constraint is gone", `ALTER TABLE mini_asynq.jobs DROP CONSTRAINT jobs_attempt_bound`, "schema.tables", doctor.Fail, "constraint jobs_attempt_bound of jobs", false},
		{"a view is gone", `DROP VIEW mini_asynq.job_attempts`, "schema.tables", doctor.Fail, "view job_attempts", true},
		{"a crash would empty a table", `ALTER TABLE mini_asynq.queues SET UNLOGGED`, "schema.tables", doctor.Fail, "queues is unlogged", true},
		{"an index is gone", `DROP INDEX mini_asynq.jobs_claim`, "schema.indexes", doctor.Fail, "jobs_claim on jobs is missing", true},
		{"an index is another", `DROP INDEX mini_asynq.jobs_due; CREATE INDEX jobs_due ON mini_asynq.jobs (created_at)`,
			"schema.indexes", doctor.Fail, "jobs_due is another index", true},
		{"an index is invalid", `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mini_asynq.jobs_lease'::regclass`,
			"schema.indexes", doctor.Fail, "jobs_lease is invalid", true},
		{"a function is gone", `DROP FUNCTION mini_asynq.refuse_claim()`, "schema.functions", doctor.Fail, "refuse_claim is missing", true},
		{"a function was changed", `CREATE OR REPLACE FUNCTION mini_asynq.pacer_sleeps() RETURNS boolean LANGUAGE sql AS 'SELECT false'`,
			"schema.functions", doctor.Fail, "pacer_sleeps was changed", true},
		{"a function runs as its caller", `ALTER FUNCTION mini_asynq.jobs_inserted() SECURITY INVOKER`,
			"schema.functions", doctor.Fail, "jobs_inserted was changed", true},
		{"a trigger is gone", `DROP TRIGGER jobs_updated ON mini_asynq.jobs`, "schema.triggers", doctor.Fail, "jobs_updated on jobs is missing", true},
		{"a trigger is off", `ALTER TABLE mini_asynq.jobs DISABLE TRIGGER jobs_inserted`, "schema.triggers", doctor.Fail, "jobs_inserted on jobs is disabled", true},
		{"a stranger's trigger", `CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER strange BEFORE INSERT ON mini_asynq.jobs FOR EACH ROW EXECUTE FUNCTION public.f()`,
			"schema.strangers", doctor.Warn, "trigger strange on jobs", true},
		{"a column that inserts do not know", `ALTER TABLE mini_asynq.jobs ADD COLUMN surprise text NOT NULL`,
			"schema.strangers", doctor.Warn, "column surprise of jobs", true},
		{"a rule", `CREATE RULE quiet AS ON DELETE TO mini_asynq.queues DO INSTEAD NOTHING`, "schema.strangers", doctor.Warn, "rule quiet on queues", true},
		{"row security", `ALTER TABLE mini_asynq.jobs ENABLE ROW LEVEL SECURITY`, "schema.strangers", doctor.Warn, "row security on jobs", true},
		{"published without identity", `ALTER TABLE mini_asynq.outbox_past REPLICA IDENTITY NOTHING; CREATE PUBLICATION p FOR ALL TABLES`,
			"schema.publication", doctor.Fail, "outbox_past", true},
		{"a migration was left out", `DELETE FROM mini_asynq.migrations WHERE version_id = 2`, "schema.version", doctor.Fail, "missing in between: 2", false},
		{"a newer schema", `UPDATE mini_asynq.compatibility SET min_server = 99`, "schema.version", doctor.Fail, "newer than this program", false},
		{"a newer server was here", `INSERT INTO mini_asynq.migrations (version_id, is_applied) VALUES (99, true)`,
			"schema.version", doctor.Warn, "at version 99", false},

		{"autovacuum is off for a table", `ALTER TABLE mini_asynq.jobs SET (autovacuum_enabled = off)`, "vacuum.on", doctor.Fail, "autovacuum", true},
		{"partitions are not made", `SELECT mini_asynq.drop_partition(partition) FROM mini_asynq.partitions() WHERE parent = 'outbox'`,
			"storage.ahead", doctor.Fail, "outbox from", true},
		{"few partitions are made", `SELECT mini_asynq.drop_partition(partition) FROM mini_asynq.partitions() WHERE parent = 'outbox' AND begins > clock_timestamp() + interval '1 day'`,
			"storage.ahead", doctor.Warn, "outbox from", true},
		{"a table is no more looked after", `DELETE FROM mini_asynq.partitioned WHERE parent = 'jobs_dead'`, "storage.ahead", doctor.Fail, "lacks jobs_dead", false},
		{"rows in a default partition", `INSERT INTO mini_asynq.outbox (at, n, job_ids, events) VALUES ('2025-06-01', 1, ARRAY[NULL::uuid],
			ARRAY[ROW(121, NULL, NULL, NULL, NULL, 'q', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::mini_asynq.event])`,
			"storage.default", doctor.Fail, "rows in outbox_default", true},
		{"retention is behind", `SELECT mini_asynq.create_partition('jobs_done', '2026-01-01 00:00:00+00')`, "storage.retention", doctor.Fail, "jobs_done_p20260101", true},
		{"a sequence nears its end", `SELECT setval('mini_asynq.fence', 9000000000000000000)`, "storage.sequences", doctor.Fail, "fence has used 98 %", false},
		{"the order of events is broken", `INSERT INTO mini_asynq.jobs (kind, attempt_limit) SELECT 'k', 1 FROM generate_series(1, 100); SELECT setval('mini_asynq.outbox_id', 1)`,
			"storage.sequences", doctor.Fail, "outbox_id stands at 1", true},

		{"a promise for ever", `SELECT setval('mini_asynq.promise', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 86400000)`,
			"stream.promise", doctor.Fail, "is promised for 23 h", true},
		{"restored from elsewhere", `INSERT INTO mini_asynq.epochs (epoch, base_snap, base_seq, floor_seq, identity) VALUES (1, pg_current_snapshot(), 0, 0, 'elsewhere')`,
			"stream.epoch", doctor.Warn, "restored, cloned, or promoted", false},
		{"a row that must not be", `INSERT INTO mini_asynq.jobs (kind, attempt_limit) VALUES ('k', 1);
			SET session_replication_role = replica; UPDATE mini_asynq.jobs SET status = 'scheduled'; RESET session_replication_role`,
			"stream.invariants", doctor.Fail, "E5", false},

		{"a queue is paused with jobs in it", `INSERT INTO mini_asynq.jobs (queue, kind, attempt_limit) VALUES ('mail', 'k', 1);
			INSERT INTO mini_asynq.queues (name, paused, paused_at, pause_reason) VALUES ('mail', true, clock_timestamp(), 'smtp')`,
			"jobs.paused", doctor.Warn, "with 1 jobs (smtp)", false},
		{"a queue was forgotten", `INSERT INTO mini_asynq.queues (name, paused, paused_at) VALUES ('old', true, clock_timestamp() - interval '30 days')`,
			"jobs.paused", doctor.Warn, "old for 30 days with 0 jobs", false},
		{"nobody works", `INSERT INTO mini_asynq.jobs (queue, kind, attempt_limit, run_at) VALUES ('mail', 'k', 1, clock_timestamp() - interval '1 min')`,
			"jobs.unserved", doctor.Fail, "no server is connected", false},
		{"a lease ran out", `INSERT INTO mini_asynq.jobs (kind, attempt_limit, attempt, status, locked_by, locked_at, lease_expires_at, from_status)
			VALUES ('k', 4, 1, 'running', 'x', clock_timestamp() - interval '1 min', clock_timestamp() - interval '30 s', 'pending')`,
			"jobs.leases", doctor.Fail, "1 jobs run under a lease that is over", false},
		{"fences would be given out twice", `INSERT INTO mini_asynq.jobs (kind, attempt_limit, attempt, status, fence, locked_by, locked_at, lease_expires_at, from_status)
			VALUES ('k', 4, 1, 'running', 500, 'x', clock_timestamp(), clock_timestamp() + interval '1 hour', 'pending')`,
			"storage.sequences", doctor.Fail, "fence stands at", true},
		{"nobody promotes", `INSERT INTO mini_asynq.jobs (kind, attempt_limit, status, run_at) VALUES ('k', 4, 'scheduled', clock_timestamp() - interval '1 min')`,
			"jobs.due", doctor.Fail, "1 jobs were due", false},
		{"a crash", `TRUNCATE mini_asynq.fence_is_whole`, "jobs.fence", doctor.Warn, "recovered from a crash", true},
		{"jobs die", died(12, "exhausted"), "jobs.dead", doctor.Warn, "12 of kind mail.send in queue default (exhausted)", false},
		{"poison", died(1, "poison"), "jobs.poison", doctor.Warn, "mail.send", false},
		{"a worker is gone", `INSERT INTO mini_asynq.workers (name, queues, slots, last_seen_at) VALUES ('w1', '{"*": 1}', 1, clock_timestamp() - interval '10 min')`,
			"jobs.workers", doctor.Warn, "w1 (silent for 60", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewDB(t)
			conn := db.Conn(t)
			_, err := conn.Exec(t.Context(), row.sql)
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
			c := config(db.DSN())
			c.Patience = 10 * time.Millisecond
			f := requireFinding(t, examine(t, c), row.id, row.status, row.says)
			if !row.mend {
				return
			}
			require.NotEmpty(t, f.FixSQL)
			mender := db.Conn(t)
			for _, sql := range batches(f.FixSQL) {
				_, err := mender.Exec(t.Context(), sql)
				require.NoError(t, err, sql)
			}
			after := examine(t, c)[row.id]
			if row.id != "vacuum.on" { // it is off for the whole server of the tests
				require.Equal(t, doctor.OK, after.Status, after.Detail)
			}
		})
	}
}

// died is SQL that makes dead jobs.
func died(n int, reason string) string {
	return fmt.Sprintf(`SET session_replication_role = replica;
		INSERT INTO mini_asynq.jobs (kind, attempt_limit) SELECT 'mail.send', 1 FROM generate_series(1, %d);
		INSERT INTO mini_asynq.jobs_finished
		SELECT (jsonb_populate_record(NULL::mini_asynq.jobs_finished, to_jsonb(j) || jsonb_build_object(
		            'status', 'dead', 'reason', '%s', 'from_status', 'running', 'finished_at', clock_timestamp()))).*
		  FROM mini_asynq.jobs j;
		DELETE FROM mini_asynq.jobs`, n, reason)
}

// batches splits SQL as psql would: what must not be in a transaction stands alone.
func batches(sql string) []string {
	if !strings.Contains(sql, "CONCURRENTLY") && !strings.Contains(sql, "ALTER SYSTEM") {
		return []string{sql}
	}
	return strings.Split(sql, "\n")
}

func TestMissingSchemaIsNamed(t *testing.T) {
	t.Parallel()
	found := examine(t, config(pgtest.NewEmptyDB(t).DSN()))
	f := requireFinding(t, found, "schema.version", doctor.Fail, "is not there")
	require.Contains(t, f.Advice[0], "migrate up")
	requireOnly(t, found, append(sharedServerFaults, "schema.version")...)
	requireFinding(t, found, "jobs.lag", doctor.Skipped, "the schema is not there")
}

func TestOldSchemaIsNamed(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyDB(t)
	require.NoError(t, migrations.To(t.Context(), db.Conn(t), 3))
	requireFinding(t, examine(t, config(db.DSN())), "schema.version", doctor.Fail, "at version 3, this program needs")
}

// TestRuntimeRoleNeedsWhatIsAskedFor: a role with exactly the rights that the doctor asks for runs a node, and one that lacks
// one is told which, and how to get it.
func TestRuntimeRoleNeedsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	role, dsn := newRole(t, db)
	c := config(dsn)
	requireFinding(t, examine(t, c), "rights.role", doctor.Fail, "lacks")
	db.Exec(t, `REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA mini_asynq FROM PUBLIC`)
	f := requireFinding(t, examine(t, c), "rights.role", doctor.Fail, "lacks")
	require.Contains(t, f.FixSQL, `GRANT EXECUTE ON ROUTINE "mini_asynq"."mend_fence" TO "`+role+`";`)
	db.Exec(t, f.FixSQL)
	requireOnly(t, examine(t, c), sharedServerFaults...)

	node(t, dsn, nil)
	addJob(t, db, "default", "work", "0 s")
	pgtest.Eventually(t, 20*time.Second, "the role works", func() bool {
		return pgtest.One[int64](t, db, `SELECT count(*) FROM mini_asynq.jobs_finished`) == 1
	})
	requireOnly(t, examine(t, c), sharedServerFaults...)
	for _, right := range []string{"DELETE ON mini_asynq.jobs", "INSERT ON mini_asynq.ticks", "UPDATE ON SEQUENCE mini_asynq.promise", "EXECUTE ON FUNCTION mini_asynq.identity()"} {
		db.Exec(t, `REVOKE `+right+` FROM `+role)
		f := requireFinding(t, examine(t, c), "rights.role", doctor.Fail, strings.Fields(right)[0])
		db.Exec(t, f.FixSQL)
	}
	requireFinding(t, examine(t, c), "rights.role", doctor.OK, "")
}

// TestRoleSettingsAreJudged: those that stand in the way, and those that do no harm.
func TestRoleSettingsAreJudged(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	role, dsn := newRole(t, db)
	for _, row := range []struct {
		set, id string
		status  doctor.Status
		says    string
	}{
		{"session_replication_role = replica", "database.settings", doctor.Fail, "triggers do not fire"},
		{"statement_timeout = '500ms'", "database.settings", doctor.Fail, "cut off after 500 ms"},
		{"statement_timeout = '10s'", "database.settings", doctor.Warn, "cut off after 10000 ms"},
		{"idle_session_timeout = '20s'", "database.settings", doctor.Warn, "LISTEN"},
		{"lock_timeout = '2ms'", "database.settings", doctor.Warn, "any wait"},
		{"default_transaction_isolation = serializable", "database.settings", doctor.Warn, "40001"},
		{"search_path = nowhere", "database.settings", doctor.OK, "search_path is set"},
		{"timezone = 'Asia/Kathmandu'", "database.settings", doctor.OK, "TimeZone is set"},
		{"synchronous_commit = off", "database.durability", doctor.Fail, "synchronous_commit"},
		{"default_transaction_read_only = on", "database.writable", doctor.Fail, "read-only"},
		{"track_counts = off", "vacuum.on", doctor.Fail, "track_counts"},
	} {
		db.Exec(t, `ALTER ROLE `+role+` IN DATABASE `+db.Name()+` SET `+row.set)
		requireFinding(t, examine(t, config(dsn)), row.id, row.status, row.says)
		db.Exec(t, `ALTER ROLE `+role+` IN DATABASE `+db.Name()+` RESET ALL`)
	}
	requireFinding(t, examine(t, config(dsn)), "database.settings", doctor.OK, "none that matters")
}

func TestConnectionLimitsAreFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	_, dsn := newRole(t, db)
	db.Exec(t, `ALTER DATABASE `+db.Name()+` CONNECTION LIMIT 20`)
	f := requireFinding(t, examine(t, config(dsn)), "database.connections", doctor.Fail, "allows 20 connections and one node needs 21")
	require.Contains(t, f.FixSQL, "CONNECTION LIMIT -1")
	c := config(db.DSN())
	c.Connections = 100_000
	requireFinding(t, examine(t, c), "database.connections", doctor.Fail, "one node needs 100000")
}

func TestUnreachableDatabasesAreNamed(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	for _, row := range []struct{ dsn, says string }{
		{"postgres://postgres:x@127.0.0.1:1/x?sslmode=disable", "connection refused"},
		{"postgres://postgres:x@nowhere.invalid/x?sslmode=disable", "the host nowhere.invalid is not known"},
		{as(t, db.DSN(), "postgres", "wrong"), "wrong password"},
		{strings.Replace(db.DSN(), db.Name(), "not_there", 1), "the database does not exist"},
		{strings.Replace(db.DSN(), "sslmode=disable", "sslmode=require", 1), "server refused TLS"},
		{"postgres:///x?host=/nowhere/at/all", "there is no socket"},
		{"postgres://[", "cannot be read"},
	} {
		found := examine(t, config(row.dsn))
		f := requireFinding(t, found, "database.reachable", doctor.Fail, row.says)
		require.NotContains(t, f.Detail, "wrong@")
		requireFinding(t, found, "schema.version", doctor.Skipped, "not reached")
	}
	report := doctor.Examine(t.Context(), config("postgres://postgres:x@127.0.0.1:1/x?sslmode=disable"))
	require.False(t, report.Reached)
	require.True(t, report.Red())
}

// TestClockSkewIsFound counts the skew without the way.
func TestClockSkewIsFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	for skew, want := range map[time.Duration]struct {
		status doctor.Status
		says   string
	}{
		10 * time.Millisecond: {doctor.OK, "within"},
		5 * time.Second:       {doctor.Warn, "ahead of"},
		-5 * time.Minute:      {doctor.Fail, "behind"},
	} {
		c := config(db.DSN()).WithClock(func() time.Time { return time.Now().Add(skew) })
		requireFinding(t, examine(t, c), "database.clock", want.status, want.says)
	}
}

func TestWraparoundIsJudged(t *testing.T) {
	t.Parallel()
	require.Equal(t, doctor.OK, doctor.WraparoundStatus(250_000_000))
	require.Equal(t, doctor.Warn, doctor.WraparoundStatus(1_200_000_000))
	require.Equal(t, doctor.Fail, doctor.WraparoundStatus(1_900_000_000))
}

// TestDeadRowsAreFound: with autovacuum off nobody comes.
func TestDeadRowsAreFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	conn := db.Conn(t)
	for range 10 {
		_, err := conn.Exec(t.Context(), `INSERT INTO mini_asynq.settings (name, value) SELECT i::text, '1' FROM generate_series(1, 5000) i
			ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value`)
		require.NoError(t, err)
	}
	_, err := conn.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	pgtest.Eventually(t, 10*time.Second, "statistics are there", func() bool {
		return pgtest.One[int64](t, db, `SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'mini_asynq.settings'::regclass`) > 40_000
	})
	f := requireFinding(t, examine(t, config(db.DSN())), "vacuum.bloat", doctor.Warn, "settings has")
	require.Equal(t, `VACUUM (ANALYZE) "mini_asynq"."settings";`, f.FixSQL)
}

// TestBlockedTableDoesNotStopTheExamination: who holds the lock is said, and what cannot be read behind it is skipped.
func TestBlockedTableDoesNotStopTheExamination(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	begin(t, db, `LOCK TABLE mini_asynq.jobs IN ACCESS EXCLUSIVE MODE`)
	var found map[string]doctor.Finding
	// Only time makes the lock old enough to be worth a word.
	pgtest.Eventually(t, 20*time.Second, "the lock is found", func() bool {
		found = examine(t, config(db.DSN()))
		return found["transactions.locks"].Status != doctor.OK
	})
	f := requireFinding(t, found, "transactions.locks", doctor.Warn, "holds a lock on jobs")
	require.Contains(t, f.FixSQL, "pg_terminate_backend(")
	requireFinding(t, found, "jobs.leases", doctor.Skipped, "locked")
	requireFinding(t, found, "storage.ahead", doctor.OK, "")
}

// TestEventsWithoutAServerAreFound: what SQL clients enqueue waits, and that is said as what it is.
func TestEventsWithoutAServerAreFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	addJob(t, db, "default", "k", "0 s")
	db.Exec(t, `UPDATE mini_asynq.outbox SET at = clock_timestamp() - interval '20 s'`)
	requireFinding(t, examine(t, config(db.DSN())), "stream.lag", doctor.Warn, "no server is connected")
}

// TestHeldStreamIsFound: the node's sessions are there, and events get no position.
func TestHeldStreamIsFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	node(t, db.DSN(), nil)
	begin(t, db, `LOCK TABLE mini_asynq.ticks IN EXCLUSIVE MODE`) // it can be read, and nobody can tick
	db.Exec(t, `INSERT INTO mini_asynq.outbox (at, n, job_ids, events) SELECT clock_timestamp() - interval '1 min', 1, ARRAY[NULL::uuid],
		ARRAY[ROW(121, NULL, NULL, NULL, NULL, 'q', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::mini_asynq.event]`)
	requireFinding(t, examine(t, config(db.DSN())), "stream.lag", doctor.Fail, "the stream stands still")
}

// TestJobsWithoutWorkersAreToldApart: queues that nobody serves, kinds that nobody handles, and a backlog that is being
// worked on.
func TestJobsWithoutWorkersAreToldApart(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	engine := node(t, db.DSN(), func(c *workers.Config) { c.Queues = map[string]int{"mail": 1} })
	addJob(t, db, "reports", "work", "10 min")
	addJob(t, db, "mail", "unknown.kind", "1 min")
	addJob(t, db, "mail", "work", "1 min")
	engine.Dispatcher.Hint()
	pgtest.Eventually(t, 20*time.Second, "the job with a handler is done", func() bool {
		return pgtest.One[int64](t, db, `SELECT count(*) FROM mini_asynq.jobs_finished`) == 1
	})
	c := config(db.DSN())
	c.Queues = map[string]int{"mail": 1}
	found := examine(t, c)
	f := requireFinding(t, found, "jobs.unserved", doctor.Fail, "queue reports, kind work (1 jobs, the oldest for 10 min)")
	require.NotContains(t, f.Detail, "mail")
	require.Contains(t, f.Advice[0], "leaves out reports")
	f = requireFinding(t, found, "jobs.kinds", doctor.Warn, "queue mail, kind unknown.kind")
	require.NotContains(t, f.Detail, "reports")

	// A remote worker that lives takes both.
	db.Exec(t, `INSERT INTO mini_asynq.workers (name, queues, slots) VALUES ('w', '{"*": 1}', 1)`)
	found = examine(t, c)
	requireFinding(t, found, "jobs.unserved", doctor.OK, "")
	requireFinding(t, found, "jobs.kinds", doctor.OK, "")
	requireFinding(t, found, "jobs.lag", doctor.Warn, "queue reports")
}

func TestDefaultPasswordsAreFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	for _, row := range []struct {
		change func(*doctor.Config)
		status doctor.Status
		says   string
	}{
		{func(*doctor.Config) {}, doctor.OK, "this machine only"},
		{func(c *doctor.Config) { c.Bind, c.Loopback = "0.0.0.0", false }, doctor.Fail, "bound to 0.0.0.0"},
		{func(c *doctor.Config) { c.Bind, c.Loopback, c.AdminPassword = "0.0.0.0", false, "" }, doctor.Fail, "bound to 0.0.0.0"},
		{func(c *doctor.Config) { c.Bind, c.Loopback, c.Dev = "0.0.0.0", false, true }, doctor.Warn, "development mode"},
		{func(c *doctor.Config) { c.Bind, c.Loopback, c.AdminPassword = "0.0.0.0", false, "short" }, doctor.Fail, "shorter than 12"},
		{func(c *doctor.Config) { c.PublicURL = "https://jobs.example.com" }, doctor.Fail, "https://jobs.example.com"},
		{func(c *doctor.Config) { c.PublicURL, c.AdminPassword = "https://jobs.example.com", "one of its own" }, doctor.OK, "its own"},
	} {
		c := config(db.DSN())
		row.change(&c)
		requireFinding(t, examine(t, c), "config.password", row.status, row.says)
	}
}

// TestRemoteDatabasesAreAskedForMore: encryption, a certificate that is verified, a password of one's own. Nothing answers
// at the address, which is one for documentation.
func TestRemoteDatabasesAreAskedForMore(t *testing.T) {
	t.Parallel()
	c := func(dsn string) doctor.Config {
		c := config(dsn)
		c.CheckLimit, c.TotalLimit = 50*time.Millisecond, 5*time.Second
		return c
	}
	found := examine(t, c("postgres://postgres:postgres@192.0.2.1/x?sslmode=disable"))
	requireFinding(t, found, "config.tls", doctor.Warn, "without TLS")
	requireFinding(t, found, "config.database-password", doctor.Warn, "192.0.2.1")
	requireFinding(t, examine(t, c("postgres://u:own@192.0.2.1/x?sslmode=prefer")), "config.tls", doctor.Warn, "without TLS")
	found = examine(t, c("postgres://u:own@192.0.2.1/x?sslmode=require"))
	requireFinding(t, found, "config.tls", doctor.Warn, "not verified")
	requireFinding(t, found, "config.database-password", doctor.OK, "its own")
	requireFinding(t, examine(t, c("postgres://u:own@192.0.2.1/x?sslmode=verify-full")), "config.tls", doctor.OK, "verified")
}

func TestPortStateFolderAndStrangers(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0") // it accepts and never answers
	require.NoError(t, err)
	c := config(db.DSN())
	c.Address = taken.Addr().String()
	c.StateDir = "/dev/null/state"
	c.Loopback, c.Anonymous = false, []string{"enqueue"}
	c.CheckLimit = 2 * time.Second
	found := examine(t, c)
	require.NoError(t, taken.Close())
	requireFinding(t, found, "config.port", doctor.Fail, "another program has 127.0.0.1:")
	requireFinding(t, found, "config.anonymous", doctor.Warn, "enqueue")
	requireFinding(t, found, "config.state-folder", doctor.Fail, "/dev/null")
	c.StateDir = t.TempDir() + "/not/yet"
	requireFinding(t, examine(t, c), "config.state-folder", doctor.OK, "not/yet")
	require.NoDirExists(t, c.StateDir)
}

func TestServerIsAsked(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	answer := func(status int, body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			require.Equal(t, "/api/v1/health", r.URL.Path)
			require.Equal(t, "Bearer mak_1_2", r.Header.Get("Authorization"))
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s
	}
	for _, row := range []struct {
		code   int
		body   string
		status doctor.Status
		says   string
	}{
		{200, `{"status":"ok","version":"x"}`, doctor.OK, "says ok"},
		{200, `{"status":"degraded","checks":{"listener":"does not hear","pacer":"ok"}}`, doctor.Warn, "listener: does not hear"},
		{503, `{"status":"unavailable"}`, doctor.Fail, "says unavailable"},
		{404, `<html>`, doctor.Warn, "is not our API (HTTP 404)"},
	} {
		c := config(db.DSN())
		c.Server, c.APIKey = answer(row.code, row.body).URL, "mak_1_2"
		requireFinding(t, examine(t, c), "server.health", row.status, row.says)
	}
	c := config(db.DSN())
	c.ServerNamed = true
	requireFinding(t, examine(t, c), "server.health", doctor.Warn, "no server answers")
}

// TestServerWideSettingsAreFound on a server of its own.
func TestServerWideSettingsAreFound(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, map[string]string{
		"fsync": "off", "autovacuum": "off", "max_connections": "20", "synchronous_commit": "local", "synchronous_standby_names": "away",
		"statement_timeout": "20000", "archive_mode": "on", "archive_command": "false", "max_replication_slots": "3",
	})
	conn := cluster.DB().Conn(t)
	for _, sql := range []string{
		`SELECT pg_create_physical_replication_slot('gone', true)`,
		`BEGIN; INSERT INTO mini_asynq.settings (name, value) VALUES ('x', '1'); PREPARE TRANSACTION 'left_over'`,
		`SELECT pg_switch_wal()`,
		`ALTER DATABASE ` + cluster.DB().Name() + ` SET synchronous_commit = on`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	pgtest.Eventually(t, 30*time.Second, "archiving fails", func() bool {
		return pgtest.One[bool](t, cluster.DB(), `SELECT failed_count > 0 FROM pg_stat_archiver`)
	})
	found := examine(t, config(cluster.DSN()))
	requireFinding(t, found, "database.durability", doctor.Fail, "fsync: off")
	requireFinding(t, found, "vacuum.on", doctor.Fail, "autovacuum: off")
	requireFinding(t, found, "database.connections", doctor.Fail, "one node needs 21")
	requireFinding(t, found, "database.replication", doctor.Fail, "every commit hangs")
	f := requireFinding(t, found, "database.settings", doctor.Warn, "20000 ms")
	require.Contains(t, f.FixSQL, "SET statement_timeout = 0")
	requireFinding(t, found, "storage.archive", doctor.Warn, "archiving fails")
	f = requireFinding(t, found, "transactions.slots", doctor.Warn, "gone (used by nobody")
	require.Contains(t, f.FixSQL, "pg_drop_replication_slot('gone')")
	requireFinding(t, found, "transactions.prepared", doctor.OK, "1, the oldest")
	_, err := conn.Exec(t.Context(), `ROLLBACK PREPARED 'left_over'`)
	require.NoError(t, err)
}

// TestOldTransactionsAreFound: one that idles, one that runs, one that is prepared; each with the SQL that ends it.
func TestOldTransactionsAreFound(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	c := config(db.DSN()).InAHurry(100 * time.Millisecond)
	requireOnly(t, examine(t, c), sharedServerFaults...)

	begin(t, db, `SELECT 1`)
	busy := db.Conn(t)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := busy.Exec(ctx, `SELECT pg_sleep(60)`)
		done <- err
	}()
	conn := db.Conn(t)
	_, err := conn.Exec(t.Context(), `BEGIN; INSERT INTO mini_asynq.settings (name, value) VALUES ('x', '1'); PREPARE TRANSACTION 'it''s mine'`)
	require.NoError(t, err)
	var found map[string]doctor.Finding
	pgtest.Eventually(t, 20*time.Second, "all three are old", func() bool {
		found = examine(t, c)
		return found["transactions.idle"].Status == doctor.Warn && found["transactions.long"].Status == doctor.Warn &&
			found["transactions.prepared"].Status == doctor.Warn
	})
	cancel()
	require.Error(t, <-done)
	require.Contains(t, found["transactions.idle"].FixSQL, "pg_terminate_backend(")
	require.Contains(t, found["transactions.long"].FixSQL, "SELECT pg_sleep(60)")
	_, err = conn.Exec(t.Context(), found["transactions.prepared"].FixSQL)
	require.NoError(t, err)
	requireFinding(t, examine(t, c), "transactions.prepared", doctor.OK, "there is none")
}
