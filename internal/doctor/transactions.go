package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

func transactionChecks() []check {
	return []check{
		{"transactions.idle", "no session idles in a transaction", needsDatabase,
			"End it: SELECT pg_terminate_backend(pid). Set idle_in_transaction_session_timeout for programs that forget to commit.", idleTransactions},
		{"transactions.long", "no transaction runs for long", needsDatabase,
			"Let it finish, or end it: SELECT pg_cancel_backend(pid), then pg_terminate_backend(pid).", longTransactions},
		{"transactions.prepared", "no prepared transaction is left over", needsDatabase,
			"Decide with its owner, then COMMIT PREPARED or ROLLBACK PREPARED.", preparedTransactions},
		{"transactions.slots", "no replication slot holds back what is old", needsDatabase,
			"Bring its reader back, or drop the slot: SELECT pg_drop_replication_slot(name).", slots},
		{"transactions.locks", "nobody waits for a lock on our tables", needsDatabase,
			"End the session that blocks: SELECT pg_terminate_backend(pid).", locks},
	}
}

// How long is too long. What is old keeps vacuum from cleaning up behind everybody, so tables that turn over completely
// bloat, claims get slower from minute to minute, and one that has written keeps the pacer from its sleep.
const (
	idleNoticed = 30 * time.Second
	idleWrong   = 5 * time.Minute
	longNoticed = 5 * time.Minute
	longWrong   = time.Hour
)

// session is a transaction of somebody.
type session struct {
	PID      int
	Role     string
	Program  string
	Database string
	Age      float64 // seconds since its beginning, or of its idling
	Query    string
}

func (s session) String() string {
	return fmt.Sprintf("pid %d (role %s, %s, database %s) for %s", s.PID, s.Role, s.Program, s.Database, span(seconds(s.Age)))
}

// sessionsSQL: sessions of other databases count only if they hold a snapshot or an id of the whole cluster, which those of
// walsenders do.
const sessionsSQL = `
	SELECT pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), 'without a name'), coalesce(datname, '?'),
	       extract(epoch FROM clock_timestamp() - CASE WHEN $1 THEN state_change ELSE xact_start END)::float8, left(query, 80)
	  FROM pg_stat_activity
	 WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'
	   AND (datname = current_database() OR datname IS NULL)
	   AND (state LIKE 'idle in transaction%') = $1
	   AND CASE WHEN $1 THEN state_change ELSE xact_start END < clock_timestamp() - make_interval(secs => $2)
	 ORDER BY 5 DESC LIMIT 20`

func (e *exam) sessions(ctx context.Context, idle bool, noticed, wrong time.Duration, what, none string) (verdict, error) {
	list, err := rows[session](ctx, e, sessionsSQL, idle, noticed.Seconds())
	if err != nil {
		return verdict{}, err
	}
	if len(list) == 0 {
		return well(none), nil
	}
	texts, fixes := make([]string, len(list)), make([]string, len(list))
	for i, s := range list {
		texts[i] = s.String()
		fixes[i] = fmt.Sprintf("SELECT pg_terminate_backend(%d); -- %s, %s", s.PID, comment(s.Program), comment(s.Query))
	}
	v := warn("%s: %s. Vacuum cannot clean up behind it", what, some(texts))
	if seconds(list[0].Age) >= wrong {
		v.status = Fail
	}
	return v.by(fixes...), nil
}

// comment makes a text fit for the end of a line of SQL.
func comment(text string) string { return strings.Join(strings.Fields(text), " ") }

// old is an age, or what a test puts in its place.
func (e *exam) old(age time.Duration) time.Duration {
	if e.config.hurry > 0 {
		return e.config.hurry
	}
	return age
}

func idleTransactions(ctx context.Context, e *exam) (verdict, error) {
	return e.sessions(ctx, true, e.old(idleNoticed), idleWrong, "idle in a transaction", "none for more than "+span(idleNoticed))
}

func longTransactions(ctx context.Context, e *exam) (verdict, error) {
	return e.sessions(ctx, false, e.old(longNoticed), longWrong, "running", "none for more than "+span(longNoticed))
}

func preparedTransactions(ctx context.Context, e *exam) (verdict, error) {
	type prepared struct {
		GID, Owner string
		Age        float64
	}
	list, err := rows[prepared](ctx, e, `
		SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
		  FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT 20`)
	if err != nil {
		return verdict{}, err
	}
	if len(list) == 0 {
		return well("there is none"), nil
	}
	texts, fixes := make([]string, len(list)), make([]string, len(list))
	for i, p := range list {
		texts[i] = fmt.Sprintf("%q of %s, %s old", p.GID, p.Owner, span(seconds(p.Age)))
		fixes[i] = "ROLLBACK PREPARED '" + strings.ReplaceAll(p.GID, "'", "''") + "'; -- or COMMIT PREPARED: ask " + p.Owner
	}
	oldest := seconds(list[0].Age)
	if oldest < e.old(idleNoticed) {
		return well("%d, the oldest for %s", len(list), span(oldest)), nil
	}
	v := warn("%s. It holds its locks and holds up vacuum, over restarts too", some(texts))
	if oldest >= idleWrong {
		v.status = Fail
	}
	return v.by(fixes...), nil
}

// Of a slot: how much log it may keep.
const (
	slotNoticed = 1 << 30
	slotWrong   = 10 << 30
	slotXIDs    = 1_000_000
)

// slotsSQL: standbys that report their snapshots hold the horizon without a slot, too.
const slotsSQL = `
	SELECT slot_name::text, coalesce(active, false), coalesce(wal_status, ''),
	       coalesce(CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END, 0)::float8,
	       greatest(coalesce(age(xmin), 0), coalesce(age(catalog_xmin), 0))::int
	  FROM pg_replication_slots WHERE NOT temporary
	 UNION ALL
	SELECT 'standby ' || coalesce(nullif(application_name, ''), pid::text), true, '', 0, age(backend_xmin)
	  FROM pg_stat_replication WHERE backend_xmin IS NOT NULL`

func slots(ctx context.Context, e *exam) (verdict, error) {
	type slot struct {
		Name   string
		Active bool
		State  string
		Kept   float64 // bytes
		XIDs   int
	}
	list, err := rows[slot](ctx, e, slotsSQL)
	if err != nil {
		return verdict{}, err
	}
	worst, texts, fixes := OK, []string(nil), []string(nil)
	for _, s := range list {
		var status Status
		switch {
		case s.State == "lost", s.Kept >= slotWrong, s.XIDs >= 100*slotXIDs:
			status = Fail
		case !s.Active, s.State == "unreserved", s.Kept >= slotNoticed, s.XIDs >= slotXIDs:
			status = Warn
		default:
			continue
		}
		if status == Fail || worst == OK {
			worst = status
		}
		use := "in use"
		if !s.Active {
			use = "used by nobody"
			fixes = append(fixes, "SELECT pg_drop_replication_slot("+literal(s.Name)+"); -- only if its reader is gone for good")
		}
		texts = append(texts, fmt.Sprintf("%s (%s, keeps %.0f MiB of log, %d transactions behind)", s.Name, use, s.Kept/(1<<20), s.XIDs))
	}
	if worst == OK {
		return well("%d, none is behind", len(list)), nil
	}
	return verdict{status: worst, detail: some(texts) + ": the log fills the disk, and vacuum cannot clean up"}.by(fixes...), nil
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// Waits for a lock.
const (
	lockNoticed = 3 * time.Second
	lockWrong   = time.Minute
)

// locksSQL: who waits, and who has an exclusive lock on a table of ours; with the one who blocks. Only the catalogue is
// read, so that it answers while our tables are locked.
const locksSQL = `
	SELECT coalesce((pg_blocking_pids(l.pid))[1], l.pid), c.relname::text, l.granted,
	       extract(epoch FROM clock_timestamp() - coalesce(CASE WHEN l.granted THEN a.xact_start ELSE l.waitstart END, clock_timestamp()))::float8,
	       coalesce(nullif(b.application_name, ''), 'without a name')
	  FROM pg_locks l
	  JOIN pg_class c ON c.oid = l.relation
	  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'mini_asynq'
	  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	  LEFT JOIN pg_stat_activity b ON b.pid = coalesce((pg_blocking_pids(l.pid))[1], l.pid)
	 WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	   AND c.relkind IN ('r', 'p')
	   AND (NOT l.granted OR l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock'))
	 ORDER BY 4 DESC LIMIT 50`

func locks(ctx context.Context, e *exam) (verdict, error) {
	type lock struct {
		PID     int
		Table   string
		Granted bool
		Age     float64
		Program string
	}
	list, err := rows[lock](ctx, e, locksSQL)
	if err != nil {
		return verdict{}, err
	}
	var texts, fixes []string
	worst := OK
	for _, l := range list {
		age := seconds(l.Age)
		if age < lockNoticed {
			continue
		}
		what := "holds"
		if !l.Granted {
			what = "keeps others from"
		}
		texts = append(texts, fmt.Sprintf("pid %d (%s) %s a lock on %s for %s", l.PID, l.Program, what, l.Table, span(age)))
		fixes = append(fixes, fmt.Sprintf("SELECT pg_terminate_backend(%d); -- %s", l.PID, comment(l.Program)))
		if age >= lockWrong {
			worst = Fail
		} else if worst == OK {
			worst = Warn
		}
	}
	if worst == OK {
		return well("none for more than %s", span(lockNoticed)), nil
	}
	return verdict{status: worst, detail: some(texts) + ": enqueues and claims wait or are refused"}.by(fixes[0]), nil
}

// quoted is a name of ours for SQL.
func quoted(name string) string { return pgx.Identifier{"mini_asynq", name}.Sanitize() }
