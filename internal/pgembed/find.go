package pgembed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minMajor is the oldest PostgreSQL whose behaviour the product relies on.
const minMajor = 15

// ErrNoPostgres means that there are no programs to run: none on this machine,
// and none could be downloaded. Its text names the ways out.
var ErrNoPostgres = errors.New(`no PostgreSQL of a usable version. Three ways out: ` +
	`install PostgreSQL 15 or newer (Debian and Ubuntu: apt install postgresql; macOS: brew install postgresql@17); ` +
	`set DATABASE_URL to a server that you have; ` +
	`start one with docker compose up`)

// binaries are the programs of one installation.
type binaries struct {
	dir   string
	major int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// findBinaries gives the programs to use. major is that of existing data, or 0
// for the first installation found that is new enough.
func findBinaries(ctx context.Context, cfg Config, acct account, major int) (binaries, error) {
	folders := cfg.search
	switch {
	case cfg.BinDir != "":
		folders = []string{cfg.BinDir}
	case folders == nil:
		folders = searchFolders()
	}
	cache, cacheErr := cacheDir(cfg)
	if cfg.BinDir == "" && cacheErr == nil {
		folders = append(slices.Clip(folders), newestFirst(filepath.Join(cache, "postgresql-*", "bin"))...)
	}
	var passed []string
	for _, folder := range folders {
		b, err := inspect(ctx, folder, acct)
		if err != nil {
			// Most folders do not exist. One that does and is of no use is
			// worth a word in the error below.
			if _, statErr := os.Stat(filepath.Join(folder, "postgres")); statErr == nil {
				passed = append(passed, err.Error())
			}
			continue
		}
		if (major == 0 && b.major >= minMajor) || (major != 0 && b.major == major) {
			return b, nil
		}
		passed = append(passed, fmt.Sprintf("%s has PostgreSQL %d", b.dir, b.major))
	}

	wanted := fmt.Sprintf("find PostgreSQL %d or newer", minMajor)
	if major != 0 {
		wanted = fmt.Sprintf("find PostgreSQL %d, which made the data in %s", major, cfg.DataDir)
	}
	if len(passed) > 0 {
		wanted += " (" + strings.Join(passed, "; ") + ")"
	}
	switch {
	case cfg.BinDir != "":
		return binaries{}, fmt.Errorf("%s in %s: %w", wanted, cfg.BinDir, ErrNoPostgres)
	case cfg.DownloadURL == "off":
		return binaries{}, fmt.Errorf("%s: downloads are off: %w", wanted, ErrNoPostgres)
	case cacheErr != nil:
		return binaries{}, fmt.Errorf("%s: %w: %w", wanted, cacheErr, ErrNoPostgres)
	}
	folder, err := download(ctx, cfg, cache, major)
	if err != nil {
		return binaries{}, fmt.Errorf("%s: %w: %w", wanted, err, ErrNoPostgres)
	}
	b, err := inspect(ctx, folder, acct)
	if err != nil {
		return binaries{}, fmt.Errorf("%s: downloaded programs are of no use: %w: %w", wanted, err, ErrNoPostgres)
	}
	return b, nil
}

// searchFolders lists where packages put the programs. PATH comes first: it is
// what the user chose.
func searchFolders() []string {
	folders := filepath.SplitList(os.Getenv("PATH"))
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
		"/usr/pgsql-*/bin",                  // Red Hat and kin, from postgresql.org
		"/usr/libexec/postgresql*",          // Alpine
		"/opt/homebrew/opt/postgresql*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
		"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/opt/local/lib/postgresql*/bin", // MacPorts
		"/usr/local/pgsql/bin",           // from source
	} {
		folders = append(folders, newestFirst(pattern)...)
	}
	return folders
}

// newestFirst expands a pattern and sorts by the number in the path, as 9.6
// and 17 do not sort as texts.
func newestFirst(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return nil // only a malformed pattern fails, and ours are constants
	}
	slices.SortStableFunc(found, func(a, b string) int { return firstNumber(b) - firstNumber(a) })
	return found
}

func firstNumber(s string) int {
	start := strings.IndexAny(s, "0123456789")
	if start < 0 {
		return 0
	}
	end := start
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(s[start:end])
	if err != nil {
		return 0
	}
	return n
}

// inspect checks that a folder holds all three programs, that the account can
// get at them, and asks for their version. The programs find their libraries
// relative to themselves, so links are resolved first.
func inspect(ctx context.Context, folder string, acct account) (binaries, error) {
	program, err := filepath.EvalSymlinks(filepath.Join(folder, "postgres"))
	if err != nil {
		return binaries{}, fmt.Errorf("look for postgres: %w", err)
	}
	b := binaries{dir: filepath.Dir(program)}
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		if _, err := exec.LookPath(b.path(name)); err != nil {
			return binaries{}, fmt.Errorf("look for %s: %w", name, err)
		}
	}
	if err := acct.reach(b.dir); err != nil {
		return binaries{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// The answer is "postgres (PostgreSQL) 15.13 (Debian ...)".
	out, err := exec.CommandContext(ctx, b.path("postgres"), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("ask %s for its version: %w", b.path("postgres"), err)
	}
	b.major = firstNumber(string(out))
	if b.major == 0 {
		return binaries{}, fmt.Errorf("ask %s for its version: unclear answer %q", b.path("postgres"), out)
	}
	return b, nil
}

func cacheDir(cfg Config) (string, error) {
	if cfg.CacheDir != "" {
		return cfg.CacheDir, nil
	}
	// The account that runs PostgreSQL cannot enter the home of root.
	if os.Geteuid() == 0 {
		return "/var/cache/mini-asynq", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder: %w", err)
	}
	return filepath.Join(dir, "mini-asynq"), nil
}
