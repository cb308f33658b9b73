package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// V5: what can be told from the address is refused when it is stated. What a name stands for is judged when it is called.
func TestV5WebhookAddresses(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for _, bad := range []string{
		"http://example.com/", "https://example.com:8080/", "https://example.com:80/", "ftp://example.com/", "example.com", "",
		"https://", "//example.com/", "https:example.com", "javascript:alert(1)", "file:///etc/passwd",
		"https://localhost/", "https://api.localhost/", "https://printer.local/", "https://metadata.google.internal/",
		"https://10.0.0.1/", "https://192.168.1.1/", "https://172.16.0.1/", "https://169.254.169.254/", "https://100.64.0.1/",
		"https://0.0.0.0/", "https://0/", "https://[::1]/", "https://[::]/", "https://[fe80::1]/", "https://[fd00::1]/",
		"https://[::ffff:10.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[64:ff9b::a00:1]/", "https://[fe80::1%25eth0]/",
		"http://2130706433/", "https://2130706433/", "https://0x7f.1/", "https://0x7f000001/", "https://127.1/", "https://017700000001/",
		"https://127.0.0.2/", "https://127.0.0.1./", "http://localhost:9000/",
		"https://user@example.com/", "https://user:secret@example.com/", "https://@example.com/", "https://example.com/#x",
		"https://example.com:0443/", "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\x7f",
		"https://example.com/" + strings.Repeat("x", 2048),
	} {
		a := d.post("/admin/webhooks", string(must(json.Marshal(map[string]any{"url": bad}))), asAdmin)
		a.problem(http.StatusUnprocessableEntity, "validation-failed")
		a.pointer("/url")
	}
	require.Empty(t, d.get("/admin/webhooks", asAdmin).is(http.StatusOK).data())
	for _, good := range []string{
		"https://example.com", "https://example.com/a?b=c", "https://example.com:443/", "https://EXAMPLE.com:8443/x", "https://1.1.1.1/",
		"https://[2606:4700:4700::1111]/", "https://4chan.example.co1/", "http://127.0.0.1:9/",
	} {
		d.post("/admin/webhooks", string(must(json.Marshal(map[string]any{"url": good}))), asAdmin).is(http.StatusCreated)
	}
}

func TestWebhookBodiesAreReadStrictly(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for body, want := range map[string]struct {
		status  int
		name    string
		pointer string
	}{
		`{}`:                                {422, "validation-failed", "/url"},
		`{"url":"https://a.example","x":1}`: {400, "malformed-request", "/x"},
		`{"url":1}`:                         {400, "malformed-request", "/url"},
		`{"url":"https://a.example","enabled":1}`:                     {400, "malformed-request", "/enabled"},
		`{"url":"https://a.example","filter":{"types":7}}`:            {400, "malformed-request", "/filter/types"},
		`{"url":"https://a.example","filter":{"workflow_ids":["a"]}}`: {400, "malformed-request", "/filter/workflow_ids"},
		`{"url":"https://a.example","filter":{"types":["Job.Dead"]}}`: {422, "validation-failed", "/filter/types"},
		`{"url":"https://a.example","filter":{"queues":["a/b"]}}`:     {422, "validation-failed", "/filter/queues"},
		`{"url":"https://a.example","reason":"x"}`:                    {400, "malformed-request", "/reason"},
	} {
		a := d.post("/admin/webhooks", body, asAdmin)
		a.problem(want.status, want.name)
		a.pointer(want.pointer)
	}
}

func TestWebhookIsMadeEditedAndDeletedAndSaysItsSecretOnce(t *testing.T) {
	t.Parallel()
	d := setup(t)
	var got []*http.Request
	var bodies [][]byte
	arrived := pgtest.NewSignal[struct{}](16)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		got, bodies = append(got, r), append(bodies, raw)
		arrived.Send(struct{}{})
	}))
	defer target.Close()
	made := d.post("/admin/webhooks", `{"url":"`+target.URL+`/hook?token=planted","filter":{"types":["job.enqueued"]}}`, asAdmin).is(http.StatusCreated)
	secret, id := made.text("secret"), made.text("id")
	path := "/admin/webhooks/" + id
	require.Equal(t, "/api/v1"+path, made.header.Get("Location"))
	require.Equal(t, `"v1"`, made.header.Get("ETag"))
	require.NotContains(t, string(d.get(path, asAdmin).is(http.StatusOK).raw), "whsec_")
	require.NotContains(t, string(d.get("/admin/webhooks", asAdmin).is(http.StatusOK).raw), "whsec_")

	d.enqueue(`{"queue":"hooked"}`)
	arrived.Wait(t, 10*time.Second, "the event")
	verify, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, verify.Verify(bodies[0], got[0].Header))

	test := d.post(path+"/test", "", asAdmin).is(http.StatusOK).object()
	require.Equal(t, true, test["delivered"])

	patch := func(body string, options ...with) *answer {
		return d.send(http.MethodPatch, "/api/v1"+path, body, append(options, asAdmin)...)
	}
	patch(`{"enabled":false}`).problem(http.StatusPreconditionRequired, "precondition-required")
	edited := patch(`{"enabled":false,"reason":"too loud"}`, header("If-Match", `"v1"`)).is(http.StatusOK)
	require.Equal(t, "disabled", edited.text("disabled_reason"))
	patch(`{"enabled":true}`, header("If-Match", `"v1"`)).problem(http.StatusPreconditionFailed, "version-conflict")
	patch(`{"url":"https://10.0.0.1/"}`, header("If-Match", "*")).problem(http.StatusUnprocessableEntity, "validation-failed")

	operator := bearer(d.key(`"role":"operator"`))
	resumed := d.post(path+"/resume", `{"reason":"again"}`, operator).is(http.StatusOK).object()
	require.Equal(t, true, resumed["enabled"])
	require.Nil(t, resumed["url"], "an operator does not learn the address")
	paused := d.post(path+"/pause", "", operator).is(http.StatusOK)
	require.Equal(t, "paused", paused.text("disabled_reason"))
	d.post(path+"/pause", "", operator).is(http.StatusOK)
	held := bearer(d.key(`"scopes":["operate"],"queues":["mail"]`))
	d.post(path+"/pause", "", held).problem(http.StatusForbidden, "forbidden")

	rotated := d.post(path+"/rotate-secret", "", asAdmin).is(http.StatusOK).text("secret")
	require.NotEqual(t, secret, rotated)

	audit := string(d.get("/admin/audit?action=webhook.*", asAdmin).is(http.StatusOK).raw)
	for _, action := range []string{"create", "update", "resume", "pause", "rotate-secret", "test"} {
		require.Contains(t, audit, `"webhook.`+action+`"`)
	}
	for _, planted := range []string{"planted", secret, rotated} {
		require.NotContains(t, audit, planted)
		require.NotContains(t, d.log.String(), planted)
		require.NotContains(t, string(d.get("/events?after=earliest&types=webhook.*", asAdmin).is(http.StatusOK).raw), planted)
	}
	d.send(http.MethodDelete, "/api/v1"+path, "", asAdmin).is(http.StatusNoContent)
	d.get(path, asAdmin).problem(http.StatusNotFound, "not-found")
	d.send(http.MethodDelete, "/api/v1"+path, "", asAdmin).problem(http.StatusNotFound, "not-found")
	d.get(path+"/deliveries", asAdmin).problem(http.StatusNotFound, "not-found")
}

func TestWebhookReplayAndResumeStatePositions(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.post("/admin/webhooks", `{"url":"https://a.example","enabled":false}`, asAdmin).is(http.StatusCreated).text("id")
	path := "/admin/webhooks/" + id
	for body, want := range map[string]struct {
		status int
		name   string
	}{
		`{}`:                                    {422, "validation-failed"},
		`{"after":"x"}`:                         {400, "cursor-invalid"},
		`{"after":"1-1"}`:                       {409, "epoch-changed"},
		`{"after":"latest","until":"earliest"}`: {422, "validation-failed"},
		`{"after":"earliest","until":"latest","x":1}`: {400, "malformed-request"},
	} {
		if body == `{"after":"latest","until":"earliest"}` {
			d.enqueue(`{}`)
			pgtest.Eventually(t, 10*time.Second, "the event is read", func() bool {
				head, err := d.stream.Head()
				return err == nil && head.Seq > d.stream.Floor().Seq
			})
		}
		d.post(path+"/replay", body, asAdmin).problem(want.status, want.name)
	}
	// Retention has passed it: whoever lets it go on has to say from where.
	_, err := d.pool.Exec(t.Context(), `UPDATE mini_asynq.webhooks SET epoch = epoch - 1`)
	require.NoError(t, err)
	d.post(path+"/resume", "", asAdmin).problem(http.StatusConflict, "epoch-changed")
	d.post(path+"/replay", `{"after":"earliest"}`, asAdmin).problem(http.StatusConflict, "epoch-changed")
	anew := d.post(path+"/resume", `{"after":"earliest"}`, asAdmin).is(http.StatusOK)
	require.Equal(t, d.stream.Floor().String(), anew.text("cursor"))
}

func TestDeliveriesAreListedInPages(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.post("/admin/webhooks", `{"url":"https://a.example","enabled":false}`, asAdmin).is(http.StatusCreated).text("id")
	_, err := d.pool.Exec(t.Context(), `
		INSERT INTO mini_asynq.webhook_deliveries (webhook_id, epoch, seq, state, line, event_type, body, attempts, due_at, last_status, last_error)
		SELECT $1, 3, n, CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'parked' END, 'x', 'job.dead', '{}', 1,
		       CASE WHEN n % 2 = 1 THEN clock_timestamp() END, 500, 'answered 500' FROM generate_series(1, 5) AS n`, id)
	require.NoError(t, err)
	path := "/admin/webhooks/" + id + "/deliveries"
	first := d.get(path+"?limit=2", asAdmin).is(http.StatusOK)
	require.Len(t, first.data(), 2)
	second := d.get(path+"?limit=4&cursor="+first.text("next_cursor"), asAdmin).is(http.StatusOK)
	require.Len(t, second.data(), 3)
	require.Nil(t, second.object()["next_cursor"])
	require.Len(t, d.get(path+"?state=failed", asAdmin).is(http.StatusOK).data(), 2)
	d.get(path+"?state=done", asAdmin).problem(http.StatusBadRequest, "invalid-parameter")
	d.get(path+"?cursor=x", asAdmin).problem(http.StatusBadRequest, "cursor-invalid")
	shown := d.get("/admin/webhooks/"+id, asAdmin).is(http.StatusOK).object()
	require.Equal(t, "3", string(must(json.Marshal(shown["parked"]))))
	require.Equal(t, "2", string(must(json.Marshal(shown["given_up"]))))
}
