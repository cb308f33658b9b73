package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

// mainRuns says that Main will clean up.
var mainRuns atomic.Bool

// Main runs the tests of a package: call it from TestMain. It stops what the tests started and fails when they left a
// goroutine over; options name goroutines that are no leak. It ends the process.
func Main(m *testing.M, options ...goleak.Option) {
	mainRuns.Store(true)
	code := m.Run()
	code = max(code, examples.end())
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := shared.close(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: stop the server:", err)
		code = max(code, 1)
	}
	if err := claim.release(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: remove the folder of clusters:", err)
		code = max(code, 1)
	}
	// After a failure goroutines are often left over, and would hide what failed.
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: goroutines are left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// needMain fails a test in a package without Main: what it starts would never be stopped.
func needMain(t testing.TB) {
	t.Helper()
	if !mainRuns.Load() {
		t.Fatal("pgtest: the package needs func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
}
