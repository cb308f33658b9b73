package pgembed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the user whom PostgreSQL runs as.
type account struct {
	uid, gid uint32
	name     string
	// switched says that this is another user than the process's own, which
	// only root can do.
	switched bool
}

// findAccount gives the process's own user, or for root the first of names
// that exists. When the data exists its owner decides: the account postgres
// may have come with a package that was installed after the first start under
// nobody.
func findAccount(names []string, dataDir string) (account, error) {
	uid := uint32(os.Geteuid())
	owner, found := ownerOf(dataDir)
	if uid != 0 {
		if found && owner.uid != uid {
			return account{}, fmt.Errorf("use data folder %s: it belongs to user id %d, not to %d: start the server as that user or choose another folder",
				dataDir, owner.uid, uid)
		}
		return account{uid: uid, gid: uint32(os.Getegid()), name: strconv.Itoa(int(uid))}, nil
	}
	if found {
		if owner.uid == 0 {
			return account{}, fmt.Errorf("use data folder %s: it belongs to root, and PostgreSQL does not run as root: give it to another account", dataDir)
		}
		return owner, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr != nil || gidErr != nil || uid == 0 {
			continue
		}
		return account{uid: uint32(uid), gid: uint32(gid), name: name, switched: true}, nil
	}
	return account{}, fmt.Errorf("find an account for PostgreSQL, which does not run as root: there is none of %s: start the server as an ordinary user",
		strings.Join(names, ", "))
}

func ownerOf(dataDir string) (account, bool) {
	info, err := os.Lstat(dataDir)
	if err != nil {
		return account{}, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return account{}, false
	}
	return account{uid: stat.Uid, gid: stat.Gid, name: strconv.Itoa(int(stat.Uid)), switched: true}, true
}

// command prepares a program of PostgreSQL: run by the account, in a folder it
// can enter, with an environment in which nothing of the caller's (PGDATA,
// PGOPTIONS, a locale the programs do not know) changes the result.
//
// When ctx ends, the program is killed with its children. The zero deadline of
// context.Background leaves it alone.
func (a account) command(ctx context.Context, path, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	// LC_ALL is set because PostgreSQL on macOS refuses to start without.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "LANG=C", "HOME=" + dir}
	// A session of its own: Ctrl-C in the terminal must reach the server only,
	// which then stops PostgreSQL when its own work is done.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The leader of a session leads a process group as well.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if a.switched {
		// No supplementary groups: those are root's.
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return cmd
}

// own gives a path to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("give folder to account %s: %w", a.name, err)
	}
	return nil
}

// reach checks that the account can enter each folder on the way to path, so
// that a data folder below /root is refused with its reason and not with
// "permission denied" by initdb. Mode bits only: what an ACL adds is unseen.
func (a account) reach(path string) error {
	if !a.switched {
		return nil
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("resolve folder: %w", err)
	}
	for dir := resolved; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("check way to %s: %w", path, err)
		}
		if !a.mayEnter(info) {
			return fmt.Errorf("use folder %s: account %s, which runs PostgreSQL because root may not, cannot enter %s: choose another folder or start the server as an ordinary user",
				path, a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (a account) mayEnter(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	mode := info.Mode().Perm()
	switch {
	case stat.Uid == a.uid:
		return mode&0o100 != 0
	case stat.Gid == a.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// makeDir creates a folder with exactly this mode (the umask may have taken
// bits away) or checks that an existing one is ours to use.
func makeDir(path string, mode fs.FileMode) error {
	err := os.Mkdir(path, mode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create folder: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("check folder: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("use folder %s: it is not a folder", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("use folder %s: it belongs to user id %d, not to %d", path, stat.Uid, os.Geteuid())
	}
	if info.Mode().Perm() != mode {
		if err := os.Chmod(path, mode); err != nil {
			return fmt.Errorf("set mode of folder: %w", err)
		}
	}
	return nil
}

// makeParents creates missing folders above path: for root such that another
// account can pass, for a user private as the XDG rules want it.
func makeParents(path string) error {
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); err == nil || parent == path {
		return nil
	}
	if err := makeParents(parent); err != nil {
		return err
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755
	}
	// ErrExist: another process was faster.
	if err := os.Mkdir(parent, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return fmt.Errorf("create folder: %w", err)
	}
	if err := os.Chmod(parent, mode); err != nil {
		return fmt.Errorf("set mode of folder: %w", err)
	}
	return nil
}
