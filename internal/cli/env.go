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

// Environment is every variable of the server. docs/configuration.md says what each means; a test compares the two.
type Environment struct {
	DatabaseURL       string `env:"DATABASE_URL"`
	ListenDatabaseURL string `env:"LISTEN_DATABASE_URL"`
	DBHost            string `env:"DB_HOST"`
	DBPort            string `env:"DB_PORT"`
	DBUser            string `env:"DB_USER"`
	DBPassword        string `env:"DB_PASSWORD"`
	DBName            string `env:"DB_NAME"`
	DBSSLMode         string `env:"DB_SSLMODE"`

	ServerPort        int      `env:"SERVER_PORT" envDefault:"8080"`
	GinMode           string   `env:"GIN_MODE" envDefault:"release"`
	WorkerPoolSize    int      `env:"WORKER_POOL_SIZE" envDefault:"5"`
	VisibilityTimeout Duration `env:"VISIBILITY_TIMEOUT" envDefault:"30s"`
	RetryStrategy     string   `env:"RETRY_STRATEGY" envDefault:"exponential"`
	RetryInterval     Seconds  `env:"RETRY_INTERVAL" envDefault:"5"`
	MaxRetryAttempts  int      `env:"MAX_RETRY_ATTEMPTS" envDefault:"3"`

	Bind            string   `env:"MINIASYNQ_BIND" envDefault:"127.0.0.1"`
	BasePath        string   `env:"MINIASYNQ_BASE_PATH"`
	PublicURL       string   `env:"MINIASYNQ_PUBLIC_URL"`
	AllowedHosts    []string `env:"MINIASYNQ_ALLOWED_HOSTS"`
	CORSOrigins     []string `env:"MINIASYNQ_CORS_ORIGINS"`
	TrustedProxies  []string `env:"MINIASYNQ_TRUSTED_PROXIES"`
	AdminUser       string   `env:"MINIASYNQ_ADMIN_USER" envDefault:"admin"`
	AdminPassword   string   `env:"MINIASYNQ_ADMIN_PASSWORD"`
	Anonymous       string   `env:"MINIASYNQ_ANONYMOUS"`
	Dev             bool     `env:"MINIASYNQ_DEV" envDefault:"false"`
	EnvironmentName string   `env:"MINIASYNQ_ENVIRONMENT"`

	WorkerQueues    Weights  `env:"MINIASYNQ_WORKER_QUEUES" envDefault:"*"`
	DemoHandlers    string   `env:"MINIASYNQ_DEMO_HANDLERS"`
	HTTPAllow       []string `env:"MINIASYNQ_HTTP_ALLOW"`
	JobTimeout      Duration `env:"MINIASYNQ_JOB_TIMEOUT" envDefault:"30m"`
	ShutdownGrace   Duration `env:"MINIASYNQ_SHUTDOWN_GRACE" envDefault:"30s"`
	MaxPayload      Bytes    `env:"MINIASYNQ_MAX_PAYLOAD" envDefault:"256KiB"`
	IdempotencyTTL  Duration `env:"MINIASYNQ_IDEMPOTENCY_TTL" envDefault:"24h"`
	RetainCompleted Duration `env:"MINIASYNQ_RETAIN_COMPLETED" envDefault:"3d"`
	RetainDead      Duration `env:"MINIASYNQ_RETAIN_DEAD" envDefault:"90d"`
	RetainEvents    Duration `env:"MINIASYNQ_RETAIN_EVENTS" envDefault:"3d"`
	MaxSockets      int      `env:"MINIASYNQ_MAX_SOCKETS" envDefault:"10000"`
	MaxSocketsEach  int      `env:"MINIASYNQ_MAX_SOCKETS_PER_PRINCIPAL" envDefault:"100"`
	StateDir        string   `env:"MINIASYNQ_STATE_DIR"`
	LogLevel        string   `env:"MINIASYNQ_LOG_LEVEL" envDefault:"info"`
}

// secrets may also be given as NAME_FILE, the path of a file that holds the value.
var secrets = []string{"DATABASE_URL", "LISTEN_DATABASE_URL", "DB_PASSWORD", "MINIASYNQ_ADMIN_PASSWORD"}

// elsewhere are names with our prefix that other parts read: client commands, tests, and failpoints.
var elsewhere = []string{
	"MINIASYNQ_SERVER", "MINIASYNQ_API_KEY", "MINIASYNQ_PASSWORD", "MINIASYNQ_FAILPOINTS",
	"MINIASYNQ_TEST_DATABASE_URL", "MINIASYNQ_BENCH_JOBS",
}

// ReadEnvironment reads the process's environment over the env file: envFile if it is named (it must exist), else .env
// if there is one. An unknown name with our prefix is an error that names the nearest known one.
func ReadEnvironment(environ []string, envFile string) (Environment, error) {
	values, err := readEnvFile(envFile)
	if err != nil {
		return Environment{}, err
	}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			values[name] = value
		}
	}
	if err := refuseUnknown(values); err != nil {
		return Environment{}, err
	}
	if err := readSecretFiles(values); err != nil {
		return Environment{}, err
	}
	// A variable that is set to nothing is one that is not set: compose files pass such on.
	maps.DeleteFunc(values, func(_, value string) bool { return value == "" })
	var e Environment
	if err := env.ParseWithOptions(&e, env.Options{Environment: values}); err != nil {
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

func readEnvFile(path string) (map[string]string, error) {
	values := make(map[string]string)
	named := path != ""
	if !named {
		path = ".env"
	}
	file, err := os.Open(path)
	if err != nil {
		if !named && errors.Is(err, fs.ErrNotExist) {
			return values, nil
		}
		return nil, fmt.Errorf("open the env file: %w", err)
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
			return nil, fmt.Errorf("env file %s, line %d: no NAME=value", path, n)
		}
		value = strings.TrimSpace(value)
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		values[strings.TrimSpace(name)] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the env file: %w", err)
	}
	return values, nil
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
	known := Names()
	for _, name := range secrets {
		known = append(known, name+"_FILE")
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !strings.HasPrefix(name, prefix) || slices.Contains(known, name) || slices.Contains(elsewhere, name) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		faults = append(faults, fmt.Errorf("unknown setting %s: did you mean %s?", name, nearest))
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

func readSecretFiles(values map[string]string) error {
	for _, name := range secrets {
		path := values[name+"_FILE"]
		if path == "" {
			continue
		}
		if values[name] != "" {
			return fmt.Errorf("%s and %s_FILE are both set", name, name)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read %s_FILE: %w", name, err)
		}
		values[name] = strings.TrimRight(string(raw), "\r\n")
		if values[name] == "" {
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
