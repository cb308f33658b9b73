package conformance_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// liveStream is the test of the browser's stream against a server, as `npm run test:stream` in web builds it.
const liveStream = "../../web/.test-build/test/live.test.js"

func TestBrowserStreamFollowsTheServer(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(liveStream)
	}
	if err != nil && !*all {
		t.Skipf("the browser's stream cannot run here (%v): make clients-check", err)
	}
	require.NoError(t, err)
	s := &suite{t: t, dsn: pgtest.NewDB(t).DSN()}
	s.serve("127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, node, "--test", liveStream)
	run.Env = append(os.Environ(), "MINIASYNQ_SERVER=http://"+s.address)
	out, err := run.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "# skipped 0")
	require.NotContains(t, string(out), "# pass 0")
}
