package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/jobs"
	"github.com/mini-asynq/mini-asynq/workers"
)

// call lets the handler work on a payload, and returns its result.
func call(t *testing.T, allow []string, payload string) (json.RawMessage, error) {
	t.Helper()
	h, err := workers.NewHTTPHandler(allow)
	require.NoError(t, err)
	defer h.Close()
	claimed := &jobs.Claimed{}
	claimed.Payload, claimed.Kind = json.RawMessage(payload), workers.HTTPKind
	handling := &jobs.Handling{Job: claimed}
	err = h.Handle(jobs.WithHandling(t.Context(), handling), claimed)
	return handling.Result(), err
}

func final(err error) bool {
	var steer *jobs.SteerError
	return errors.As(err, &steer) && steer.Final
}

func TestHTTPJobCallsOnlyWhatIsAllowed(t *testing.T) {
	t.Parallel()
	hits := 0
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	defer target.Close()
	host := strings.TrimPrefix(target.URL, "http://")
	port := host[strings.LastIndex(host, ":"):]
	for name, c := range map[string]struct {
		allow []string
		url   string
	}{
		"nothing is allowed":   {nil, target.URL},
		"another host":         {[]string{"example.com"}, target.URL},
		"another port":         {[]string{"127.0.0.1:1"}, target.URL},
		"name of this machine": {[]string{"example.com"}, "http://localhost" + port},
		"number as address":    {[]string{"2130706433"}, "http://2130706433" + port},
		"mapped address":       {[]string{"example.com"}, "http://[::ffff:127.0.0.1]" + port},
		"user in the url":      {[]string{"127.0.0.1"}, "http://u:p@" + host},
		"another scheme":       {[]string{"127.0.0.1"}, "ftp://" + host},
		"no url":               {[]string{"127.0.0.1"}, ""},
		"metadata service":     {[]string{"example.com"}, "http://169.254.169.254/"},
	} {
		payload, err := json.Marshal(map[string]string{"url": c.url})
		require.NoError(t, err)
		_, err = call(t, c.allow, string(payload))
		require.Error(t, err, name)
		// A name that does not resolve is tried again: that may pass.
		require.True(t, final(err) || strings.Contains(c.url, "2130706433"), name)
	}
	require.Zero(t, hits)
	result, err := call(t, []string{host}, `{"url":"`+target.URL+`"}`)
	require.NoError(t, err)
	require.JSONEq(t, `{"status":200,"body":""}`, string(result))
	require.Equal(t, 1, hits)
}

// TestHTTPJobChecksTheAddressWhenItConnects: a name on the list that leads to this machine is refused after it was
// resolved, unless the list says that it may.
func TestHTTPJobChecksTheAddressWhenItConnects(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	port := target.URL[strings.LastIndex(target.URL, ":"):]
	url := "http://ip6-localhost" + port // a name of the loopback in /etc/hosts of Debian
	_, err := call(t, []string{"ip6-localhost"}, `{"url":"`+url+`"}`)
	require.Error(t, err)
	_, err = call(t, []string{"localhost"}, `{"url":"http://localhost`+port+`"}`)
	require.NoError(t, err, "the list names this machine itself")
	_, err = call(t, []string{"private:localhost"}, `{"url":"http://localhost`+port+`"}`)
	require.NoError(t, err)
}

func TestHTTPJobSaysWhatBecomesOfIt(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy":
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/moved":
			http.Redirect(w, r, "/fine", http.StatusFound)
		case "/fine":
			_, _ = w.Write([]byte("{}"))
		}
	}))
	defer target.Close()
	allow := []string{"127.0.0.1"}
	at := func(path string) error {
		_, err := call(t, allow, `{"url":"`+target.URL+path+`","method":"put","headers":{"X-A":"b"},"body":"text"}`)
		return err
	}
	require.NoError(t, at("/fine"))
	var steer *jobs.SteerError
	require.ErrorAs(t, at("/busy"), &steer)
	require.Equal(t, 90*time.Second, steer.Delay)
	err := at("/broken")
	var status *workers.HTTPStatusError
	require.ErrorAs(t, err, &status)
	require.False(t, final(err), "retried")
	require.True(t, final(at("/gone")))
	require.True(t, final(at("/moved")), "no redirect is followed")
	_, err = workers.NewHTTPHandler([]string{"a/b"})
	require.Error(t, err)
}

func TestDemoObeysItsPayload(t *testing.T) {
	t.Parallel()
	run := func(payload string, attempt int) error {
		claimed := &jobs.Claimed{}
		claimed.Payload, claimed.Attempt = json.RawMessage(payload), attempt
		return workers.Demo(jobs.WithHandling(t.Context(), &jobs.Handling{Job: claimed}), claimed)
	}
	require.NoError(t, run(`{}`, 1))
	require.NoError(t, run(`"any"`, 1))
	require.Error(t, run(`{"fail":true}`, 9))
	require.ErrorContains(t, run(`{"fail":"why"}`, 1), "why")
	require.Error(t, run(`{"fail":2}`, 2))
	require.NoError(t, run(`{"fail":2}`, 3))
	require.NoError(t, run(`{"sleep_ms":20,"progress":true}`, 1))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(jobs.ErrShutdown)
	claimed := &jobs.Claimed{}
	claimed.Payload = json.RawMessage(`{"sleep_ms":60000}`)
	require.ErrorIs(t, workers.Demo(ctx, claimed), jobs.ErrShutdown)
}
