package miniasynq_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// What the guide for Go users shows compiles and runs: each block is a part of an example, word for word.
func TestGoGuideShowsCodeOfExamples(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/go.md")
	require.NoError(t, err)
	var examples strings.Builder
	for _, pattern := range []string{"jobs/example_*_test.go", "workers/example_*_test.go", "jobs/jobstest/example_*_test.go"} {
		names, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, names, pattern)
		for _, name := range names {
			source, err := os.ReadFile(name)
			require.NoError(t, err)
			examples.Write(source)
		}
	}
	blocks := goBlock.FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 14)
	for _, block := range blocks {
		require.Contains(t, examples.String(), block[1])
	}
}

// And so does the page about webhooks: its receiver is tested in events.
func TestWebhookGuideShowsTheReceiverThatIsTested(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/webhooks.md")
	require.NoError(t, err)
	source, err := os.ReadFile("events/guide_webhook_test.go")
	require.NoError(t, err)
	blocks := goBlock.FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 1)
	require.Contains(t, string(source), blocks[0][1])
}
