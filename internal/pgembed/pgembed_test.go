package pgembed_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]pgembed.Mode{"socket": pgembed.Socket, "tcp": pgembed.TCP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(newDir(t), mode)
			first := start(t, cfg)
			require.Equal(t, pgembed.Started, first.Origin())
			execSQL(t, first, "CREATE TABLE kept AS SELECT 1")
			stop(t, first)
			require.False(t, running(first.PID()))

			second := start(t, cfg)
			require.Equal(t, pgembed.Started, second.Origin())
			require.Equal(t, first.Addr(), second.Addr())
			require.Equal(t, 1, count(t, second, "kept"))
			stop(t, second)
			stop(t, second) // once more does nothing
		})
	}
}

func TestSocketModeIsClosedToOthers(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s := start(t, testConfig(dir, pgembed.Socket))
	conn := connect(t, s)
	var listen, auth string
	require.NoError(t, conn.QueryRow(t.Context(), "SHOW listen_addresses").Scan(&listen))
	require.Empty(t, listen)
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules").Scan(&auth))
	require.Equal(t, "scram-sha-256", auth)
	info, err := os.Stat(filepath.Dir(s.Addr()))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(dir, "password"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestProductionSettingsAreDurable(t *testing.T) {
	t.Parallel()
	cfg := pgembed.Config{DataDir: newDir(t), DownloadURL: "off"}
	s := start(t, cfg)
	conn := connect(t, s)
	for setting, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_connections": "200",
		"shared_buffers": "256MB", "server_encoding": "UTF8", "TimeZone": "UTC", "log_truncate_on_rotation": "on",
	} {
		var got string
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&got))
		require.Equal(t, want, got, setting)
	}
	var database string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&database))
	require.Equal(t, "gosynq_db", database)
}

func TestStartsAtOnceShareOnePostmaster(t *testing.T) {
	t.Parallel()
	const users = 4
	cfg := testConfig(newDir(t), pgembed.TCP)
	servers := make([]*pgembed.Server, users)
	errs := make([]error, users)
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() { servers[i], errs[i] = pgembed.Start(t.Context(), cfg) })
	}
	wg.Wait()
	started := 0
	for i := range users {
		require.NoError(t, errs[i])
		t.Cleanup(func() { _ = servers[i].StopBy(context.Background(), pgembed.Immediate) })
		require.Equal(t, servers[0].PID(), servers[i].PID())
		require.Equal(t, servers[0].DSN(), servers[i].DSN())
		switch servers[i].Origin() {
		case pgembed.Started:
			started++
		case pgembed.Joined:
		default:
			t.Errorf("origin %s", servers[i].Origin())
		}
	}
	require.Equal(t, 1, started)

	for i, s := range servers {
		require.True(t, running(s.PID()), "stopped with users left")
		execSQL(t, servers[users-1], fmt.Sprintf("CREATE TABLE t%d ()", i))
		stop(t, s)
	}
	require.False(t, running(servers[0].PID()))
}

func TestProcessesShareAndTheLastOneStops(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	other := startProcess(t, dir)
	pid := other.pid(t)
	ours := start(t, testConfig(dir, pgembed.Socket))
	require.Equal(t, pgembed.Joined, ours.Origin())
	require.Equal(t, pid, ours.PID())

	// The process that started PostgreSQL goes first.
	other.stop(t)
	execSQL(t, ours, "CREATE TABLE t ()")
	stop(t, ours)
	requireEnds(t, pid)
}

func TestKilledServerIsAdopted(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	killed := startProcess(t, dir)
	pid := killed.pid(t)
	killed.kill()
	require.True(t, running(pid))

	s := start(t, testConfig(dir, pgembed.Socket))
	require.Equal(t, pgembed.Adopted, s.Origin())
	require.Equal(t, pid, s.PID())
	execSQL(t, s, "CREATE TABLE t ()")
	stop(t, s)
	requireEnds(t, pid)
}

func TestStaleProcessFileIsNoHindrance(t *testing.T) {
	t.Parallel()
	foreign := func(t *testing.T, dir string) int { return startSleeper(t, filepath.Join(dir, "data")) }
	for name, pidFor := range map[string]func(*testing.T, string) int{
		"dead":    func(*testing.T, string) int { return 0 },
		"foreign": foreign,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t)
			cfg := testConfig(dir, pgembed.Socket)
			first := start(t, cfg)
			execSQL(t, first, "CREATE TABLE kept AS SELECT 1; CHECKPOINT")
			require.NoError(t, first.StopBy(t.Context(), pgembed.Kill))

			path := filepath.Join(dir, "data", "postmaster.pid")
			text, err := os.ReadFile(path)
			require.NoError(t, err, "kill -9 leaves the file")
			if pid := pidFor(t, dir); pid != 0 {
				_, rest, _ := strings.Cut(string(text), "\n")
				require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "%d\n%s", pid, rest), 0o600))
				// The lock file of the socket names the same process.
				socket := filepath.Join(dir, "run", ".s.PGSQL.5432.lock")
				require.FileExists(t, socket)
				require.NoError(t, os.WriteFile(socket, fmt.Appendf(nil, "%d\n%s", pid, rest), 0o600))
			}

			second := start(t, cfg)
			require.Equal(t, pgembed.Started, second.Origin())
			require.Equal(t, 1, count(t, second, "kept"))
			stop(t, second)
		})
	}
}

func TestKilledInitdbIsRedone(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	// An initdb that makes the file by which complete data is known, says so,
	// and never ends.
	marker := filepath.Join(openDir(t), "half")
	require.NoError(t, os.Mkdir(marker, 0o777))
	require.NoError(t, os.Chmod(marker, 0o777))
	bin := fakePrograms(t, "15", `for a; do case $a in --pgdata=*) d=${a#--pgdata=};; esac; done
echo 15 > "$d/PG_VERSION"
echo $$ > `+marker+`/new; mv `+marker+`/new `+marker+`/pid
exec sleep 600`)
	killed := startProcess(t, dir, "PGEMBED_TEST_BIN="+bin)
	initdb := awaitPID(t, filepath.Join(marker, "pid"))
	killed.kill()
	half, err := filepath.Glob(filepath.Join(dir, "init-*"))
	require.NoError(t, err)
	require.NotEmpty(t, half)
	require.True(t, running(initdb), "a killed server does not take initdb along")
	t.Cleanup(func() { _ = syscall.Kill(initdb, syscall.SIGKILL) })

	s := start(t, testConfig(dir, pgembed.Socket))
	require.Equal(t, pgembed.Started, s.Origin())
	execSQL(t, s, "CREATE TABLE t ()")
	half, err = filepath.Glob(filepath.Join(dir, "init-*"))
	require.NoError(t, err)
	require.Empty(t, half)
}

func TestEndedContextStopsInitdb(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(openDir(t), "half")
	require.NoError(t, os.Mkdir(marker, 0o777))
	require.NoError(t, os.Chmod(marker, 0o777))
	cfg := testConfig(newDir(t), pgembed.Socket)
	cfg.BinDir = fakePrograms(t, "15", "sleep 600 & echo $! > "+marker+"/new; mv "+marker+"/new "+marker+"/pid; wait")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() { // ends with the context; the receive below waits for it
		_, err := pgembed.Start(ctx, cfg)
		failed <- err
	}()
	pid := awaitPID(t, filepath.Join(marker, "pid"))
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	requireEnds(t, pid)
}

func TestTakenPortIsReplacedByAFreeOne(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	cfg := testConfig(newDir(t), pgembed.TCP)
	cfg.Port = taken.Addr().(*net.TCPAddr).Port
	s := start(t, cfg)
	require.NotEqual(t, taken.Addr().String(), s.Addr())
	execSQL(t, s, "CREATE TABLE t ()")
}

// A fake postgres takes the port at the last moment, as another process might.
func TestPortLostInTheRaceIsReplaced(t *testing.T) {
	t.Parallel()
	real := realBin(t)
	dir := newDir(t)
	once := filepath.Join(openDir(t), "once")
	require.NoError(t, os.Mkdir(once, 0o777))
	require.NoError(t, os.Chmod(once, 0o777))
	bin := openDir(t)
	for _, name := range []string{"initdb", "pg_ctl"} {
		script(t, filepath.Join(bin, name), "exec "+real+"/"+name+` "$@"`)
	}
	script(t, filepath.Join(bin, "postgres"), `if [ "$1" = -D ] && mkdir `+once+`/x 2>/dev/null; then
echo 'FATAL: could not create any TCP/IP sockets' >&2; exit 1; fi
exec `+real+`/postgres "$@"`)
	cfg := testConfig(dir, pgembed.TCP)
	cfg.BinDir = bin
	s := start(t, cfg)
	require.DirExists(t, filepath.Join(once, "x"))
	execSQL(t, s, "CREATE TABLE t ()")
}

func TestStartSaysWhatPostgresSaid(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newDir(t), pgembed.Socket)
	cfg.Settings["no_such_setting"] = "1"
	_, err := pgembed.Start(t.Context(), cfg)
	require.ErrorContains(t, err, "no_such_setting")
}

func TestStartStopStorm(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newDir(t), pgembed.Socket)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 4 {
				s, err := pgembed.Start(t.Context(), cfg)
				if err != nil {
					t.Errorf("start: %v", err)
					return
				}
				// Others may be stopping theirs at this moment.
				conn, err := pgx.Connect(t.Context(), s.DSN())
				if err != nil {
					t.Errorf("connect: %v", err)
				} else {
					_ = conn.Close(t.Context())
				}
				if err := s.Stop(t.Context()); err != nil {
					t.Errorf("stop: %v", err)
				}
			}
		})
	}
	wg.Wait()
	require.NoFileExists(t, filepath.Join(cfg.DataDir, "data", "postmaster.pid"))
}

func TestOtherMajorIsRefused(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	cfg := testConfig(dir, pgembed.Socket)
	stop(t, start(t, cfg))
	version := filepath.Join(dir, "data", "PG_VERSION")
	was, err := os.ReadFile(version)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(version, []byte("99\n"), 0o600))
	_, err = pgembed.Start(t.Context(), cfg)
	require.ErrorIs(t, err, pgembed.ErrNoPostgres)
	require.ErrorContains(t, err, "PostgreSQL 99, which made the data")
	require.NoError(t, os.WriteFile(version, was, 0o600))

	// With programs of that version beside others they are taken.
	other := fakePrograms(t, "99", "")
	stop(t, start(t, cfg.Search(other, realBin(t))))
}

func TestDataWithoutVersionIsNotOverwritten(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	cfg := testConfig(dir, pgembed.Socket)
	stop(t, start(t, cfg))
	require.NoError(t, os.Remove(filepath.Join(dir, "data", "PG_VERSION")))
	_, err := pgembed.Start(t.Context(), cfg)
	require.ErrorContains(t, err, "no PG_VERSION")
}

func TestLongPathHasItsSocketElsewhere(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), strings.Repeat("long", 30), "state")
	cfg := testConfig(dir, pgembed.Socket)
	t.Cleanup(func() { require.NoError(t, pgembed.Remove(context.Background(), cfg)) })
	s := start(t, cfg)
	require.LessOrEqual(t, len(s.Addr()), 103)
	info, err := os.Stat(filepath.Dir(s.Addr()))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	execSQL(t, s, "CREATE TABLE t ()")
	joined := start(t, cfg)
	require.Equal(t, s.Addr(), joined.Addr())
	stop(t, joined)
	stop(t, s)
	require.NoDirExists(t, filepath.Dir(s.Addr()))
}

func TestTerminalSignalsDoNotReachPostgres(t *testing.T) {
	t.Parallel()
	s := start(t, testConfig(newDir(t), pgembed.Socket))
	theirs, err := syscall.Getpgid(s.PID())
	require.NoError(t, err)
	require.NotEqual(t, syscall.Getpgrp(), theirs)
}

func TestReviveAfterPostmasterDied(t *testing.T) {
	t.Parallel()
	s := start(t, testConfig(newDir(t), pgembed.TCP))
	execSQL(t, s, "CREATE TABLE kept AS SELECT 1")
	revived, err := s.Revive(t.Context())
	require.NoError(t, err)
	require.False(t, revived)

	dsn, pid := s.DSN(), s.PID()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	revived, err = s.Revive(t.Context())
	require.NoError(t, err)
	require.True(t, revived)
	require.NotEqual(t, pid, s.PID())
	require.Equal(t, dsn, s.DSN())
	require.Equal(t, 1, count(t, s, "kept"))
	stop(t, s)
	_, err = s.Revive(t.Context())
	require.Error(t, err)
}

func TestStopIsBoundedWhenPostgresHangs(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newDir(t), pgembed.Socket)
	cfg.StopTimeout = 50 * time.Millisecond
	s := start(t, cfg)
	require.NoError(t, syscall.Kill(s.PID(), syscall.SIGSTOP))
	require.NoError(t, s.Stop(t.Context()))
	require.False(t, running(s.PID()))
}

func TestStopWithEndedContextStillStops(t *testing.T) {
	t.Parallel()
	s := start(t, testConfig(newDir(t), pgembed.Socket))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Stop(ctx))
	require.False(t, running(s.PID()))
}

func TestPasswordIsNotPrinted(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s := start(t, testConfig(dir, pgembed.Socket))
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	require.NoError(t, err)
	secret := strings.TrimSpace(string(password))
	require.Contains(t, s.DSN(), secret)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", s, s, s, s), secret)
}

func TestRemoveRefusesAFolderInUse(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	cfg := testConfig(dir, pgembed.Socket)
	require.NoError(t, pgembed.Remove(t.Context(), cfg), "nothing there")
	s := start(t, cfg)
	require.ErrorIs(t, pgembed.Remove(t.Context(), cfg), pgembed.ErrInUse)
	stop(t, s)
	require.NoError(t, pgembed.Remove(t.Context(), cfg))
	require.NoDirExists(t, dir)
}

func TestRemoveStopsWhatAKilledProcessLeft(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	killed := startProcess(t, dir)
	pid := killed.pid(t)
	killed.kill()
	require.NoError(t, pgembed.Remove(t.Context(), testConfig(dir, pgembed.Socket)))
	requireEnds(t, pid)
}

func TestRemoveAndStartAtOnceDoNotBreakEachOther(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newDir(t), pgembed.Socket)
	var wg sync.WaitGroup
	started := make(chan struct{})
	wg.Go(func() {
		defer close(started)
		for range 3 {
			s, err := pgembed.Start(t.Context(), cfg)
			if err != nil {
				t.Errorf("start: %v", err)
				return
			}
			if err := s.StopBy(t.Context(), pgembed.Immediate); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-started:
				return
			default:
			}
			if err := pgembed.Remove(t.Context(), cfg); err != nil && !errors.Is(err, pgembed.ErrInUse) {
				t.Errorf("remove: %v", err)
				return
			}
		}
	})
	wg.Wait()
}

func TestConfigNamesAllFaults(t *testing.T) {
	t.Parallel()
	_, err := pgembed.Start(t.Context(), pgembed.Config{
		DataDir: "x", Mode: 7, Port: 70000, Settings: map[string]string{"Listen_Addresses": "*"}, StopTimeout: -1,
	})
	for _, want := range []string{"mode 7", "port 70000", "Listen_Addresses", "negative"} {
		require.ErrorContains(t, err, want)
	}
}
