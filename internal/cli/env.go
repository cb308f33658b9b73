package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caarlos0/env/v11"
)

// prefix of the variables that are the product's own.
const prefix = "MINIASYNQ_"

// Environment is every variable of the server. docs/configuration.md says what each means; a test compares the two. Each
// is a flag of serve as well, with its help; secrets are not, for a command line is no place for them (flags.go).
type Environment struct {
	DatabaseURL       string `env:"DATABASE_URL"`
	ListenDatabaseURL string `env:"LISTEN_DATABASE_URL"`
	DBHost            string `env:"DB_HOST" help:"host of the database"`
	DBPort            string `env:"DB_PORT" help:"port of the database"`
	DBUser            string `env:"DB_USER" help:"user of the database"`
	DBPassword        string `env:"DB_PASSWORD"`
	DBName            string `env:"DB_NAME" help:"name of the database"`
	DBSSLMode         string `env:"DB_SSLMODE" help:"disable, require, verify-full .."`

	ServerPort        int      `env:"SERVER_PORT" envDefault:"8080" help:"port to listen on; 0 picks a free one"`
	GinMode           string   `env:"GIN_MODE" envDefault:"release" help:"debug, release or test"`
	WorkerPoolSize    int      `env:"WORKER_POOL_SIZE" envDefault:"5" help:"handlers that run at once"`
	VisibilityTimeout Duration `env:"VISIBILITY_TIMEOUT" envDefault:"30s" help:"lease: how long a node may be silent"`
	RetryStrategy     string   `env:"RETRY_STRATEGY" envDefault:"exponential" help:"fixed or exponential"`
	RetryInterval     Seconds  `env:"RETRY_INTERVAL" envDefault:"5" help:"before the first retry: seconds, or a duration"`
	MaxRetryAttempts  int      `env:"MAX_RETRY_ATTEMPTS" envDefault:"3" help:"retries of a job that names none"`

	Bind            string   `env:"MINIASYNQ_BIND" envDefault:"127.0.0.1" help:"address to listen on"`
	BasePath        string   `env:"MINIASYNQ_BASE_PATH" help:"path before everything, behind a proxy"`
	PublicURL       string   `env:"MINIASYNQ_PUBLIC_URL" help:"the address that users see"`
	AllowedHosts    []string `env:"MINIASYNQ_ALLOWED_HOSTS" help:"further values of the Host header, comma-separated"`
	CORSOrigins     []string `env:"MINIASYNQ_CORS_ORIGINS" help:"origins whose pages may call the API"`
	TrustedProxies  []string `env:"MINIASYNQ_TRUSTED_PROXIES" help:"addresses or networks whose X-Forwarded- headers count"`
	AdminUser       string   `env:"MINIASYNQ_ADMIN_USER" envDefault:"admin" help:"name for basic auth"`
	AdminPassword   string   `env:"MINIASYNQ_ADMIN_PASSWORD"`
	Anonymous       string   `env:"MINIASYNQ_ANONYMOUS" help:"what needs no credential: scopes, or none"`
	Dev             bool     `env:"MINIASYNQ_DEV" envDefault:"false" help:"development mode: admin/password is valid from anywhere"`
	EnvironmentName string   `env:"MINIASYNQ_ENVIRONMENT" help:"a name for the dashboard: staging, production"`

	WorkerQueues    Weights  `env:"MINIASYNQ_WORKER_QUEUES" envDefault:"*" help:"queues to work for, with weights: critical:6,*:1"`
	DemoHandlers    string   `env:"MINIASYNQ_DEMO_HANDLERS" help:"true or false: handlers for kinds without one"`
	HTTPAllow       []string `env:"MINIASYNQ_HTTP_ALLOW" help:"hosts that jobs of kind http may call"`
	WebhookAllow    []string `env:"MINIASYNQ_WEBHOOK_ALLOW" help:"hosts that webhooks may lead to beside public ones on https"`
	JobTimeout      Duration `env:"MINIASYNQ_JOB_TIMEOUT" envDefault:"30m" help:"longest run of an attempt"`
	ShutdownGrace   Duration `env:"MINIASYNQ_SHUTDOWN_GRACE" envDefault:"30s" help:"how long handlers may take at the stop"`
	MaxPayload      Bytes    `env:"MINIASYNQ_MAX_PAYLOAD" envDefault:"256KiB" help:"of a job, at most 4MiB"`
	IdempotencyTTL  Duration `env:"MINIASYNQ_IDEMPOTENCY_TTL" envDefault:"24h" help:"how long an idempotency key is remembered"`
	RetainCompleted Duration `env:"MINIASYNQ_RETAIN_COMPLETED" envDefault:"3d" help:"how long completed and cancelled jobs are kept"`
	RetainDead      Duration `env:"MINIASYNQ_RETAIN_DEAD" envDefault:"90d" help:"how long dead jobs are kept"`
	RetainEvents    Duration `env:"MINIASYNQ_RETAIN_EVENTS" envDefault:"3d" help:"how long events are kept"`
	RetainBytes     Bytes    `env:"MINIASYNQ_RETAIN_EVENTS_SIZE" help:"room that events may take on disk: 20GiB; unset: no limit"`
	MaxSockets      int      `env:"MINIASYNQ_MAX_SOCKETS" envDefault:"10000" help:"open sockets of a node"`
	MaxSocketsEach  int      `env:"MINIASYNQ_MAX_SOCKETS_PER_PRINCIPAL" envDefault:"100" help:"open sockets of a caller"`
	StateDir        string   `env:"MINIASYNQ_STATE_DIR" help:"where the private PostgreSQL keeps its data"`
	LogLevel        string   `env:"MINIASYNQ_LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
}

// secrets may also be given as NAME_FILE, the path of a file that holds the value.
var secrets = []string{
	"DATABASE_URL", "LISTEN_DATABASE_URL", "DB_PASSWORD", "MINIASYNQ_ADMIN_PASSWORD", "MINIASYNQ_API_KEY", "MINIASYNQ_PASSWORD",
}

// elsewhere are names with our prefix that other parts read: client commands, tests, and failpoints.
var elsewhere = []string{
	"MINIASYNQ_SERVER", "MINIASYNQ_API_KEY", "MINIASYNQ_PASSWORD", "MINIASYNQ_FAILPOINTS",
	"MINIASYNQ_TEST_DATABASE_URL", "MINIASYNQ_BENCH_JOBS",
}

// defaultServer is the server that client commands speak to.
const defaultServer = "http://localhost:8080"

// ReadEnvironment reads the process's environment over the env file: envFile if it is named (it must exist), else .env
// if there is one. An unknown name with our prefix is an error that names the nearest known one.
func ReadEnvironment(environ []string, envFile string) (Environment, error) {
	read, err := readSettings(environ, envFile, nil)
	if err != nil {
		return Environment{}, err
	}
	return read.environment()
}

// settings are the variables as they were given, by name.
type settings struct {
	values  map[string]string
	origins map[string]string // flag, environment, or env file and its path
}

// readSettings puts together what is given: flags over environment over env file. A variable that is set to nothing is one
// that is not set: compose files pass such on.
func readSettings(environ []string, envFile string, flags map[string]string) (settings, error) {
	fromFile, path, err := readEnvFile(envFile)
	if err != nil {
		return settings{}, err
	}
	read := settings{values: make(map[string]string), origins: make(map[string]string)}
	for name, value := range fromFile {
		read.set(name, value, "env file "+path)
	}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			read.set(name, value, "environment")
		}
	}
	for name, value := range flags {
		// A secret from a file of a flag wins over one from the environment, and does not contradict it.
		if secret, ok := strings.CutSuffix(name, "_FILE"); ok {
			read.set(secret, "", "")
		}
		read.set(name, value, "flag")
	}
	if err := refuseUnknown(read.values); err != nil {
		return settings{}, err
	}
	if err := read.readSecretFiles(); err != nil {
		return settings{}, err
	}
	maps.DeleteFunc(read.values, func(_, value string) bool { return value == "" })
	return read, nil
}

func (s settings) set(name, value, origin string) { s.values[name], s.origins[name] = value, origin }

// environment reads the server's variables.
func (s settings) environment() (Environment, error) {
	var e Environment
	if err := env.ParseWithOptions(&e, env.Options{Environment: s.values}); err != nil {
		return Environment{}, nameVariables(err)
	}
	return e, nil
}

// nameVariables says of each value that could not be read which variable held it: the library knows only our fields.
func nameVariables(err error) error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return fmt.Errorf("environment: %w", err)
	}
	faults := make([]error, len(all.Errors))
	for i, fault := range all.Errors {
		var parse env.ParseError
		faults[i] = fault
		if errors.As(fault, &parse) {
			if field, ok := reflect.TypeFor[Environment]().FieldByName(parse.Name); ok {
				faults[i] = fmt.Errorf("%s: %w", field.Tag.Get("env"), parse.Err)
			}
		}
	}
	return fmt.Errorf("settings refused: %w", errors.Join(faults...))
}

// readEnvFile returns the path that it read as well.
func readEnvFile(path string) (map[string]string, string, error) {
	values := make(map[string]string)
	named := path != ""
	if !named {
		path = ".env"
	}
	file, err := os.Open(path)
	if err != nil {
		if !named && errors.Is(err, fs.ErrNotExist) {
			return values, path, nil
		}
		return nil, "", fmt.Errorf("open the env file: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return nil, "", fmt.Errorf("env file %s, line %d: no NAME=value", path, n)
		}
		value = strings.TrimSpace(value)
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		values[strings.TrimSpace(name)] = value
	}
	if err := lines.Err(); err != nil {
		return nil, "", fmt.Errorf("read the env file: %w", err)
	}
	return values, path, nil
}

// Names lists the variables of Environment.
func Names() []string {
	t := reflect.TypeFor[Environment]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("env")
	}
	return names
}

func refuseUnknown(values map[string]string) error {
	known := append(Names(), elsewhere...)
	for _, name := range secrets {
		known = append(known, name+"_FILE")
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !strings.HasPrefix(name, prefix) || slices.Contains(known, name) {
			continue
		}
		near := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		faults = append(faults, fmt.Errorf("unknown setting %s: did you mean %s?", name, near))
	}
	return errors.Join(faults...)
}

// distance is Levenshtein's edit distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func (s settings) readSecretFiles() error {
	for _, name := range secrets {
		path := s.values[name+"_FILE"]
		if path == "" {
			continue
		}
		if s.values[name] != "" {
			return fmt.Errorf("%s and %s_FILE are both set", name, name)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read %s_FILE: %w", name, err)
		}
		s.set(name, strings.TrimRight(string(raw), "\r\n"), s.origins[name+"_FILE"]+", "+name+"_FILE")
		if s.values[name] == "" {
			return fmt.Errorf("%s_FILE: %s is empty", name, path)
		}
	}
	return nil
}

// DefaultDatabaseURL is the database of the original quick start.
const DefaultDatabaseURL = "postgres://postgres:postgres@localhost:5432/gosynq_db?sslmode=disable" //nolint:gosec // public

// Database returns the address of the configured database, "" if none is configured: DATABASE_URL, else the DB_ names,
// of which any one counts.
func (e Environment) Database() string {
	if e.DatabaseURL != "" {
		return e.DatabaseURL
	}
	if e.DBHost == "" && e.DBPort == "" && e.DBUser == "" && e.DBPassword == "" && e.DBName == "" && e.DBSSLMode == "" {
		return ""
	}
	or := func(value, fallback string) string {
		if value == "" {
			return fallback
		}
		return value
	}
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(or(e.DBUser, "postgres"), or(e.DBPassword, "postgres")),
		Host:   net.JoinHostPort(or(e.DBHost, "localhost"), or(e.DBPort, "5432")),
		Path:   "/" + or(e.DBName, "gosynq_db"),
	}
	query := url.Values{"sslmode": {or(e.DBSSLMode, "disable")}}
	if strings.HasPrefix(e.DBHost, "/") {
		// A folder with a socket.
		u.Host = ""
		query.Set("host", e.DBHost)
		query.Set("port", or(e.DBPort, "5432"))
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// Address is where the server listens.
func (e Environment) Address() string { return net.JoinHostPort(e.Bind, strconv.Itoa(e.ServerPort)) }
