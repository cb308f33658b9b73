package doctor

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/mini-asynq/mini-asynq/migrations"
)

// blueprint is what the migrations of this server make, read from their text: so it is never behind them, and the statement
// that makes a thing is at hand to make it again.
type blueprint struct {
	tables    map[string]*tablePlan
	indexes   map[string]indexPlan
	triggers  map[string]triggerPlan // by name and table
	functions map[string][]functionPlan
	views     map[string]string // the statement
	sequences map[string]bool
	types     map[string]bool // domains and enums too
}

type tablePlan struct {
	columns     []string
	constraints []string
	unlogged    bool
	partOf      string // the table whose columns it shares; "": none
}

type indexPlan struct {
	table, columns string
	unique         bool
	sql            string
}

type triggerPlan struct{ name, table, function, sql string }

type functionPlan struct {
	body    string
	definer bool
	sql     string
}

// planned is read once: the migrations are part of the program.
var planned = sync.OnceValues(func() (*blueprint, error) { return readBlueprint(migrations.Files()) })

func readBlueprint(files fs.FS) (*blueprint, error) {
	names, err := fs.Glob(files, "*.sql") // sorted, as the versions are
	if err != nil {
		return nil, fmt.Errorf("list the migrations: %w", err)
	}
	b := &blueprint{
		tables: map[string]*tablePlan{}, indexes: map[string]indexPlan{}, triggers: map[string]triggerPlan{},
		functions: map[string][]functionPlan{}, views: map[string]string{}, sequences: map[string]bool{}, types: map[string]bool{},
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read the migrations: %w", err)
		}
		_, up, _ := strings.Cut(string(text), "-- +goose Up")
		up, _, _ = strings.Cut(up, "-- +goose Down")
		for _, statement := range statements(up) {
			b.apply(statement)
		}
	}
	return b, nil
}

// statements splits SQL at semicolons outside of quotes, dollar quotes and comments. Comments outside of bodies are left
// out.
func statements(sql string) []string {
	var list []string
	var current strings.Builder
	for len(sql) > 0 {
		length := 1
		switch {
		case strings.HasPrefix(sql, "--"):
			end := strings.IndexByte(sql, '\n')
			if end < 0 {
				end = len(sql)
			}
			sql = sql[end:]
			continue
		case strings.HasPrefix(sql, "$$"):
			length = closed(sql, "$$")
		case sql[0] == '\'' || sql[0] == '"':
			length = closed(sql, sql[:1])
		case sql[0] == ';':
			list = append(list, strings.TrimSpace(current.String()))
			current.Reset()
			sql = sql[1:]
			continue
		}
		current.WriteString(sql[:length])
		sql = sql[length:]
	}
	return list
}

// closed is the length of what begins with a quote, up to and with its end.
func closed(sql, quote string) int {
	end := strings.Index(sql[len(quote):], quote)
	if end < 0 {
		return len(sql)
	}
	return end + 2*len(quote)
}

var (
	createTable    = regexp.MustCompile(`^CREATE (UNLOGGED )?TABLE (?:IF NOT EXISTS )?mini_asynq\.(\w+)\s*\(`)
	createPart     = regexp.MustCompile(`^CREATE TABLE (?:IF NOT EXISTS )?mini_asynq\.(\w+)\s+PARTITION OF mini_asynq\.(\w+)`)
	createIndex    = regexp.MustCompile(`^CREATE (UNIQUE )?INDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?(\w+) ON mini_asynq\.(\w+)\s*`)
	createTrigger  = regexp.MustCompile(`(?s)^CREATE TRIGGER (\w+) .*? ON mini_asynq\.(\w+).*EXECUTE FUNCTION mini_asynq\.(\w+)`)
	createFunction = regexp.MustCompile(`(?s)^CREATE (?:OR REPLACE )?FUNCTION mini_asynq\.(\w+)(.*?)AS \$\$(.*)\$\$`)
	createView     = regexp.MustCompile(`^CREATE (?:OR REPLACE )?VIEW mini_asynq\.(\w+)`)
	createSequence = regexp.MustCompile(`^CREATE SEQUENCE mini_asynq\.(\w+)`)
	createType     = regexp.MustCompile(`^CREATE (?:TYPE|DOMAIN) mini_asynq\.(\w+)`)
	alterAdd       = regexp.MustCompile(`ADD (?:COLUMN )?(?:IF NOT EXISTS )?(\w+)(?: (\w+))?`)
	alterTable     = regexp.MustCompile(`(?s)^ALTER TABLE (?:ONLY )?mini_asynq\.(\w+)\s+(.*)`)
	alterDrop      = regexp.MustCompile(`DROP (COLUMN|CONSTRAINT) (?:IF EXISTS )?(\w+)`)
	dropThing      = regexp.MustCompile(`(?s)^DROP (TABLE|INDEX|FUNCTION|VIEW|SEQUENCE|TYPE|DOMAIN|TRIGGER) (?:CONCURRENTLY )?(?:IF EXISTS )?(.*)`)
	ourName        = regexp.MustCompile(`mini_asynq\.(\w+)`)
	namedConstr    = regexp.MustCompile(`CONSTRAINT (\w+)`)
	likeTable      = regexp.MustCompile(`^LIKE mini_asynq\.(\w+)`)
)

// apply adds what a statement makes.
func (b *blueprint) apply(sql string) {
	switch {
	case createPart.MatchString(sql):
		m := createPart.FindStringSubmatch(sql)
		if parent := b.tables[m[2]]; parent != nil {
			b.tables[m[1]] = &tablePlan{columns: parent.columns, partOf: m[2]}
		}
	case createTable.MatchString(sql):
		m := createTable.FindStringSubmatch(sql)
		b.tables[m[2]] = b.table(inside(sql[strings.IndexByte(sql, '('):]), m[1] != "")
	case createIndex.MatchString(sql):
		m := createIndex.FindStringSubmatch(sql)
		b.indexes[m[2]] = indexPlan{table: m[3], columns: spaced(inside(sql[len(m[0]):])), unique: m[1] != "", sql: sql + ";"}
	case createTrigger.MatchString(sql):
		m := createTrigger.FindStringSubmatch(sql)
		b.triggers[m[1]+" on "+m[2]] = triggerPlan{m[1], m[2], m[3], sql + ";"}
	case createFunction.MatchString(sql):
		m := createFunction.FindStringSubmatch(sql)
		plan := functionPlan{body: m[3], definer: strings.Contains(m[2], "SECURITY DEFINER"), sql: orReplace(sql)}
		if strings.HasPrefix(sql, "CREATE OR REPLACE") {
			b.functions[m[1]] = nil // none of ours is overloaded
		}
		b.functions[m[1]] = append(b.functions[m[1]], plan)
	case createView.MatchString(sql):
		b.views[createView.FindStringSubmatch(sql)[1]] = orReplace(sql)
	case createSequence.MatchString(sql):
		b.sequences[createSequence.FindStringSubmatch(sql)[1]] = true
	case createType.MatchString(sql):
		b.types[createType.FindStringSubmatch(sql)[1]] = true
	case alterTable.MatchString(sql):
		b.alter(alterTable.FindStringSubmatch(sql))
	case dropThing.MatchString(sql):
		b.drop(dropThing.FindStringSubmatch(sql))
	}
}

func orReplace(sql string) string {
	if !strings.HasPrefix(sql, "CREATE OR REPLACE") {
		sql = "CREATE OR REPLACE" + strings.TrimPrefix(sql, "CREATE")
	}
	return sql + ";"
}

func spaced(text string) string { return strings.Join(strings.Fields(text), " ") }

// inside is the text between the first parenthesis and its counterpart.
func inside(sql string) string {
	depth, start := 0, strings.IndexByte(sql, '(')
	for i := start; i >= 0 && i < len(sql); i++ {
		switch sql[i] {
		case '\'':
			i += closed(sql[i:], "'") - 1
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return sql[start+1 : i]
			}
		}
	}
	return ""
}

// parts splits at commas outside of parentheses and quotes.
func parts(text string) []string {
	var list []string
	depth, start := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\'':
			i += closed(text[i:], "'") - 1
		case '(', '[':
			depth++
		case ')', ']':
			depth--
		case ',':
			if depth == 0 {
				list = append(list, strings.TrimSpace(text[start:i]))
				start = i + 1
			}
		}
	}
	return append(list, strings.TrimSpace(text[start:]))
}

func (b *blueprint) table(body string, unlogged bool) *tablePlan {
	plan := &tablePlan{unlogged: unlogged}
	for _, part := range parts(body) {
		word, _, _ := strings.Cut(part, " ")
		switch word {
		case "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "CONSTRAINT":
		case "LIKE":
			if m := likeTable.FindStringSubmatch(part); m != nil && b.tables[m[1]] != nil {
				plan.columns = append(plan.columns, b.tables[m[1]].columns...)
			}
		default:
			plan.columns = append(plan.columns, word)
		}
		for _, m := range namedConstr.FindAllStringSubmatch(part, -1) {
			plan.constraints = append(plan.constraints, m[1])
		}
	}
	return plan
}

func (b *blueprint) alter(m []string) {
	plan := b.tables[m[1]]
	if plan == nil {
		return
	}
	for _, part := range parts(m[2]) {
		if add := alterAdd.FindStringSubmatch(part); add != nil && strings.HasPrefix(part, "ADD") {
			switch add[1] {
			case "CONSTRAINT":
				plan.constraints = append(plan.constraints, add[2])
			case "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE":
			default:
				b.setColumns(m[1], append(slices.Clip(plan.columns), add[1]))
			}
		}
		if drop := alterDrop.FindStringSubmatch(part); drop != nil {
			gone := func(name string) bool { return name == drop[2] }
			b.setColumns(m[1], slices.DeleteFunc(slices.Clone(plan.columns), gone))
			plan.constraints = slices.DeleteFunc(slices.Clone(plan.constraints), gone)
		}
	}
}

// setColumns changes a table and its partitions, which have the same.
func (b *blueprint) setColumns(name string, columns []string) {
	b.tables[name].columns = columns
	for part, plan := range b.tables {
		if plan.partOf == name {
			b.setColumns(part, columns)
		}
	}
}

func (b *blueprint) drop(m []string) {
	if m[1] == "TRIGGER" {
		name, table, _ := strings.Cut(strings.TrimSpace(m[2]), " ON mini_asynq.")
		delete(b.triggers, name+" on "+table)
		return
	}
	for _, match := range ourName.FindAllStringSubmatch(m[2], -1) {
		name := match[1]
		switch m[1] {
		case "TABLE":
			delete(b.tables, name)
		case "INDEX":
			delete(b.indexes, name)
		case "FUNCTION":
			delete(b.functions, name)
		case "VIEW":
			delete(b.views, name)
		case "SEQUENCE":
			delete(b.sequences, name)
		default:
			delete(b.types, name)
		}
	}
}
