package pgembed_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

// patience is for the slowest machine that runs the tests; nothing waits that
// long when all is well.
const patience = 60 * time.Second

// testConfig is for tests, whose data may be lost.
func testConfig(dir string, mode pgembed.Mode) pgembed.Config {
	return pgembed.Config{
		DataDir: dir,
		Mode:    mode,
		NoSync:  true,
		Settings: map[string]string{
			"fsync": "off", "shared_buffers": "16MB", "max_connections": "20", "logging_collector": "off",
		},
		DownloadURL: "off",
	}
}

// newDir gives a path that the account of PostgreSQL can reach, unlike that of
// t.TempDir for root.
func newDir(t *testing.T) string {
	t.Helper()
	parent := openDir(t)
	dir := filepath.Join(parent, "state")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := pgembed.Remove(ctx, testConfig(dir, pgembed.Socket)); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return dir
}

// openDir is a temporary folder that other users can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgembed-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

func start(t *testing.T, cfg pgembed.Config) *pgembed.Server {
	t.Helper()
	s, err := pgembed.Start(t.Context(), cfg)
	require.NoError(t, err)
	// A test that fails half way must not leave PostgreSQL behind; after a Stop
	// this does nothing.
	t.Cleanup(func() {
		if err := s.StopBy(context.Background(), pgembed.Immediate); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return s
}

func stop(t *testing.T, s *pgembed.Server) {
	t.Helper()
	require.NoError(t, s.Stop(t.Context()))
}

func connect(t *testing.T, s *pgembed.Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs statements on a connection of their own.
func execSQL(t *testing.T, s *pgembed.Server, statements string) {
	t.Helper()
	conn := connect(t, s)
	_, err := conn.Exec(t.Context(), statements)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func count(t *testing.T, s *pgembed.Server, table string) (n int) {
	t.Helper()
	conn := connect(t, s)
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM "+pgx.Identifier{table}.Sanitize()).Scan(&n))
	require.NoError(t, conn.Close(t.Context()))
	return n
}

// running tells whether the process exists and is more than a zombie, which
// the first process of a container may never collect.
func running(pid int) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func requireEnds(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool { return !running(pid) }, patience, 10*time.Millisecond,
		"a process gives no sign of its end to those who are not its parent")
}

// awaitPID waits for a script to write its process id.
func awaitPID(t *testing.T, path string) (pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(text), &pid)
		return err == nil
	}, patience, 10*time.Millisecond, "a script can only say it with a file")
	return pid
}

// process is the test binary run again as a server of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
}

// startProcess runs Start in another process. Its first line, the process id
// of PostgreSQL, is read by pid.
func startProcess(t *testing.T, dir string, extra ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append([]string{"PGEMBED_TEST_ACT=hold", "PGEMBED_TEST_DIR=" + dir}, extra...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{cmd: cmd, stdin: stdin, lines: bufio.NewReader(stdout)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("process: %s", stderr.String())
		}
	})
	return p
}

func (p *process) pid(t *testing.T) int {
	t.Helper()
	line, err := p.lines.ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	return pid
}

// kill is kill -9; it may be repeated.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// stop lets the process stop its server and waits for its end.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.cmd.Wait())
}

// helperAct is what the test binary does when startProcess runs it.
func helperAct() func() {
	switch os.Getenv("PGEMBED_TEST_ACT") {
	case "hold":
		return func() {
			cfg := testConfig(os.Getenv("PGEMBED_TEST_DIR"), pgembed.Socket)
			cfg.BinDir = os.Getenv("PGEMBED_TEST_BIN")
			s, err := pgembed.Start(context.Background(), cfg)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println(s.PID())
			_, _ = io.Copy(io.Discard, os.Stdin)
			if err := s.Stop(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	default:
		return nil
	}
}
