package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func configChecks() []check {
	return []check{
		{"config.settings", "the settings can be read", needsNothing,
			"Correct the flag, the variable or the env file; docs/configuration.md lists every name.", settings},
		{"config.password", "the admin's password is not the documented one", needsSettings,
			"Set MINIASYNQ_ADMIN_PASSWORD (or MINIASYNQ_ADMIN_PASSWORD_FILE) to 12 characters or more: `openssl rand -base64 24` makes one.", adminPassword},
		{"config.database-password", "the database's password is not the default", needsSettings,
			"Give the role a password of its own (ALTER ROLE .. PASSWORD) and set DB_PASSWORD or DB_PASSWORD_FILE.", databasePassword},
		{"config.tls", "the way to the database is encrypted", needsSettings,
			"Set sslmode=verify-full and sslrootcert for a database on another machine.", tlsMode},
		{"config.anonymous", "strangers may do no more than they should", needsSettings,
			"Set MINIASYNQ_ANONYMOUS=none, and give callers API keys.", anonymous},
		{"config.port", "the port is free, or a server of ours has it", needsSettings,
			"Set SERVER_PORT to another port, or end what has this one (`ss -ltnp`).", port},
		{"config.state-folder", "the state folder can be written", needsSettings,
			"Give the account of the server the folder, or set MINIASYNQ_STATE_DIR to one that it can write.", stateFolder},
	}
}

func settings(_ context.Context, e *exam) (verdict, error) {
	if err := e.config.SettingsError; err != nil {
		return fail("%s", strings.ReplaceAll(err.Error(), "\n", "; ")), nil
	}
	return well("they can"), nil
}

// shortPassword is the length below which the server refuses to start, bound to an address that others can reach.
const shortPassword = 12

func adminPassword(_ context.Context, e *exam) (verdict, error) {
	c := e.config
	documented := c.AdminPassword == "" || c.AdminPassword == c.DocumentedPassword
	switch {
	case !documented && len(c.AdminPassword) < shortPassword && !c.Loopback:
		return fail("the admin's password is shorter than %d characters, and others can reach %s", shortPassword, c.Bind), nil
	case !documented:
		return well("it is one of its own"), nil
	case !c.Loopback && c.Dev:
		return warn("development mode: the documented password is valid from every address that reaches %s", c.Bind).do(
			"On a machine that others can reach, set MINIASYNQ_ADMIN_PASSWORD and leave MINIASYNQ_DEV out."), nil
	case !c.Loopback:
		return fail("the documented password, while bound to %s, which others can reach: the server refuses to start so", c.Bind), nil
	case c.PublicURL != "":
		return fail("the documented password, while %s leads here: whoever reads the documentation can sign in", c.PublicURL), nil
	}
	return well("the documented one, valid on this machine only"), nil
}

// remote is the configured database if it is on another machine; nil if it is not, or if none is known.
func (e *exam) remote() *pgx.ConnConfig {
	if e.openErr != nil {
		return nil // said by database.reachable
	}
	config, err := pgx.ParseConfig(e.db.URL)
	if err != nil || local(config.Host) {
		return nil
	}
	return config
}

// local tells whether a host of a database is this machine.
func local(host string) bool {
	if host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func databasePassword(_ context.Context, e *exam) (verdict, error) {
	config := e.remote()
	if config == nil {
		return well("the database is on this machine"), nil
	}
	if config.User == e.config.DocumentedDatabaseUser && config.Password == e.config.DocumentedDatabasePassword {
		return warn("role and password of the database on %s are the defaults that everybody knows", config.Host), nil
	}
	return well("it is one of its own"), nil
}

// tlsMode looks at what the driver would do, attempt by attempt: a mode that falls back may go without.
func tlsMode(_ context.Context, e *exam) (verdict, error) {
	config := e.remote()
	if config == nil {
		return well("the database is on this machine"), nil
	}
	attempts := []*pgconn.FallbackConfig{{Host: config.Host, TLSConfig: config.TLSConfig}}
	attempts = append(attempts, config.Fallbacks...)
	unverified := ""
	for _, a := range attempts {
		switch {
		case local(a.Host):
		case a.TLSConfig == nil:
			return warn("the way to %s may go without TLS: passwords and payloads can be read on it", a.Host), nil
		case a.TLSConfig.InsecureSkipVerify && a.TLSConfig.VerifyPeerCertificate == nil && a.TLSConfig.VerifyConnection == nil:
			unverified = a.Host
		}
	}
	if unverified != "" {
		return warn("the certificate of %s is not verified: somebody in between can pretend to be the database", unverified), nil
	}
	return well("TLS, with a certificate that is verified"), nil
}

func anonymous(_ context.Context, e *exam) (verdict, error) {
	c := e.config
	if len(c.Anonymous) == 0 || c.Loopback && c.PublicURL == "" {
		return well("nothing without a credential that should not be"), nil
	}
	return warn("whoever reaches the server may %s without a credential", strings.Join(c.Anonymous, ", ")), nil
}

func port(ctx context.Context, e *exam) (verdict, error) {
	if strings.HasSuffix(e.config.Address, ":0") {
		return well("any free one"), nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.config.Address)
	switch {
	case err == nil:
		if err := listener.Close(); err != nil {
			return verdict{}, err
		}
		return well("%s is free", e.config.Address), nil
	case errors.Is(err, syscall.EADDRINUSE):
		if body, _, err := e.ask(ctx, "http://"+reachableAddress(e.config.Address)+e.config.BasePath, "/api/v1/health/live"); err == nil && body.Status != "" {
			return well("a server of ours answers on %s", e.config.Address), nil
		}
		return fail("another program has %s: the server cannot start", e.config.Address), nil
	case errors.Is(err, syscall.EACCES):
		return fail("this account may not listen on %s: ports below 1024 are for root", e.config.Address).do(
			"Take a port from 1024 on, and let a proxy listen on the low one."), nil
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fail("%s is no address of this machine", e.config.Bind).do("Correct MINIASYNQ_BIND; 0.0.0.0 is every address."), nil
	}
	return fail("the server cannot listen on %s: %v", e.config.Address, err), nil
}

// reachableAddress is where a server that is bound to an address answers on this machine.
func reachableAddress(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// stateFolder looks at the nearest part of the path that exists, and asks the system whether this account may write there:
// nothing is made.
func stateFolder(_ context.Context, e *exam) (verdict, error) {
	if e.config.StateDir == "" {
		return well("not used: a database is configured"), nil
	}
	for dir := e.config.StateDir; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
			continue
		case err != nil:
			return fail("%s cannot be looked at: %v", dir, err), nil
		case !info.IsDir():
			return fail("%s is no folder", dir), nil
		}
		const writeAndEnter = 2 | 1 // W_OK | X_OK
		if err := syscall.Access(dir, writeAndEnter); err != nil {
			return fail("this account cannot write in %s: %v", dir, err), nil
		}
		return well("%s", e.config.StateDir), nil
	}
}

func serverChecks() []check {
	return []check{
		{"server.health", "the server says that it is well", needsSettings,
			"Look at its log, and at the checks below.", serverHealth},
	}
}

// healthBody is what GET /health answers, as far as this caller may read.
type healthBody struct {
	Status  string            `json:"status"`
	Node    string            `json:"node"`
	Version string            `json:"version"`
	Checks  map[string]string `json:"checks"`
}

// ask reads a health route of a server.
func (e *exam) ask(ctx context.Context, base, path string) (body healthBody, status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+path, nil)
	if err != nil {
		return body, 0, err
	}
	if e.config.APIKey != "" {
		request.Header.Set("Authorization", "Bearer "+e.config.APIKey)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}}
	answer, err := client.Do(request)
	if err != nil {
		return body, 0, err
	}
	defer answer.Body.Close()
	const most = 64 << 10
	raw, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err != nil {
		return body, answer.StatusCode, err
	}
	return body, answer.StatusCode, json.Unmarshal(raw, &body)
}

func serverHealth(ctx context.Context, e *exam) (verdict, error) {
	body, status, err := e.ask(ctx, e.config.Server, "/api/v1/health")
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax) || err == nil && body.Status == "":
		return warn("what answers at %s is not our API (HTTP %d)", e.config.Server, status).do(
			"Correct --server or MINIASYNQ_SERVER, or what the proxy in between passes on."), nil
	case err != nil && e.config.ServerNamed:
		return warn("no server answers at %s: %v", e.config.Server, err).do("Start it: `mini-asynq serve`; or correct --server or MINIASYNQ_SERVER."), nil
	case err != nil:
		return skip("no server answers at %s", e.config.Server), nil
	}
	var faults []string
	for _, name := range sortedKeys(body.Checks) {
		if body.Checks[name] != "ok" {
			faults = append(faults, name+": "+body.Checks[name])
		}
	}
	detail := fmt.Sprintf("%s says %s", e.config.Server, body.Status)
	if len(faults) > 0 {
		detail += " (" + strings.Join(faults, "; ") + ")"
	}
	switch body.Status {
	case "ok":
		if body.Version != "" && body.Version != e.config.Version {
			detail += fmt.Sprintf("; it has version %s, this program %s", body.Version, e.config.Version)
		}
		return well("%s", detail), nil
	case "degraded", "draining":
		return warn("%s", detail), nil
	}
	return fail("%s", detail), nil
}
