package machine

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/mini-asynq/mini-asynq/bench/figures"
)

// Facts describe this machine, as far as it tells.
func Facts(ctx context.Context, dataDir string) []figures.Fact {
	return []figures.Fact{
		{Name: "system", Value: runtime.GOOS + "/" + runtime.GOARCH + " " + firstLine("/proc/sys/kernel/osrelease")},
		{Name: "CPU", Value: strconv.Itoa(runtime.NumCPU()) + " x " + field("/proc/cpuinfo", "model name")},
		{Name: "memory", Value: field("/proc/meminfo", "MemTotal")},
		{Name: "file system of the data", Value: fileSystem(ctx, dataDir)},
		{Name: "Go", Value: runtime.Version()},
	}
}

// field reads "name : value" of a file in /proc.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

func fileSystem(ctx context.Context, dir string) string {
	if dir == "" {
		dir = os.TempDir()
	}
	out, err := exec.CommandContext(ctx, "stat", "--file-system", "--format=%T", dir).Output() //nolint:gosec // a folder
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
