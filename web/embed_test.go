package web_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/mini-asynq/mini-asynq/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-NONCE'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

func get(t *testing.T, h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const asBrowser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func TestPagesGetTheIndexAndDataDoesNot(t *testing.T) {
	t.Parallel()
	h := web.Handler("", false)
	for _, row := range []struct {
		path, accept string
		status       int
		kind, cache  string
	}{
		{"/", "", 200, "text/html; charset=utf-8", "no-cache"},
		{"/", asBrowser, 200, "text/html; charset=utf-8", "no-cache"},
		{"/jobs/0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e", asBrowser, 200, "text/html; charset=utf-8", "no-cache"},
		{"/jobs/1", "application/json", 404, "text/plain; charset=utf-8", "no-store"},
		{"/jobs/1", "", 404, "text/plain; charset=utf-8", "no-store"},
		{"/index.html", "", 404, "text/plain; charset=utf-8", "no-store"},
		{"/assets/", asBrowser, 404, "text/plain; charset=utf-8", "no-store"},
		{"/assets/index.js", asBrowser, 404, "text/plain; charset=utf-8", "no-store"},
		{"/assets/index-00000000.js", asBrowser, 404, "text/plain; charset=utf-8", "no-store"},
		{"/../embed.go", "", 404, "text/plain; charset=utf-8", "no-store"},
	} {
		w := get(t, h, row.path, "Accept", row.accept)
		require.Equal(t, row.status, w.Code, row)
		require.Equal(t, row.kind, w.Header().Get("Content-Type"), row)
		require.Equal(t, row.cache, w.Header().Get("Cache-Control"), row)
		require.Regexp(t, strings.ReplaceAll(regexp.QuoteMeta(policy), "NONCE", "[A-Z2-7]{26}"), w.Header().Get("Content-Security-Policy"), row)
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"), row)
		require.Equal(t, "no-referrer", w.Header().Get("Referrer-Policy"), row)
	}
}

func TestOnlyReadingIsServed(t *testing.T) {
	t.Parallel()
	h := web.Handler("", false)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodHead, "/", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Zero(t, w.Body.Len())
}

var reference = regexp.MustCompile(`(?:src|href)="([^"#]+)"`)

func TestFilesOfThePageAreThereForEver(t *testing.T) {
	t.Parallel()
	h := web.Handler("/tools/jobs", false)
	references := reference.FindAllStringSubmatch(get(t, h, "/").Body.String(), -1)
	require.GreaterOrEqual(t, len(references), 4, "early script, script, style sheet, icon")
	for _, found := range references {
		path, ok := strings.CutPrefix(found[1], "/tools/jobs")
		require.True(t, ok, found[1])
		require.Regexp(t, `^/assets/[A-Za-z]+-[0-9a-f]{8}\.(js|css|svg)$`, path)
		w := get(t, h, path)
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Equal(t, "public, max-age=31536000, immutable", w.Header().Get("Cache-Control"))
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		require.NotEmpty(t, w.Body.String())
		if strings.HasSuffix(path, ".js") {
			require.Equal(t, "text/javascript; charset=utf-8", w.Header().Get("Content-Type"))
		}
	}
}

// Scripts find their neighbours relative to themselves, so a base path needs nothing from them.
func TestScriptsImportNothingButNeighboursThatAreThere(t *testing.T) {
	t.Parallel()
	h := web.Handler("", false)
	imports := regexp.MustCompile(`(?:\bfrom|\bimport)\s*\(?\s*["'\x60]((?:\.{0,2}/|\w+:)[^"'\x60\s]+)["'\x60]`)
	found := 0
	for name, body := range files(t, ".js") {
		for _, imported := range imports.FindAllStringSubmatch(body, -1) {
			neighbour, ok := strings.CutPrefix(imported[1], "./")
			require.True(t, ok, "%s imports %s", name, imported[1])
			require.Equal(t, http.StatusOK, get(t, h, "/assets/"+neighbour).Code, imported[1])
			found++
		}
	}
	require.NotZero(t, found)
}

func TestReadersGetTheFormThatTheyTake(t *testing.T) {
	t.Parallel()
	h := web.Handler("", false)
	script := regexp.MustCompile(`/assets/index-[0-9a-f]{8}\.js`).FindString(get(t, h, "/").Body.String())
	require.NotEmpty(t, script)
	plain := get(t, h, script)
	for _, row := range []struct{ accepted, encoding string }{
		{"", ""}, {"identity", ""}, {"*", ""}, {"zstd, deflate", ""}, {"br;q=0", ""}, {"br;q=x", ""}, {"gzip;q=0.000", ""},
		{"gzip", "gzip"}, {"GZip ; Q=0.5", "gzip"}, {"br;q=0, gzip", "gzip"},
		{"gzip, deflate, br, zstd", "br"}, {"br", "br"}, {"gzip;q=1, br;q=0.1", "br"},
	} {
		w := get(t, h, script, "Accept-Encoding", row.accepted)
		require.Equal(t, row.encoding, w.Header().Get("Content-Encoding"), row)
		require.Equal(t, "Accept-Encoding", w.Header().Get("Vary"), row)
		require.Equal(t, plain.Header().Get("Content-Type"), w.Header().Get("Content-Type"), row)
		if row.encoding == "" {
			require.Equal(t, plain.Body.Bytes(), w.Body.Bytes(), row)
		} else {
			require.Less(t, w.Body.Len(), plain.Body.Len()/2, row)
		}
		if row.encoding == "gzip" {
			unpacked, err := gzip.NewReader(bytes.NewReader(w.Body.Bytes()))
			require.NoError(t, err)
			body, err := io.ReadAll(unpacked)
			require.NoError(t, err)
			require.Equal(t, plain.Body.Bytes(), body, row)
		}
	}
	require.Equal(t, http.StatusNotFound, get(t, h, script+".br").Code, "a form is not a file")
}

func TestThePageHoldsDataAndNoScript(t *testing.T) {
	t.Parallel()
	index := get(t, web.Handler("/base", true), "/").Body.String()
	for _, tag := range regexp.MustCompile(`<script[^>]*>`).FindAllString(index, -1) {
		require.Regexp(t, ` src="|type="application/json"`, tag)
	}
	require.NotRegexp(t, `(?i)<style|\sstyle=|\son[a-z]+=|javascript:|https?://`, index)
}

var embedded = regexp.MustCompile(`<script type="application/json" id="config">(.*)</script>`)

func TestEachPageHasANonceOfItsOwnAndItsPolicyNamesIt(t *testing.T) {
	t.Parallel()
	h := web.Handler("/a,b", true)
	seen := make(map[string]bool)
	for range 10 {
		w := get(t, h, "/")
		found := embedded.FindStringSubmatch(w.Body.String())
		require.NotNil(t, found)
		var config struct {
			BasePath string `json:"base_path"`
			Dev      bool   `json:"dev"`
			Nonce    string `json:"nonce"`
		}
		require.NoError(t, json.Unmarshal([]byte(found[1]), &config))
		require.Equal(t, "/a,b", config.BasePath)
		require.True(t, config.Dev)
		require.Equal(t, strings.ReplaceAll(policy, "NONCE", config.Nonce), w.Header().Get("Content-Security-Policy"))
		require.GreaterOrEqual(t, len(config.Nonce), 22, "128 bits")
		require.False(t, seen[config.Nonce])
		seen[config.Nonce] = true
	}
}

// A map would hand out the sources of whoever built the files; a comment may name their machine.
func TestNothingOfTheBuildIsHandedOut(t *testing.T) {
	t.Parallel()
	require.Empty(t, files(t, ".map"))
	for _, kind := range []string{".js", ".css"} {
		require.NotEmpty(t, files(t, kind))
		for name, body := range files(t, kind) {
			require.NotContains(t, body, "sourceMappingURL", name)
			require.NotRegexp(t, `/(?:root|home|tmp|Users)/|node_modules`, body, name)
		}
	}
}

// What reaches the browser of an operator is chosen, one library at a time, and there are twelve at most.
func TestRuntimeLibrariesAreChosen(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("package.json")
	require.NoError(t, err)
	var manifest struct{ Dependencies, DevDependencies map[string]string }
	require.NoError(t, json.Unmarshal(raw, &manifest))
	chosen := []string{
		"@mantine/core", "@mantine/hooks", "@mantine/spotlight",
		"@tanstack/react-query", "@tanstack/react-router", "@tanstack/react-virtual",
		"react", "react-dom", "uplot",
	}
	require.LessOrEqual(t, len(chosen), 12)
	names := make([]string, 0, len(chosen))
	exact := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	for name, version := range manifest.Dependencies {
		names = append(names, name)
		require.Regexp(t, exact, version, name)
	}
	require.ElementsMatch(t, chosen, names)
	for name, version := range manifest.DevDependencies {
		require.Regexp(t, exact, version, name)
	}
	lock, err := os.ReadFile("package-lock.json")
	require.NoError(t, err)
	require.NotContains(t, string(lock), `"resolved"`, "the lock file names no host")
}

// files are the built files with an ending, by name.
func files(t *testing.T, ending string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	require.NoError(t, fs.WalkDir(os.DirFS("dist"), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ending) {
			return err
		}
		body, err := fs.ReadFile(os.DirFS("dist"), name)
		found[name] = string(body)
		return err
	}))
	return found
}
