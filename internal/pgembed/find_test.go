package pgembed_test

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgembed"
)

// script writes a program that every user may run.
func script(t *testing.T, path, body string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
	require.NoError(t, os.Chmod(path, 0o755))
}

// fakePrograms is a folder of programs that claim a version.
func fakePrograms(t *testing.T, major, initdb string) string {
	t.Helper()
	dir := openDir(t)
	script(t, filepath.Join(dir, "postgres"), "echo 'postgres (PostgreSQL) "+major+".1'")
	script(t, filepath.Join(dir, "pg_ctl"), "exit 1")
	script(t, filepath.Join(dir, "initdb"), initdb)
	return dir
}

func realBin(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1").Output()
	require.NoError(t, err)
	if dir := strings.TrimSpace(string(out)); dir != "" {
		return dir
	}
	path, err := exec.LookPath("postgres")
	require.NoError(t, err)
	path, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	return filepath.Dir(path)
}

func requireThreeWays(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, pgembed.ErrNoPostgres)
	for _, way := range []string{"install PostgreSQL", "DATABASE_URL", "docker compose"} {
		require.ErrorContains(t, err, way)
	}
}

func TestMissingProgramsNameThreeWaysOut(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newDir(t), pgembed.Socket).Search(openDir(t))
	cfg.CacheDir = openDir(t)
	_, err := pgembed.Start(t.Context(), cfg)
	requireThreeWays(t, err)
}

func TestOldProgramsAreNamed(t *testing.T) {
	t.Parallel()
	old := fakePrograms(t, "9.6", "")
	cfg := testConfig(newDir(t), pgembed.Socket).Search(old)
	cfg.CacheDir = openDir(t)
	_, err := pgembed.Start(t.Context(), cfg)
	requireThreeWays(t, err)
	require.ErrorContains(t, err, "has PostgreSQL 9")
}

func TestFailedDownloadNamesThreeWaysOut(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	cfg := testConfig(newDir(t), pgembed.Socket).Search(openDir(t))
	cfg.CacheDir, cfg.DownloadURL = openDir(t), server.URL
	_, err := pgembed.Start(t.Context(), cfg)
	requireThreeWays(t, err)
	require.ErrorContains(t, err, "404")
	left, err := filepath.Glob(filepath.Join(cfg.CacheDir, "*-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestHangingDownloadHasADeadline(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	cfg := testConfig(newDir(t), pgembed.Socket).Search(openDir(t))
	cfg.CacheDir, cfg.DownloadURL, cfg.DownloadTimeout = openDir(t), server.URL, 100*time.Millisecond
	_, err := pgembed.Start(t.Context(), cfg)
	requireThreeWays(t, err)
	require.ErrorContains(t, err, "no end within 100ms")
}

// The repository has an archive whose programs hand on to the installed ones.
func TestProgramsAreDownloadedOnce(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs xz to make an archive")
	}
	real, tree := realBin(t), openDir(t)
	require.NoError(t, os.Mkdir(filepath.Join(tree, "bin"), 0o755))
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		script(t, filepath.Join(tree, "bin", name), "exec "+real+"/"+name+` "$@"`)
	}
	jar := filepath.Join(openDir(t), "x.jar")
	file, err := os.Create(jar)
	require.NoError(t, err)
	archive := zip.NewWriter(file)
	entry, err := archive.Create("postgres.txz")
	require.NoError(t, err)
	tar := exec.Command("tar", "-cJf", "-", "-C", tree, "bin")
	tar.Stdout = entry
	require.NoError(t, tar.Run())
	require.NoError(t, archive.Close())
	require.NoError(t, file.Close())
	content, err := os.ReadFile(jar)
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	var gets atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gets.Add(1)
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
			return
		}
		_, _ = w.Write(content)
	}))
	defer server.Close()

	cfg := testConfig(newDir(t), pgembed.Socket).Search(openDir(t))
	cfg.CacheDir, cfg.DownloadURL = filepath.Join(openDir(t), "cache"), server.URL
	s := start(t, cfg)
	execSQL(t, s, "CREATE TABLE t ()")
	stop(t, s)
	require.EqualValues(t, 2, gets.Load(), "archive and checksum")
	stop(t, start(t, cfg))
	require.EqualValues(t, 2, gets.Load())
}

func TestArchiveWithoutChecksumIsRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("anything"))
	}))
	defer server.Close()
	cfg := testConfig(newDir(t), pgembed.Socket).Search(openDir(t))
	cfg.CacheDir, cfg.DownloadURL = openDir(t), server.URL
	_, err := pgembed.Start(t.Context(), cfg)
	requireThreeWays(t, err)
	require.ErrorContains(t, err, "sha256: 404")
}
