package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

var pythonBlock = regexp.MustCompile("(?s)```python\n(.*?)```")

// The receiver in Python that the page about webhooks shows is run as it stands there, but for its port.
func TestReceiverOfTheWebhookGuideInPython(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil && !*all {
		t.Skipf("there is no Python here (%v): make clients-check", err)
	}
	require.NoError(t, err)
	page, err := os.ReadFile("../../docs/webhooks.md")
	require.NoError(t, err)
	blocks := pythonBlock.FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 1)
	const last = `http.server.HTTPServer(("127.0.0.1", 9000), Hook).serve_forever()`
	require.Contains(t, blocks[0][1], last)
	program := strings.Replace(blocks[0][1], last,
		"server = http.server.HTTPServer((\"127.0.0.1\", 0), Hook)\nprint(server.server_port)\nserver.serve_forever()", 1)

	s := &suite{t: t, dsn: pgtest.NewDB(t).DSN()}
	s.serve("127.0.0.1:0")
	// Its port is known once it runs, and its secret once the webhook is made, which needs an address: so it is moved after.
	made := s.admin(http.MethodPost, "/admin/webhooks", `{"url":"http://127.0.0.1:9/","enabled":false}`, http.StatusCreated)
	id := made["id"].(string)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, python, "-u", "-c", program)
	run.Env = append(os.Environ(), "WEBHOOK_SECRET="+made["secret"].(string))
	out, err := run.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, run.Start())
	defer func() {
		_ = run.Process.Kill()
		_ = run.Wait()
	}()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the receiver says its port")
	address := "http://127.0.0.1:" + lines.Text() + "/"

	s.admin(http.MethodPatch, "/admin/webhooks/"+id, `{"url":"`+address+`"}`, http.StatusOK)
	require.Equal(t, true, s.admin(http.MethodPost, "/admin/webhooks/"+id+"/test", "", http.StatusOK)["delivered"])
	require.True(t, lines.Scan())
	name, event, _ := strings.Cut(lines.Text(), " ")
	require.Contains(t, name, "evt_test_")
	require.Contains(t, event, `"type":"webhook.test"`)

	s.admin(http.MethodPost, "/admin/webhooks/"+id+"/rotate-secret", "", http.StatusOK)
	require.Equal(t, true, s.admin(http.MethodPost, "/admin/webhooks/"+id+"/test", "", http.StatusOK)["delivered"], "the secret before signs too")

	forged, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader("{}"))
	require.NoError(t, err)
	forged.Header.Set("Webhook-Id", "evt_3-7")
	forged.Header.Set("Webhook-Timestamp", "1614265330")
	forged.Header.Set("Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	answer, err := http.DefaultClient.Do(forged)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
}

// admin makes a call as the administrator, and reads its answer.
func (s *suite) admin(method, path, body string, status int) map[string]any {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.address+"/api/v1"+path, strings.NewReader(body))
	require.NoError(s.t, err)
	request.Header.Set("If-Match", "*")
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	request.SetBasicAuth("admin", "password")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, status, answer.StatusCode, string(raw))
	var read map[string]any
	require.NoError(s.t, json.Unmarshal(raw, &read))
	return read
}
