package pgembed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often a lock, a file or a process is looked at while
// waiting: there is no event to wait for that works on each Unix, and a start
// takes some 100 ms anyway.
const pollEvery = 10 * time.Millisecond

// poll calls done at once and then every pollEvery, until it says true or
// fails, or the context ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// flock is an open lock file. The lock belongs to the open file, so that two
// flocks on one path exclude each other also within a process.
type flock struct {
	path string
	file *os.File
}

func openFlock(path string) (*flock, error) {
	// O_NOFOLLOW: a link in the folder is nothing we made.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return &flock{path: path, file: f}, nil
}

// try takes the lock in the given way (unix.LOCK_SH or LOCK_EX) if that is
// possible now.
func (l *flock) try(how int) (bool, error) {
	for {
		err := unix.Flock(int(l.file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case errors.Is(err, unix.EINTR):
		default:
			return false, fmt.Errorf("lock %s: %w", l.path, err)
		}
	}
}

// release unlocks, then closes. Closing alone is not enough: a child that
// another goroutine is just forking holds a copy of the file until its exec.
func (l *flock) release() {
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	_ = l.file.Close()
}

// abandon closes this process's copy and leaves the lock to the process that
// inherited it.
func (l *flock) abandon() { _ = l.file.Close() }

// current tells whether the path still names the open file. It does not when
// Remove deleted the folder while we waited for the lock.
func (l *flock) current() bool {
	byPath, err := os.Lstat(l.path)
	if err != nil {
		return false
	}
	open, err := l.file.Stat()
	return err == nil && os.SameFile(byPath, open)
}
