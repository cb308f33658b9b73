package miniasynq_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mustExist are the documents that everything else points at.
var mustExist = []string{
	"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/configuration.md",
}

func TestDocumentsExist(t *testing.T) {
	t.Parallel()
	for _, name := range mustExist {
		require.FileExists(t, name)
	}
}

func TestMakeTargetsNamedInDocumentsExist(t *testing.T) {
	t.Parallel()
	targets := makeTargets(t)
	for _, doc := range readDocuments(t) {
		for _, command := range slices.Concat(doc.commands(), doc.plain) {
			for _, target := range targetsOf(command) {
				if !slices.Contains(targets, target) {
					t.Errorf("%s: the Makefile has no target %q (in %q)", doc.name, target, command)
				}
			}
		}
	}
}

func TestPathsNamedInDocumentsExist(t *testing.T) {
	t.Parallel()
	tree := readTree(t)
	for _, doc := range readDocuments(t) {
		for _, word := range doc.words() {
			if !tree.has(word, filepath.Dir(doc.name)) {
				t.Errorf("%s: %q does not exist", doc.name, word)
			}
		}
	}
}

func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, doc := range readDocuments(t) {
		for _, target := range doc.links() {
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc.name), target)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", doc.name, target)
			}
		}
	}
}

func TestArchitectureNamesEveryPackage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	for pkg := range floors {
		if exists(pkg + "/*.go") {
			require.Contains(t, string(page), "`"+pkg+"`")
		}
	}
}

// What a document, the compose file or the image sets is something the server reads.
func TestVariablesNamedInDocumentsAreKnown(t *testing.T) {
	t.Parallel()
	known := quotedNames(t, "internal/cli/env.go")
	texts := []string{"docker-compose.yml", "Dockerfile", "Makefile"}
	for _, doc := range readDocuments(t) {
		texts = append(texts, doc.name)
	}
	for _, name := range texts {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, variable := range variables(string(text)) {
			if !slices.Contains(known, strings.TrimSuffix(variable, "_FILE")) {
				t.Errorf("%s: internal/cli/env.go does not know %s", name, variable)
			}
		}
	}
}

// What the server reads is documented: all settings in one place.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("internal/cli/env.go")
	require.NoError(t, err)
	page, err := os.ReadFile("docs/configuration.md")
	require.NoError(t, err)
	documented := variables(string(page))
	settings := settingTag.FindAllStringSubmatch(string(source), -1)
	require.NotEmpty(t, settings)
	for _, setting := range settings {
		if !slices.Contains(documented, setting[1]) {
			t.Errorf("docs/configuration.md does not name %s", setting[1])
		}
	}
}

var (
	settingTag = regexp.MustCompile(`\benv:"([A-Z0-9_]+)"`)
	quotedName = regexp.MustCompile(`"([A-Z][A-Z0-9_]+)"`)
	// Names of ours and those of the original description; a trailing underscore belongs to a pattern, not to a name.
	variable = regexp.MustCompile(`\b(?:MINIASYNQ|DB|RETRY|LISTEN_DATABASE)_[A-Z0-9_]*[A-Z0-9]\b|` +
		`\b(?:DATABASE_URL|SERVER_PORT|GIN_MODE|WORKER_POOL_SIZE|VISIBILITY_TIMEOUT|MAX_RETRY_ATTEMPTS)\b`)
)

func variables(text string) []string { return variable.FindAllString(text, -1) }

func quotedNames(t *testing.T, name string) []string {
	t.Helper()
	source, err := os.ReadFile(name)
	require.NoError(t, err)
	var names []string
	for _, match := range quotedName.FindAllStringSubmatch(string(source), -1) {
		names = append(names, match[1])
	}
	return names
}

// document is one Markdown page, taken apart into what a reader would type or look up.
type document struct {
	name  string
	spans []string // `between ticks`
	shell []string // lines of blocks marked sh, bash, shell or console
	plain []string // lines indented by four, which may be commands
	text  string   // the rest, with the spans in it
}

var (
	span     = regexp.MustCompile("`([^`\n]+)`")
	link     = regexp.MustCompile(`\]\(([^)\s#]+)(?:#[^)]*)?\)`)
	scheme   = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	makeCall = regexp.MustCompile(`(?:^|&& |; )(?:[A-Z_]+=\S+ )*make((?: +(?:[A-Z_]+=\S+|[a-z][a-z0-9-]*))+)`)
	pathlike = regexp.MustCompile(`^\.?[A-Za-z0-9_][A-Za-z0-9_.*-]*(?:/[A-Za-z0-9_.*-]+)*/?$`)
)

func parseDocument(name, text string) document {
	doc := document{name: name}
	var prose strings.Builder
	var fence, language string
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case fence == "" && (strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~")):
			fence, language = trimmed[:3], strings.TrimLeft(trimmed[3:], "`~ ")
		case fence != "" && strings.HasPrefix(trimmed, fence):
			fence = ""
		case fence == "":
			prose.WriteString(line)
			if strings.HasPrefix(line, "    ") {
				doc.plain = append(doc.plain, trimmed)
			}
		case slices.Contains([]string{"sh", "bash", "shell", "console"}, language):
			command, _, _ := strings.Cut(strings.TrimPrefix(trimmed, "$ "), " # ")
			if !strings.HasPrefix(command, "#") {
				doc.shell = append(doc.shell, command)
			}
		}
	}
	doc.text = prose.String()
	for _, match := range span.FindAllStringSubmatch(doc.text, -1) {
		doc.spans = append(doc.spans, match[1])
	}
	return doc
}

func (d document) commands() []string { return slices.Concat(d.spans, d.shell) }

// words are the spans and the words of commands.
func (d document) words() []string {
	var words []string
	for _, command := range d.commands() {
		words = append(words, strings.Fields(command)...)
	}
	return words
}

func (d document) links() []string {
	var targets []string
	for _, match := range link.FindAllStringSubmatch(d.text, -1) {
		if !scheme.MatchString(match[1]) {
			targets = append(targets, match[1])
		}
	}
	return targets
}

// targetsOf gives the targets that a command asks make for.
func targetsOf(command string) []string {
	var targets []string
	for _, call := range makeCall.FindAllStringSubmatch(command, -1) {
		for _, word := range strings.Fields(call[1]) {
			if !strings.Contains(word, "=") {
				targets = append(targets, word)
			}
		}
	}
	return targets
}

func makeTargets(t *testing.T) []string {
	t.Helper()
	makefile, err := os.ReadFile("Makefile")
	require.NoError(t, err)
	var targets []string
	for _, match := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):(?:[^=]|$)`).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, match[1])
	}
	require.NotEmpty(t, targets)
	return targets
}

func readDocuments(t *testing.T) []document {
	t.Helper()
	names, err := filepath.Glob("*.md")
	require.NoError(t, err)
	err = filepath.WalkDir("docs", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".md" && !entry.IsDir() {
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, names)
	documents := make([]document, len(names))
	for i, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		documents[i] = parseDocument(name, string(text))
	}
	return documents
}

// tree knows what is in the repository.
type tree struct {
	files map[string]bool // base names
	top   map[string]bool // entries of the root that are folders
}

func readTree(t *testing.T) tree {
	t.Helper()
	known := tree{files: map[string]bool{}, top: map[string]bool{}}
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case entry.IsDir() && filepath.Dir(name) == ".":
			known.top[name] = true
		case !entry.IsDir():
			known.files[entry.Name()] = true
		}
		return nil
	}))
	return known
}

// sourceFiles end like this. A file of another kind is taken for an example, unless a folder of ours stands before it.
var sourceFiles = []string{".go", ".sql", ".md", ".yml"}

// has reports whether a word of a document that reads like a path of this repository is one. It is seen from the root
// or from the document's folder; a bare file name may be anywhere. Other words pass.
func (tr tree) has(word, folder string) bool {
	word = strings.TrimPrefix(strings.TrimPrefix(word, module+"/"), "./")
	word = strings.TrimRight(strings.TrimSuffix(strings.TrimRight(word, ",;:"), "/..."), "/")
	if !pathlike.MatchString(word) {
		return true
	}
	first, _, nested := strings.Cut(word, "/")
	isSource := slices.Contains(sourceFiles, filepath.Ext(word))
	if !nested {
		return !isSource || strings.HasPrefix(word, ".") || tr.files[word] || exists(word)
	}
	if !isSource && !tr.top[first] {
		return true
	}
	return exists(word) || exists(filepath.Join(folder, word))
}

// exists takes patterns too: `migrations/*.sql`.
func exists(pattern string) bool {
	matches, err := filepath.Glob(pattern)
	return err == nil && len(matches) > 0
}

// The checks above are only as good as what they find in a page.
func TestPagesAreTakenApart(t *testing.T) {
	t.Parallel()
	doc := parseDocument("docs/page.md", strings.Join([]string{
		"Run `make test`, make sure that `jobs/nowhere.go` is `MINIASYNQ_BIND` and see [the page](other.md#top),",
		"[elsewhere](https://example.org/a.md) or [here](#below).",
		"```sh",
		"$ cd x && RACE=1 make up NAME=value down   # make nothing",
		"# make nothing",
		"go run cmd/nowhere/main.go",
		"```",
		"```json",
		`{"path": "jobs/other.go", "do": "make nothing"}`,
		"```",
		"After the block: `make lint`.",
		"",
		"    make run",
	}, "\n"))

	var targets []string
	for _, command := range slices.Concat(doc.commands(), doc.plain) {
		targets = append(targets, targetsOf(command)...)
	}
	require.Equal(t, []string{"test", "lint", "up", "down", "run"}, targets)
	require.Equal(t, []string{"other.md"}, doc.links())
	require.Contains(t, doc.words(), "jobs/nowhere.go")
	require.Contains(t, doc.words(), "cmd/nowhere/main.go")
	require.NotContains(t, strings.Join(doc.words(), " "), "jobs/other.go")

	require.Equal(t, []string{"DB_HOST", "MINIASYNQ_BIND", "RETRY_INTERVAL", "LISTEN_DATABASE_URL", "DATABASE_URL"},
		variables("DB_HOST=x, DB_*, `MINIASYNQ_BIND`, MINIASYNQ_, RETRY_INTERVAL LISTEN_DATABASE_URL and DATABASE_URL"))
}

func TestPathsAreToldFromOtherWords(t *testing.T) {
	t.Parallel()
	known := tree{
		files: map[string]bool{"claim.go": true},
		top:   map[string]bool{"jobs": true, "migrations": true, "cmd": true},
	}
	for _, row := range []struct {
		word string
		want bool
	}{
		{"jobs/doc.go", true},
		{"jobs/nowhere.go", false},
		{"./jobs/...", true},
		{"./jobs/nowhere/...", false},
		{"jobs/", true},
		{"jobs/nowhere", false},
		{"nowhere/claim.go", false},
		{"claim.go", true},
		{"nowhere.go", false},
		{"migrations/*.sql", true},
		{"migrations/*.py", false},
		{module + "/jobs", true},
		{module + "/jobs/nowhere", false},
		// Not paths of ours.
		{"/api/v1/jobs", true},
		{"https://localhost:8080/x.go", true},
		{"application/json", true},
		{"jobs.Enqueue", true},
		{"m.json", true},
		{".env", true},
		{"critical:6,default:3", true},
	} {
		require.Equal(t, row.want, known.has(row.word, "."), row.word)
	}
}
