package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// key makes an API key with rights, members of the request, and returns it as its holder keeps it.
func (d *door) key(rights string) string {
	d.t.Helper()
	return d.post("/admin/keys", `{"name":"k",`+rights+`}`, asAdmin).is(http.StatusCreated).text("secret")
}

func bearer(key string) with { return header("Authorization", "Bearer "+key) }

// keyID is the id inside a key.
func keyID(key string) string { return key[len("mak_") : len("mak_")+36] }

func (d *door) revoke(key string) {
	d.t.Helper()
	d.send(http.MethodDelete, "/api/v1/admin/keys/"+keyID(key), "", asAdmin).is(http.StatusNoContent)
}

func TestKeyIsShownOnceAndStoredHashed(t *testing.T) {
	t.Parallel()
	d := setup(t)
	a := d.post("/admin/keys", `{"name":"ci","scopes":["enqueue","read"],"queues":["mail"],"expires_at":"2030-01-01T00:00:00Z"}`, asAdmin)
	made := a.is(http.StatusCreated).object()
	secret := a.text("secret")
	require.Regexp(t, `^mak_[0-9a-f-]{36}_[A-Za-z0-9_-]{43}$`, secret)
	require.Equal(t, "/api/v1/admin/keys/"+keyID(secret), a.header.Get("Location"))
	delete(made, "secret")
	listed := d.get("/admin/keys", asAdmin).is(http.StatusOK)
	require.Equal(t, []any{made}, listed.data())
	require.NotContains(t, string(listed.raw), secret[41:])
	require.Equal(t, "basic:admin", made["created_by"])
	require.Equal(t, "2030-01-01T00:00:00.000000Z", made["expires_at"])
	var dump string
	require.NoError(t, d.pool.QueryRow(t.Context(), `
		SELECT (SELECT string_agg(k::text, '') FROM mini_asynq.api_keys k) || (SELECT string_agg(a::text, '') FROM mini_asynq.audit a)
		    || (SELECT string_agg(e::text, '') FROM mini_asynq.events e)`).Scan(&dump))
	require.NotContains(t, dump, secret[41:])
	require.NotContains(t, d.log.String(), secret[41:])
	d.post("/jobs", `{"queue":"mail"}`, bearer(secret)).is(http.StatusCreated)
	d.get("/me", bearer(secret)).is(http.StatusOK)
}

func TestRevokedKeyIsRefusedAtEveryNodeAndEndsWhatItHoldsOpen(t *testing.T) {
	t.Parallel()
	d := setup(t)
	other := setupOn(t, d.dsn)
	key := d.key(`"scopes":["read","work"]`)
	id := d.enqueue(`{"queue":"later","delay":"1h"}`)
	w := other.post("/workers", `{"name":"w","queues":{"q":1}}`, bearer(key)).is(http.StatusCreated).text("id")
	answers := make(chan int, 2) // capacity: both calls
	for _, call := range []func() *answer{
		func() *answer { return other.get("/jobs/"+id+"?wait=60s", bearer(key)) },
		func() *answer { return other.post("/workers/"+w+"/claim", `{"wait":"60s"}`, bearer(key)) },
	} {
		go func() { answers <- call().status }()
	}
	require.Eventually(t, func() bool { return other.get("/workers/"+w).text("state") == "online" }, 5*time.Second, 10*time.Millisecond)
	started := time.Now()
	d.revoke(key)
	for range 2 {
		select {
		case status := <-answers:
			require.Equal(t, http.StatusUnauthorized, status)
		case <-time.After(5 * time.Second):
			require.Fail(t, "a call of a revoked key goes on")
		}
	}
	other.get("/jobs", bearer(key)).problem(http.StatusUnauthorized, "unauthorized")
	require.Less(t, time.Since(started), 5*time.Second)
}

// TestRevokedKeyIsFoundOutWithoutItsEvent takes the event away: then the node has to look for itself.
func TestRevokedKeyIsFoundOutWithoutItsEvent(t *testing.T) {
	t.Parallel()
	d := setup(t)
	key := d.key(`"scopes":["read"]`)
	id := d.enqueue(`{"queue":"later","delay":"1h"}`)
	ended := make(chan int, 1) // capacity: the call
	go func() { ended <- d.get("/jobs/"+id+"?wait=60s", bearer(key)).status }()
	d.get("/jobs", bearer(key)).is(http.StatusOK)
	_, err := d.pool.Exec(t.Context(), `ALTER TABLE mini_asynq.api_keys DISABLE TRIGGER api_keys_changed`)
	require.NoError(t, err)
	_, err = d.pool.Exec(t.Context(), `DELETE FROM mini_asynq.api_keys`)
	require.NoError(t, err)
	select {
	case status := <-ended:
		require.Equal(t, http.StatusUnauthorized, status)
	case <-time.After(5 * time.Second):
		require.Fail(t, "a call of a revoked key goes on")
	}
	d.get("/jobs", bearer(key)).problem(http.StatusUnauthorized, "unauthorized")
}

func TestExpiryEndsAKeyByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	d := setup(t)
	key := d.key(`"scopes":["read"]`)
	d.get("/jobs", bearer(key)).is(http.StatusOK)
	_, err := d.pool.Exec(t.Context(), `UPDATE mini_asynq.api_keys SET expires_at = clock_timestamp()`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return d.get("/jobs", bearer(key)).status == http.StatusUnauthorized },
		5*time.Second, 50*time.Millisecond)
	require.Len(t, d.get("/admin/keys", asAdmin).data(), 1, "an expired key is listed until it is revoked")
}

func TestRotationGivesANewKeyAndEndsTheOldOneAfterTheOverlap(t *testing.T) {
	t.Parallel()
	d := setup(t)
	old := d.key(`"role":"viewer","queues":["mail"]`)
	kept := d.post("/admin/keys/"+keyID(old)+"/rotate", "", asAdmin).is(http.StatusCreated)
	require.NotEqual(t, old, kept.text("secret"))
	require.Equal(t, []any{"mail"}, kept.object()["queues"])
	require.Equal(t, "viewer", kept.object()["role"])
	d.get("/jobs", bearer(old)).is(http.StatusOK)
	d.get("/jobs", bearer(kept.text("secret"))).is(http.StatusOK)
	d.post("/admin/keys/"+keyID(old)+"/rotate", `{"overlap":"0s","reason":"leaked"}`, asAdmin).is(http.StatusCreated)
	require.Eventually(t, func() bool { return d.get("/jobs", bearer(old)).status == http.StatusUnauthorized },
		5*time.Second, 50*time.Millisecond)
	d.post("/admin/keys/"+keyID(old)+"/rotate", "", asAdmin).problem(http.StatusNotFound, "not-found")
	for _, body := range []string{`{"overlap":"-1s"}`, `{"overlap":"31d"}`} {
		d.post("/admin/keys/"+keyID(kept.text("secret"))+"/rotate", body, asAdmin).problem(http.StatusUnprocessableEntity, "validation-failed")
	}
}

func TestBadKeysAreRefused(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for body, pointer := range map[string]string{
		`{"role":"viewer"}`:                                                          "/name",
		`{"name":"","role":"viewer"}`:                                                "/name",
		`{"name":"a\nb","role":"viewer"}`:                                            "/name",
		`{"name":"k"}`:                                                               "/scopes",
		`{"name":"k","scopes":[]}`:                                                   "/scopes",
		`{"name":"k","scopes":["read"],"role":"admin"}`:                              "/scopes",
		`{"name":"k","scopes":["reed"]}`:                                             "/scopes/0",
		`{"name":"k","scopes":["read","read"]}`:                                      "/scopes/1",
		`{"name":"k","role":"root"}`:                                                 "/role",
		`{"name":"k","role":"viewer","queues":[]}`:                                   "/queues",
		`{"name":"k","role":"viewer","queues":["*"]}`:                                "/queues/0",
		`{"name":"k","role":"admin","queues":["q"]}`:                                 "/queues",
		`{"name":"k","scopes":["admin"],"queues":["q"]}`:                             "/queues",
		`{"name":"k","role":"viewer","expires_at":"tomorrow"}`:                       "/expires_at",
		`{"name":"k","role":"viewer","expires_at":"2001-01-01T00:00:00Z"}`:           "/expires_at",
		`{"name":"k","role":"viewer","expires_at":"9999-01-01T00:00:00Z"}`:           "/expires_at",
		`{"name":"k","role":"viewer","expires_at":"2030-01-01T00:00:00.0"}`:          "/expires_at",
		`{"name":"` + strings.Repeat("x", 256) + `","role":"viewer"}`:                "/name",
		`{"name":"k","role":"viewer","queues":["` + strings.Repeat("x", 256) + `"]}`: "/queues/0",
	} {
		a := d.post("/admin/keys", body, asAdmin)
		a.problem(http.StatusUnprocessableEntity, "validation-failed")
		a.pointer(pointer)
	}
	for _, body := range []string{`{"name":"k","rights":"all"}`, `{"name":7,"role":"viewer"}`, `{"name":"k","scopes":"read"}`, `[]`} {
		d.post("/admin/keys", body, asAdmin).problem(http.StatusBadRequest, "malformed-request")
	}
	require.Empty(t, d.get("/admin/keys", asAdmin).data())
	d.send(http.MethodDelete, "/api/v1/admin/keys/abc", "", asAdmin).problem(http.StatusBadRequest, "invalid-parameter")
}

// TestA2KeyOfSomeQueuesSeesNothingElse: on every verb, in lists and in batches.
func TestA2KeyOfSomeQueuesSeesNothingElse(t *testing.T) {
	t.Parallel()
	d := setup(t)
	mine, theirs := d.enqueue(`{"queue":"mine"}`), d.enqueue(`{"queue":"theirs"}`)
	dead := d.dead("theirs-dead")
	key := bearer(d.key(`"scopes":["enqueue","work","read","read:payload","operate"],"queues":["mine"]`))

	for method, paths := range map[string][]string{
		http.MethodGet: {"/jobs/%", "/jobs/%/attempts", "/jobs/%/events", "/jobs/%/result"},
		http.MethodPost: {"/admin/jobs/%/retry", "/admin/jobs/%/run-now", "/admin/jobs/%/cancel", "/jobs/%/complete", "/jobs/%/fail",
			"/jobs/%/snooze", "/jobs/%/release", "/jobs/%/progress"},
		http.MethodDelete: {"/admin/jobs/%"},
	} {
		for _, path := range paths {
			for _, id := range []string{theirs, dead} {
				unknown := "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"
				same := header("X-Request-Id", "same")
				a := d.send(method, "/api/v1"+strings.ReplaceAll(path, "%", id), "", key, same)
				b := d.send(method, "/api/v1"+strings.ReplaceAll(path, "%", unknown), "", key, same)
				a.problem(http.StatusNotFound, "not-found")
				require.Equal(t, strings.ReplaceAll(string(b.raw), unknown, id), string(a.raw), "%s %s tells the two apart", method, path)
			}
		}
	}
	require.Len(t, d.get("/jobs", key).data(), 1)
	require.Len(t, d.get("/jobs?queue=theirs,mine", key).data(), 1)
	require.Empty(t, d.get("/jobs?queue=their*", key).data())
	require.Equal(t, json.Number("1"), d.get("/jobs/count", key).object()["count"])
	d.get("/jobs/"+mine, key).is(http.StatusOK)

	d.post("/jobs", `{"queue":"theirs"}`, key).problem(http.StatusNotFound, "not-found")
	d.post("/jobs", `{}`, key).problem(http.StatusNotFound, "not-found") // default is another queue
	before := d.rows()
	d.post("/jobs/batch", `{"jobs":[{"queue":"mine"},{"queue":"theirs"}]}`, key).problem(http.StatusNotFound, "not-found")
	require.Equal(t, before, d.rows())
	d.post("/jobs", `{"queue":"mine"}`, key).is(http.StatusCreated)

	require.Eventually(t, func() bool { return len(d.get("/queues").data()) == 3 }, 5*time.Second, 10*time.Millisecond)
	require.Len(t, d.get("/queues", key).data(), 1)
	for _, path := range []string{"/queues/theirs", "/stats?queue=theirs"} {
		d.get(path, key).problem(http.StatusNotFound, "not-found")
	}
	d.get("/stats", key).problem(http.StatusBadRequest, "invalid-parameter")
	d.get("/stats?queue=mine", key).is(http.StatusOK)
	d.post("/admin/queues/theirs/pause", "", key).problem(http.StatusNotFound, "not-found")
	d.post("/admin/queues/theirs/resume", "", key).problem(http.StatusNotFound, "not-found")
	d.post("/admin/queues/mine/pause", "", key).is(http.StatusOK)
	d.post("/admin/queues/mine/resume", "", key).is(http.StatusOK)

	all := d.post("/workers", `{"name":"all"}`).is(http.StatusCreated).text("id")
	for _, call := range []struct{ method, path, body string }{
		{http.MethodGet, "", ""}, {http.MethodDelete, "", ""}, {http.MethodPost, "/claim", `{}`},
		{http.MethodPost, "/heartbeat", `{"leases":[]}`}, {http.MethodPost, "/outcomes", `{"outcomes":[]}`},
	} {
		d.send(call.method, "/api/v1/workers/"+all+call.path, call.body, key).problem(http.StatusNotFound, "not-found")
	}
	d.post("/admin/workers/"+all+"/quiet", "", key).problem(http.StatusNotFound, "not-found")
	d.post("/workers", `{"name":"w","queues":{"theirs":1}}`, key).problem(http.StatusNotFound, "not-found")
	own := d.post("/workers", `{"name":"w","queues":{"*":2}}`, key).is(http.StatusCreated)
	require.Equal(t, map[string]any{"mine": json.Number("2")}, own.object()["queues"])
	w := own.text("id")
	require.Len(t, d.get("/workers", key).data(), 1)
	d.post("/workers/"+w+"/claim", `{"queues":{"theirs":1}}`, key).problem(http.StatusNotFound, "not-found")
	claimed := d.post("/workers/"+w+"/claim", `{"max":10,"queues":{"*":1}}`, key).is(http.StatusOK)
	jobs, ok := claimed.object()["jobs"].([]any)
	require.True(t, ok)
	require.Len(t, jobs, 2)
	for _, job := range jobs {
		require.Equal(t, "mine", job.(map[string]any)["queue"]) //nolint:forcetypeassert // an object
	}

	// A fence that was guessed right helps nobody.
	running, claim := d.running("theirs-running")
	lease := `{"job_id":"` + running + `","fence":` + itoa(int(claim.Fence)) + `}`
	beat := d.post("/workers/"+w+"/heartbeat", `{"leases":[`+lease+`]}`, key).is(http.StatusOK)
	require.Contains(t, string(beat.raw), `"lost":true`)
	batch := d.post("/workers/"+w+"/outcomes", `{"outcomes":[`+strings.Replace(lease, "{", `{"outcome":"complete",`, 1)+`]}`, key).is(http.StatusOK)
	require.Contains(t, string(batch.raw), "/problems/not-found")
	require.Equal(t, "running", d.get("/jobs/"+running).text("status"))
}

func TestLoginIsAsGoodAsItsCredentialAndEndsWithIt(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.Anonymous = []api.Scope{}; c.Environment = "production" })
	signIn := func(body string) (*answer, with) {
		a := d.post("/login", body).is(http.StatusNoContent)
		cookie, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
		require.NoError(t, err)
		require.Equal(t, "miniasynq_login", cookie.Name)
		require.True(t, cookie.HttpOnly)
		require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
		require.Equal(t, 12*60*60, cookie.MaxAge)
		require.Equal(t, "/", cookie.Path)
		require.False(t, cookie.Secure, "plain http")
		return a, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value}) }
	}
	_, admin := signIn(`{"username":"admin","password":"` + password + `"}`)
	me := d.get("/me", admin).is(http.StatusOK).object()
	require.Equal(t, map[string]any{
		"name": "basic:admin", "role": "admin", "scopes": []any{"admin"}, "queues": nil, "environment": "production", "dev": false,
	}, me)
	d.post("/admin/queues/q/pause", "", admin).is(http.StatusOK)
	d.post("/admin/queues/q/pause", "", admin, header("Origin", "https://evil.example.com")).problem(http.StatusForbidden, "cross-origin")
	d.post("/logout", "", admin).is(http.StatusNoContent)
	gone := d.get("/me", admin)
	gone.problem(http.StatusUnauthorized, "unauthorized")
	require.Contains(t, gone.header.Get("Set-Cookie"), "Max-Age=0", "the browser forgets it")
	d.post("/logout", "").is(http.StatusNoContent) // nothing to end

	key := d.key(`"role":"viewer","queues":["mail"]`)
	_, viewer := signIn(`{"api_key":"` + key + `"}`)
	require.Equal(t, []any{"mail"}, d.get("/me", viewer).object()["queues"])
	d.get("/jobs", viewer).is(http.StatusOK)
	d.post("/jobs", `{"queue":"mail"}`, viewer).problem(http.StatusForbidden, "forbidden")
	d.revoke(key)
	d.get("/jobs", viewer).problem(http.StatusUnauthorized, "unauthorized")

	// Another password at the next start, and the login is over.
	_, admin = signIn(`{"username":"admin","password":"` + password + `"}`)
	d.get("/jobs", admin).is(http.StatusOK)
	changed := setupOn(t, d.dsn, func(c *api.Config) { c.AdminPassword, c.Anonymous = "another-admin-secret", []api.Scope{} })
	changed.get("/jobs", admin).problem(http.StatusUnauthorized, "unauthorized")

	for _, body := range []string{
		`{"username":"admin","password":"wrong"}`, `{"username":"root","password":"` + password + `"}`, `{"api_key":"` + key + `"}`, `{"api_key":"x"}`,
	} {
		a := d.post("/login", body)
		a.problem(http.StatusUnauthorized, "unauthorized")
		require.Empty(t, a.header.Get("Set-Cookie"))
	}
	for _, body := range []string{`{}`, `{"username":"admin"}`, `{"username":"a","password":"b","api_key":"c"}`} {
		d.post("/login", body).problem(http.StatusUnprocessableEntity, "validation-failed")
	}
	d.post("/login", `{"user":"admin"}`).problem(http.StatusBadRequest, "malformed-request")
	for range 12 {
		d.post("/login", `{"username":"admin","password":"wrong"}`)
	}
	d.post("/login", `{"username":"admin","password":"`+password+`"}`).problem(http.StatusTooManyRequests, "rate-limited")
}

func TestStaleCookiesDoNotKeepAPersonFromSigningIn(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for range 30 {
		d.get("/jobs", header("Cookie", "miniasynq_login="+strings.Repeat("x", 43))).problem(http.StatusUnauthorized, "unauthorized")
	}
	d.post("/login", `{"username":"admin","password":"`+password+`"}`).is(http.StatusNoContent)
	d.get("/jobs", asAdmin).is(http.StatusOK)
}

func TestLoginIsSecureBehindTLS(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.TrustedProxies = append(c.TrustedProxies, loopback()) })
	a := d.post("/login", `{"username":"admin","password":"`+password+`"}`, header("X-Forwarded-Proto", "https"), header("X-Forwarded-For", "203.0.113.9"))
	require.Contains(t, a.is(http.StatusNoContent).header.Get("Set-Cookie"), "; Secure")
}

// TestW3TicketOpensOneStreamOnce: missing, expired, used twice is 401; a scope that is missing 403.
func TestW3TicketOpensOneStreamOnce(t *testing.T) {
	t.Parallel()
	var seen []string // by the handler, one call at a time
	hub := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := api.PrincipalOf(r)
		seen = append(seen, p.Name+" "+r.URL.RawQuery)
		w.WriteHeader(http.StatusNoContent)
	})
	d := setup(t, func(c *api.Config) { c.Hub, c.Anonymous = hub, []api.Scope{} })
	key := d.key(`"role":"viewer"`)
	ticket := func(as with) string {
		a := d.post("/stream-tickets", "", as).is(http.StatusCreated)
		require.Equal(t, "30s", a.text("expires_in"))
		return a.text("ticket")
	}
	cookie := func() with {
		c, err := http.ParseSetCookie(d.post("/login", `{"username":"admin","password":"`+password+`"}`).header.Get("Set-Cookie"))
		require.NoError(t, err)
		return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value}) }
	}
	for _, as := range []with{bearer(key), asAdmin, cookie()} {
		given := ticket(as)
		d.get("/jobs?ticket="+given).problem(http.StatusUnauthorized, "unauthorized") // streams only, and it is not used up
		d.get("/ws?after=latest&ticket=" + given).is(http.StatusNoContent)
		d.get("/ws?ticket="+given).problem(http.StatusUnauthorized, "unauthorized")
		require.NotContains(t, d.log.String(), given)
	}
	require.Equal(t, []string{"key:k after=latest", "basic:admin after=latest", "basic:admin after=latest"}, seen)

	late := ticket(bearer(key))
	_, err := d.pool.Exec(t.Context(), `UPDATE mini_asynq.logins SET expires_at = clock_timestamp() WHERE ticket`)
	require.NoError(t, err)
	d.get("/ws?ticket="+late).problem(http.StatusUnauthorized, "unauthorized")
	d.get("/ws").problem(http.StatusUnauthorized, "unauthorized")
	d.get("/ws?ticket=").problem(http.StatusUnauthorized, "unauthorized")
	d.get("/ws?ticket=a&ticket=b").problem(http.StatusBadRequest, "invalid-parameter")
	d.post("/stream-tickets", "", bearer(d.key(`"scopes":["enqueue"]`))).problem(http.StatusForbidden, "forbidden")

	orphan := ticket(bearer(key))
	d.revoke(key)
	d.get("/ws?ticket="+orphan).problem(http.StatusUnauthorized, "unauthorized")
	signedIn := cookie()
	orphan = ticket(signedIn)
	d.post("/logout", "", signedIn).is(http.StatusNoContent)
	d.get("/ws?ticket="+orphan).problem(http.StatusUnauthorized, "unauthorized")
}

// TestEveryActionLeavesARowInTheAuditLog: who, from where, what, why, in the transaction of the action.
func TestEveryActionLeavesARowInTheAuditLog(t *testing.T) {
	t.Parallel()
	d := setup(t)
	key := bearer(d.key(`"role":"operator"`))
	waiting, failed, done := d.enqueue(`{"queue":"a","delay":"1h"}`), d.dead("b"), d.completed("c", "")
	runs, _ := d.running("r")
	w := d.post("/workers", `{"name":"w"}`).text("id")
	reason := `{"reason":"because"}`
	for _, path := range []string{
		"/admin/jobs/" + waiting + "/run-now", "/admin/jobs/" + waiting + "/cancel", "/admin/jobs/" + failed + "/retry",
		"/admin/jobs/" + runs + "/cancel", "/admin/queues/q/pause", "/admin/queues/q/resume", "/admin/workers/" + w + "/quiet",
		"/admin/workers/" + w + "/drain",
	} {
		d.post(path, reason, key, header("X-Request-Id", "the-request"))
	}
	d.send(http.MethodDelete, "/api/v1/admin/jobs/"+done, reason, key).is(http.StatusNoContent)
	d.post("/admin/jobs/"+done+"/retry", reason, key).problem(http.StatusNotFound, "not-found") // nothing happened
	d.get("/jobs", func(r *http.Request) { r.SetBasicAuth("a-password-typed-as-name", "x") }).is(http.StatusUnauthorized)
	d.get("/jobs", func(r *http.Request) { r.SetBasicAuth("admin", "x") }).is(http.StatusUnauthorized)
	login := d.post("/login", `{"username":"admin","password":"`+password+`"}`).is(http.StatusNoContent)
	d.post("/logout", "", header("Cookie", strings.SplitN(login.header.Get("Set-Cookie"), ";", 2)[0])).is(http.StatusNoContent)

	rows := d.get("/admin/audit?limit=500", asAdmin).is(http.StatusOK)
	var got []string
	for _, item := range rows.data() {
		row, ok := item.(map[string]any)
		require.True(t, ok)
		target, _ := row["target"].(string)
		got = append(got, row["action"].(string)+" "+row["actor"].(string)+" "+target) //nolint:forcetypeassert // strings
		require.Equal(t, "127.0.0.1", row["address"])
	}
	require.Equal(t, []string{
		"logout basic:admin ", "login basic:admin ", "login.failed anonymous basic:admin", "login.failed anonymous ",
		"job.delete key:k " + done, "worker.drain key:k " + w, "worker.quiet key:k " + w, "queue.resume key:k q", "queue.pause key:k q",
		"job.cancel key:k " + runs, "job.retry key:k " + failed, "job.cancel key:k " + waiting, "job.run-now key:k " + waiting,
	}, got[:13])
	require.True(t, strings.HasPrefix(got[13], "key.create basic:admin "))
	require.NotContains(t, string(rows.raw), "a-password-typed-as-name")

	one := d.get("/admin/audit?action=job.retry", asAdmin).data()
	require.Len(t, one, 1)
	row, ok := one[0].(map[string]any)
	require.True(t, ok)
	require.Equal(t, "because", row["reason"])
	require.Equal(t, "the-request", row["request_id"])
	require.Equal(t, map[string]any{"status": "dead"}, row["before"])
	require.Equal(t, map[string]any{"status": "pending"}, row["after"])
	require.NotEmpty(t, row["key_id"])
	require.Len(t, d.get("/admin/audit?target="+waiting, asAdmin).data(), 2)
	require.Len(t, d.get("/admin/audit?action=job.*&actor=key:k", asAdmin).data(), 5)
	require.Empty(t, d.get("/admin/audit?before=2020-01-01T00:00:00Z", asAdmin).data())
	page := d.get("/admin/audit?limit=1", asAdmin)
	next := d.get("/admin/audit?limit=1&cursor="+page.text("next_cursor"), asAdmin).is(http.StatusOK)
	require.NotEqual(t, page.data(), next.data())
	d.get("/admin/audit?cursor=x", asAdmin).problem(http.StatusBadRequest, "cursor-invalid")
	d.get("/admin/audit?after=yesterday", asAdmin).problem(http.StatusBadRequest, "invalid-parameter")
}

// TestActionAndItsAuditRowAreOneTransaction takes the audit log away: then nothing is done.
func TestActionAndItsAuditRowAreOneTransaction(t *testing.T) {
	t.Parallel()
	d := setup(t)
	id := d.enqueue(`{"queue":"a","delay":"1h"}`)
	_, err := d.pool.Exec(t.Context(), `ALTER TABLE mini_asynq.audit ADD CHECK (action <> 'job.cancel')`)
	require.NoError(t, err)
	d.post("/admin/jobs/"+id+"/cancel", "", asAdmin).problem(http.StatusInternalServerError, "internal")
	require.Equal(t, "scheduled", d.get("/jobs/"+id).text("status"))
}

func TestUseOfAKeyIsNotedToTheMinute(t *testing.T) {
	t.Parallel()
	d := setup(t)
	key := d.key(`"role":"viewer"`)
	require.NoError(t, jobs.UseAPIKeys(context.Background(), d.pool, []uuid.UUID{uid(keyID(key))}))
	used, err := time.Parse(time.RFC3339, d.get("/admin/keys", asAdmin).data()[0].(map[string]any)["last_used_at"].(string)) //nolint:forcetypeassert // a string
	require.NoError(t, err)
	require.Zero(t, used.Second())
	require.Zero(t, used.Nanosecond())
}

func loopback() netip.Prefix { return netip.MustParsePrefix("127.0.0.0/8") }
