package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Status is what a check came to.
type Status string

// The statuses. Skipped says nothing about health: the detail says why nobody looked.
const (
	OK      Status = "ok"
	Warn    Status = "warn"
	Fail    Status = "fail"
	Skipped Status = "skipped"
)

// Finding is the result of a check. Advice is empty if there is nothing to do; FixSQL is SQL that would repair what SQL
// can repair, for a person to read and run.
type Finding struct {
	ID     string   `json:"id"`
	Title  string   `json:"title"`
	Status Status   `json:"status"`
	Detail string   `json:"detail"`
	Advice []string `json:"advice"`
	FixSQL string   `json:"fix_sql,omitempty"`
}

// Report is what an examination found, in the order of the checks.
type Report struct {
	Findings []Finding
	// Reached is false when there were settings but no database to talk to.
	Reached bool
}

// Red tells whether a check failed.
func (r Report) Red() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Status == Fail })
}

// Database is where the server's data lives.
type Database struct {
	URL     string
	Private bool                        // the server's own PostgreSQL
	Dir     string                      // of a private one
	Close   func(context.Context) error // gives it back; nil: nothing to give
}

// Config is what is examined. Zero values mean that the setting is not set.
type Config struct {
	// SettingsError is why the settings could not be read: then nothing else is known.
	SettingsError error
	// Open finds the database and does not create one. Required unless there is a SettingsError.
	Open func(context.Context) (Database, error)

	ListenURL string // where LISTEN goes, past a pooler

	Bind, Address string
	Loopback      bool   // Bind is reachable from this machine only
	PublicURL     string // the address that users see
	AdminPassword string
	Dev           bool
	Anonymous     []string // scopes without a credential; nil: by where the server is bound
	StateDir      string   // "": not used

	// What everybody knows from the documentation.
	DocumentedPassword                                 string
	DocumentedDatabaseUser, DocumentedDatabasePassword string

	KeepDone, KeepDead, KeepEvents time.Duration
	Queues                         map[string]int // that a server of this configuration works for; empty: all
	Connections                    int            // of one server

	Server      string // base address at which a server may answer
	ServerNamed bool   // somebody said that one should
	APIKey      string
	BasePath    string
	Version     string // of this program

	OpenLimit  time.Duration // of finding the database; 0 is 10 s
	TotalLimit time.Duration // of all checks; 0 is 15 s
	CheckLimit time.Duration // of one; 0 is 3 s
	Patience   time.Duration // between two looks at what may be passing; 0 is 1 s

	clock func() time.Time // of this machine; nil: the real one
	hurry time.Duration    // what counts as old for transactions; 0: what does in earnest
}

// Limits of an examination.
const (
	openLimit  = 10 * time.Second // a private PostgreSQL that rests is started
	totalLimit = 15 * time.Second
	checkLimit = 3 * time.Second
	patience   = time.Second // between two looks at what may only be passing
)

func (c Config) withDefaults() Config {
	if c.OpenLimit == 0 {
		c.OpenLimit = openLimit
	}
	if c.TotalLimit == 0 {
		c.TotalLimit = totalLimit
	}
	if c.CheckLimit == 0 {
		c.CheckLimit = checkLimit
	}
	if c.Patience == 0 {
		c.Patience = patience
	}
	return c
}

// need is what must be there for a check to make sense.
type need int

const (
	needsNothing need = iota
	needsSettings
	needsDatabase
	needsSchema
)

// check is one question. advice is what to do about it when the verdict names nothing better.
type check struct {
	id, title string
	needs     need
	advice    string
	run       func(context.Context, *exam) (verdict, error)
}

// verdict is the answer to it.
type verdict struct {
	status Status
	detail string
	advice []string
	fix    string
}

func well(format string, args ...any) verdict {
	return verdict{status: OK, detail: sprintf(format, args)}
}

func warn(format string, args ...any) verdict {
	return verdict{status: Warn, detail: sprintf(format, args)}
}

func fail(format string, args ...any) verdict {
	return verdict{status: Fail, detail: sprintf(format, args)}
}

func skip(format string, args ...any) verdict {
	return verdict{status: Skipped, detail: sprintf(format, args)}
}

func sprintf(format string, args []any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}

// do adds what to do.
func (v verdict) do(advice ...string) verdict {
	v.advice = append(slices.Clip(v.advice), advice...)
	return v
}

// by adds the SQL that repairs it.
func (v verdict) by(sql ...string) verdict {
	v.fix = strings.Join(sql, "\n")
	return v
}

// group is a heading of the report.
type group struct {
	name, title string
	checks      []check
}

// groups lists every check in the order of the report: what others depend on comes first.
func groups() []group {
	return []group{
		{"config", "Settings", configChecks()},
		{"server", "Server", serverChecks()},
		{"database", "Database", databaseChecks()},
		{"listen", "Notifications", listenChecks()},
		{"schema", "Schema", schemaChecks()},
		{"rights", "Rights", rightsChecks()},
		{"transactions", "Transactions and locks", transactionChecks()},
		{"vacuum", "Vacuum", vacuumChecks()},
		{"storage", "Storage and retention", storageChecks()},
		{"stream", "Event stream", streamChecks()},
		{"jobs", "Jobs and workers", jobChecks()},
	}
}

// Examine makes every check, within the limits of config. ctx ends it early: what was not looked at by then is skipped.
func Examine(ctx context.Context, config Config) Report {
	config = config.withDefaults()
	e := &exam{config: config}
	if config.SettingsError == nil {
		openCtx, cancel := context.WithTimeout(ctx, config.OpenLimit)
		e.db, e.openErr = config.Open(openCtx)
		cancel()
	}
	ctx, cancel := context.WithTimeout(ctx, config.TotalLimit)
	defer cancel()
	defer e.close(context.WithoutCancel(ctx))
	var report Report
	for _, g := range groups() {
		for _, c := range g.checks {
			report.Findings = append(report.Findings, e.make(ctx, c))
		}
	}
	report.Reached = e.reached || config.SettingsError != nil
	return report
}

// make makes one check and puts what came of it into words.
func (e *exam) make(ctx context.Context, c check) Finding {
	v := e.missing(c.needs)
	if v.status == "" {
		limit := c.limit(e.config.CheckLimit)
		callCtx, cancel := context.WithTimeout(ctx, limit)
		var err error
		v, err = guarded(callCtx, e, c)
		cancel()
		if err != nil {
			v = e.unanswered(ctx, err)
		}
	}
	f := Finding{ID: c.id, Title: c.title, Status: v.status, Detail: v.detail, Advice: v.advice, FixSQL: v.fix}
	if len(f.Advice) == 0 && (f.Status == Warn || f.Status == Fail) {
		f.Advice = []string{c.advice}
	}
	if f.Advice == nil {
		f.Advice = []string{}
	}
	return f
}

// limit is how long a check may take: those that open connections have more to wait for.
func (c check) limit(usual time.Duration) time.Duration {
	if c.id == idReachable || strings.HasPrefix(c.id, "listen.") {
		return 2 * usual
	}
	return usual
}

// guarded runs a check so that a fault in it is no fault of the others.
func guarded(ctx context.Context, e *exam, c check) (v verdict, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("the check itself is broken: %v", value)
		}
	}()
	return c.run(ctx, e)
}

// missing says why a check is not made at all; empty if it can be.
func (e *exam) missing(n need) verdict {
	switch {
	case n >= needsSettings && e.config.SettingsError != nil:
		return skip("the settings cannot be read")
	case n >= needsDatabase && !e.reached:
		return skip("the database was not reached")
	case n >= needsSchema && !e.schema:
		return skip("the schema is not there, or cannot be read")
	}
	return verdict{}
}

// unanswered says why a check that was begun gave no answer. That is no proof of health, and none of the opposite: what
// stands behind it has a check of its own.
func (e *exam) unanswered(ctx context.Context, err error) verdict {
	var pg *pgconn.PgError
	switch {
	case ctx.Err() != nil:
		return skip("not looked at: the time for all checks ran out")
	case errors.As(err, &pg):
		switch pg.Code {
		case "42501": // insufficient_privilege
			return skip("this role may not look: %s (see rights.role)", pg.Message)
		case "42P01", "42883", "42703", "3F000": // undefined table, function, column, schema
			return skip("something that it reads is missing: %s (see the schema's checks)", pg.Message)
		case "57014": // query_canceled
			return skip("not answered in time: the table is large, or the server slow")
		case "55P03": // lock_not_available
			return skip("a table that it reads is locked (see transactions.locks)")
		}
		return skip("PostgreSQL refused: %s (%s)", pg.Message, pg.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return skip("not answered in time")
	}
	return skip("could not be looked at: %v", err)
}
