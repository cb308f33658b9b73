//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled tells whether this build has failpoints.
const Enabled = true

// ErrInjected is what an armed action "error" returns.
var ErrInjected = errors.New("failpoint: injected error")

var (
	mu    sync.Mutex // guards armed and hits
	armed = parse(os.Getenv("MINIASYNQ_FAILPOINTS"))
	hits  = map[string]int{}
)

// Hit strikes if the place is armed. It is called without locks held, so an action may block.
func Hit(name string) error {
	mu.Lock()
	action := armed[name]
	hits[name]++
	n := hits[name]
	mu.Unlock()
	if action == nil {
		return nil
	}
	return action(n)
}

// Arm makes a place run fn at each hit, with the number of the hit from 1; the returned function disarms it.
func Arm(name string, fn func(hit int) error) (disarm func()) {
	mu.Lock()
	defer mu.Unlock()
	armed[name] = fn
	hits[name] = 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		delete(armed, name)
	}
}

// Hits says how often a place was passed since it was armed, or since the start.
func Hits(name string) int {
	mu.Lock()
	defer mu.Unlock()
	return hits[name]
}

func parse(spec string) map[string]func(int) error {
	out := map[string]func(int) error{}
	for part := range strings.SplitSeq(spec, ",") {
		name, what, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			continue
		}
		fn, err := parseAction(what)
		if err != nil {
			panic(fmt.Sprintf("MINIASYNQ_FAILPOINTS: %s: %v", part, err)) // a test's mistake, at the start
		}
		out[name] = fn
	}
	return out
}

func parseAction(what string) (func(int) error, error) {
	at, share := 0, 1.0
	if action, n, ok := strings.Cut(what, "@"); ok {
		var err error
		if at, err = strconv.Atoi(n); err != nil {
			return nil, err
		}
		what = action
	}
	if action, p, ok := strings.Cut(what, "~"); ok {
		var err error
		if share, err = strconv.ParseFloat(p, 64); err != nil {
			return nil, err
		}
		what = action
	}
	act, err := action(what)
	if err != nil {
		return nil, err
	}
	return func(hit int) error {
		if at > 0 && hit != at || share < 1 && rand.Float64() >= share {
			return nil
		}
		return act()
	}, nil
}

func action(what string) (func() error, error) {
	if d, ok := strings.CutPrefix(what, "sleep:"); ok {
		pause, err := time.ParseDuration(d)
		return func() error { time.Sleep(pause); return nil }, err
	}
	switch what {
	case "kill":
		return func() error { return signalSelf(syscall.SIGKILL) }, nil
	case "stop":
		return func() error { return signalSelf(syscall.SIGSTOP) }, nil
	case "panic":
		return func() error { panic("failpoint") }, nil
	case "error":
		return func() error { return ErrInjected }, nil
	}
	return nil, fmt.Errorf("unknown action %q", what)
}

// signalSelf waits for the signal to arrive: SIGKILL never lets it return.
func signalSelf(sig syscall.Signal) error {
	err := syscall.Kill(os.Getpid(), sig)
	if sig == syscall.SIGKILL {
		select {}
	}
	return err
}
