package doctor

import (
	"context"
	"maps"
	"slices"
	"strings"
)

func rightsChecks() []check {
	return []check{
		{"rights.role", "the role may do what the server does", needsSchema,
			"Grant what is missing, as the owner of the schema.", rights},
	}
}

// narrower are the tables of which the server does not need all of SELECT, INSERT, UPDATE and DELETE. A table that a later
// migration brings needs all four until it is said here.
var narrower = map[string][]string{
	"audit":             {"SELECT", "INSERT"},
	"compatibility":     {"SELECT"},
	"epochs":            {"SELECT", "INSERT", "UPDATE"},
	"event_codes":       {"SELECT"},
	"fence_is_whole":    {"SELECT"},
	"outbox":            {"SELECT", "DELETE"},
	"outbox_past":       {"SELECT", "INSERT", "DELETE"},
	"partitioned":       {"SELECT"},
	"settings":          {"SELECT", "INSERT", "UPDATE"},
	"queues":            {"SELECT", "INSERT", "UPDATE"},
	"ticks":             {"SELECT", "INSERT", "DELETE"},
	"jobs_done":         {},
	"jobs_dead":         {},
	"jobs_done_default": {"SELECT"},
	"jobs_dead_default": {"SELECT"},
	"outbox_default":    {"SELECT"},
}

// rightsSQL asks for each object and privilege at once: kind, name, privilege. By oid: names cannot be looked up in a schema
// that the role may not use.
const rightsSQL = `
	SELECT kind || ' ' || name || ' ' || privilege
	  FROM unnest($1::text[], $2::text[], $3::text[]) AS w(kind, name, privilege)
	  JOIN pg_namespace n ON n.nspname = 'mini_asynq'
	  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
	 WHERE NOT coalesce(CASE kind
	           WHEN 'SCHEMA' THEN has_schema_privilege(n.oid, privilege)
	           WHEN 'TABLE' THEN has_table_privilege(c.oid, privilege)
	           WHEN 'SEQUENCE' THEN has_sequence_privilege(c.oid, privilege)
	           WHEN 'FUNCTION' THEN (SELECT bool_and(has_function_privilege(p.oid, privilege)) FROM pg_proc p
	                                  WHERE p.pronamespace = n.oid AND p.proname = name)
	       END, true) -- what is not there is said by the schema's checks
	 ORDER BY 1`

func rights(ctx context.Context, e *exam) (verdict, error) {
	plan, err := planned()
	if err != nil {
		return verdict{}, err
	}
	var kinds, objects, privileges []string
	want := func(kind, name string, list ...string) {
		for _, privilege := range list {
			kinds, objects, privileges = append(kinds, kind), append(objects, name), append(privileges, privilege)
		}
	}
	want("SCHEMA", "mini_asynq", "USAGE")
	want("TABLE", "migrations", "SELECT")
	for _, name := range slices.Sorted(maps.Keys(plan.tables)) {
		list, narrow := narrower[name]
		if !narrow {
			list = []string{"SELECT", "INSERT", "UPDATE", "DELETE"}
		}
		want("TABLE", name, list...)
	}
	for _, name := range slices.Sorted(maps.Keys(plan.views)) {
		want("TABLE", name, "SELECT")
	}
	// nextval needs USAGE, setval UPDATE, and a look at a value SELECT. outbox_id is the trigger owner's.
	want("SEQUENCE", "fence", "USAGE", "SELECT")
	want("SEQUENCE", "promise", "UPDATE", "SELECT")
	for _, name := range slices.Sorted(maps.Keys(plan.functions)) {
		want("FUNCTION", name, "EXECUTE")
	}
	missing, err := names(ctx, e, rightsSQL, kinds, objects, privileges)
	if err != nil {
		return verdict{}, err
	}
	if len(missing) == 0 {
		return well("%d rights looked at", len(kinds)), nil
	}
	fixes := make([]string, len(missing))
	texts := make([]string, len(missing))
	for i, m := range missing {
		part := strings.Fields(m) // kind, name, privilege
		texts[i] = part[2] + " on " + strings.ToLower(part[0]) + " " + part[1]
		object := quoted(part[1])
		switch part[0] {
		case "SCHEMA":
			object = part[1]
		case "FUNCTION":
			part[0] = "ROUTINE"
		}
		fixes[i] = "GRANT " + part[2] + " ON " + part[0] + " " + object + " TO " + e.role() + ";"
	}
	return fail("the role %s lacks %s", e.role(), some(texts)).by(fixes...), nil
}
