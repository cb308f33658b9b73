package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/bench/peers"
)

// facts collect machine, versions and settings for the page.
func (s *session) facts(ctx context.Context) (figures.Facts, error) {
	postgres, err := s.bench.Cluster.Version(ctx)
	if err != nil {
		return figures.Facts{}, err
	}
	settings, err := s.bench.Cluster.Settings(ctx)
	if err != nil {
		return figures.Facts{}, err
	}
	redis := "not found"
	if s.bench.Redis != "" {
		redis = machine.RedisVersion(ctx, s.bench.Redis)
	}
	return figures.Facts{
		Machine: machine.Facts(ctx, s.options.dir),
		Versions: []figures.Fact{
			{Name: "Mini Asynq", Value: revision(ctx, filepath.Dir(s.bench.Module))},
			{Name: "PostgreSQL", Value: postgres},
			{Name: "River", Value: library("github.com/riverqueue/river")},
			{Name: "pgx", Value: library("github.com/jackc/pgx/v5")},
			{Name: "asynq", Value: library("github.com/hibiken/asynq")},
			{Name: "redis-server", Value: redis},
			{Name: "graphile-worker", Value: peers.GraphileVersion(s.bench.Module)},
			{Name: "Node", Value: output(ctx, "", "node", "--version")},
		},
		Settings: append(settings,
			figures.Fact{Name: "slots of each contender", Value: strconv.Itoa(peers.Slots) + ", but graphile-worker " +
				strconv.Itoa(peers.GraphileSlots)},
			figures.Fact{Name: "connections of each contender", Value: strconv.Itoa(peers.Connections)},
		),
		Command: s.options.command, Scale: s.options.scale,
	}, nil
}

// library is the version of a dependency that this program was built with.
func library(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "unknown"
}

func revision(ctx context.Context, repository string) string {
	return output(ctx, repository, "git", "describe", "--tags", "--always", "--dirty")
}

func output(ctx context.Context, dir, program string, args ...string) string {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // constants
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "not found"
	}
	return strings.TrimSpace(string(out))
}
