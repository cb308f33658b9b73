package api_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/api"
)

// caller is one column of the golden table.
type caller struct {
	name   string
	with   []with
	scopes []api.Scope
}

func (c caller) has(scope api.Scope) bool {
	return scope == "" || slices.Contains(c.scopes, scope) || slices.Contains(c.scopes, api.ScopeAdmin)
}

// TestEveryRouteHasAPolicyAndKeepsIt walks the routes. The table below is what INTERFACES.md opens to whom; a route that
// is not in it fails the test.
func TestEveryRouteHasAPolicyAndKeepsIt(t *testing.T) {
	t.Parallel()
	hub := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUpgradeRequired) })
	web := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	d := setup(t, func(c *api.Config) { c.Gatherer, c.Hub, c.Web = prometheus.NewRegistry(), hub, web })
	const id = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e"
	const (
		open    = api.Scope("")
		enqueue = api.ScopeEnqueue
		work    = api.ScopeWork
		read    = api.ScopeRead
		payload = api.ScopeReadPayload
		operate = api.ScopeOperate
		admin   = api.ScopeAdmin
	)
	key := func(rights string) []with { return []with{bearer(d.key(rights))} }
	callers := []caller{
		{"local", nil, []api.Scope{enqueue, work, read, payload}},
		{"stranger", []with{header("Forwarded", "for=203.0.113.9")}, nil},
		{"password", []with{asAdmin}, []api.Scope{admin}},
		{"viewer", key(`"role":"viewer"`), []api.Scope{read}},
		{"operator", key(`"role":"operator"`), []api.Scope{enqueue, read, payload, operate}},
		{"admin", key(`"role":"admin"`), []api.Scope{admin}},
	}
	for _, scope := range []api.Scope{enqueue, work, read, payload, operate, admin} {
		callers = append(callers, caller{string(scope), key(`"scopes":["` + string(scope) + `"]`), []api.Scope{scope}})
	}
	// What a call needs, and what it answers to who has that: 401 to who says nothing, 403 to who has something else.
	golden := map[string]struct {
		scope  api.Scope
		status int
	}{
		"GET /api/v1/jobs":                        {read, 200},
		"POST /api/v1/jobs":                       {enqueue, 415},
		"POST /api/v1/jobs/batch":                 {enqueue, 415},
		"GET /api/v1/jobs/count":                  {read, 200},
		"GET /api/v1/jobs/:id":                    {read, 404},
		"GET /api/v1/jobs/:id/attempts":           {read, 404},
		"GET /api/v1/jobs/:id/events":             {read, 404},
		"GET /api/v1/jobs/:id/result":             {payload, 404},
		"POST /api/v1/admin/jobs/:id/retry":       {operate, 404},
		"POST /api/v1/admin/jobs/:id/run-now":     {operate, 404},
		"POST /api/v1/admin/jobs/:id/cancel":      {operate, 404},
		"DELETE /api/v1/admin/jobs/:id":           {operate, 404},
		"POST /api/v1/admin/jobs/:id/clone":       {operate, 404},
		"PATCH /api/v1/admin/jobs/:id":            {operate, 428},
		"POST /api/v1/workers":                    {work, 415},
		"GET /api/v1/workers":                     {read, 200},
		"GET /api/v1/workers/:id":                 {read, 404},
		"DELETE /api/v1/workers/:id":              {work, 404},
		"POST /api/v1/workers/:id/claim":          {work, 404},
		"POST /api/v1/workers/:id/heartbeat":      {work, 415},
		"POST /api/v1/workers/:id/outcomes":       {work, 415},
		"POST /api/v1/jobs/:id/complete":          {work, 415},
		"POST /api/v1/jobs/:id/fail":              {work, 415},
		"POST /api/v1/jobs/:id/snooze":            {work, 415},
		"POST /api/v1/jobs/:id/release":           {work, 415},
		"POST /api/v1/jobs/:id/progress":          {work, 415},
		"POST /api/v1/admin/workers/:id/quiet":    {operate, 404},
		"POST /api/v1/admin/workers/:id/drain":    {operate, 404},
		"GET /api/v1/queues":                      {read, 200},
		"GET /api/v1/queues/:queue":               {read, 404},
		"POST /api/v1/admin/queues/:queue/pause":  {operate, 200},
		"POST /api/v1/admin/queues/:queue/resume": {operate, 200},
		"GET /api/v1/failures":                    {read, 200},
		"GET /api/v1/stats":                       {read, 200},
		"GET /api/v1/health":                      {open, 200},
		"GET /api/v1/health/live":                 {open, 200},
		"GET /api/v1/health/ready":                {open, 200},
		"GET /api/v1/events":                      {read, 200},
		"GET /api/v1/events/position":             {read, 200},
		"GET /api/v1/metrics":                     {read, 200},
		"GET /api/v1/ws":                          {read, 426},
		"GET /api/v1/openapi.yaml":                {read, 200},
		"GET /api/v1/openapi.json":                {read, 200},
		"GET /api/v1/asyncapi.yaml":               {read, 200},
		"GET /docs":                               {read, 200},
		"GET /problems/:name":                     {open, 404},
		"GET /":                                   {open, 200},
		"GET /assets/*file":                       {open, 200},
		"POST /api/v1/login":                      {open, 415},
		"POST /api/v1/logout":                     {open, 204},
		"GET /api/v1/me":                          {open, 200},
		"POST /api/v1/stream-tickets":             {read, 201},
		"GET /api/v1/admin/keys":                  {admin, 200},
		"POST /api/v1/admin/keys":                 {admin, 415},
		"DELETE /api/v1/admin/keys/:id":           {admin, 404},
		"POST /api/v1/admin/keys/:id/rotate":      {admin, 404},
		"GET /api/v1/admin/audit":                 {admin, 200},

		"GET /api/v1/consumers":                    {read, 200},
		"GET /api/v1/consumers/:name":              {read, 404},
		"GET /api/v1/consumers/:name/events":       {read, 400},
		"POST /api/v1/consumers/:name/ack":         {read, 415},
		"PUT /api/v1/admin/consumers/:name":        {operate, 415},
		"DELETE /api/v1/admin/consumers/:name":     {operate, 404},
		"POST /api/v1/admin/consumers/:name/reset": {operate, 415},

		"GET /api/v1/admin/webhooks":                    {admin, 200},
		"POST /api/v1/admin/webhooks":                   {admin, 415},
		"GET /api/v1/admin/webhooks/:id":                {admin, 404},
		"PATCH /api/v1/admin/webhooks/:id":              {admin, 428},
		"DELETE /api/v1/admin/webhooks/:id":             {admin, 404},
		"POST /api/v1/admin/webhooks/:id/test":          {admin, 404},
		"POST /api/v1/admin/webhooks/:id/rotate-secret": {admin, 404},
		"GET /api/v1/admin/webhooks/:id/deliveries":     {admin, 404},
		"POST /api/v1/admin/webhooks/:id/pause":         {operate, 404},
		"POST /api/v1/admin/webhooks/:id/resume":        {operate, 404},
		"POST /api/v1/admin/webhooks/:id/replay":        {operate, 415},

		"POST /api/v1/admin/operations":            {operate, 415},
		"POST /api/v1/admin/operations/:id/cancel": {operate, 404},
		"GET /api/v1/operations":                   {read, 200},
		"GET /api/v1/operations/:id":               {read, 404},
	}
	for _, route := range d.server.Routes() {
		want, ok := golden[route.Method+" "+route.Path]
		require.True(t, ok, "%s %s has no line in the golden table", route.Method, route.Path)
		require.Equal(t, want.scope, route.Scope, "%s %s", route.Method, route.Path)
		require.Equal(t, strings.Contains(route.Path, "/admin/"), route.Scope == operate || route.Scope == admin,
			"%s: what operators do lies under /admin/, and nothing else does", route.Path)
		delete(golden, route.Method+" "+route.Path)
		path := strings.NewReplacer(":id", id, ":queue", "walk", ":name", "none", "*file", "x.js").Replace(route.Path)
		for _, c := range callers {
			expected := want.status
			switch {
			case c.has(want.scope):
			case c.with == nil || c.name == "stranger":
				expected = http.StatusUnauthorized
			default:
				expected = http.StatusForbidden
			}
			a := d.send(route.Method, path, "", c.with...)
			require.Equal(t, expected, a.status, "%s %s as %s", route.Method, path, c.name)
			if expected == http.StatusForbidden {
				require.Equal(t, string(want.scope), a.problem(expected, "forbidden")["required_scope"])
			}
		}
	}
	require.Empty(t, golden, "routes that are gone")
}

func TestA1EveryBadCredentialIsTheSameToTheCaller(t *testing.T) {
	t.Parallel()
	// Ten failures would block an address: each has its own.
	d := setup(t, func(c *api.Config) {
		c.Anonymous, c.TrustedProxies = []api.Scope{}, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	basic := func(user, secret string) with { return func(r *http.Request) { r.SetBasicAuth(user, secret) } }
	same := header("X-Request-Id", "same")
	first := d.get("/jobs", same)
	first.problem(http.StatusUnauthorized, "unauthorized")
	require.Equal(t, []string{`Basic realm="mini-asynq", charset="UTF-8"`, `Bearer realm="mini-asynq"`}, first.header.Values("WWW-Authenticate"))
	expired := d.key(`"role":"admin"`)
	_, err := d.pool.Exec(t.Context(), `UPDATE mini_asynq.api_keys SET expires_at = clock_timestamp()`)
	require.NoError(t, err)
	revoked := d.key(`"role":"admin"`)
	d.send(http.MethodDelete, "/api/v1/admin/keys/"+revoked[4:40], "", asAdmin).is(http.StatusNoContent)
	living := d.key(`"role":"admin"`)
	address := 0
	for name, credential := range map[string]with{
		"expired": bearer(expired), "revoked": bearer(revoked), "wrong secret": bearer(living[:41] + expired[41:]),
		"wrong password": basic("admin", "wrong"), "unknown user": basic("root", password), "empty": basic("", ""),
		"bearer": header("Authorization", "Bearer mak_x_y"), "malformed": header("Authorization", "Basic !!!"),
		"scheme": header("Authorization", "Digest x"), "blank": header("Authorization", ""),
		"two": func(r *http.Request) { asAdmin(r); r.Header.Add("Authorization", r.Header.Get("Authorization")) },
	} {
		address++
		a := d.get("/jobs", same, credential, header("X-Forwarded-For", "203.0.113."+itoa(address)))
		a.problem(http.StatusUnauthorized, "unauthorized")
		require.Equal(t, string(first.raw), string(a.raw), name)
		require.Equal(t, first.header.Values("WWW-Authenticate"), a.header.Values("WWW-Authenticate"), name)
	}
	a := d.get("/jobs", header("Sec-Fetch-Mode", "cors"))
	require.Equal(t, []string{`Bearer realm="mini-asynq"`}, a.header.Values("WWW-Authenticate"))
	d.get("/jobs", asAdmin).is(http.StatusOK)
	require.NotContains(t, d.log.String(), password)
}

func TestA2AnonymousHasWhatItWasGivenAndNoMore(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.Anonymous = []api.Scope{api.ScopeRead, api.ScopeEnqueue} })
	stranger := header("Forwarded", "for=203.0.113.9") // an explicit list holds for everybody
	id, job := d.running("a2")
	d.finish(failWithStack(job))
	got := d.get("/jobs/"+id+"?include=attempts", stranger).is(http.StatusOK)
	require.NotContains(t, string(got.raw), "stack-text")
	require.NotContains(t, got.object(), "payload")
	require.NotContains(t, got.object(), "result")
	require.NotContains(t, string(d.get("/jobs/"+id+"/attempts").is(http.StatusOK).raw), "stack-text")
	require.Contains(t, string(d.get("/jobs/"+id+"/attempts", asAdmin).is(http.StatusOK).raw), "stack-text")
	require.NotContains(t, string(d.get("/jobs?queue=a2").is(http.StatusOK).raw), "stack-text")
	require.Contains(t, string(d.get("/jobs?queue=a2&include=stack", asAdmin).is(http.StatusOK).raw), "stack-text")
	for _, include := range []string{"payload", "result", "stack", "stack,payload"} {
		body := d.get("/jobs?include="+include).problem(http.StatusForbidden, "forbidden")
		require.Equal(t, "read:payload", body["required_scope"])
	}
	d.get("/jobs?queue=a2&payload=%7B%7D").problem(http.StatusForbidden, "forbidden")
	d.get("/jobs/"+id+"/result").problem(http.StatusUnauthorized, "unauthorized")
	d.post("/admin/jobs/"+id+"/cancel", "").problem(http.StatusUnauthorized, "unauthorized")
}

func TestA3ManyFailuresBlockTheAddressAndNobodyElse(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	from := func(address string) with { return header("X-Forwarded-For", "10.0.0.1, "+address) }
	wrong := func(r *http.Request) { r.SetBasicAuth("admin", "wrong") }
	for range 10 {
		d.get("/jobs", from("203.0.113.9"), wrong).problem(http.StatusUnauthorized, "unauthorized")
	}
	a := d.get("/jobs", from("203.0.113.9"), wrong)
	a.problem(http.StatusTooManyRequests, "rate-limited")
	// The right password too, or a guess would still be told.
	d.get("/health", from("203.0.113.9"), asAdmin).problem(http.StatusTooManyRequests, "rate-limited")
	d.get("/jobs", from("203.0.113.10"), asAdmin).is(http.StatusOK)
	d.get("/jobs", asAdmin).is(http.StatusOK)
	d.get("/jobs", from("203.0.113.9")).problem(http.StatusUnauthorized, "unauthorized") // says who calls: not blocked
	// A neighbour in the same /64 is the same caller.
	for i := range 10 {
		d.get("/jobs", from("2001:db8::"+itoa(i+1)), wrong).is(http.StatusUnauthorized)
	}
	d.get("/jobs", from("2001:db8::ff"), wrong).is(http.StatusTooManyRequests)
	d.get("/jobs", from("2001:db8:0:1::1"), asAdmin).is(http.StatusOK)
}

func TestForwardedHeadersOfStrangersDoNotMoveTheAddress(t *testing.T) {
	t.Parallel()
	d := setup(t)
	for i := range 10 {
		d.get("/jobs", header("X-Forwarded-For", "203.0.113."+itoa(i)), func(r *http.Request) { r.SetBasicAuth("admin", "wrong") }).
			is(http.StatusUnauthorized)
	}
	d.get("/jobs", header("X-Forwarded-For", "203.0.113.99"), asAdmin).is(http.StatusTooManyRequests)
}

func TestDocumentedPasswordIsForThisMachine(t *testing.T) {
	t.Parallel()
	documented := func(c *api.Config) { c.AdminPassword, c.DefaultPassword = "password", true }
	d := setup(t, documented)
	asDocumented := func(r *http.Request) { r.SetBasicAuth("admin", "password") }
	forwarded := header("X-Forwarded-For", "127.0.0.1")
	d.post("/admin/queues/a/pause", "", asDocumented).is(http.StatusOK)
	d.post("/admin/queues/a/pause", "", asDocumented, forwarded).problem(http.StatusUnauthorized, "unauthorized")
	dev := setupOn(t, d.dsn, documented, func(c *api.Config) { c.Dev = true })
	dev.post("/admin/queues/a/pause", "", asDocumented, forwarded).is(http.StatusOK)
	none := setupOn(t, d.dsn, func(c *api.Config) { c.AdminPassword = "" })
	none.get("/jobs", func(r *http.Request) { r.SetBasicAuth("admin", "") }).problem(http.StatusUnauthorized, "unauthorized")
}

func TestAnonymousHasNothingWhereOthersCanReach(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.BindIsLoopback = false })
	d.get("/jobs").problem(http.StatusUnauthorized, "unauthorized")
	d.get("/metrics").problem(http.StatusNotFound, "not-found") // no gatherer, no route
	require.JSONEq(t, `{"status":"ok"}`, string(d.get("/health").is(http.StatusOK).raw))
}

func TestQ9Hosts(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) {
		c.Bind, c.AllowedHosts = "192.0.2.7", []string{"jobs.example.com", "Exact.example.com:8443"}
	})
	host := func(name string) with { return func(r *http.Request) { r.Host = name } }
	for _, good := range []string{"localhost", "LOCALHOST:99", "127.0.0.1", "127.1.2.3:80", "[::1]:8080", "[::1]", "192.0.2.7:80",
		"jobs.example.com", "Jobs.Example.com:81", "exact.example.com:8443"} {
		d.get("/queues", host(good)).is(http.StatusOK)
	}
	for _, bad := range []string{"evil.example.com", "localhost.evil.com", "evil-localhost", "exact.example.com", "0.0.0.0",
		"10.0.0.1", "jobs.example.com.evil.com", "127.0.0.1.evil.com"} {
		d.get("/queues", host(bad)).problem(http.StatusMisdirectedRequest, "host-not-allowed")
		d.post("/jobs", `{}`, host(bad)).problem(http.StatusMisdirectedRequest, "host-not-allowed")
		d.get("/health", host(bad)).is(http.StatusOK)
		d.get("/health/live", host(bad)).is(http.StatusOK)
		d.get("/health/lives", host(bad)).problem(http.StatusMisdirectedRequest, "host-not-allowed") // exempt paths match whole
	}
}

func TestQ9ForeignOriginsMayNotWrite(t *testing.T) {
	t.Parallel()
	hub := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	d := setup(t, func(c *api.Config) {
		c.AllowedHosts, c.CORSOrigins, c.Hub = []string{"jobs.example.com"}, []string{"https://app.example.com"}, hub
	})
	own := d.url
	bare := strings.TrimPrefix(own, "http://")
	foreign := [][]with{
		{header("Origin", "https://evil.example.com")}, {header("Origin", "null")}, {header("Origin", "https://"+bare)},
		{header("Origin", "http://127.0.0.1:1")}, {header("Origin", "http://sub."+bare)}, {header("Origin", "")},
		{header("Sec-Fetch-Site", "cross-site")}, {header("Sec-Fetch-Site", "same-site")},
		{header("Origin", own), header("Sec-Fetch-Site", "cross-site")}, {header("Origin", "https://app.example.com")},
		{header("Origin", "https://app.example.com"), asAdmin}, // basic auth comes along by itself
		{func(r *http.Request) { r.Header["Origin"] = []string{own, own} }},
	}
	for _, headers := range foreign {
		before := d.rows()
		d.post("/jobs", `{}`, headers...).problem(http.StatusForbidden, "cross-origin")
		require.Equal(t, before, d.rows())
		d.get("/queues", headers...) // reading is the browser's to keep from the page
	}
	for _, headers := range foreign[:9] {
		d.get("/ws", headers...).problem(http.StatusForbidden, "cross-origin")
	}
	for _, headers := range [][]with{
		nil, {header("Origin", own)}, {header("Origin", own), header("Sec-Fetch-Site", "same-origin")},
		{header("Sec-Fetch-Site", "none")}, {header("Origin", "https://jobs.example.com"), header("Sec-Fetch-Site", "cross-site")},
	} {
		d.post("/jobs", `{}`, headers...).is(http.StatusCreated)
		d.get("/ws", headers...).is(http.StatusNoContent)
	}
}

func TestListedOriginsMayCallWithBearerKeysOnly(t *testing.T) {
	t.Parallel()
	d := setup(t, func(c *api.Config) { c.CORSOrigins = []string{"https://app.example.com"} })
	origin := header("Origin", "https://app.example.com")
	preflight := d.send(http.MethodOptions, "/api/v1/jobs", "", origin, header("Access-Control-Request-Method", "POST")).is(http.StatusNoContent)
	require.Equal(t, "https://app.example.com", preflight.header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, preflight.header.Get("Access-Control-Allow-Headers"), "Authorization")
	require.Empty(t, preflight.header.Get("Access-Control-Allow-Credentials"))
	// There are no keys yet; what matters is that the page may read the answer.
	a := d.get("/jobs", origin, header("Authorization", "Bearer mak_x_y"))
	a.problem(http.StatusUnauthorized, "unauthorized")
	require.Equal(t, "https://app.example.com", a.header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, d.get("/jobs", origin).header.Get("Access-Control-Allow-Origin"))
	other := d.send(http.MethodOptions, "/api/v1/jobs", "", header("Origin", "https://evil.example.com"), header("Access-Control-Request-Method", "POST"))
	require.Empty(t, other.header.Get("Access-Control-Allow-Origin"))
}

func TestConfigNamesAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := api.New(api.Config{
		BasePath: "x/", GinMode: "loud", Anonymous: []api.Scope{api.ScopeAdmin}, CORSOrigins: []string{"*"},
		AllowedHosts: []string{"a/b"}, MaxPayload: 1 << 30, AdminUser: "a:b",
	})
	require.Error(t, err)
	for _, part := range []string{"DB", "Inserter", "Stream", "base path", "gin mode", "anonymous scope", "CORS origin", "allowed host", "payload limit", "admin user"} {
		require.Contains(t, err.Error(), part)
	}
}
