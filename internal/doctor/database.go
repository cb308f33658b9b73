package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const idReachable = "database.reachable"

func databaseChecks() []check {
	return []check{
		{idReachable, "the database answers", needsSettings,
			"Start the database, or correct DATABASE_URL or the DB_ names; `mini-asynq dsn` prints the address in use.", reachable},
		{"database.version", "PostgreSQL is new enough", needsDatabase,
			"Upgrade to PostgreSQL 15 or newer.", supported},
		{"database.writable", "the database can be written", needsDatabase,
			"Point the server at the primary, and end default_transaction_read_only.", writable},
		{"database.encoding", "the database stores UTF-8", needsDatabase,
			"Create a database with ENCODING 'UTF8' TEMPLATE template0 and move the data there.", encoded},
		{"database.durability", "commits survive a crash", needsDatabase,
			"Set fsync, full_page_writes and synchronous_commit to on.", durable},
		{"database.replication", "commits do not wait for a standby that is away", needsDatabase,
			"Bring the standby back, or empty synchronous_standby_names.", replicated},
		{"database.connections", "there are connections to be had", needsDatabase,
			"Raise max_connections, or end what holds connections.", connections},
		{"database.clock", "the clocks agree", needsDatabase,
			"Run a time service (chrony, systemd-timesyncd) on both machines.", clocks},
		{"database.settings", "no setting of role or database stands in the way", needsDatabase,
			"Reset the setting for the role of the server.", sessionSettings},
	}
}

// reachable opens the connection that all others use.
func reachable(ctx context.Context, e *exam) (verdict, error) {
	if e.openErr != nil {
		return fail("there is no database to look at: %v", e.openErr).do(
			"Set DATABASE_URL (or DB_HOST and its kin), or start the server once: it makes a private PostgreSQL.",
			"If there is one that does not start, its log is in the state folder."), nil
	}
	db := e.db
	var err error
	if e.conn, err = e.connect(ctx, db.URL); err != nil {
		return unreachable(err), nil
	}
	e.reached = true
	c := e.conn.Config()
	where := fmt.Sprintf("%s:%d", c.Host, c.Port)
	if db.Private {
		where = "the private PostgreSQL in " + db.Dir
	}
	return well("%s, database %s, role %s", where, c.Database, c.User), nil
}

// unreachable names why a connection was not to be had.
func unreachable(err error) verdict {
	var pg *pgconn.PgError
	var parse *pgconn.ParseConfigError
	var dns *net.DNSError
	var unknownAuthority x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	switch {
	case errors.As(err, &parse):
		return fail("the database's address cannot be read").do(
			"Write postgres://user:password@host:5432/database?sslmode=verify-full; escape special characters (@ is %40).")
	case errors.As(err, &pg):
		return refused(pg)
	case errors.As(err, &dns):
		return fail("the host %s is not known", dns.Name).do("Correct the host in DATABASE_URL or DB_HOST; `getent hosts NAME` shows what this machine knows.")
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail("connection refused: nothing listens at that host and port").do(
			"Start PostgreSQL there (`systemctl start postgresql`, `docker compose up -d postgres`), or correct host and port.")
	case errors.Is(err, fs.ErrNotExist):
		return fail("there is no socket at that path: PostgreSQL is not running, or keeps its socket elsewhere").do(
			"Start it, or correct DB_HOST; `SHOW unix_socket_directories` names the folder.")
	case errors.As(err, &unknownAuthority), errors.As(err, &wrongHost):
		return fail("the certificate of the database is not trusted: %v", err).do(
			"Name its authority with sslrootcert=/path/ca.pem, and connect by the name that the certificate has.")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return fail("the database did not answer in time: a firewall drops the packets, or it is overloaded").do(
			"Try `pg_isready -h HOST -p PORT` from this machine; look at firewalls and security groups.")
	}
	// The library has no type for a server that refuses TLS: its words say so.
	return fail("the database cannot be reached: %v", err).do(
		"If it speaks no TLS and sslmode asks for it: switch TLS on in PostgreSQL (ssl = on), or, on a network of your own, set sslmode=disable.")
}

// refused names why PostgreSQL turned the connection down.
func refused(pg *pgconn.PgError) verdict {
	switch pg.Code {
	case "28P01":
		return fail("wrong password: %s", pg.Message).do("Correct DB_PASSWORD or the password in DATABASE_URL; ALTER ROLE .. PASSWORD sets a new one.")
	case "28000":
		return fail("the role is refused: %s", pg.Message).do("Create the role with LOGIN, and let it in by a line of pg_hba.conf.")
	case "3D000":
		return fail("the database does not exist: %s", pg.Message).do(
			"Correct DB_NAME, or create it: `createdb NAME`. The server creates it at its start if its role may.")
	case "42501":
		return fail("the role may not connect: %s", pg.Message).do("GRANT CONNECT ON DATABASE .. TO the role.")
	case "53300":
		return fail("all connections are taken: %s", pg.Message).do(
			"End what holds them (SELECT pid, usename, application_name, state FROM pg_stat_activity), or raise max_connections.")
	case "57P03":
		return fail("PostgreSQL is starting, stopping or recovering: %s", pg.Message).do("Wait; its log says how far it is.")
	case "53100":
		return fail("the disk of the database is full: %s", pg.Message).do("Free space on the volume of the data folder.")
	}
	return fail("PostgreSQL refuses the connection: %s (%s)", pg.Message, pg.Code)
}

const oldestMajor = 15

func supported(ctx context.Context, e *exam) (verdict, error) {
	var number int
	var text string
	err := e.one(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version')`, nil, &number, &text)
	if err != nil {
		return verdict{}, err
	}
	if number/10000 < oldestMajor {
		return fail("PostgreSQL %s; the server needs %d or newer", text, oldestMajor), nil
	}
	return well("PostgreSQL %s", text), nil
}

func writable(ctx context.Context, e *exam) (verdict, error) {
	var readOnly string
	// The setting of the session, not of the transaction, which is read-only by our wish.
	err := e.one(ctx, `SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')`, nil, &e.standby, &readOnly)
	switch {
	case err != nil:
		return verdict{}, err
	case e.standby:
		return fail("this is a standby: it takes no jobs, and LISTEN is refused").do(
			"Point DATABASE_URL at the primary (several hosts and target_session_attrs=read-write find it), or promote this one: SELECT pg_promote()."), nil
	case readOnly == "on":
		return fail("transactions are read-only for this role or database: no job can be enqueued or claimed").by(
			"ALTER DATABASE "+e.database()+" RESET default_transaction_read_only;",
			"ALTER ROLE "+e.role()+" RESET default_transaction_read_only;",
			"ALTER ROLE "+e.role()+" IN DATABASE "+e.database()+" RESET default_transaction_read_only;"), nil
	}
	return well("primary, read-write"), nil
}

func (e *exam) database() string { return pgx.Identifier{e.conn.Config().Database}.Sanitize() }
func (e *exam) role() string     { return pgx.Identifier{e.conn.Config().User}.Sanitize() }

func encoded(ctx context.Context, e *exam) (verdict, error) {
	var encoding string
	if err := e.one(ctx, `SELECT current_setting('server_encoding')`, nil, &encoding); err != nil {
		return verdict{}, err
	}
	if encoding != "UTF8" {
		return fail("the encoding is %s: payloads and texts with other characters are refused", encoding), nil
	}
	return well(encoding), nil
}

func durable(ctx context.Context, e *exam) (verdict, error) {
	off, err := names(ctx, e, `
		SELECT name FROM pg_settings
		 WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND reset_val = 'off' ORDER BY name`)
	if err != nil {
		return verdict{}, err
	}
	if len(off) == 0 {
		return well("fsync, full_page_writes and synchronous_commit are on"), nil
	}
	fixes := make([]string, 0, len(off)+2)
	for _, name := range off {
		fixes = append(fixes, "ALTER SYSTEM SET "+name+" = on;")
		if name == "synchronous_commit" {
			fixes = append(fixes, "ALTER DATABASE "+e.database()+" RESET synchronous_commit;",
				"ALTER ROLE "+e.role()+" RESET synchronous_commit;")
		}
	}
	return fail("%s: off. A crash can lose jobs whose enqueue was confirmed, or damage the data", strings.Join(off, ", ")).
		do("Switch them on and reload: the promise that an acknowledged job is not lost depends on it.").
		by(append(fixes, "SELECT pg_reload_conf();")...), nil
}

func replicated(ctx context.Context, e *exam) (verdict, error) {
	var wanted, level string
	var connected, hidden int
	err := e.one(ctx, `
		SELECT current_setting('synchronous_standby_names'), (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
		       (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
		       (SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL)`, nil, &wanted, &level, &connected, &hidden)
	switch {
	case err != nil:
		return verdict{}, err
	case wanted == "" || level == "off" || level == "local":
		return well("commits wait for no standby"), nil
	case hidden > 0:
		return skip("this role may not see standbys: GRANT pg_read_all_stats TO %s", e.role()), nil
	case connected == 0:
		return fail("synchronous_standby_names is %q and no such standby is connected: every commit hangs", wanted).by(
			"-- Only if the standby will not come back:", "-- ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"), nil
	}
	return well("%d synchronous standbys are connected", connected), nil
}

// connectionsSQL: reserved_connections came with PostgreSQL 16; pg_stat_database counts what pg_stat_activity may hide.
const connectionsSQL = `
	SELECT current_setting('max_connections')::int
	       - current_setting('superuser_reserved_connections')::int
	       - coalesce(current_setting('reserved_connections', true), '0')::int,
	       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL),
	       (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mini-asynq/%' AND application_name <> $1
	                                                AND datname = current_database()),
	       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
	       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)`

func connections(ctx context.Context, e *exam) (verdict, error) {
	var usable, used, ours, databaseLimit, roleLimit int
	if err := e.one(ctx, connectionsSQL, []any{applicationName}, &usable, &used, &ours, &databaseLimit, &roleLimit); err != nil {
		return verdict{}, err
	}
	budget := e.config.Connections
	free := usable - used
	switch {
	case usable < budget:
		return fail("%d connections are usable and one node needs %d: parts of it will not start", usable, budget).by(
			fmt.Sprintf("ALTER SYSTEM SET max_connections = %d; -- then restart PostgreSQL", max(100, 4*budget))), nil
	case databaseLimit >= 0 && databaseLimit < budget:
		return fail("the database allows %d connections and one node needs %d", databaseLimit, budget).by(
			"ALTER DATABASE " + e.database() + " CONNECTION LIMIT -1;"), nil
	case roleLimit >= 0 && roleLimit < budget:
		return fail("the role allows %d connections and one node needs %d", roleLimit, budget).by(
			"ALTER ROLE " + e.role() + " CONNECTION LIMIT -1;"), nil
	case free <= 2:
		return fail("%d of %d connections are in use: nobody else gets in", used, usable).do(
			"Find who holds them: SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC; then end them or raise max_connections."), nil
	case ours == 0 && free < budget:
		return warn("%d connections are free and one node needs %d", free, budget), nil
	case free < usable/10:
		return warn("%d of %d connections are in use", used, usable), nil
	}
	return well("%d of %d in use; one node needs up to %d", used, usable, budget), nil
}

// Skew that is worth a word, and that is wrong. The database owns time, so jobs run when they should; but logs do not line
// up, certificates and logins may be refused, and what a program computes as its own run_at is off by as much.
const (
	skewNoticed = time.Second
	skewWrong   = 30 * time.Second
)

// clocks compares by the shortest of a few round trips: half of it is the error.
func clocks(ctx context.Context, e *exam) (verdict, error) {
	now := e.config.clock
	if now == nil {
		now = time.Now
	}
	var skew, trip time.Duration
	err := e.look(ctx, func(tx pgx.Tx) error {
		for i := range 5 {
			var theirs time.Time
			before, began := now(), time.Now() // monotonic: the round trip
			if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
				return err
			}
			took := time.Since(began)
			if i == 0 || took < trip {
				trip, skew = took, before.Add(took/2).Sub(theirs)
			}
		}
		return nil
	})
	if err != nil {
		return verdict{}, err
	}
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	off := max(skew.Abs()-trip/2, 0)
	switch {
	case off >= skewWrong:
		return fail("this machine is %s %s the database", span(off), side), nil
	case off >= skewNoticed:
		return warn("this machine is %s %s the database", span(off), side), nil
	}
	return well("within %s (round trip %s)", max(off, time.Millisecond).Round(time.Millisecond), trip.Round(10*time.Microsecond)), nil
}

// settingsSQL lists what sessions of this role start with. Times are in milliseconds.
const settingsSQL = `
	SELECT name, reset_val, source FROM pg_settings
	 WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'transaction_timeout',
	                'session_replication_role', 'default_transaction_isolation', 'search_path', 'TimeZone')
	 ORDER BY name`

// shortest is the least statement_timeout that leaves housekeeping and large batches alone.
const shortest = 30_000

func harmlessValue(setting string) string {
	switch setting {
	case "session_replication_role":
		return "origin"
	case "default_transaction_isolation":
		return "'read committed'"
	}
	return "0"
}

func sessionSettings(ctx context.Context, e *exam) (verdict, error) {
	type setting struct{ Name, Value, Source string }
	var list []setting
	err := e.lookPlainly(ctx, func(tx pgx.Tx) (err error) {
		list, err = collect[setting](ctx, tx, settingsSQL)
		return err
	})
	if err != nil {
		return verdict{}, err
	}
	worst, faults, harmless := OK, []string(nil), []string(nil)
	var fixes []string
	blame := func(s setting, status Status, why string) {
		faults = append(faults, fmt.Sprintf("%s = %s: %s", s.Name, s.Value, why))
		if status == Fail || worst == OK {
			worst = status
		}
		switch s.Source {
		case "database":
			fixes = append(fixes, "ALTER DATABASE "+e.database()+" RESET "+s.Name+";")
		case "user":
			fixes = append(fixes, "ALTER ROLE "+e.role()+" RESET "+s.Name+";")
		case "database user":
			fixes = append(fixes, "ALTER ROLE "+e.role()+" IN DATABASE "+e.database()+" RESET "+s.Name+";")
		default:
			// It is set for the whole server: the role gets a value of its own.
			fixes = append(fixes, "ALTER ROLE "+e.role()+" SET "+s.Name+" = "+harmlessValue(s.Name)+";")
		}
	}
	for _, s := range list {
		var ms int
		_, _ = fmt.Sscanf(s.Value, "%d", &ms) // a word is no time
		switch s.Name {
		case "session_replication_role":
			if s.Value == "replica" {
				blame(s, Fail, "triggers do not fire, so changes make no events and wake nobody")
			}
		case "statement_timeout", "transaction_timeout":
			if ms > 0 && ms < 1000 {
				blame(s, Fail, fmt.Sprintf("statements are cut off after %d ms", ms))
			} else if ms > 0 && ms < shortest {
				blame(s, Warn, fmt.Sprintf("long ones, such as retention, are cut off after %d ms", ms))
			}
		case "idle_session_timeout":
			if ms > 0 {
				blame(s, Warn, fmt.Sprintf("LISTEN and pooled connections are cut off after %d ms of silence, again and again", ms))
			}
		case "lock_timeout":
			if ms > 0 && ms < 10 {
				blame(s, Warn, "almost any wait for a row fails")
			}
		case "default_transaction_isolation":
			if s.Value == "serializable" || s.Value == "repeatable read" {
				blame(s, Warn, "claims and outcomes of several nodes fail against each other (40001) and are repeated")
			}
		default:
			if strings.Contains(s.Source, "user") || s.Source == "database" {
				harmless = append(harmless, s.Name)
			}
		}
	}
	if worst != OK {
		v := verdict{status: worst, detail: strings.Join(faults, "; ")}
		return v.do("Reset it for the role of the server; new sessions get it, so restart the server.").by(fixes...), nil
	}
	if len(harmless) > 0 {
		return well("%s is set for this role or database, which does no harm", strings.Join(harmless, ", ")), nil
	}
	return well("none that matters is changed"), nil
}
