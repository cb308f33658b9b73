package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"
)

func vacuumChecks() []check {
	return []check{
		{"vacuum.on", "autovacuum works for our tables", needsDatabase,
			"Switch autovacuum and track_counts on, for the server and for each table.", autovacuumOn},
		{"vacuum.bloat", "dead rows are cleaned up", needsSchema,
			"End old transactions first (see transactions), then VACUUM the table.", bloat},
		{"vacuum.wraparound", "transaction ids are far from their end", needsDatabase,
			"VACUUM (FREEZE) the oldest database, after ending what holds its horizon.", wraparound},
	}
}

func autovacuumOn(ctx context.Context, e *exam) (verdict, error) {
	off, err := names(ctx, e, `SELECT name FROM pg_settings WHERE name IN ('autovacuum', 'track_counts') AND reset_val = 'off' ORDER BY name`)
	if err != nil {
		return verdict{}, err
	}
	tables, err := names(ctx, e, `
		SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'mini_asynq' AND array_to_string(c.reloptions, ' ') ~ 'autovacuum_enabled=(false|off|0|no)' ORDER BY 1`)
	if err != nil {
		return verdict{}, err
	}
	var fixes []string
	for _, name := range off {
		fixes = append(fixes, "ALTER SYSTEM RESET "+name+";")
		if name == "track_counts" {
			fixes = append(fixes, "ALTER DATABASE "+e.database()+" RESET track_counts;", "ALTER ROLE "+e.role()+" RESET track_counts;")
		}
	}
	if len(off) > 0 {
		fixes = append(fixes, "SELECT pg_reload_conf();")
	}
	for _, table := range tables {
		fixes = append(fixes, "ALTER TABLE "+quoted(table)+" RESET (autovacuum_enabled);")
	}
	switch {
	case len(off) > 0:
		return fail("%s: off. Tables that turn over completely are never cleaned up: they grow and claims get slower", some(off)).by(fixes...), nil
	case len(tables) > 0:
		return fail("autovacuum is off for %s: it grows and claims get slower", some(tables)).by(fixes...), nil
	}
	return well("on"), nil
}

// bloatSQL compares dead rows with the number at which autovacuum should have come, by the table's own settings. It has had
// time to come since the last time, or since the first server started here and PostgreSQL itself did; none is granted to an
// autovacuum that is off.
const bloatSQL = `
	SELECT s.relname::text, s.n_dead_tup, s.n_live_tup, pg_relation_size(s.relid), pg_indexes_size(s.relid),
	       coalesce((SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_vacuum_threshold'),
	                current_setting('autovacuum_vacuum_threshold'))::float8
	       + coalesce((SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_vacuum_scale_factor'),
	                  current_setting('autovacuum_vacuum_scale_factor'))::float8 * greatest(c.reltuples, 0),
	       coalesce(extract(epoch FROM clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum)), -1)::float8,
	       CASE WHEN current_setting('autovacuum') = 'off' OR array_to_string(c.reloptions, ' ') ~ 'autovacuum_enabled=(false|off|0|no)' THEN 'infinity'
	            ELSE extract(epoch FROM clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum, pg_postmaster_start_time(),
	                 coalesce((SELECT min(started_at) FROM mini_asynq.epochs), clock_timestamp()))) END::float8
	  FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
	 WHERE s.schemaname = 'mini_asynq' ORDER BY s.n_dead_tup DESC`

const (
	deadFloor  = 20_000 // dead rows that are worth a word
	deadWrong  = 500_000
	deadFactor = 5 // times what should have woken autovacuum
	// Autovacuum looks once a minute, and a large table takes it a while.
	vacuumTime = 5 * time.Minute
	forever    = 1e9 // seconds
	// A page holds far more than this of any table of ours; below a size it does not matter.
	bytesPerRow = 8 << 10
	sizeFloor   = 256 << 20
)

func bloat(ctx context.Context, e *exam) (verdict, error) {
	type table struct {
		Name          string
		Dead, Live    int64
		Size, Indexes int64
		Due           float64
		Vacuumed      float64 // seconds ago; -1: never
		Had           float64 // seconds that autovacuum had to come
	}
	list, err := rows[table](ctx, e, bloatSQL)
	if err != nil {
		return verdict{}, err
	}
	worst, texts, fixes := OK, []string(nil), []string(nil)
	for _, t := range list {
		ago := "never vacuumed"
		if t.Vacuumed >= 0 {
			ago = "last vacuumed " + span(seconds(t.Vacuumed)) + " ago"
		}
		overdue := float64(t.Dead) / max(t.Due, 1)
		switch {
		case t.Dead >= deadFloor && overdue >= deadFactor && seconds(min(t.Had, forever)) >= vacuumTime:
			texts = append(texts, fmt.Sprintf("%s has %d dead rows beside %d live ones, %s", t.Name, t.Dead, t.Live, ago))
			fixes = append(fixes, "VACUUM (ANALYZE) "+quoted(t.Name)+";")
			if overdue >= 20*deadFactor && t.Dead >= deadWrong {
				worst = Fail
			} else if worst == OK {
				worst = Warn
			}
		case t.Size+t.Indexes >= sizeFloor && t.Size+t.Indexes > 2*bytesPerRow*max(t.Live+t.Dead, 1):
			texts = append(texts, fmt.Sprintf("%s takes %d MiB for %d rows", t.Name, (t.Size+t.Indexes)>>20, t.Live))
			fixes = append(fixes, "VACUUM (FULL, ANALYZE) "+quoted(t.Name)+"; -- locks it meanwhile")
			if worst == OK {
				worst = Warn
			}
		}
	}
	if worst == OK {
		return well("at most %d dead rows in a table", slices.MaxFunc(append(list, table{}), func(a, b table) int { return int(a.Dead - b.Dead) }).Dead), nil
	}
	return verdict{status: worst, detail: some(texts)}.by(fixes...), nil
}

// Of 2^31 ids: what autovacuum should long have prevented, and what is close to the stop.
const (
	xidsNoticed = 1_000_000_000
	xidsWrong   = 1_600_000_000
)

func wraparound(ctx context.Context, e *exam) (verdict, error) {
	var name string
	var xids, multis int64
	err := e.one(ctx, `SELECT datname::text, age(datfrozenxid), mxid_age(datminmxid) FROM pg_database
	                    ORDER BY greatest(age(datfrozenxid), mxid_age(datminmxid)) DESC LIMIT 1`, nil, &name, &xids, &multis)
	if err != nil {
		return verdict{}, err
	}
	return judgeWraparound(name, max(xids, multis)), nil
}

// judgeWraparound is apart so that a test can age a database.
func judgeWraparound(database string, age int64) verdict {
	v := well("the oldest database is %d million transactions old", age/1_000_000)
	if age >= xidsNoticed {
		v = warn("database %s is %d million transactions old of 2147 million: PostgreSQL stops writing before the end", database, age/1_000_000).
			by("VACUUM (FREEZE, VERBOSE); -- in database " + comment(database))
	}
	if age >= xidsWrong {
		v.status = Fail
	}
	return v
}
