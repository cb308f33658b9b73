package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mini-asynq/mini-asynq/bench/machine"
	"github.com/mini-asynq/mini-asynq/migrations"
)

// ServerConfig says how to run our server.
type ServerConfig struct {
	Program string
	DSN     string
	Scratch string
	Works   bool // with the demo handler for the jobs of Queue; else it serves and claims nothing
}

// Server is our server as users run it: the binary, in a process of its own, on a free port.
type Server struct {
	Addr string
	Pool *pgxpool.Pool // for what strangers do to its database

	process *machine.Process
}

// Migrate brings a database to the current schema, for who loads it before a server runs.
func Migrate(ctx context.Context, dsn string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return migrations.Up(ctx, conn)
}

// StartServer starts one and waits until it is ready.
func StartServer(ctx context.Context, c ServerConfig) (*Server, error) {
	port, err := machine.FreePort()
	if err != nil {
		return nil, fmt.Errorf("start our server: %w", err)
	}
	s := &Server{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if s.Pool, err = openPool(ctx, c.DSN); err != nil {
		return nil, fmt.Errorf("start our server: %w", err)
	}
	queue := Queue
	if !c.Works {
		queue = "nobody"
	}
	s.process, err = machine.StartProcess(ctx, machine.Command{
		Program: c.Program, Args: []string{"serve"}, Dir: c.Scratch, Log: filepath.Join(c.Scratch, "server.log"),
		// Nothing of our own environment: a setting of this machine must not decide a figure.
		Env: []string{
			"DATABASE_URL=" + c.DSN, "SERVER_PORT=" + strconv.Itoa(port), "WORKER_POOL_SIZE=" + strconv.Itoa(Slots),
			"MINIASYNQ_WORKER_QUEUES=" + queue, "MINIASYNQ_DEMO_HANDLERS=" + strconv.FormatBool(c.Works),
			"MINIASYNQ_STATE_DIR=" + filepath.Join(c.Scratch, "state"), "MINIASYNQ_LOG_LEVEL=warn",
		},
	})
	if err != nil {
		closePools(s.Pool)
		return nil, fmt.Errorf("start our server: %w", err)
	}
	err = machine.WaitFor(ctx, callLimit, "our server is ready", func(ctx context.Context) (bool, error) {
		if err := s.process.Ended(); err != nil {
			return false, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/api/v1/health/ready", http.NoBody)
		if err != nil {
			return false, err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // not up yet
		}
		return answer.StatusCode == http.StatusOK, answer.Body.Close()
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// PID is its process id.
func (s *Server) PID() int { return s.process.PID() }

// Finished waits until the server has ended every job of Queue and published every event.
func (s *Server) Finished(ctx context.Context, limit time.Duration) error {
	err := machine.WaitFor(ctx, limit, "every job is finished", func(ctx context.Context) (bool, error) {
		left, err := miniUnfinished(ctx, s.Pool)
		return !left, errors.Join(err, s.process.Ended())
	})
	if err != nil {
		return err
	}
	return s.Published(ctx)
}

// Published waits until every event that was written has its place in the stream.
func (s *Server) Published(ctx context.Context) error {
	var written int64
	if err := s.Pool.QueryRow(ctx, writtenSQL).Scan(&written); err != nil {
		return err
	}
	return machine.WaitFor(ctx, stopLimit, "every event is published", func(ctx context.Context) (bool, error) {
		var ticked int64
		err := s.Pool.QueryRow(ctx, `SELECT coalesce(max(first_seq + n - 1), 0) FROM mini_asynq.ticks`).Scan(&ticked)
		return ticked >= written, err
	})
}

// Account counts what its database shows.
func (s *Server) Account(ctx context.Context) (Account, error) { return miniAccount(ctx, s.Pool) }

// Close ends it in order. It may be called again.
func (s *Server) Close() error {
	closePools(s.Pool)
	err := s.process.Stop(stopLimit)
	http.DefaultClient.CloseIdleConnections()
	return err
}

// Load enqueues n jobs of Queue before a server starts, and leaves fresh statistics and no checkpoint to come.
func Load(ctx context.Context, dsn string, n int) error {
	return throughPool(ctx, dsn, n, `VACUUM (ANALYZE)`, `CHECKPOINT`)
}

// Enqueue enqueues n jobs of Queue and leaves everything else as it was.
func Enqueue(ctx context.Context, dsn string, n int) error { return throughPool(ctx, dsn, n) }

func throughPool(ctx context.Context, dsn string, n int, then ...string) error {
	pool, err := openPool(ctx, dsn)
	if err != nil {
		return err
	}
	defer closePools(pool)
	if err := loadInto(ctx, &mini{pool: pool}, n); err != nil {
		return err
	}
	for _, sql := range then {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("load %d jobs: %w", n, err)
		}
	}
	return nil
}

// Enqueue stores n jobs of Queue beside the working server, in batches.
func (s *Server) Enqueue(ctx context.Context, n int) error {
	return loadInto(ctx, &mini{pool: s.Pool}, n)
}

func loadInto(ctx context.Context, m *mini, n int) error {
	const rows = 1000
	for done := 0; done < n; done += rows {
		if err := m.Batch(ctx, int64(done), min(rows, n-done)); err != nil {
			return fmt.Errorf("load %d jobs: %w", n, err)
		}
	}
	return nil
}
