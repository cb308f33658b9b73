package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/internal/invariants"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

// binary builds the server once for all tests of this package.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mini-asynq-binary-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mini-asynq")
	build := exec.Command("go", "build", "-tags", "failpoints", "-o", path, "../../cmd/server")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return path, nil
})

// process is a server in a process of its own, so that it can be killed.
type process struct {
	*server
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// spawn starts one with a lease of a second.
func spawn(t *testing.T, dsn string, environ ...string) *process {
	t.Helper()
	path, err := binary()
	require.NoError(t, err)
	cmd := exec.Command(path)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "DATABASE_URL=" + dsn, "SERVER_PORT=0", "VISIBILITY_TIMEOUT=1s",
		"WORKER_POOL_SIZE=10", "RETRY_STRATEGY=fixed", "RETRY_INTERVAL=50ms", "MINIASYNQ_SHUTDOWN_GRACE=1s",
		"MINIASYNQ_DEMO_HANDLERS=true",
	}, environ...)
	output, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{server: &server{t: t, log: &pgtest.Log{}}, cmd: cmd, done: make(chan struct{})}
	address := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(io.TeeReader(output, p.log))
		for lines.Scan() {
			var line struct{ Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Address != "" {
				select {
				case address <- line.Address:
				default:
				}
			}
		}
	}()
	go func() {
		defer close(p.done)
		<-read
		_ = cmd.Wait() // the test says what it expects of the end
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
	})
	select {
	case a := <-address:
		p.base = "http://" + a
	case <-p.done:
		t.Fatalf("the server ended at its start:\n%s", p.log)
	case <-time.After(30 * time.Second):
		t.Fatalf("the server did not start in time:\n%s", p.log)
	}
	return p
}

func (p *process) kill(sig syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(sig))
}

// TestKilledNodesJobsRunElsewhere: two servers share the work; one is killed in the middle of it. Its jobs run on the
// other after their lease, none is lost, none completes twice. The invariants are watched each second.
func TestKilledNodesJobsRunElsewhere(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	first, second := spawn(t, db.DSN()), spawn(t, db.DSN())
	watch, stopWatch := context.WithCancel(t.Context())
	defer stopWatch()
	violations := make(chan []invariants.Violation, 1)
	conn := db.Conn(t)
	go func() {
		found, _ := invariants.Watch(watch, conn)
		violations <- found
	}()
	jobs := make([]string, 200)
	for i := range jobs {
		jobs[i] = `{"queue":"q","payload":{"sleep_ms":150}}`
	}
	accepted := 0
	for n := range 3 {
		status, answer := second.call(http.MethodPost, "/api/v1/jobs/batch", `{"jobs":[`+strings.Join(jobs, ",")+`]}`)
		require.Equal(t, http.StatusCreated, status, answer)
		accepted += len(jobs)
		if n == 0 {
			pool := db.Pool(t)
			pgtest.Eventually(t, 10*time.Second, "the first node works", func() bool {
				var busy int
				err := pool.QueryRow(t.Context(), `SELECT count(DISTINCT locked_by) FROM mini_asynq.jobs WHERE status = 'running'`).Scan(&busy)
				return err == nil && busy == 2
			})
			first.kill(syscall.SIGKILL)
			<-first.done
		}
	}
	pool := db.Pool(t)
	count := func(sql string) (n int) {
		require.NoError(t, pool.QueryRow(context.Background(), sql).Scan(&n))
		return n
	}
	pgtest.Eventually(t, 60*time.Second, "all jobs end", func() bool { return count(`SELECT count(*) FROM mini_asynq.jobs`) == 0 })
	require.Equal(t, accepted, count(`SELECT count(*) FROM mini_asynq.jobs_finished WHERE status = 'completed'`))
	require.Equal(t, accepted, count(`SELECT count(*) FROM mini_asynq.job_attempts WHERE status = 'completed'`))
	require.Positive(t, count(`SELECT count(*) FROM mini_asynq.job_attempts WHERE status = 'lease_expired'`), "the kill bit")
	stopWatch()
	require.Empty(t, <-violations)
	found, err := invariants.Check(t.Context(), db.Conn(t), invariants.Always, invariants.Rest)
	require.NoError(t, err)
	require.Empty(t, found)
}

// TestPausedNodesLateOutcomeIsRefused: a process that was stopped for longer than its lease wakes up, and its result is
// not taken: the job has run elsewhere.
func TestPausedNodesLateOutcomeIsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	first := spawn(t, db.DSN())
	id := first.enqueue(`{"queue":"q","payload":{"sleep_ms":1500}}`)
	// The handler runs, not only the job: what a node claimed and had not heard of yet it gives back without a word.
	pgtest.Eventually(t, 10*time.Second, "the handler runs", func() bool { return first.metric("node_slots_busy") == 1 })
	first.kill(syscall.SIGSTOP)
	second := spawn(t, db.DSN())
	done := second.await(id, "completed")
	first.kill(syscall.SIGCONT)
	defer func() {
		if t.Failed() {
			t.Log("log of the node that was paused:\n", first.log)
		}
	}()
	pgtest.Eventually(t, 10*time.Second, "the late outcome is refused", func() bool {
		return strings.Contains(first.log.String(), "an outcome came too late: the lease was lost")
	})
	_, after := second.call(http.MethodGet, "/api/v1/jobs/"+id, "")
	require.Equal(t, done, after)
	var attempts map[string]any
	pgtest.Eventually(t, 20*time.Second, "the second node has read the stream's state: lists say where they stand", func() (ok bool) {
		var status int
		status, attempts = second.call(http.MethodGet, "/api/v1/jobs/"+id+"/attempts", "")
		return status == http.StatusOK
	})
	require.Len(t, attempts["data"], 2, "%v", attempts)
}

// TestTermEndsWithinTheGrace: also when it is said twice, and while a handler runs that takes longer than the grace.
func TestTermEndsWithinTheGrace(t *testing.T) {
	t.Parallel()
	db := pgtest.NewDB(t)
	p := spawn(t, db.DSN())
	id := p.enqueue(`{"queue":"q","payload":{"sleep_ms":60000}}`)
	pgtest.Eventually(t, 10*time.Second, "the job runs", func() bool {
		_, job := p.call(http.MethodGet, "/api/v1/jobs/"+id, "")
		return job["status"] == "running"
	})
	started := time.Now()
	p.kill(syscall.SIGTERM)
	p.kill(syscall.SIGTERM)
	pgtest.Receive(t, p.done, 10*time.Second, "the process ends")
	require.Less(t, time.Since(started), 3*time.Second)
	require.Zero(t, p.cmd.ProcessState.ExitCode(), p.log)
	var status string
	var attempt int
	require.NoError(t, db.Pool(t).QueryRow(t.Context(), `SELECT status::text, attempt FROM mini_asynq.jobs WHERE id = $1`, id).
		Scan(&status, &attempt))
	require.Equal(t, "pending", status, "given back")
	require.Zero(t, attempt, "without spending an attempt")
}

// TestKilledAtEachCommitLosesNothing: the process dies before or after a commit, or between the pacer's steps; another
// one finishes the work, and the invariants hold.
func TestKilledAtEachCommitLosesNothing(t *testing.T) {
	t.Parallel()
	for _, place := range []string{
		"jobs.insert.before_commit", "jobs.insert.after_commit", "dispatcher.turn.before_commit", "dispatcher.turn.after_commit",
		"events.tick.before_commit", "events.tick.after_commit", "events.pacer.withdrawn", "events.pacer.fenced",
		"events.pacer.parked",
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewDB(t)
			hit := "3"
			if strings.HasPrefix(place, "events.pacer.") {
				hit = "1" // when the load below has ended, or already at the start
			}
			doomed := spawn(t, db.DSN(), "MINIASYNQ_FAILPOINTS="+place+"=kill@"+hit)
			acknowledged := 0
			for range 100 {
				select {
				case <-doomed.done:
				default:
					if post(doomed.base+"/api/v1/jobs", `{"queue":"q"}`) == http.StatusCreated {
						acknowledged++
						continue
					}
				}
				break
			}
			pgtest.Receive(t, doomed.done, 20*time.Second, "the fault bites")
			require.Equal(t, -1, doomed.cmd.ProcessState.ExitCode())
			heir := spawn(t, db.DSN())
			pool := db.Pool(t)
			pgtest.Eventually(t, 30*time.Second, "all jobs end", func() bool {
				var left int
				require.NoError(t, pool.QueryRow(context.Background(), `SELECT count(*) FROM mini_asynq.jobs`).Scan(&left))
				return left == 0
			})
			var done int
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM mini_asynq.jobs_finished WHERE status = 'completed'`).Scan(&done))
			require.GreaterOrEqual(t, done, acknowledged)
			heir.kill(syscall.SIGTERM)
			<-heir.done
			found, err := invariants.Check(t.Context(), db.Conn(t), invariants.Always, invariants.Rest)
			require.NoError(t, err)
			require.Empty(t, found)
		})
	}
}

// TestKilledInAMigrationGoesOn: the first node dies between two files; the next one finishes, and serves.
func TestKilledInAMigrationGoesOn(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmptyDB(t)
	path, err := binary()
	require.NoError(t, err)
	doomed := exec.Command(path)
	doomed.Dir = t.TempDir()
	doomed.Env = []string{"HOME=" + doomed.Dir, "DATABASE_URL=" + db.DSN(), "SERVER_PORT=0", "MINIASYNQ_FAILPOINTS=migrations.between=kill@2"}
	require.Error(t, doomed.Run())
	require.Equal(t, -1, doomed.ProcessState.ExitCode(), "the fault bit")
	heir := spawn(t, db.DSN())
	heir.await(heir.enqueue(`{"queue":"q"}`), "completed")
}

// post returns the status of an answer, 0 for none.
func post(url, body string) int {
	answer, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode
}
