package pgembed_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Sys().(*syscall.Stat_t).Uid
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become someone else")
	}
}

func credential(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	account, err := user.Lookup(name)
	require.NoError(t, err)
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	require.NoError(t, err)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// startSleeper runs another program as the user who owns path.
func startSleeper(t *testing.T, path string) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.Dir = "/"
	if uid := ownerOf(t, path); int(uid) != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestRootRunsPostgresUnderAnAccount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, name := range []string{"postgres", "nobody"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := credential(t, name)
			dir := newDir(t)
			cfg := testConfig(dir, pgembed.Socket).Accounts("no-such-account", name)
			s := start(t, cfg)
			var proc syscall.Stat_t
			if err := syscall.Stat("/proc/"+strconv.Itoa(s.PID()), &proc); err == nil {
				require.Equal(t, want.Uid, proc.Uid)
				require.Equal(t, want.Gid, proc.Gid)
			}
			require.Equal(t, want.Uid, ownerOf(t, filepath.Join(dir, "data")))
			require.Zero(t, ownerOf(t, dir), "the account must not be able to change locks and password")
			require.Zero(t, ownerOf(t, filepath.Join(dir, "password")))
			stop(t, s)

			// The owner of existing data wins over the order of accounts.
			again := start(t, testConfig(dir, pgembed.Socket))
			require.Equal(t, want.Uid, ownerOf(t, filepath.Join(dir, "data")))
			stop(t, again)
		})
	}
}

func TestRootIsToldWhichFolderBlocksTheAccount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	closed := filepath.Join(openDir(t), "closed")
	require.NoError(t, os.Mkdir(closed, 0o700))
	_, err := pgembed.Start(t.Context(), testConfig(filepath.Join(closed, "state"), pgembed.Socket))
	require.ErrorContains(t, err, "cannot enter "+closed)
}

func TestRootWithoutAccountIsTold(t *testing.T) {
	t.Parallel()
	needRoot(t)
	_, err := pgembed.Start(t.Context(), testConfig(newDir(t), pgembed.Socket).Accounts("no-such-account", "root"))
	require.ErrorContains(t, err, "none of no-such-account, root")
}

func TestDefaultFolder(t *testing.T) {
	dir, err := pgembed.DefaultDataDir()
	require.NoError(t, err)
	if os.Geteuid() == 0 {
		require.Equal(t, "/var/lib/mini-asynq/postgres", dir)
		return
	}
	t.Setenv("XDG_STATE_HOME", "/state")
	dir, err = pgembed.DefaultDataDir()
	require.NoError(t, err)
	require.Equal(t, "/state/mini-asynq/postgres", dir)
	t.Setenv("XDG_STATE_HOME", "relative")
	t.Setenv("HOME", "/home/someone")
	dir, err = pgembed.DefaultDataDir()
	require.NoError(t, err)
	require.Equal(t, "/home/someone/.local/state/mini-asynq/postgres", dir)
}

// TestAsOrdinaryUser runs what depends on the user once more without root.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	// The test binary lies where only root can enter.
	binary := filepath.Join(dir, "pgembed.test")
	from, err := os.Open(os.Args[0])
	require.NoError(t, err)
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(binary, os.O_WRONLY|os.O_CREATE, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	temp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(temp, 0o777))
	require.NoError(t, os.Chmod(temp, 0o777))

	cmd := exec.CommandContext(t.Context(), binary, "-test.v",
		"-test.run=^(TestRestartKeepsData|TestSocketModeIsClosedToOthers|TestKilledServerIsAdopted|TestProcessesShareAndTheLastOneStops|TestStaleProcessFileIsNoHindrance|TestLongPathHasItsSocketElsewhere|TestDefaultFolder|TestForeignDataIsRefused)$")
	cmd.Dir = temp
	cmd.Env = append(os.Environ(), "HOME="+temp, "TMPDIR="+temp, "PGEMBED_TEST_FOREIGN="+filepath.Join(dir, "foreign"))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "foreign", "data"), 0o755))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(t, "nobody")}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Run(), "%s", &out)
	require.Contains(t, out.String(), "--- PASS: TestKilledServerIsAdopted")
	require.Contains(t, out.String(), "--- PASS: TestForeignDataIsRefused")
}

// TestForeignDataIsRefused is run by TestAsOrdinaryUser on a folder of root.
func TestForeignDataIsRefused(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("PGEMBED_TEST_FOREIGN")
	if dir == "" {
		t.Skip("needs a folder of another user")
	}
	_, err := pgembed.Start(t.Context(), testConfig(dir, pgembed.Socket))
	require.ErrorContains(t, err, "belongs to user id 0")
}
