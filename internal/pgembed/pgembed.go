package pgembed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// ErrInUse means that a live process uses the folder.
var ErrInUse = errors.New("folder is in use by another process")

// Origin says how a Server came to its PostgreSQL.
type Origin int

const (
	// Started: this Start started it.
	Started Origin = iota
	// Joined: a live process runs it and this Server shares it.
	Joined
	// Adopted: its last user ended without stopping it, most likely killed.
	Adopted
)

func (o Origin) String() string {
	return [...]string{"started", "joined", "adopted"}[o]
}

// Shutdown is a way to stop PostgreSQL.
type Shutdown int

const (
	// Fast ends sessions, writes a checkpoint, ends.
	Fast Shutdown = iota
	// Immediate ends at once; the next start recovers from the log.
	Immediate
	// Kill is kill -9 of the postmaster, whose children then end themselves.
	Kill
)

// Server is one user of a private PostgreSQL. Its methods may be called
// concurrently.
type Server struct {
	cfg    Config
	home   home
	bin    binaries
	origin Origin

	// mu guards the fields below. It is held through starts and stops, whose
	// deadlines bound it: a second Stop waits for the first.
	mu       sync.Mutex
	users    *flock // nil after Stop
	pid      int
	host     string // address or socket folder
	port     int
	password string
}

// Start gives a running PostgreSQL with the database of cfg: its own, that of
// another process on the same folder, or one that a killed process left. The
// caller must Stop it.
//
// Errors: ErrNoPostgres when there is nothing to run; others say in their text
// what to do.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	s, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start private PostgreSQL in %s: %w", cfg.DataDir, err)
	}
	cfg.Log.Info().Str("origin", s.origin.String()).Int("pid", s.pid).
		Str("host", s.host).Int("port", s.port).Str("folder", cfg.DataDir).
		Msg("private PostgreSQL is up")
	return s, nil
}

func start(ctx context.Context, cfg Config) (*Server, error) {
	h, err := openHome(cfg.DataDir, cfg.accounts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// Before the lock, as it may download for minutes.
	major, err := h.dataMajor()
	if err != nil {
		return nil, err
	}
	bin, err := findBinaries(ctx, cfg, h.acct, major)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, bin: bin}

	ctx, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout, fmt.Errorf("not up within %s", cfg.StartTimeout))
	defer cancel()
	var starting *flock
	for {
		// Made again, as Remove may have deleted the folder since, and may do so
		// once more before we have the lock.
		if s.home, err = openHome(cfg.DataDir, cfg.accounts); err == nil {
			starting, err = s.home.lockStart(ctx)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) || ctx.Err() != nil {
			return nil, err
		}
	}
	defer starting.release()
	alone, err := s.enter()
	if err != nil {
		return nil, err
	}
	s.origin, err = s.attach(ctx, alone)
	if err == nil {
		err = s.createDatabase(ctx)
	}
	if err != nil {
		// The caller's context may be why we failed: the clean-up has its own.
		return nil, errors.Join(err, s.leave(context.WithoutCancel(ctx), Fast))
	}
	return s, nil
}

// lockStart takes start.lock. Nothing blocks under it for longer than
// StartTimeout or a stop.
func (h home) lockStart(ctx context.Context) (*flock, error) {
	for {
		lock, err := openFlock(h.startLock())
		if err != nil {
			return nil, err
		}
		err = poll(ctx, func() (bool, error) { return lock.try(unix.LOCK_EX) })
		if err != nil {
			lock.release()
			return nil, fmt.Errorf("wait for another process that starts or stops PostgreSQL: %w", err)
		}
		if lock.current() {
			return lock, nil
		}
		// Removed while we waited; the next round fails when the folder is gone.
		lock.release()
	}
}

// enter takes users.lock, under start.lock, and tells whether we are the first.
func (s *Server) enter() (alone bool, err error) {
	users, err := openFlock(s.home.usersLock())
	if err != nil {
		return false, err
	}
	alone, err = users.try(unix.LOCK_EX)
	if err == nil {
		// Possible at once: whoever wants it exclusively holds start.lock.
		// Changing the kind of a held lock lets go of it for a moment, which
		// start.lock covers as well.
		var ok bool
		if ok, err = users.try(unix.LOCK_SH); err == nil && !ok {
			err = fmt.Errorf("lock %s: held by a foreign program", users.path)
		}
	}
	if err != nil {
		users.release()
		return false, err
	}
	s.users = users
	return alone, nil
}

// leave gives users.lock back, under start.lock, and stops PostgreSQL when
// nobody else has it.
func (s *Server) leave(ctx context.Context, how Shutdown) error {
	if s.users == nil {
		return nil
	}
	users := s.users
	s.users = nil
	defer users.release()
	last, err := users.try(unix.LOCK_EX)
	if err != nil || !last {
		return err
	}
	if err := s.home.stop(ctx, s.bin, how, s.cfg.StopTimeout); err != nil {
		return err
	}
	s.home.dropSocketDir()
	s.cfg.Log.Info().Str("folder", s.cfg.DataDir).Msg("private PostgreSQL is down")
	return nil
}

// attach finds the running PostgreSQL or starts one, under start.lock, and sets
// the address.
func (s *Server) attach(ctx context.Context, alone bool) (Origin, error) {
	var why error // why what runs is not usable yet
	for {
		lock, err := openFlock(s.home.postmasterLock())
		if err != nil {
			return 0, err
		}
		free, err := lock.try(unix.LOCK_EX)
		if err != nil {
			lock.release()
			return 0, err
		}
		pf, pidErr := s.home.readPIDFile()
		if free && (pidErr != nil || !s.home.serves(pf.pid)) {
			return Started, s.launch(ctx, lock) // which takes the lock over
		}
		// Something is alive: ready, starting, stopping, or only the backends of
		// a postmaster that was killed, which end by themselves. A free lock
		// means that someone ran PostgreSQL by hand; it is adopted alike.
		lock.release()
		if pidErr == nil && pf.ready {
			why = s.connectTo(ctx, pf)
			if why == nil {
				if alone {
					return Adopted, nil
				}
				return Joined, nil
			}
			// Waiting does not make a password right.
			if code := sqlState(why); code == "28P01" || code == "28000" {
				return 0, fmt.Errorf("use running PostgreSQL (process %d): %w", pf.pid, why)
			}
		}
		if err := pause(ctx); err != nil {
			return 0, fmt.Errorf("wait for PostgreSQL that runs already (process %d): %w", pf.pid, errors.Join(err, why))
		}
	}
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// launch starts PostgreSQL, making the data first when there is none. It owns
// the lock that it is given.
func (s *Server) launch(ctx context.Context, lock *flock) error {
	// release would take the lock from a PostgreSQL that has inherited it; it
	// is called only where none has.
	major, err := s.home.dataMajor()
	if err == nil && major != 0 && major != s.bin.major {
		// Another process made the data since we looked.
		err = fmt.Errorf("data was made by PostgreSQL %d meanwhile, not %d: start again", major, s.bin.major)
	}
	if err == nil && major == 0 {
		s.cfg.Log.Info().Str("folder", s.cfg.DataDir).Msg("making the data folder of the private PostgreSQL")
		err = s.home.initData(ctx, s.bin, s.cfg.NoSync)
	}
	if err == nil {
		err = s.home.ownedDir(s.home.logDir())
	}
	socketDir := ""
	if err == nil && s.cfg.Mode == Socket {
		socketDir, err = s.home.chooseSocketDir()
	}
	if err == nil && s.cfg.Mode == Socket {
		err = removeSocketLeftovers(socketDir)
	}
	if err == nil {
		// serves has said no to it: a leftover, which PostgreSQL removes when the
		// process is dead but not when the id belongs to someone else.
		if pf, pidErr := s.home.readPIDFile(); pidErr == nil && unix.Kill(pf.pid, 0) == nil {
			s.cfg.Log.Warn().Int("pid", pf.pid).Msg("postmaster.pid names a process of another program")
			err = s.home.disownPIDFile()
		}
	}
	if err != nil {
		lock.release()
		return err
	}

	port := s.cfg.Port
	// Three tries for TCP: a port that was free when looked at may be taken when
	// PostgreSQL binds it. Other reasons fail thrice, which costs half a second.
	for attempt := 1; ; attempt++ {
		if s.cfg.Mode == TCP {
			if port, err = s.home.choosePort(port); err != nil {
				lock.release()
				return err
			}
		}
		err = s.launchOnce(ctx, lock, socketDir, port)
		var early *earlyExitError
		if err == nil || s.cfg.Mode != TCP || attempt == 3 || !errors.As(err, &early) {
			return err
		}
		s.cfg.Log.Warn().Int("port", port).Err(err).Msg("PostgreSQL did not come up, trying again")
		if lock, err = openFlock(s.home.postmasterLock()); err != nil {
			return err
		}
		if err := poll(ctx, func() (bool, error) { return lock.try(unix.LOCK_EX) }); err != nil {
			lock.release()
			return fmt.Errorf("wait for the end of PostgreSQL: %w", err)
		}
	}
}

// removeSocketLeftovers removes what a killed PostgreSQL left in the folder of
// the socket. The lock says that none is alive, but the lock file in there names
// a process id, which may belong to another program by now; PostgreSQL would
// refuse to start for it.
func removeSocketLeftovers(dir string) error {
	name := filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", socketPort))
	for _, path := range []string{name, name + ".lock"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}

// earlyExitError is PostgreSQL ending before it was ready.
type earlyExitError struct{ log string }

func (e *earlyExitError) Error() string { return "PostgreSQL ended at its start: " + e.log }

func (s *Server) launchOnce(ctx context.Context, lock *flock, socketDir string, port int) error {
	var offset int64
	if info, err := os.Stat(s.home.logFile()); err == nil && info.Size() <= maxLogSize {
		offset = info.Size()
	}
	pid, err := s.home.spawn(s.bin, s.home.arguments(s.cfg, socketDir, port), lock)
	if err != nil {
		lock.release()
		return err
	}
	lock.abandon() // PostgreSQL has it now

	var pf pidFile
	err = poll(ctx, func() (bool, error) {
		if reap(pid) {
			return false, &earlyExitError{log: s.home.logSince(offset)}
		}
		var err error
		pf, err = s.home.readPIDFile()
		// The file may be absent, half written or still that of a predecessor.
		return err == nil && pf.pid == pid && pf.ready, nil
	})
	var early *earlyExitError
	if err != nil && !errors.As(err, &early) {
		return fmt.Errorf("wait for PostgreSQL to be ready: %w: %s", err, s.home.logSince(offset))
	}
	if err != nil {
		return err
	}
	if err := s.connectTo(ctx, pf); err != nil {
		return err
	}
	if s.cfg.Mode == TCP {
		return s.home.write(s.home.portFile(), strconv.Itoa(port))
	}
	return nil
}

// connectTo logs in where postmaster.pid says and checks that it is our data
// that is served there. Only then the address becomes that of the Server.
func (s *Server) connectTo(ctx context.Context, pf pidFile) error {
	password, err := s.home.password(false)
	if err != nil {
		return err
	}
	host := pf.socketDir
	if pf.listen != "" && pf.listen != "*" {
		host = pf.listen
	} else if pf.listen == "*" {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn(host, pf.port, password, "postgres"))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer closeConn(conn)
	var folder string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&folder); err != nil {
		return fmt.Errorf("ask PostgreSQL for its data folder: %w", err)
	}
	theirs, err := os.Stat(folder)
	if err != nil {
		return fmt.Errorf("check data folder of PostgreSQL: %w", err)
	}
	ours, err := os.Stat(s.home.data())
	if err != nil {
		return fmt.Errorf("check data folder: %w", err)
	}
	if !os.SameFile(ours, theirs) {
		return fmt.Errorf("PostgreSQL at %s port %d serves %s, not %s", host, pf.port, folder, s.home.data())
	}
	s.pid, s.host, s.port, s.password = pf.pid, host, pf.port, password
	return nil
}

// createDatabase makes the configured database when it is missing. start.lock
// keeps twins away.
func (s *Server) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer closeConn(conn)
	var there bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", s.cfg.Database).Scan(&there)
	if err != nil || there {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{s.cfg.Database}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", s.cfg.Database, err)
	}
	return nil
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// dsn makes a connection URL. A socket folder goes where the host would, which
// pgx and libpq both read.
func dsn(host string, port int, password, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, password), Path: "/" + database}
	query := url.Values{"sslmode": {"disable"}} // never leaves the machine
	if strings.HasPrefix(host, "/") {
		query.Set("host", host)
		query.Set("port", strconv.Itoa(port))
	} else {
		u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func (s *Server) dsn(database string) string { return dsn(s.host, s.port, s.password, database) }

// DSN is the URL of the configured database for pgx and libpq, as superuser.
// It holds the password.
func (s *Server) DSN() string { return s.DatabaseDSN(s.cfg.Database) }

// DatabaseDSN is DSN for another database, which need not exist.
func (s *Server) DatabaseDSN(database string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dsn(database)
}

// Addr is host and port of a TCP server, or the path of the socket.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasPrefix(s.host, "/") {
		return filepath.Join(s.host, fmt.Sprintf(".s.PGSQL.%d", s.port))
	}
	return net.JoinHostPort(s.host, strconv.Itoa(s.port))
}

// PID is the process id of the postmaster.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Alive tells whether the postmaster still runs. It asks the system and not
// PostgreSQL, so it costs no connection.
func (s *Server) Alive() bool { return s.home.serves(s.PID()) }

// Origin says whether PostgreSQL was started, joined or adopted.
func (s *Server) Origin() Origin { return s.origin }

// Major is the major version of PostgreSQL.
func (s *Server) Major() int { return s.bin.major }

// LogFile has PostgreSQL's words at its start, and all of them when
// logging_collector is off. The daily files are in the folder log beside it.
func (s *Server) LogFile() string { return s.home.logFile() }

// String names the folder and never the password.
func (s *Server) String() string { return "private PostgreSQL in " + s.cfg.DataDir }

// GoString keeps the password out of %#v as well.
func (s *Server) GoString() string { return s.String() }

// Revive starts PostgreSQL again when it has died under its users, for example
// by the out-of-memory killer, and tells whether it had to. The TCP port stays
// the same if it is still free. Call it when Alive says no.
func (s *Server) Revive(ctx context.Context) (revived bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == nil {
		return false, fmt.Errorf("revive %s: stopped already", s)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout, fmt.Errorf("not up within %s", s.cfg.StartTimeout))
	defer cancel()
	starting, err := s.home.lockStart(ctx)
	if err != nil {
		return false, fmt.Errorf("revive %s: %w", s, err)
	}
	defer starting.release()
	before := s.pid
	if _, err := s.attach(ctx, false); err != nil {
		return false, fmt.Errorf("revive %s: %w", s, err)
	}
	return s.pid != before, nil
}

// Stop ends this use of PostgreSQL; the last user stops it, with a fast
// shutdown for as long as ctx and Config.StopTimeout allow and then by force,
// which the next start repairs. It takes at most 3 seconds longer than ctx.
// Repeating it is harmless. Close all connections first: a fast shutdown cuts
// them.
func (s *Server) Stop(ctx context.Context) error { return s.StopBy(ctx, Fast) }

// StopBy is Stop with another way of stopping, for crash tests.
func (s *Server) StopBy(ctx context.Context, how Shutdown) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == nil {
		return nil
	}
	// Also with a dead ctx: otherwise a busy stop would leave PostgreSQL running.
	waitCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	starting, err := s.home.lockStart(waitCtx)
	if err != nil {
		waitCtx, cancel := context.WithTimeout(ctx, s.cfg.StartTimeout)
		defer cancel()
		starting, err = s.home.lockStart(waitCtx)
	}
	if err != nil {
		// Whoever holds start.lock saw us as a user and lets PostgreSQL run. The
		// next Start adopts it.
		s.users.release()
		s.users = nil
		return fmt.Errorf("stop %s: %w", s, err)
	}
	defer starting.release()
	if err := s.leave(ctx, how); err != nil {
		return fmt.Errorf("stop %s: %w", s, err)
	}
	return nil
}

// stop ends PostgreSQL, under start.lock and without users. Each way gets its
// time, then comes the next harder one.
func (h home) stop(ctx context.Context, bin binaries, how Shutdown, patience time.Duration) error {
	steps := []struct {
		how    Shutdown
		signal string
		wait   time.Duration
	}{
		{Fast, "INT", patience},
		{Immediate, "QUIT", time.Second},
		{Kill, "KILL", time.Second},
	}
	var errs []error
	for _, step := range steps {
		if step.how < how {
			continue
		}
		down, err := h.down()
		if down || err != nil {
			return err
		}
		// Only the fast shutdown ends with the caller's patience: what follows is
		// there so that nothing stays behind.
		stepCtx := context.WithoutCancel(ctx)
		if step.how == Fast {
			stepCtx = ctx
		}
		stepCtx, cancel := context.WithTimeout(stepCtx, step.wait)
		// Read anew each time: without the file there is only an orphaned
		// backend, which ends by itself.
		if pf, err := h.readPIDFile(); err == nil && h.serves(pf.pid) {
			if err := h.signal(stepCtx, bin, step.signal, pf.pid); err != nil {
				errs = append(errs, err)
			}
		}
		err = poll(stepCtx, h.down)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("stop PostgreSQL: still running: %w", errors.Join(errs...))
}

// Remove deletes the folder, data and all, after stopping a PostgreSQL that a
// killed process left in it. A missing folder is no error. ErrInUse when a
// Server of a live process uses it.
func Remove(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fmt.Errorf("remove private PostgreSQL: %w", err)
	}
	if _, err := os.Lstat(cfg.DataDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// ErrNotExist: a twin of ours was faster.
	if err := remove(ctx, cfg); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove private PostgreSQL in %s: %w", cfg.DataDir, err)
	}
	return nil
}

func remove(ctx context.Context, cfg Config) error {
	h, err := openHome(cfg.DataDir, cfg.accounts)
	if err != nil {
		return err
	}
	starting, err := h.lockStart(ctx)
	if err != nil {
		return err
	}
	defer starting.release()
	s := &Server{cfg: cfg, home: h}
	alone, err := s.enter()
	if err != nil {
		return err
	}
	defer s.users.release()
	if !alone {
		return ErrInUse
	}
	if down, err := h.down(); err != nil || !down {
		if err != nil {
			return err
		}
		major, err := h.dataMajor()
		if err != nil {
			return err
		}
		cfg.DownloadURL = "off" // whatever runs was not downloaded just now
		if s.bin, err = findBinaries(ctx, cfg, h.acct, major); err != nil {
			return err
		}
		if err := h.stop(ctx, s.bin, Immediate, 0); err != nil {
			return err
		}
	}
	h.dropSocketDir()
	// Aside first: a folder half deleted has lost its lock, perhaps, but not its
	// data, and a Start would take it for damaged. What a killed Remove left
	// aside goes as well.
	aside := cfg.DataDir + ".removed-"
	if err := os.Rename(cfg.DataDir, aside+rand.Text()); err != nil {
		return fmt.Errorf("move folder aside: %w", err)
	}
	old, err := filepath.Glob(aside + "*")
	if err != nil {
		return fmt.Errorf("look for removed folders: %w", err)
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) { // a twin deletes it too
			return fmt.Errorf("delete folder: %w", err)
		}
	}
	return nil
}
