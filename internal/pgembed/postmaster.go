package pgembed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// socketPort is only part of the socket's file name.
const socketPort = 5432

// pidFile is what we read of postmaster.pid, the file in which PostgreSQL says
// who serves the data and where.
type pidFile struct {
	pid       int
	port      int
	socketDir string // empty: no socket
	listen    string // empty: no TCP
	ready     bool   // accepts connections
}

// readPIDFile gives an error that is fs.ErrNotExist when PostgreSQL is down. A
// file that is still being written is an error too.
func (h home) readPIDFile() (pidFile, error) {
	text, err := readSmall(filepath.Join(h.data(), "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	// Lines: pid, data folder, start time, port, socket folder, listen address,
	// shared memory, status (miscadmin.h: LOCK_FILE_LINE_*).
	lines := strings.Split(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 {
		return pidFile{}, fmt.Errorf("read postmaster.pid: bad process id %q", lines[0])
	}
	pf := pidFile{pid: pid}
	if len(lines) < 8 {
		return pf, nil // starting
	}
	if pf.port, err = strconv.Atoi(strings.TrimSpace(lines[3])); err != nil {
		return pidFile{}, fmt.Errorf("read postmaster.pid: bad port %q", lines[3])
	}
	pf.socketDir = strings.TrimSpace(lines[4])
	pf.listen = strings.TrimSpace(lines[5])
	pf.ready = strings.TrimSpace(lines[7]) == "ready"
	return pf, nil
}

// disownPIDFile makes PostgreSQL take postmaster.pid for the leftover that it
// is when its process id now belongs to somebody else, usually after a reboot:
// PostgreSQL would refuse to start. It treats the id of its own parent as
// stale, so that is put in. Deleting the file would also drop the shared memory
// key in it, by which PostgreSQL notices surviving backends of its predecessor.
func (h home) disownPIDFile() error {
	path := filepath.Join(h.data(), "postmaster.pid")
	text, err := readSmall(path)
	if err != nil {
		return fmt.Errorf("read postmaster.pid: %w", err)
	}
	_, rest, _ := strings.Cut(text, "\n")
	f, err := os.CreateTemp(h.dir, ".write-")
	if err != nil {
		return fmt.Errorf("rewrite postmaster.pid: %w", err)
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()) + "\n" + rest)
	if h.acct.switched {
		err = errors.Join(err, f.Chown(int(h.acct.uid), int(h.acct.gid)))
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("rewrite postmaster.pid: %w", err)
	}
	return nil
}

// serves tells whether the process may be a postmaster of this data. A dead
// one, a zombie and a process of another program are not; when the system does
// not tell, the answer is yes, the safe one.
func (h home) serves(pid int) bool {
	reap(pid)
	if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
		return false
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if stat, err := os.ReadFile(filepath.Join(proc, "stat")); err == nil {
		// "pid (name) state ...", where the name may hold anything.
		if i := strings.LastIndexByte(string(stat), ')'); i >= 0 && strings.HasPrefix(string(stat[i:]), ") Z") {
			return false
		}
	}
	// A postmaster works in its data folder.
	if cwd, err := os.Stat(filepath.Join(proc, "cwd")); err == nil {
		data, err := os.Stat(h.data())
		return err != nil || os.SameFile(cwd, data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil || len(out) == 0 {
		return true
	}
	return strings.Contains(string(out), h.data())
}

// reap collects the exit of a child. PostgreSQL is a child of the process that
// started it and may be stopped by another or end by itself; waiting for it
// would take a goroutine that outlives the Server. For a process that is not a
// child it does nothing.
func reap(pid int) (exited bool) {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && got == pid
	}
}

// spawn starts PostgreSQL with the inherited lock and gives its process id.
func (h home) spawn(bin binaries, args []string, lock *flock) (int, error) {
	log, err := h.openLog()
	if err != nil {
		return 0, err
	}
	defer func() { _ = log.Close() }()
	cmd := h.acct.command(context.Background(), bin.path("postgres"), h.dir, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock.file}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s as account %s: %w", bin.path("postgres"), h.acct.name, err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // reap collects it
	return pid, nil
}

// arguments are those of the postgres program. They are given on the command
// line, not in postgresql.conf, so that each start has the settings of the
// server that starts it.
func (h home) arguments(cfg Config, socketDir string, port int) []string {
	args := []string{"-D", h.data()}
	set := func(name, value string) { args = append(args, "-c", name+"="+value) }
	if cfg.Mode == TCP {
		set("listen_addresses", "127.0.0.1")
		set("port", strconv.Itoa(port))
		set("unix_socket_directories", "")
	} else {
		set("listen_addresses", "")
		set("port", strconv.Itoa(socketPort))
		// The value is a list, where a comma separates and quotes protect.
		set("unix_socket_directories", `"`+strings.ReplaceAll(socketDir, `"`, `""`)+`"`)
	}
	set("log_directory", h.logDir())
	names := make([]string, 0, len(cfg.Settings))
	for name := range cfg.Settings {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		set(name, cfg.Settings[name])
	}
	return args
}

// signal sends a signal to PostgreSQL through pg_ctl, run by the account:
// postmaster.pid belongs to that account, and root must not signal whatever it
// writes there.
func (h home) signal(ctx context.Context, bin binaries, name string, pid int) error {
	cmd := h.acct.command(ctx, bin.path("pg_ctl"), h.dir, "kill", name, strconv.Itoa(pid))
	if out, err := runUntil(ctx, cmd); err != nil {
		return fmt.Errorf("send SIG%s to PostgreSQL: %w: %s", name, err, strings.TrimSpace(out))
	}
	return nil
}

// down tells whether nothing of PostgreSQL is alive.
func (h home) down() (bool, error) {
	if pf, err := h.readPIDFile(); err == nil && h.serves(pf.pid) {
		return false, nil
	}
	lock, err := openFlock(h.postmasterLock())
	if err != nil {
		return false, err
	}
	free, err := lock.try(unix.LOCK_EX)
	lock.release()
	return free, err
}

// runUntil runs a short program and gives what it wrote.
func runUntil(ctx context.Context, cmd *exec.Cmd) (string, error) {
	// The pipe of the output stays open as long as a grandchild has it.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return string(out), err
}

// portFree tells whether the port can be bound now.
func portFree(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = listener.Close()
	return true
}

// freePort lets the system choose. Somebody else may take the port before it
// is used; launch tries again then.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// choosePort prefers the configured port, then that of the last run, so that
// addresses survive a restart.
func (h home) choosePort(wanted int) (int, error) {
	if wanted == 0 {
		if text, err := readSmall(h.portFile()); err == nil {
			if last, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && last > 0 && last <= 65535 {
				wanted = last
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("read last port: %w", err)
		}
	}
	if wanted != 0 && portFree(wanted) {
		return wanted, nil
	}
	return freePort()
}
