package cli_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/doctor"
)

// TestDoctorSpeaksToProgramsByExitCodeAndJSON, without a database: each way to have none.
func TestDoctorSpeaksToProgramsByExitCodeAndJSON(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "mini-asynq")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../cmd/server")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	run := func(environ []string, args ...string) (code int, findings map[string]doctor.Finding, text string) {
		cmd := exec.CommandContext(t.Context(), binary, append([]string{"doctor"}, args...)...)
		cmd.Dir = t.TempDir()
		cmd.Env = append(environ, "HOME="+cmd.Dir, "PATH="+os.Getenv("PATH"))
		raw, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			code = exit.ExitCode()
		}
		var list []doctor.Finding
		findings = map[string]doctor.Finding{}
		if json.Unmarshal(raw, &list) == nil {
			for _, f := range list {
				findings[f.ID] = f
			}
		}
		return code, findings, string(raw)
	}
	away := "DATABASE_URL=postgres://u:p@127.0.0.1:1/x?sslmode=disable"

	code, found, _ := run([]string{away}, "-o", "json", "--port", "0")
	require.Equal(t, 6, code)
	require.Equal(t, doctor.Fail, found["database.reachable"].Status)
	require.Contains(t, found["database.reachable"].Detail, "connection refused")

	code, found, _ = run([]string{away, "MINIASYNQ_BIN=x"}, "-o", "json")
	require.Equal(t, 1, code)
	require.Contains(t, found["config.settings"].Detail, "did you mean MINIASYNQ_BIND?")

	code, found, _ = run([]string{away}, "-o", "json", "--env-file", "/not/there")
	require.Equal(t, 1, code)
	require.Contains(t, found["config.settings"].Detail, "/not/there")

	code, found, _ = run([]string{away}, "-o", "json", "--bind", "0.0.0.0", "--port", "0")
	require.Equal(t, 6, code)
	require.Equal(t, doctor.Fail, found["config.password"].Status)

	code, _, text := run([]string{away}, "--port", "0")
	require.Equal(t, 6, code)
	require.Contains(t, text, "FAIL     the database answers: connection refused")
	require.Contains(t, text, "-> Start PostgreSQL there")

	code, _, text = run([]string{away}, "--port", "0", "--fix-sql")
	require.Equal(t, 6, code)
	require.Contains(t, text, "-- Nothing of this has been run.")

	code, _, _ = run([]string{away}, "-o", "yaml")
	require.Equal(t, 2, code)
}
