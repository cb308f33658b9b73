package invariants

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed queries.sql
var source string

// When says when an invariant holds.
type When string

// The times.
const (
	Always When = "always"
	Twice  When = "twice" // red only if the same row shows twice, a second apart
	Rest   When = "rest"
)

// Query is one invariant.
type Query struct {
	Name string // S4, E3 ...
	When When
	Says string
	SQL  string
}

var heading = regexp.MustCompile(`(?m)^-- ([A-Z]+\d+) (always|twice|rest): (.*)\n`)

// Queries returns them all.
func Queries() []Query {
	head, _, _ := strings.Cut(source, "\n-- S1 ")
	_, common, _ := strings.Cut(head, "-- check_events\n")
	places := heading.FindAllStringSubmatchIndex(source, -1)
	queries := make([]Query, len(places))
	for i, p := range places {
		end := len(source)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		queries[i] = Query{
			Name: source[p[2]:p[3]], When: When(source[p[4]:p[5]]), Says: source[p[6]:p[7]],
			SQL: "WITH " + strings.TrimSpace(common) + "\n" + source[p[1]:end],
		}
	}
	return queries
}

// Rows runs the query and gives what it found: at most ten. Nothing is well.
func (q Query) Rows(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, q.SQL+" LIMIT 10")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Violation is a row that an invariant found.
type Violation struct {
	Query Query
	Rows  []string // at most ten
}

func (v Violation) String() string {
	return fmt.Sprintf("%s (%s): %s", v.Query.Name, v.Query.Says, strings.Join(v.Rows, " "))
}

// Check runs the invariants that hold at the given time in one REPEATABLE READ snapshot, so that they speak of one
// moment.
func Check(ctx context.Context, conn *pgx.Conn, when ...When) (found []Violation, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, q := range Queries() {
			if !slices.Contains(when, q.When) {
				continue
			}
			got, err := q.Rows(ctx, tx)
			if err != nil {
				return fmt.Errorf("%s: %w", q.Name, err)
			}
			if len(got) > 0 {
				found = append(found, Violation{q, got})
			}
		}
		return nil
	})
	return found, err
}

// Watch checks each second until ctx ends, and returns what was violated: the first time for each invariant.
func Watch(ctx context.Context, conn *pgx.Conn) ([]Violation, error) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	seen := make(map[string]bool)
	before := make(map[string][]string) // rows of the twice-invariants a second ago
	var all []Violation
	for {
		select {
		case <-ctx.Done():
			return all, nil
		case <-ticker.C:
		}
		found, err := Check(ctx, conn, Always, Twice)
		if err != nil {
			if ctx.Err() != nil {
				return all, nil
			}
			return all, err
		}
		now := make(map[string][]string)
		for _, v := range found {
			if v.Query.When == Twice {
				now[v.Query.Name] = v.Rows
				v.Rows = slices.DeleteFunc(slices.Clone(v.Rows), func(row string) bool {
					return !slices.Contains(before[v.Query.Name], row)
				})
			}
			if len(v.Rows) > 0 && !seen[v.Query.Name] {
				seen[v.Query.Name] = true
				all = append(all, v)
			}
		}
		before = now
	}
}
