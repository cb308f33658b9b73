package api_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// TestManyTakeALongStretchAtOnce: whether there is room for it to read ahead or not, each stream of lines has every event of
// the stretch once and in order, those that only the table has and those in memory.
func TestManyTakeALongStretchAtOnce(t *testing.T) {
	t.Parallel()
	const n, streams = 20_000, 10 // more than the memory holds; more than may read ahead
	d := setup(t)
	for range n / 1000 {
		params := make([]jobs.Params, 1000)
		for i := range params {
			params[i] = jobs.Params{Queue: "q"}
		}
		must(jobs.Enqueue(t.Context(), d.pool, params...))
	}
	d.settled(n)
	epoch := must(d.stream.Head()).Epoch
	_, before := d.stream.Reads()
	until := fmt.Sprintf("%d-%d", epoch, n-7)
	var group errgroup.Group
	for range streams {
		group.Go(func() error {
			a := d.get("/events?after=earliest&until="+until, header("Accept", "application/x-ndjson"))
			if a.status != http.StatusOK {
				return fmt.Errorf("status %d", a.status)
			}
			lines := bytes.Split(bytes.TrimSuffix(a.raw, []byte("\n")), []byte("\n"))
			if len(lines) != n-7 {
				return fmt.Errorf("%d lines", len(lines))
			}
			for i, line := range lines {
				if !bytes.HasPrefix(line, fmt.Appendf(nil, `{"cursor":"%d-%d",`, epoch, i+1)) || line[len(line)-1] != '}' {
					return fmt.Errorf("line %d is %.60s", i+1, line)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	_, after := d.stream.Reads()
	require.Greater(t, after, before, "some of it came from the table")
}
