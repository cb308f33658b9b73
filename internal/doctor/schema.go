package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/mini-asynq/mini-asynq/migrations"
)

func schemaChecks() []check {
	return []check{
		{"schema.version", "the schema has the version of this program", needsDatabase,
			"Run `mini-asynq migrate up` (or start the server, which does it).", schemaVersion},
		{"schema.tables", "every table, column, view, type and constraint is there", needsSchema,
			"Restore it from a backup, or take the schema of a fresh database as the pattern: `mini-asynq migrate up` elsewhere, then compare with pg_dump -s.", tables},
		{"schema.indexes", "every index is there and valid", needsSchema,
			"Make it again; without it claims, deadlines or reads look at whole tables.", indexes},
		{"schema.functions", "every function is there and as shipped", needsSchema,
			"Make it again as this version ships it.", functions},
		{"schema.triggers", "every trigger is there and fires", needsSchema,
			"Enable or make it again: without it changes make no events, and nobody is woken.", triggers},
		{"schema.strangers", "nothing strange is attached to our tables", needsSchema,
			"Remove it, or make sure that it is meant: it sees, changes or hides rows behind the server's back.", strangers},
		{"schema.publication", "published tables can be updated", needsSchema,
			"Give the table a replica identity, or take it out of the publication.", publications},
	}
}

// schemaVersion also finds a version that was skipped, which is refused by every later migration.
func schemaVersion(ctx context.Context, e *exam) (verdict, error) {
	// The catalogue may be read by a role that has no rights in the schema.
	var there bool
	if err := e.one(ctx, `
		SELECT count(*) = 2 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'mini_asynq' AND c.relname IN ('migrations', 'jobs')`, nil, &there); err != nil {
		return verdict{}, err
	}
	if !there {
		return fail("the schema mini_asynq is not there").do(
			"Run `mini-asynq migrate up`, or start the server: it makes the schema if its role may CREATE in the database."), nil
	}
	e.schema = true
	if err := migrations.Check(ctx, e.conn); errors.Is(err, migrations.ErrNewerSchema) {
		return fail("the schema is newer than this program: %v", err).do(
			"Upgrade this program; a server of this version refuses to start on this schema."), nil
	}
	var applied []int64
	if err := e.one(ctx, `SELECT coalesce(array_agg(version_id ORDER BY version_id), '{}') FROM mini_asynq.migrations WHERE is_applied AND version_id > 0`,
		nil, &applied); err != nil {
		return verdict{}, err
	}
	ours, err := migrations.Versions()
	if err != nil {
		return verdict{}, err
	}
	head := ours[len(ours)-1]
	var missing []string
	for _, version := range ours {
		if !slices.Contains(applied, version) {
			missing = append(missing, fmt.Sprint(version))
		}
	}
	newest := int64(0)
	if len(applied) > 0 {
		newest = applied[len(applied)-1]
	}
	switch {
	case len(missing) > 0 && newest >= head:
		return fail("migrations are missing in between: %s", some(missing)).do(
			"Somebody changed mini_asynq.migrations, or restored a part of the schema: restore it whole."), nil
	case len(missing) > 0:
		return fail("the schema is at version %d, this program needs %d", newest, head), nil
	case newest > head:
		return warn("the schema is at version %d, this program knows %d: a newer server was here", newest, head).do(
			"During a rolling upgrade this is as it should be; after it, upgrade this program too."), nil
	}
	if err := migrations.Check(ctx, e.conn); err != nil {
		return fail("%v", err), nil
	}
	return well("version %d", head), nil
}

// catalogue reads names of our schema by kind.
func (e *exam) catalogue(ctx context.Context, sql string) (map[string]string, error) {
	type row struct{ Name, Value string }
	list, err := rows[row](ctx, e, sql)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string, len(list))
	for _, r := range list {
		found[r.Name] = r.Value
	}
	return found, nil
}

const relationsSQL = `
	SELECT c.relname::text, c.relkind::text || c.relpersistence::text
	  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq' AND c.relkind IN ('r', 'p', 'v', 'S')`

const columnsSQL = `
	SELECT c.relname::text || '.' || a.attname::text, ''
	  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq' AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped`

const constraintsSQL = `
	SELECT c.relname::text || '.' || k.conname::text, k.convalidated::text
	  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq'`

const typesSQL = `SELECT t.typname::text, '' FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = 'mini_asynq'`

func tables(ctx context.Context, e *exam) (verdict, error) {
	plan, err := planned()
	if err != nil {
		return verdict{}, err
	}
	found := make([]map[string]string, 4)
	for i, sql := range []string{relationsSQL, columnsSQL, constraintsSQL, typesSQL} {
		if found[i], err = e.catalogue(ctx, sql); err != nil {
			return verdict{}, err
		}
	}
	relations, columns, constraints, types := found[0], found[1], found[2], found[3]
	var lost, fixes []string
	for _, name := range slices.Sorted(maps.Keys(plan.tables)) {
		t := plan.tables[name]
		kind, there := relations[name]
		if !there {
			lost = append(lost, "table "+name)
			continue
		}
		if strings.HasSuffix(kind, "u") && !t.unlogged {
			lost = append(lost, "table "+name+" is unlogged: a crash empties it")
			fixes = append(fixes, "ALTER TABLE "+quoted(name)+" SET LOGGED;")
		}
		if t.unlogged && !strings.HasSuffix(kind, "u") {
			lost = append(lost, "table "+name+" is logged: a crash is not noticed, and fences may be given out twice")
			fixes = append(fixes, "ALTER TABLE "+quoted(name)+" SET UNLOGGED;")
		}
		for _, column := range t.columns {
			if _, there := columns[name+"."+column]; !there {
				lost = append(lost, "column "+name+"."+column)
			}
		}
		for _, constraint := range t.constraints {
			if _, there := constraints[name+"."+constraint]; !there {
				lost = append(lost, "constraint "+constraint+" of "+name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plan.views)) {
		if _, there := relations[name]; !there {
			lost = append(lost, "view "+name)
			fixes = append(fixes, plan.views[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plan.sequences)) {
		if _, there := relations[name]; !there {
			lost = append(lost, "sequence "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plan.types)) {
		if _, there := types[name]; !there {
			lost = append(lost, "type "+name)
		}
	}
	if len(lost) > 0 {
		return fail("missing or changed: %s", some(lost)).by(fixes...), nil
	}
	return well("%d tables, %d views, %d sequences", len(plan.tables), len(plan.views), len(plan.sequences)), nil
}

// indexesSQL: every index of the schema, those of partitions too, which no plan names.
const indexesSQL = `
	SELECT c.relname::text, t.relname::text, i.indisvalid AND i.indisready, i.indisunique, pg_get_indexdef(i.indexrelid)
	  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
	  JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq' ORDER BY 1`

func indexes(ctx context.Context, e *exam) (verdict, error) {
	type index struct {
		Name, Table   string
		Valid, Unique bool
		SQL           string
	}
	plan, err := planned()
	if err != nil {
		return verdict{}, err
	}
	list, err := rows[index](ctx, e, indexesSQL)
	if err != nil {
		return verdict{}, err
	}
	found := make(map[string]index, len(list))
	var faults, fixes []string
	for _, i := range list {
		found[i.Name] = i
		if !i.Valid {
			faults = append(faults, i.Name+" is invalid")
			fixes = append(fixes, "REINDEX INDEX CONCURRENTLY "+quoted(i.Name)+";")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plan.indexes)) {
		want := plan.indexes[name]
		have, there := found[name]
		switch {
		case !there:
			faults = append(faults, name+" on "+want.table+" is missing")
			fixes = append(fixes, want.sql)
		case have.Table != want.table || have.Unique != want.unique || spaced(inside(have.SQL)) != want.columns ||
			strings.Contains(have.SQL, " WHERE ") != strings.Contains(want.sql, "WHERE"):
			faults = append(faults, name+" is another index than it should be")
			fixes = append(fixes, "DROP INDEX "+quoted(name)+";", want.sql)
		}
	}
	if len(faults) > 0 {
		return fail("%s", some(faults)).by(fixes...), nil
	}
	return well("%d, and those of partitions", len(plan.indexes)), nil
}

const functionsSQL = `
	SELECT p.proname::text, p.prosrc, p.prosecdef
	  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'mini_asynq'`

func functions(ctx context.Context, e *exam) (verdict, error) {
	type function struct {
		Name, Body string
		Definer    bool
	}
	plan, err := planned()
	if err != nil {
		return verdict{}, err
	}
	list, err := rows[function](ctx, e, functionsSQL)
	if err != nil {
		return verdict{}, err
	}
	var faults, fixes []string
	n := 0
	for _, name := range slices.Sorted(maps.Keys(plan.functions)) {
		for _, want := range plan.functions[name] {
			n++
			there, same := false, false
			for _, have := range list {
				there = there || have.Name == name
				same = same || have.Name == name && have.Body == want.body && have.Definer == want.definer
			}
			if same {
				continue
			}
			if there {
				faults = append(faults, name+" was changed")
			} else {
				faults = append(faults, name+" is missing")
			}
			fixes = append(fixes, want.sql)
		}
	}
	if len(faults) == 0 {
		return well("%d", n), nil
	}
	// A newer schema replaces functions; that it is newer has been said.
	var newer bool
	ours, err := migrations.Versions()
	if err == nil {
		err = e.one(ctx, `SELECT EXISTS (SELECT FROM mini_asynq.migrations WHERE is_applied AND version_id > $1)`, []any{ours[len(ours)-1]}, &newer)
	}
	if err == nil && newer {
		return skip("the schema is newer than this program, which does not know its functions"), nil
	}
	return fail("%s", some(faults)).by(fixes...), nil
}

// triggersSQL: clones on partitions have a parent; what they do is decided there.
const triggersSQL = `
	SELECT t.tgname::text, c.relname::text, t.tgenabled::text, p.proname::text
	  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	  JOIN pg_proc p ON p.oid = t.tgfoid
	 WHERE n.nspname = 'mini_asynq' AND NOT t.tgisinternal`

func triggers(ctx context.Context, e *exam) (verdict, error) {
	type trigger struct{ Name, Table, Enabled, Function string }
	plan, err := planned()
	if err != nil {
		return verdict{}, err
	}
	list, err := rows[trigger](ctx, e, triggersSQL)
	if err != nil {
		return verdict{}, err
	}
	found := make(map[string]trigger, len(list))
	for _, t := range list {
		found[t.Name+" on "+t.Table] = t
	}
	var faults, fixes []string
	for _, name := range slices.Sorted(maps.Keys(plan.triggers)) {
		want := plan.triggers[name]
		have, there := found[name]
		switch {
		case !there:
			faults = append(faults, name+" is missing")
			fixes = append(fixes, want.sql)
		case have.Function != want.function:
			faults = append(faults, name+" calls "+have.Function)
			fixes = append(fixes, "DROP TRIGGER "+pgx.Identifier{want.name}.Sanitize()+" ON "+quoted(want.table)+";", want.sql)
		case have.Enabled == "D" || have.Enabled == "R":
			faults = append(faults, name+" is disabled")
			fixes = append(fixes, "ALTER TABLE "+quoted(want.table)+" ENABLE TRIGGER "+pgx.Identifier{want.name}.Sanitize()+";")
		}
	}
	if len(faults) > 0 {
		return fail("%s", some(faults)).by(fixes...), nil
	}
	return well("%d", len(plan.triggers)), nil
}

// strangersSQL: triggers, rules, row security, and columns that every insert would have to fill, that no migration makes.
const strangersSQL = `
	SELECT 'trigger ' || t.tgname || ' on ' || c.relname, format('DROP TRIGGER %I ON mini_asynq.%I;', t.tgname, c.relname)
	  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq' AND NOT t.tgisinternal AND t.tgparentid = 0
	   AND NOT (t.tgname || ' on ' || c.relname = ANY ($1))
	 UNION ALL
	SELECT 'rule ' || rulename || ' on ' || tablename, format('DROP RULE %I ON mini_asynq.%I;', rulename, tablename)
	  FROM pg_rules WHERE schemaname = 'mini_asynq'
	 UNION ALL
	SELECT 'row security on ' || c.relname, format('ALTER TABLE mini_asynq.%I DISABLE ROW LEVEL SECURITY;', c.relname)
	  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'mini_asynq' AND c.relrowsecurity
	 UNION ALL
	SELECT 'column ' || a.attname || ' of ' || c.relname || ', which inserts leave empty and may not',
	       format('ALTER TABLE mini_asynq.%I ALTER COLUMN %I DROP NOT NULL;', c.relname, a.attname)
	  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'mini_asynq' AND c.relname = ANY ($2) AND a.attnum > 0 AND NOT a.attisdropped
	   AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT (c.relname || '.' || a.attname = ANY ($3))
	 ORDER BY 1`

func strangers(ctx context.Context, e *exam) (verdict, error) {
	type stranger struct{ What, Fix string }
	plan, err := planned()
	if err != nil {
		return verdict{}, err
	}
	var columns []string
	for name, t := range plan.tables {
		for _, column := range t.columns {
			columns = append(columns, name+"."+column)
		}
	}
	list, err := rows[stranger](ctx, e, strangersSQL, slices.Sorted(maps.Keys(plan.triggers)), slices.Sorted(maps.Keys(plan.tables)), columns)
	if err != nil || len(list) == 0 {
		return well("nothing"), err
	}
	texts, fixes := make([]string, len(list)), make([]string, len(list))
	for i, s := range list {
		texts[i], fixes[i] = s.What, s.Fix
	}
	return warn("%s", some(texts)).by(fixes...), nil
}

// publicationsSQL: tables that are published with updates or deletes and have nothing that names a row.
const publicationsSQL = `
	SELECT DISTINCT c.relname::text
	  FROM pg_publication_tables pt
	  JOIN pg_publication p ON p.pubname = pt.pubname AND (p.pubupdate OR p.pubdelete)
	  JOIN pg_namespace n ON n.nspname = pt.schemaname AND n.nspname = 'mini_asynq'
	  JOIN pg_class c ON c.relname = pt.tablename AND c.relnamespace = n.oid
	 WHERE c.relkind = 'r' AND c.relpersistence = 'p'
	   AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
	        OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident))
	 ORDER BY 1`

func publications(ctx context.Context, e *exam) (verdict, error) {
	list, err := names(ctx, e, publicationsSQL)
	if err != nil || len(list) == 0 {
		return well("they can"), err
	}
	fixes := make([]string, len(list))
	for i, name := range list {
		fixes[i] = "ALTER TABLE " + quoted(name) + " REPLICA IDENTITY FULL;"
	}
	return fail("%s: published without a replica identity, so PostgreSQL refuses to update or delete there", some(list)).by(fixes...), nil
}
