package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/bench/figures"
	"github.com/mini-asynq/mini-asynq/bench/machine"
)

// GraphileSlots is how many jobs graphile-worker runs at once, and graphileLocalQueue how many it takes at once: the
// local queue feeds them. More are slower: 24 drained 24-34k jobs a second, 100 25-29k, 500 15-23k (20,000 jobs, three runs
// each).
const (
	graphileLocalQueue = 500
	GraphileSlots      = 24
)

// graphilePeer is graphile-worker in a process of Node. Jobs are put in from here by the SQL function that its own
// addJobs calls. It deletes finished jobs and keeps no attempts and no events.
type graphilePeer struct {
	setting Setting
	folder  string // of worker.mjs
	pool    *pgxpool.Pool
	process *machine.Process
	reader  chan struct{} // closed when the last line was read
	output  *io.PipeWriter
}

func openGraphile(ctx context.Context, s Setting) (Session, error) {
	g := &graphilePeer{setting: s, folder: filepath.Join(s.Module, "graphile")}
	if err := g.install(ctx); err != nil {
		return nil, err
	}
	cli := filepath.Join("node_modules", "graphile-worker", "dist", "cli.js")
	cmd := exec.CommandContext(ctx, "node", cli, "--schema-only", "--connection", s.DSN) //nolint:gosec // our own database
	cmd.Dir = g.folder
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("install the schema: %w: %s", err, out)
	}
	var err error
	g.pool, err = openPool(ctx, s.DSN)
	return g, err
}

// install fetches the packages that package-lock.json names, once.
func (g *graphilePeer) install(ctx context.Context) error {
	unavailable := func(reason string) error { return &UnavailableError{figures.Graphile, reason} }
	if _, err := exec.LookPath("node"); err != nil {
		return unavailable("no node was found on this machine")
	}
	if _, err := os.Stat(filepath.Join(g.folder, "node_modules", "graphile-worker")); err == nil {
		return nil
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return unavailable("its package is not installed and no npm was found on this machine")
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = g.folder
	if out, err := cmd.CombinedOutput(); err != nil {
		return unavailable(fmt.Sprintf("its package could not be installed: %v: %s", err, out))
	}
	return nil
}

// GraphileVersion is the installed one, as its package says.
func GraphileVersion(module string) string {
	text, err := os.ReadFile(filepath.Join(module, "graphile", "node_modules", "graphile-worker", "package.json"))
	var about struct{ Version string }
	if err != nil || json.Unmarshal(text, &about) != nil {
		return "not installed"
	}
	return about.Version
}

func (g *graphilePeer) Start(ctx context.Context, work *Work) error {
	if work == nil {
		return nil
	}
	if work.FailOdd {
		return &UnsupportedError{figures.Graphile, "choose when a failed job is tried again"}
	}
	settings, err := json.Marshal(map[string]any{
		"dsn": g.setting.DSN, "slots": GraphileSlots, "connections": Connections, "localQueue": graphileLocalQueue,
		"times": work.Began != nil,
	})
	if err != nil {
		return err
	}
	lines, output := io.Pipe()
	g.output, g.reader = output, make(chan struct{})
	g.process, err = machine.StartProcess(ctx, machine.Command{
		Program: "node", Args: []string{"worker.mjs", string(settings)}, Dir: g.folder,
		Log: filepath.Join(g.setting.Scratch, "graphile.log"), Output: output,
	})
	if err != nil {
		return err
	}
	ready := make(chan error, 1)
	// Ends when Stop closes the pipe.
	go func() {
		defer close(g.reader)
		g.listen(bufio.NewScanner(lines), work, ready)
	}()
	timer := time.NewTimer(callLimit)
	defer timer.Stop()
	select {
	case err := <-ready:
		return err
	case <-timer.C:
		return errors.New("graphile-worker is not ready in time")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// listen follows the lines of worker.mjs; ready has room for one answer, the first.
func (g *graphilePeer) listen(lines *bufio.Scanner, work *Work, ready chan<- error) {
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ready":
			ready <- nil
		case "failed":
			select {
			case ready <- errors.New(rest):
			default:
			}
		case "ran":
			if n, err := strconv.ParseInt(rest, 10, 64); err == nil {
				work.count(n - work.Handled())
			}
		case "at":
			number, when, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseInt(number, 10, 64)
			ms, err2 := strconv.ParseFloat(when, 64)
			if errors.Join(err, err2) == nil {
				work.Began(n, time.UnixMicro(int64(ms*1000)))
			}
		}
	}
}

// addJobsSQL is what graphile-worker's own addJobs sends; it answers with the jobs.
const addJobsSQL = `SELECT * FROM graphile_worker.add_jobs(ARRAY(
    SELECT json_populate_recordset(NULL::graphile_worker.job_spec, $1::json)), false)`

// graphileSpec is a job as add_jobs reads it.
type graphileSpec struct {
	Identifier string  `json:"identifier"`
	Payload    payload `json:"payload"`
}

// addJobs sends n jobs and reads the whole answer.
func addJobs(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, first int64, n int,
) error {
	specs := make([]graphileSpec, n)
	for i := range specs {
		specs[i] = graphileSpec{Queue, payload{first + int64(i)}}
	}
	text, err := json.Marshal(specs)
	if err != nil {
		return err
	}
	rows, err := db.Query(ctx, addJobsSQL, string(text))
	if err != nil {
		return err
	}
	rows.Close() // reads what is left of them
	return rows.Err()
}

func (g *graphilePeer) Batch(ctx context.Context, first int64, n int) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return addJobs(ctx, g.pool, first, n)
}

func (g *graphilePeer) Single(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := g.pool.Exec(ctx, `SELECT graphile_worker.add_job('bench', json_build_object('n', $1::bigint))`, n)
	return err
}

func (g *graphilePeer) Commit(ctx context.Context, first int64, n int) (time.Time, error) {
	return commit(ctx, g.pool, func(ctx context.Context, tx pgx.Tx) error { return addJobs(ctx, tx, first, n) })
}

func (g *graphilePeer) Unfinished(ctx context.Context) (left bool, err error) {
	if err := g.alive(); err != nil {
		return false, err
	}
	err = g.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)`).Scan(&left)
	return left, err
}

func (g *graphilePeer) alive() error {
	if g.process == nil {
		return nil
	}
	return g.process.Ended()
}

func (g *graphilePeer) Account(ctx context.Context) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	a := Account{Finished: -1, Attempts: -1, Events: -1, Published: -1}
	err := g.pool.QueryRow(ctx, `SELECT count(*) FROM graphile_worker._private_jobs`).Scan(&a.Waiting)
	return a, err
}

func (g *graphilePeer) Stop() error {
	if g.process == nil {
		return nil
	}
	err := g.process.Stop(stopLimit)
	g.process = nil
	_ = g.output.Close()
	<-g.reader
	return err
}

func (g *graphilePeer) Close() error {
	err := g.Stop()
	closePools(g.pool)
	return err
}
