package pgembed

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Mode is where PostgreSQL listens.
type Mode int

const (
	// Socket listens on a Unix socket in a folder of mode 0700 and on no
	// network port. For the server.
	Socket Mode = iota
	// TCP listens on 127.0.0.1 only. For tests, whose proxies and tools need a
	// port.
	TCP
)

// Config says how to run PostgreSQL. The zero value runs it on a socket in
// [DefaultDataDir].
//
// A Start that finds PostgreSQL running takes it as it is: Mode, Port and
// Settings are those of the process that started it.
type Config struct {
	// DataDir holds everything: data, log, socket, password and locks. Empty
	// means DefaultDataDir. Missing parents are created.
	DataDir string
	// Mode is where to listen.
	Mode Mode
	// Port is the wanted TCP port. 0 means the port of the last run, else a
	// free one; a taken port is replaced by a free one. Not used by Socket.
	Port int
	// Database is created when missing and named by DSN. Empty means gosynq_db.
	Database string
	// Settings are parameters of postgresql.conf and win over the defaults of
	// this package. A setting that says where to listen is refused.
	Settings map[string]string
	// BinDir is the folder with initdb, pg_ctl and postgres. Empty means to
	// search for it, and to download when nothing is found.
	BinDir string
	// CacheDir keeps downloaded programs. Empty means the user's cache folder,
	// for root /var/cache/mini-asynq.
	CacheDir string
	// DownloadURL is the repository to download from. Empty means the one that
	// embedded-postgres uses. "off" forbids downloads.
	DownloadURL string
	// DownloadTimeout bounds the download. 0 means 3 minutes: some 15 MB, then
	// unpacking them.
	DownloadTimeout time.Duration
	// StartTimeout bounds Start without a download: waiting for another
	// process that starts or stops, initdb, and recovery after a crash, which
	// is the longest of them. 0 means 60 seconds.
	StartTimeout time.Duration
	// StopTimeout is how long a fast shutdown, which writes a checkpoint, may
	// take before Stop turns to an immediate one. 0 means 5 seconds.
	StopTimeout time.Duration
	// NoSync lets initdb leave the new data to the operating system. For data
	// that may be lost with the machine.
	NoSync bool
	// Log gets starts, stops and what healed. The zero value is silent.
	Log zerolog.Logger

	// search replaces the folders where programs are looked for; set by tests.
	search []string
	// accounts replaces the accounts tried by root; set by tests.
	accounts []string
}

// defaultSettings are for a small machine that also runs the server itself.
// What decides about durability keeps PostgreSQL's defaults.
var defaultSettings = map[string]string{
	"max_connections":  "200",
	"shared_buffers":   "256MB",
	"timezone":         "UTC",
	"log_timezone":     "UTC",
	"log_min_messages": "warning",
	// One file a weekday, emptied when its day comes round again: a week of
	// history without a growing folder.
	"logging_collector":        "on",
	"log_filename":             "postgresql-%a.log",
	"log_truncate_on_rotation": "on",
	"log_rotation_age":         "1d",
	"log_rotation_size":        "0",
}

// ownSettings are decided by Mode and DataDir; a caller who changed them would
// break joining.
var ownSettings = []string{
	"listen_addresses", "port", "unix_socket_directories", "data_directory",
	"external_pid_file", "log_directory",
}

func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		dir, err := DefaultDataDir()
		if err != nil {
			return c, err
		}
		c.DataDir = dir
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("make %s absolute: %w", c.DataDir, err)
	}
	c.DataDir = dir
	if c.Database == "" {
		c.Database = "gosynq_db"
	}
	if c.DownloadURL == "" {
		c.DownloadURL = libraryRepository()
	}
	if c.DownloadTimeout == 0 {
		c.DownloadTimeout = 3 * time.Minute
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = time.Minute
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 5 * time.Second
	}
	if c.accounts == nil {
		c.accounts = []string{"postgres", "nobody"}
	}
	settings := maps.Clone(defaultSettings)
	maps.Copy(settings, c.Settings)
	c.Settings = settings
	c.Log = c.Log.With().Str("component", "pgembed").Logger()
	return c, nil
}

func (c Config) validate() error {
	var errs []error
	if c.Mode != Socket && c.Mode != TCP {
		errs = append(errs, fmt.Errorf("mode %d is neither Socket nor TCP", c.Mode))
	}
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d is not in 0..65535", c.Port))
	}
	// A longer name is cut by PostgreSQL, so that the database would be created
	// under one name and looked for under another.
	if len(c.Database) > 63 || strings.ContainsRune(c.Database, 0) {
		errs = append(errs, errors.New("database name is longer than 63 bytes or holds a zero byte"))
	}
	if c.DownloadTimeout < 0 || c.StartTimeout < 0 || c.StopTimeout < 0 {
		errs = append(errs, errors.New("a timeout is negative"))
	}
	for name := range c.Settings {
		if slices.Contains(ownSettings, strings.ToLower(name)) {
			errs = append(errs, fmt.Errorf("setting %s is not the caller's to choose", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("check configuration of the private PostgreSQL: %w", err)
	}
	return nil
}
