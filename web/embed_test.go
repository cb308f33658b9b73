package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/web"
)

func get(t *testing.T, h http.Handler, path, accept string) (*http.Response, string) {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.Header.Set("Accept", accept)
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, request)
	answer := recorder.Result()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer, string(body)
}

func TestPageIsServedWithItsAssets(t *testing.T) {
	t.Parallel()
	h := web.Handler("/under", true)
	answer, page := get(t, h, "/", "text/html")
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Equal(t, "no-cache", answer.Header.Get("Cache-Control"))
	require.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "no-referrer", answer.Header.Get("Referrer-Policy"))
	require.NotContains(t, page, "{{")
	assets := regexp.MustCompile(`"/under(/assets/[^"]+)"`).FindAllStringSubmatch(page, -1)
	require.Len(t, assets, 2)
	for _, a := range assets {
		answer, body := get(t, h, a[1], "*/*")
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.Contains(t, answer.Header.Get("Cache-Control"), "immutable")
		require.NotEmpty(t, body)
	}
	answer, other := get(t, h, "/jobs/1", "text/html")
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Equal(t, page, other)
	answer, _ = get(t, h, "/jobs/1", "application/json")
	require.Equal(t, http.StatusNotFound, answer.StatusCode)
	answer, _ = get(t, h, "/assets/app.js", "*/*")
	require.Equal(t, http.StatusNotFound, answer.StatusCode)
}

// TestNothingInlineAndNoRawHTML: the policy allows no inline script or style, and the page has no way to make markup of
// what the server sends.
func TestNothingInlineAndNoRawHTML(t *testing.T) {
	t.Parallel()
	h := web.Handler("", false)
	answer, page := get(t, h, "/", "text/html")
	policy := answer.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.NotContains(t, policy, "unsafe")
	for _, script := range regexp.MustCompile(`<script[^>]*>([^<]*)</script>`).FindAllStringSubmatch(page, -1) {
		require.Empty(t, strings.TrimSpace(script[1]))
	}
	require.NotRegexp(t, `<style|\sstyle=|\son[a-z]+=`, page)
	script := regexp.MustCompile(`/assets/app[^"]+`).FindString(page)
	_, code := get(t, h, script, "*/*")
	require.NotRegexp(t, `innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(`, code)
}
