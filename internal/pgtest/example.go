package pgtest

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
)

// ExampleDB makes a database with the schema at head for an example, which has no testing.TB. Main drops it. It panics
// when that is not possible.
func ExampleDB() *DB { return NewDB(&examples) }

// examples stands in for the test that examples lack; Main ends it. A variable of the package, as an example and TestMain
// have nothing else in common.
var examples exampleTB

type exampleTB struct {
	testing.TB // nil: whatever is not below is not for examples

	mu       sync.Mutex // guards cleanups
	cleanups []func()
	failed   bool // only Main's goroutine looks, after all examples
}

func (e *exampleTB) Helper() {}

func (e *exampleTB) Cleanup(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cleanups = append(e.cleanups, f)
}

func (e *exampleTB) Errorf(format string, args ...any) {
	e.failed = true
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (e *exampleTB) FailNow() { panic("pgtest: an example cannot go on") }

func (e *exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// end cleans up in reverse order and gives the exit code.
func (e *exampleTB) end() int {
	e.mu.Lock()
	cleanups := e.cleanups
	e.mu.Unlock()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
	if e.failed {
		return 1
	}
	return 0
}
