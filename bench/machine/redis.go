package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrNoRedis means that no redis-server was found.
var ErrNoRedis = errors.New("no redis-server was found")

// Redis is a server of one cell, empty at the start and removed at Close.
type Redis struct {
	Addr string

	process *Process
	folder  string
}

// FindRedis gives the program: the one that is named, else the first in the path.
func FindRedis(named string) (string, error) {
	if named == "" {
		named = "redis-server"
	}
	path, err := exec.LookPath(named)
	if err != nil {
		return "", ErrNoRedis
	}
	return path, nil
}

// RedisVersion is the program's own word.
func RedisVersion(ctx context.Context, program string) string {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "unknown"
	}
	for _, word := range strings.Fields(string(out)) {
		if version, ok := strings.CutPrefix(word, "v="); ok {
			return version
		}
	}
	return "unknown"
}

// StartRedis starts one with an append-only file that is flushed each second: the usual setting, less durable than a
// commit of PostgreSQL, and the page says so.
func StartRedis(ctx context.Context, program, dir string) (*Redis, error) {
	folder, err := os.MkdirTemp(dir, "mini-asynq-bench-redis-")
	if err != nil {
		return nil, fmt.Errorf("start redis: %w", err)
	}
	port, err := FreePort()
	if err != nil {
		return nil, fmt.Errorf("start redis: %w", err)
	}
	r := &Redis{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), folder: folder}
	r.process, err = StartProcess(ctx, Command{
		Program: program, Log: filepath.Join(folder, "log"),
		Args: []string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes",
			"--appendfsync", "everysec", "--save", ""},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start redis: %w", err), os.RemoveAll(folder))
	}
	err = WaitFor(ctx, 10*time.Second, "redis answers", func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr)
		if err != nil {
			return false, nil //nolint:nilerr // not up yet
		}
		return true, conn.Close()
	})
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends it and removes its data.
func (r *Redis) Close() error {
	return errors.Join(r.process.Stop(5*time.Second), os.RemoveAll(r.folder))
}
