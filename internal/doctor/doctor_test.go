package doctor_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/doctor"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestEveryCheckSaysWhatToDo(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range doctor.Checks() {
		require.False(t, seen[c.ID], "%s stands twice", c.ID)
		seen[c.ID] = true
		require.Regexp(t, `^[a-z]+\.[a-z-]+$`, c.ID)
		require.NotEmpty(t, c.Title, c.ID)
		require.Greater(t, len(c.Advice), 15, c.ID)
		require.True(t, strings.HasSuffix(c.Advice, "."), "%s: %s", c.ID, c.Advice)
	}
}

// TestThePageDescribesEveryCheck: docs/doctor.md has a row for each check, and none for others.
func TestThePageDescribesEveryCheck(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/doctor.md")
	require.NoError(t, err)
	var described, made []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+\\.[a-z-]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		described = append(described, m[1])
	}
	for _, c := range doctor.Checks() {
		made = append(made, c.ID)
	}
	require.Equal(t, made, described, "the rows of docs/doctor.md, in the order of the report")
}

// TestThePlanIsWhatTheMigrationsMake: what is read from their text is what they leave in a database, no more and no less.
func TestThePlanIsWhatTheMigrationsMake(t *testing.T) {
	t.Parallel()
	plan, err := doctor.PlannedNames()
	require.NoError(t, err)
	db := pgtest.NewDB(t)
	const ours = ` JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'mini_asynq'
	               AND c.relname !~ '_p[0-9]{8}' AND c.relname !~ '^migrations'`
	for kind, sql := range map[string]string{
		"table":    `SELECT c.relname::text FROM pg_class c` + ours + ` AND c.relkind IN ('r', 'p')`,
		"view":     `SELECT c.relname::text FROM pg_class c` + ours + ` AND c.relkind = 'v'`,
		"sequence": `SELECT c.relname::text FROM pg_class c` + ours + ` AND c.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'i')`,
		"column":   `SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid` + ours + ` AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped`,
		// Those of partitions and of constraints have no statement of their own.
		"index": `SELECT i.relname || ' on ' || c.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid` + ours + `
			AND NOT i.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid)`,
		"trigger":  `SELECT t.tgname || ' on ' || c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid` + ours + ` AND NOT t.tgisinternal AND t.tgparentid = 0`,
		"function": `SELECT DISTINCT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'mini_asynq'`,
		"type": `SELECT t.typname::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
			WHERE n.nspname = 'mini_asynq' AND t.typelem = 0 AND (t.typrelid = 0 OR (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c')`,
	} {
		require.ElementsMatch(t, pgtest.All[string](t, db, sql), plan[kind], kind)
	}
	// Constraints without a name are PostgreSQL's to name.
	require.Subset(t, pgtest.All[string](t, db, `SELECT c.relname || '.' || k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid`+ours), plan["constraint"])
	require.NotEmpty(t, plan["constraint"])
}

// TestThePlanFollowsLaterMigrations: what one file makes, a later one changes or drops.
func TestThePlanFollowsLaterMigrations(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("-- +goose Up\n" + text + "\n-- +goose Down\nDROP EVERYTHING;")}
	}
	plan, err := doctor.ReadPlan(fstest.MapFS{
		"00001_a.sql": file(`CREATE TABLE mini_asynq.a (x integer DEFAULT 1, -- a comment; with a semicolon
			y numeric(10, 2) CHECK (y > 0), CONSTRAINT a_y CHECK (y <> 3), PRIMARY KEY (x, y));
			CREATE INDEX a_i ON mini_asynq.a (x) WHERE y > 1; CREATE TABLE mini_asynq.b (LIKE mini_asynq.a, z text DEFAULT 'a;b,c');
			CREATE TABLE mini_asynq.c PARTITION OF mini_asynq.b DEFAULT;
			CREATE FUNCTION mini_asynq.f() RETURNS void LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$;`),
		"00002_b.sql": file(`ALTER TABLE mini_asynq.a ADD COLUMN w text, DROP CONSTRAINT a_y, ADD CONSTRAINT a_w CHECK (w <> ''); ALTER TABLE mini_asynq.b ADD COLUMN v text;
			DROP INDEX mini_asynq.a_i; DROP FUNCTION mini_asynq.f(), mini_asynq.g(text);`),
	})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a", "b", "c"}, plan["table"])
	require.ElementsMatch(t, []string{"a.x", "a.y", "a.w", "b.x", "b.y", "b.z", "b.v", "c.x", "c.y", "c.z", "c.v"}, plan["column"])
	require.Equal(t, []string{"a.a_w"}, plan["constraint"])
	require.Empty(t, plan["index"])
	require.Empty(t, plan["function"])
}

func TestReportIsWrittenForPeopleProgramsAndPsql(t *testing.T) {
	t.Parallel()
	report := doctor.Report{Reached: true, Findings: []doctor.Finding{
		{ID: "config.settings", Title: "one", Status: doctor.OK, Detail: "fine", Advice: []string{}},
		{ID: "listen.queue", Title: "two", Status: doctor.Fail, Detail: "a \x1b[31m<queue>", Advice: []string{"do this", "do that"}, FixSQL: "SELECT 1;"},
		{ID: "jobs.lag", Title: "three", Status: doctor.Skipped, Detail: "no time", Advice: []string{}},
	}}
	require.True(t, report.Red())
	var text, machine, sql bytes.Buffer
	require.NoError(t, report.WriteText(&text))
	require.Contains(t, text.String(), "ok       one: fine")
	require.Contains(t, text.String(), "FAIL     two: a ?[31m<queue>")
	require.Contains(t, text.String(), "-> do this\n           -> do that")
	require.Contains(t, text.String(), "skipped  three: no time")
	require.Contains(t, text.String(), "1 ok, 0 warnings, 1 failures, 1 skipped")
	require.Contains(t, text.String(), "--fix-sql")
	require.NoError(t, report.WriteJSON(&machine))
	var back []doctor.Finding
	require.NoError(t, json.Unmarshal(machine.Bytes(), &back))
	require.Equal(t, report.Findings, back)
	require.NoError(t, report.WriteSQL(&sql))
	require.Contains(t, sql.String(), "-- listen.queue: a ?[31m<queue>\nSELECT 1;\n")
	require.NotContains(t, sql.String(), "jobs.lag")
}

// TestUnreadableSettingsAreAFinding: the rest is skipped, each with that reason.
func TestUnreadableSettingsAreAFinding(t *testing.T) {
	t.Parallel()
	found := examine(t, doctor.Config{SettingsError: errors.New("unknown setting MINIASYNQ_BIN: did you mean MINIASYNQ_BIND?")})
	requireFinding(t, found, "config.settings", doctor.Fail, "did you mean MINIASYNQ_BIND?")
	for id, f := range found {
		if id != "config.settings" {
			require.Equal(t, doctor.Skipped, f.Status, id)
			require.Equal(t, "the settings cannot be read", f.Detail, id)
		}
	}
}

// TestExaminationIsBounded: a database that accepts connections and says nothing holds nobody up.
func TestExaminationIsBounded(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, pgtest.NewDB(t).DSN())
	proxy.Stall()
	c := config("postgres://postgres:x@" + proxy.Addr() + "/x?sslmode=disable")
	c.TotalLimit, c.CheckLimit = 2*time.Second, 300*time.Millisecond
	began := time.Now()
	found := examine(t, c)
	require.Less(t, time.Since(began), 5*time.Second)
	requireFinding(t, found, "database.reachable", doctor.Fail, "did not answer in time")
	requireFinding(t, found, "jobs.lag", doctor.Skipped, "the database was not reached")
}
