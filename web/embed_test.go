package web_test

import (
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

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

func get(t *testing.T, h http.Handler, path, accept string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
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
		{"/assets/app.js", asBrowser, 404, "text/plain; charset=utf-8", "no-store"},
		{"/assets/0000000000000000/app.js", asBrowser, 404, "text/plain; charset=utf-8", "no-store"},
		{"/../embed.go", "", 404, "text/plain; charset=utf-8", "no-store"},
	} {
		w := get(t, h, row.path, row.accept)
		require.Equal(t, row.status, w.Code, row)
		require.Equal(t, row.kind, w.Header().Get("Content-Type"), row)
		require.Equal(t, row.cache, w.Header().Get("Cache-Control"), row)
		require.Equal(t, policy, w.Header().Get("Content-Security-Policy"), row)
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
	index := get(t, h, "/", "").Body.String()
	references := reference.FindAllStringSubmatch(index, -1)
	require.Len(t, references, 3)
	for _, found := range references {
		path, ok := strings.CutPrefix(found[1], "/tools/jobs")
		require.True(t, ok, found[1])
		require.Regexp(t, `^/assets/[0-9a-f]{16}/`, path)
		w := get(t, h, path, "*/*")
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Equal(t, "public, max-age=31536000, immutable", w.Header().Get("Cache-Control"))
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		require.NotEmpty(t, w.Body.String())
		if strings.HasSuffix(path, ".js") {
			require.Equal(t, "text/javascript; charset=utf-8", w.Header().Get("Content-Type"))
		}
	}
	// Modules import their neighbours by plain names, inside the versioned folder.
	folder := regexp.MustCompile(`/assets/[0-9a-f]{16}/`).FindString(index)
	for _, name := range []string{"app.js", "stream.js", "feed.js", "queues.js"} {
		body := get(t, h, folder+name, "").Body.String()
		for _, imported := range regexp.MustCompile(`from "(\./[^"]+)"`).FindAllStringSubmatch(body, -1) {
			require.Equal(t, http.StatusOK, get(t, h, folder+strings.TrimPrefix(imported[1], "./"), "").Code, imported[1])
		}
	}
}

func TestThePageHoldsDataAndNoScript(t *testing.T) {
	t.Parallel()
	index := get(t, web.Handler("/base", true), "/", "").Body.String()
	require.Contains(t, index, `{"base_path":"/base","dev":true}`)
	require.Contains(t, get(t, web.Handler("", false), "/", "").Body.String(), `{"base_path":"","dev":false}`)
	for _, tag := range regexp.MustCompile(`<script[^>]*>`).FindAllString(index, -1) {
		require.Regexp(t, ` src="|type="application/json"`, tag)
	}
	require.NotRegexp(t, `(?i)<style|\sstyle=|\son[a-z]+=|javascript:|https?://`, index)
}

// What comes from jobs is a stranger's text: it must never be able to become markup.
func TestScriptsUseNoSinkForMarkup(t *testing.T) {
	t.Parallel()
	sinks := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(\s*"on|` +
		`srcdoc|createContextualFragment|DOMParser|https?://`)
	count := 0
	require.NoError(t, fs.WalkDir(os.DirFS("dist"), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".js") {
			return err
		}
		count++
		body, err := fs.ReadFile(os.DirFS("dist"), name)
		require.NotRegexp(t, sinks, string(body), name)
		return err
	}))
	require.Equal(t, 4, count)
}
