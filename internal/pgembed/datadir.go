package pgembed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// superuser is the role that initdb creates and DSN names.
const superuser = "postgres"

// maxSocketPath keeps the socket's path below the 104 bytes of macOS and the
// 108 of Linux, both with their closing zero.
const maxSocketPath = 103

// maxLogSize is when a start empties postgres.log. The log proper rotates in
// log/; this file has what PostgreSQL says before and beside it.
const maxLogSize = 8 << 20

// home is the layout of the folder.
type home struct {
	dir  string
	acct account
}

func (h home) startLock() string      { return filepath.Join(h.dir, "start.lock") }
func (h home) usersLock() string      { return filepath.Join(h.dir, "users.lock") }
func (h home) postmasterLock() string { return filepath.Join(h.dir, "postmaster.lock") }
func (h home) passwordFile() string   { return filepath.Join(h.dir, "password") }
func (h home) portFile() string       { return filepath.Join(h.dir, "port") }
func (h home) socketFile() string     { return filepath.Join(h.dir, "socket-folder") }
func (h home) logFile() string        { return filepath.Join(h.dir, "postgres.log") }
func (h home) data() string           { return filepath.Join(h.dir, "data") }
func (h home) logDir() string         { return filepath.Join(h.dir, "log") }
func (h home) socketDir() string      { return filepath.Join(h.dir, "run") }

// DefaultDataDir gives the folder for the server's private PostgreSQL:
// postgres in the user's state folder, for root below /var/lib, which other
// accounts can enter. It creates nothing.
func DefaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/mini-asynq/postgres", nil
	}
	state := os.Getenv("XDG_STATE_HOME")
	// The XDG rules: a relative path counts as unset.
	if !filepath.IsAbs(state) {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the user's state folder: %w", err)
		}
		state = filepath.Join(user, ".local", "state")
	}
	return filepath.Join(state, "mini-asynq", "postgres"), nil
}

// openHome creates the folder or checks the existing one.
func openHome(dir string, accounts []string) (home, error) {
	h := home{dir: dir}
	if err := makeParents(dir); err != nil {
		return h, err
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	if err := makeDir(dir, mode); err != nil {
		return h, err
	}
	acct, err := findAccount(accounts, h.data())
	if err != nil {
		return h, err
	}
	h.acct = acct
	return h, acct.reach(dir)
}

// ownedDir makes a folder of mode 0700 that belongs to the account.
func (h home) ownedDir(path string) error {
	err := os.Mkdir(path, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return h.checkOwned(path)
	case err != nil:
		return fmt.Errorf("create folder: %w", err)
	}
	return h.acct.own(path)
}

func (h home) checkOwned(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("check folder: %w", err)
	}
	owner, _ := ownerOf(path)
	if !info.IsDir() || owner.uid != h.acct.uid || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("use folder %s: want a folder of account %s that is closed to others", path, h.acct.name)
	}
	return nil
}

// dataMajor reads the version that made the data, 0 when there is no data.
func (h home) dataMajor() (int, error) {
	text, err := readSmall(filepath.Join(h.data(), "PG_VERSION"))
	if err == nil {
		major, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return 0, fmt.Errorf("read version of the data in %s: %w", h.data(), err)
		}
		return major, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read version of the data: %w", err)
	}
	entries, err := os.ReadDir(h.data())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read data folder: %w", err)
	case len(entries) > 0:
		// Never made by us, as complete data is renamed into place. It may be
		// data with a damage: starting anew would hide it.
		return 0, fmt.Errorf("use data folder %s: it is not empty and has no PG_VERSION: restore it or move it away", h.data())
	}
	return 0, nil
}

// initData makes the data, under start.lock. initdb works in a folder beside
// it that is renamed at the end, so that a kill half way leaves no data that
// looks complete.
func (h home) initData(ctx context.Context, bin binaries, noSync bool) error {
	leftovers, err := filepath.Glob(filepath.Join(h.dir, "init-*"))
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, path := range leftovers {
		// Best effort: the initdb of a killed server may still be writing there.
		_ = os.RemoveAll(path)
	}
	password, err := h.password(true)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp(h.dir, "init-")
	if err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := h.acct.own(temp); err != nil {
		return err
	}
	pwfile, err := h.lendPassword(password)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(pwfile) }()

	args := []string{
		"--pgdata=" + temp, "--username=" + superuser, "--pwfile=" + pwfile,
		// Not peer: the server and PostgreSQL may be different users.
		"--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-instructions",
	}
	if noSync {
		args = append(args, "--no-sync")
	}
	cmd := h.acct.command(ctx, bin.path("initdb"), h.dir, args...)
	out, err := runUntil(ctx, cmd)
	if err != nil {
		return fmt.Errorf("make data folder with %s: %w: %s", bin.path("initdb"), err, strings.TrimSpace(out))
	}
	// An empty folder of that name may be there; rename replaces it.
	if err := os.Rename(temp, h.data()); err != nil {
		return fmt.Errorf("put data folder in place: %w", err)
	}
	return syncDir(h.dir)
}

// password reads the superuser's password; with create it makes one when there
// is none.
func (h home) password(create bool) (string, error) {
	text, err := readSmall(h.passwordFile())
	if err == nil {
		return strings.TrimSpace(text), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read password: %w", err)
	}
	if !create {
		return "", fmt.Errorf("read password of the data in %s: restore the file or move the folder away: %w", h.data(), err)
	}
	// On disk before initdb uses it: data whose password is lost is lost too.
	password := rand.Text()
	if err := h.write(h.passwordFile(), password); err != nil {
		return "", err
	}
	return password, syncDir(h.dir)
}

// lendPassword writes a copy that initdb can read, which runs as the account.
func (h home) lendPassword(password string) (string, error) {
	f, err := os.CreateTemp(h.dir, "init-password-")
	if err != nil {
		return "", fmt.Errorf("create password file: %w", err)
	}
	_, err = f.WriteString(password + "\n")
	if h.acct.switched {
		err = errors.Join(err, f.Chown(int(h.acct.uid), int(h.acct.gid)))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", fmt.Errorf("write password file: %w", err)
	}
	return f.Name(), nil
}

// write replaces a small file of mode 0600 in the folder, whole or not at all.
func (h home) write(path, text string) error {
	f, err := os.CreateTemp(h.dir, ".write-")
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	_, err = f.WriteString(text + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// chooseSocketDir gives the folder of the socket: run, or when its path is too
// long for a socket a short private one, whose name is kept for the next start.
func (h home) chooseSocketDir() (string, error) {
	name := fmt.Sprintf("/.s.PGSQL.%d", socketPort)
	if len(h.socketDir())+len(name) <= maxSocketPath {
		return h.socketDir(), h.ownedDir(h.socketDir())
	}
	if text, err := readSmall(h.socketFile()); err == nil {
		// Others may write where it lies: it is checked like a stranger's.
		dir := strings.TrimSpace(text)
		if h.checkOwned(dir) == nil {
			return dir, nil
		}
	}
	parents := []string{os.Getenv("XDG_RUNTIME_DIR"), "/run", os.TempDir(), "/tmp"}
	var errs []error
	for _, parent := range parents {
		if parent == "" || len(parent)+len("/mini-asynq-4294967295")+len(name) > maxSocketPath || h.acct.reach(parent) != nil {
			continue
		}
		dir, err := os.MkdirTemp(parent, "mini-asynq-")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := errors.Join(h.acct.own(dir), h.write(h.socketFile(), dir)); err != nil {
			_ = os.Remove(dir)
			return "", err
		}
		return dir, nil
	}
	return "", fmt.Errorf("find a folder for the socket, as %s is too long a path: %w", h.socketDir(), errors.Join(errs...))
}

// dropSocketDir removes the folder that chooseSocketDir put elsewhere.
func (h home) dropSocketDir() {
	text, err := readSmall(h.socketFile())
	if err != nil {
		return
	}
	dir := strings.TrimSpace(text)
	if h.checkOwned(dir) == nil && os.Remove(dir) == nil {
		_ = os.Remove(h.socketFile())
	}
}

// openLog opens the file that becomes PostgreSQL's standard output and error.
func (h home) openLog() (*os.File, error) {
	f, err := os.OpenFile(h.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.Size() > maxLogSize {
		_ = f.Truncate(0)
	}
	return f, nil
}

// logSince reads what was logged after offset, for an error text.
func (h home) logSince(offset int64) string {
	f, err := os.Open(h.logFile())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 4096)
	n, err := f.ReadAt(buf, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return strings.TrimSpace(string(buf[:n]))
}

// readSmall reads a file that another account may have put there: it follows
// no link, does not hang on a pipe and ends after 64 KiB.
func readSmall(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read %s: not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(text), err
}

// syncDir makes a rename in the folder last.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
