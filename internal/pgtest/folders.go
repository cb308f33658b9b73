package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

// The base folder holds:
//
//	shared-<boot>-<settings>   the shared server, kept from run to run
//	run-<name>/                the clusters of one test binary
//	run-<name>.lock            locked while that binary lives
//	sweep.lock                 locked while a binary makes its lock or looks for those of dead ones

// baseDir gives the base folder: in the user's own cache, or in the state folder that the environment names.
func baseDir() (string, error) {
	dir, mode := "", os.FileMode(0o700)
	if os.Geteuid() == 0 {
		// The account that PostgreSQL runs under must be able to pass. It sees no names: pgembed's folders are closed.
		mode = 0o711
	}
	switch state := os.Getenv("XDG_STATE_HOME"); {
	case state != "":
		dir = filepath.Join(state, "mini-asynq-test")
	case os.Geteuid() == 0:
		dir = "/var/cache/mini-asynq-test"
	default:
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache folder: %w", err)
		}
		dir = filepath.Join(cache, "mini-asynq-test")
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return "", fmt.Errorf("make the folder of the tests: %w", err)
	}
	return dir, os.Chmod(dir, mode) // the umask may have taken bits away
}

// bootID is short and the same until the machine starts anew.
var bootID = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		// Not Linux. An empty answer only means that old data is not told from new.
		text, _ = exec.Command("sysctl", "-n", "kern.boottime").Output()
	}
	hash := fnv.New32a()
	_, _ = hash.Write(text)
	return fmt.Sprintf("%08x", hash.Sum32())
})

// claim is this binary's folder for clusters, made when first needed.
var claim folderClaim

type folderClaim struct {
	mu   sync.Mutex // guards the fields; held while the folder is made, which waits for another binary's sweep
	dir  string
	lock *os.File
}

// folder gives a new name for a cluster.
func (c *folderClaim) folder(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		base, err := baseDir()
		if err != nil {
			return "", err
		}
		if err := sweepFolders(ctx, base); err != nil {
			return "", err
		}
		if err := c.make(ctx, base); err != nil {
			return "", err
		}
	}
	return filepath.Join(c.dir, strings.ToLower(rand.Text()[:10])), nil
}

// make takes the lock, then makes the folder, so that a folder without a living owner is one of a dead owner.
func (c *folderClaim) make(ctx context.Context, base string) error {
	sweep, err := lockFile(ctx, filepath.Join(base, "sweep.lock"))
	if err != nil {
		return err
	}
	defer unlock(sweep)
	dir := filepath.Join(base, "run-"+strings.ToLower(rand.Text()[:10]))
	lock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return err
	}
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	if err := errors.Join(os.Mkdir(dir, mode), os.Chmod(dir, mode)); err != nil {
		unlock(lock)
		return err
	}
	c.dir, c.lock = dir, lock
	return nil
}

// release removes the folder, which the clusters have left empty.
func (c *folderClaim) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		return nil
	}
	defer unlock(c.lock)
	return errors.Join(os.RemoveAll(c.dir), os.Remove(c.lock.Name()))
}

// sweepFolders stops and removes what dead test binaries and earlier boots left.
func sweepFolders(ctx context.Context, base string) error {
	sweep, err := lockFile(ctx, filepath.Join(base, "sweep.lock"))
	if err != nil {
		return err
	}
	defer unlock(sweep)
	locks, err := filepath.Glob(filepath.Join(base, "run-*.lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		if err := sweepRun(ctx, path); err != nil {
			return err
		}
	}
	folders, err := filepath.Glob(filepath.Join(base, "shared-*"))
	if err != nil {
		return err
	}
	for _, dir := range folders {
		if strings.HasPrefix(filepath.Base(dir), "shared-"+bootID()) {
			continue
		}
		// In use: the folder is shared with another machine.
		if err := removeCluster(ctx, dir); err != nil && !errors.Is(err, pgembed.ErrInUse) {
			return err
		}
	}
	return nil
}

// sweepRun removes the clusters of a test binary if it is dead. Nobody makes or sweeps a lock at the same time.
func sweepRun(ctx context.Context, path string) error {
	lock, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // its owner ended in order
	}
	if err != nil {
		return err
	}
	defer unlock(lock)
	if !tryLock(lock) {
		return nil
	}
	dir := strings.TrimSuffix(path, ".lock")
	clusters, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, cluster := range clusters {
		err := removeCluster(ctx, filepath.Join(dir, cluster.Name()))
		if errors.Is(err, pgembed.ErrInUse) {
			return nil // by a child of the dead binary; another time
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(dir), os.Remove(path))
}

func removeCluster(ctx context.Context, dir string) error {
	return pgembed.Remove(ctx, pgembed.Config{DataDir: dir})
}

func tryLock(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// unlock unlocks as well as closing: a child that is just being forked has a copy of the file until its exec.
func unlock(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	_ = f.Close()
}

// lockFile locks a file until unlock or the end of the process.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	// A blocking flock could not be given up.
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !tryLock(f) {
		select {
		case <-ctx.Done():
			unlock(f)
			return nil, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
		case <-look.C:
		}
	}
	return f, nil
}
