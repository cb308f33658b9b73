package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is a program to start beside us.
type Command struct {
	Program string
	Args    []string
	Dir     string
	Env     []string // nil: ours
	Log     string   // its output and errors go into this file
	// Output gets what it writes to the standard output instead; nil: the log.
	Output io.Writer
}

// Process is one that we started. It ends with Stop, or with us.
type Process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when it was waited for
}

// StartProcess starts a program; ctx only bounds the start.
func StartProcess(ctx context.Context, c Command) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	log, err := os.Create(c.Log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()        // the child has its own descriptor
	cmd := exec.Command(c.Program, c.Args...) //nolint:gosec // programs that we found or built
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, c.Env, log, log
	if c.Output != nil {
		cmd.Stdout = c.Output
	}
	cmd.SysProcAttr = endsWithUs()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Program, err)
	}
	p := &Process{cmd: cmd, log: c.Log, ended: make(chan struct{})}
	// Ends with the process, which Stop ends.
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended tells whether it has gone, and then with which last words.
func (p *Process) Ended() error {
	select {
	case <-p.ended:
		return &EndedError{Program: p.cmd.Path, State: p.cmd.ProcessState.String(), Log: tail(p.log)}
	default:
		return nil
	}
}

// EndedError means that a process ended by itself.
type EndedError struct{ Program, State, Log string }

// Error holds the end of its log.
func (e *EndedError) Error() string {
	return fmt.Sprintf("%s ended: %s: %s", e.Program, e.State, e.Log)
}

// Stop asks it to end, and after the grace ends it.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.cmd.Path, err)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("stop %s: it did not end within %s and was killed", p.cmd.Path, grace)
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-1000):]))
}

// RSS is the resident memory of a process, in MiB.
func RSS(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("read memory: process %d tells none", pid)
}

// ticksPerSecond is the unit of times in /proc: USER_HZ, which Linux fixes at 100.
const ticksPerSecond = 100

// CPU is the time that a process has computed so far, its threads included, its children not.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name of the program, in brackets, may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}
