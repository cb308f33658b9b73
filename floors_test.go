// The tests of this folder look at the repository as a whole: who imports whom (here) and whether the documents tell
// the truth (docs_test.go).
package miniasynq_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/mini-asynq/mini-asynq"

// room is where a package stands. Arrows only point down: a package imports from lower floors.
type room struct {
	floor     int
	only      []string // if set, all that it imports of ours; nil: whatever stands lower
	beside    []string // of its own floor, it may import these
	importers []string // if set, only these may import it
	testOnly  bool     // only test files and other such packages may import it
}

var nothing = []string{}

// floors is the table of ARCHITECTURE.md. A new package gets its line here in the commit that brings it.
var floors = map[string]room{
	"cmd/server": {floor: 6},
	"cmd/demo":   {floor: 6},

	"internal/cli": {floor: 5, beside: []string{"internal/app"}},
	"internal/app": {floor: 5},

	"api":     {floor: 4},
	"hub":     {floor: 4},
	"workers": {floor: 4},
	"web":     {floor: 4, only: nothing},

	// It looks at a server from outside: the settings and the database, not the parts that work.
	"internal/doctor": {floor: 4, only: []string{"migrations", "internal/invariants"}},

	"dispatcher": {floor: 3, only: []string{"jobs", "internal/failpoint"}},
	"events":     {floor: 2, only: []string{"jobs", "internal/failpoint"}},
	"jobs":       {floor: 1, only: []string{"internal/failpoint"}},
	// What a node and a test of a handler do alike with an attempt.
	"internal/attempt": {floor: 2, only: []string{"jobs"}},
	"migrations":       {floor: 0, beside: []string{"internal/failpoint"}},

	// Leaves: they know nothing of the product.
	"clients/go":          {floor: 0, only: nothing},
	"internal/client":     {floor: 0, only: nothing, importers: []string{"internal/cli"}}, // REST as the commands speak it
	"clients/conformance": {floor: 6, only: nothing},                                      // its tests start a server
	"internal/failpoint":  {floor: 0, only: nothing},
	"internal/invariants": {floor: 0, only: nothing, importers: []string{"internal/doctor"}}, // and tests
	"internal/pgembed": {
		floor: 0, only: nothing, importers: []string{"internal/app", "internal/cli", "internal/pgtest"},
	},

	// Helpers of tests.
	"internal/pgtest": {floor: 5, testOnly: true},
	// Whoever only enqueues tests with it as well: it must cost no more than jobs does.
	"jobs/jobstest": {floor: 3, only: []string{"jobs", "internal/attempt"}, testOnly: true},
}

// Groups of packages that share a budget.
var (
	wiring   = []string{"internal/app", "internal/cli"}
	services = []string{"events", "dispatcher", "workers", "api", "hub"}
	helpers  = []string{"internal/pgtest", "internal/invariants", "jobs/jobstest"}
)

// budget says for each library outside this module which packages may import it; test files may import all. A library
// that is not here is one that nobody has weighed yet.
var budget = map[string][]string{
	// Go users who embed jobs and workers never compile gin, and jobs costs them pgx and uuid.
	"github.com/jackc/pgx/v5": join(
		[]string{"migrations", "jobs", "events", "workers", "api", "internal/pgembed", "internal/doctor"}, wiring, helpers),
	"github.com/google/uuid":       join([]string{"jobs", "cmd/demo"}, services, wiring, helpers),
	"github.com/gin-gonic/gin":     {"api"},
	"github.com/goccy/go-yaml":     {"api"}, // gin brings it along
	"github.com/gorilla/websocket": {"hub", "clients/go", "internal/client"},

	"github.com/jackc/pgxlisten":                 {"events"},
	"github.com/standard-webhooks":               {"events"}, // signs what webhooks send; no dependencies
	"github.com/pressly/goose/v3":                {"migrations"},
	"github.com/fergusstrange/embedded-postgres": {"internal/pgembed"},
	"github.com/spf13/cobra":                     {"internal/cli"},
	"github.com/spf13/pflag":                     {"internal/cli"},
	"github.com/caarlos0/env/v11":                {"internal/cli"},

	"github.com/cenkalti/backoff/v4": join(
		[]string{"migrations", "events", "dispatcher", "workers", "internal/pgembed", "clients/go", "internal/client"}, wiring, helpers),
	"github.com/prometheus/client_golang": join(services, wiring),
	"github.com/rs/zerolog": join(
		services, wiring, helpers, []string{"internal/pgembed", "cmd/server", "cmd/demo"}),
	"golang.org/x/sync": join(services, wiring, helpers, []string{"cmd/demo"}),
	"golang.org/x/sys":  {"internal/pgembed"},
	"golang.org/x/term": {"internal/cli"}, // passwords without echo, keys of top

	"github.com/stretchr/testify": helpers,
	"go.uber.org/goleak":          helpers,
	"pgregory.net/rapid":          helpers,

	// Of the standard library, so that no test code is linked into the server and the binary stays static.
	"testing": helpers,
	"C":       nothing,
}

func join(groups ...[]string) []string { return slices.Concat(groups...) }

// source is one Go file: its path inside the repository and what it imports.
type source struct {
	path    string
	imports []string
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func TestPackagesKeepToTheirFloors(t *testing.T) {
	t.Parallel()
	sources := readSources(t)
	require.NotEmpty(t, sources)
	for _, violation := range violations(sources) {
		t.Error(violation)
	}
}

// violations lists what breaks the tables above, sorted.
func violations(sources []source) []string {
	var found []string
	for _, file := range sources {
		pkg := path.Dir(file.path)
		own, known := floors[pkg]
		if !known && (pkg != "." || !file.isTest()) {
			found = append(found, fmt.Sprintf("%s: package %s is on no floor; give it a line in floors_test.go", file.path, pkg))
			continue
		}
		for _, imported := range file.imports {
			var why string
			if target, ours := strings.CutPrefix(imported, module+"/"); ours {
				why = refuseOurs(pkg, own, file.isTest(), target)
			} else if !file.isTest() {
				why = refuseOthers(pkg, imported)
			}
			if why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", file.path, imported, why))
			}
		}
	}
	slices.Sort(found)
	return found
}

// refuseOurs says why a file of pkg may not import the package target of this module; empty if it may.
func refuseOurs(pkg string, own room, isTest bool, target string) string {
	if target == "cmd" || strings.HasPrefix(target, "cmd/") {
		return "programs are not imported"
	}
	their, known := floors[target]
	switch {
	case !known:
		return "it is on no floor"
	case isTest:
		return ""
	case their.testOnly && !own.testOnly:
		return "it is for tests only"
	case their.importers != nil && !slices.Contains(their.importers, pkg):
		return "it is for " + strings.Join(their.importers, ", ") + " only"
	case own.only != nil && !slices.Contains(own.only, target):
		return fmt.Sprintf("of ours it may import [%s] only", strings.Join(own.only, " "))
	case their.floor == own.floor && !slices.Contains(own.beside, target):
		return fmt.Sprintf("both stand on floor %d", own.floor)
	case their.floor > own.floor:
		return fmt.Sprintf("floor %d is above floor %d", their.floor, own.floor)
	}
	return ""
}

// refuseOthers says why pkg may not import a library; empty if it may.
func refuseOthers(pkg, imported string) string {
	for library, allowed := range budget {
		if imported != library && !strings.HasPrefix(imported, library+"/") {
			continue
		}
		if slices.Contains(allowed, pkg) {
			return ""
		}
		return fmt.Sprintf("%s is for [%s] only", library, strings.Join(allowed, " "))
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	return "nobody has weighed this library yet; if it is worth its upkeep, give it a line in floors_test.go"
}

// readSources parses the imports of every Go file of this module, whatever its build constraints say.
func readSources(t *testing.T) []source {
	t.Helper()
	var sources []source
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(name)
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		read := source{path: filepath.ToSlash(name)}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			read.imports = append(read.imports, imported)
		}
		sources = append(sources, read)
		return nil
	}))
	return sources
}

// skipFolder passes over what the go command does not look at either: hidden folders, test data, other modules.
func skipFolder(name string) error {
	base := filepath.Base(name)
	if name == "." {
		return nil
	}
	if base[0] == '.' || base[0] == '_' || base == "testdata" || base == "node_modules" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

// Each row is a file that must be refused, or be let through if want is empty.
func TestViolationsAreSeen(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, file, imports, want string }{
		{"a new package", "queue/queue.go", "fmt", "is on no floor"},
		{"a new package inside an old one", "jobs/internal/sql/sql.go", "fmt", "is on no floor"},
		{"code in the root", "root.go", "fmt", "is on no floor"},
		{"tests in the root", "floors_test.go", module + "/internal/app", ""},
		{"import of a package without a floor", "api/x.go", module + "/queue", "it is on no floor"},

		{"down", "workers/x.go", module + "/events", ""},
		{"up", "jobs/x.go", module + "/events", "may import [internal/failpoint] only"},
		{"up without a list", "migrations/x.go", module + "/jobs", "floor 1 is above floor 0"},
		{"sideways", "api/x.go", module + "/hub", "both stand on floor 4"},
		{"sideways at the bottom", "migrations/x.go", module + "/clients/go", "both stand on floor 0"},
		{"failpoints at the bottom", "migrations/x.go", module + "/internal/failpoint", ""},
		{"sideways as agreed", "internal/cli/x.go", module + "/internal/app", ""},
		{"sideways the other way", "internal/app/x.go", module + "/internal/cli", "both stand on floor 5"},
		{"down, but not on the list", "dispatcher/x.go", module + "/events", "may import [jobs internal/failpoint] only"},
		{"a leaf that grows roots", "web/x.go", module + "/jobs", "may import [] only"},
		{"failpoints", "jobs/x.go", module + "/internal/failpoint", ""},
		{"failpoints that know the product", "internal/failpoint/x.go", module + "/jobs", "may import [] only"},
		{"the private PostgreSQL", "internal/app/x.go", module + "/internal/pgembed", ""},
		{"the private PostgreSQL elsewhere", "workers/x.go", module + "/internal/pgembed", "it is for internal/app"},
		{"a program", "internal/app/x.go", module + "/cmd/demo", "programs are not imported"},
		{"a program in a test", "internal/app/x_test.go", module + "/cmd/server", "programs are not imported"},
		{"test helpers in a test", "jobs/x_test.go", module + "/internal/pgtest", ""},
		{"test helpers in the product", "internal/app/x.go", module + "/internal/pgtest", "it is for tests only"},
		{"test helpers in the product", "workers/x.go", module + "/jobs/jobstest", "it is for tests only"},
		{"tests look wherever they like", "jobs/x_test.go", module + "/workers", ""},

		{"gin", "api/x.go", "github.com/gin-gonic/gin", ""},
		{"gin for embedders", "workers/x.go", "github.com/gin-gonic/gin/binding", "gin-gonic/gin is for [api] only"},
		{"sockets", "hub/x.go", "github.com/gorilla/websocket", ""},
		{"sockets in the API", "api/x.go", "github.com/gorilla/websocket", "is for [hub clients/go internal/client] only"},
		{"pgx in the domain", "jobs/x.go", "github.com/jackc/pgx/v5/pgconn", ""},
		{"another pgx", "jobs/x.go", "github.com/jackc/pgx/v4", "nobody has weighed"},
		{"a name that begins alike", "events/x.go", "github.com/jackc/pgxlisten", ""},
		{"the listener elsewhere", "dispatcher/x.go", "github.com/jackc/pgxlisten", "is for [events] only"},
		{"pgx in the hub", "hub/x.go", "github.com/jackc/pgx/v5/pgxpool", "pgx/v5 is for"},
		{"a logger in the domain", "jobs/x.go", "github.com/rs/zerolog", "zerolog is for"},
		{"a registry in the domain", "jobs/x.go", "github.com/prometheus/client_golang/prometheus", "client_golang is for"},
		{"migrations elsewhere", "internal/app/x.go", "github.com/pressly/goose/v3", "is for [migrations] only"},
		{"flags elsewhere", "internal/app/x.go", "github.com/spf13/cobra", "is for [internal/cli] only"},
		{"an unknown library", "api/x.go", "gopkg.in/yaml.v3", "nobody has weighed"},
		{"an unknown library in a test", "api/x_test.go", "gopkg.in/yaml.v3", ""},
		{"assertions in the product", "events/x.go", "github.com/stretchr/testify/require", "testify is for"},
		{"assertions in helpers", "internal/pgtest/x.go", "github.com/stretchr/testify/require", ""},
		{"testing in the product", "workers/x.go", "testing", "testing is for"},
		{"its relatives too", "workers/x.go", "testing/synctest", "testing is for"},
		{"C", "internal/pgembed/x.go", "C", "C is for [] only"},
		{"the standard library", "jobs/x.go", "encoding/json", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			found := violations([]source{{path: row.file, imports: []string{"context", row.imports}}})
			if row.want == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Contains(t, found[0], row.file)
			require.Contains(t, found[0], row.want)
		})
	}
}

// A table that names a package wrongly would allow nothing to a package that does not exist.
func TestTablesNameEachOthersPackages(t *testing.T) {
	t.Parallel()
	for pkg, own := range floors {
		for _, other := range slices.Concat(own.only, own.beside, own.importers) {
			require.Contains(t, floors, other, "named by the floor of %s", pkg)
		}
		for _, other := range own.only {
			require.Less(t, floors[other].floor, own.floor, "%s may import %s", pkg, other)
		}
	}
	for library, allowed := range budget {
		for _, pkg := range allowed {
			require.Contains(t, floors, pkg, "named by the budget of %s", library)
		}
	}
}
