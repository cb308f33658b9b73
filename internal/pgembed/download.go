package pgembed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
	"golang.org/x/sys/unix"
)

// downloads are the versions that embedded-postgres knows, by major. New data
// takes 17, which has had its years in production.
var downloads = map[int]embeddedpostgres.PostgresVersion{
	0:  embeddedpostgres.V17,
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

// download fetches the programs once into cache and gives their folder.
func download(ctx context.Context, cfg Config, cache string, major int) (string, error) {
	version, ok := downloads[major]
	if !ok {
		return "", fmt.Errorf("download PostgreSQL %d: this version is not offered", major)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.DownloadTimeout,
		fmt.Errorf("no end within %s", cfg.DownloadTimeout))
	defer cancel()

	if err := makeParents(filepath.Join(cache, "x")); err != nil {
		return "", err
	}
	lock, err := openFlock(filepath.Join(cache, "download.lock"))
	if err != nil {
		return "", err
	}
	defer lock.release()
	if err := poll(ctx, func() (bool, error) { return lock.try(unix.LOCK_EX) }); err != nil {
		return "", fmt.Errorf("wait for another download: %w", err)
	}
	final := filepath.Join(cache, "postgresql-"+string(version))
	bin := filepath.Join(final, "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil // the process we waited for fetched it
	}

	// Unpacked beside its place and renamed, so that a killed download never
	// looks like a complete one. Leftovers of killed ones are swept here, under
	// the lock.
	leftovers, err := filepath.Glob(filepath.Join(cache, "fetch-*"))
	if err != nil {
		return "", fmt.Errorf("look for leftovers: %w", err)
	}
	for _, dir := range leftovers {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("remove leftover: %w", err)
		}
	}
	temp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("create folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	cfg.Log.Info().Str("version", string(version)).Msg("downloading PostgreSQL, once")
	if err := fetch(ctx, cfg.DownloadURL, temp, version); err != nil {
		return "", err
	}
	unpacked := filepath.Join(temp, "unpacked")
	if os.Geteuid() == 0 {
		if err := os.Chmod(unpacked, 0o755); err != nil {
			return "", fmt.Errorf("set mode of folder: %w", err)
		}
	}
	if err := os.Rename(unpacked, final); err != nil {
		return "", fmt.Errorf("put download in place: %w", err)
	}
	return bin, nil
}

// fetch lets embedded-postgres download and unpack into temp/unpacked.
//
// The library has no call that stops there, no context and no deadline. So it
// is given a mirror of our own on the loopback interface, whose requests end
// with ctx, and a locale that initdb refuses, which ends its Start right after
// unpacking and without a database.
func fetch(ctx context.Context, repository, temp string, version embeddedpostgres.PostgresVersion) error {
	mirror, err := startMirror(ctx, repository)
	if err != nil {
		return err
	}
	defer mirror.stop()
	port, err := freePort()
	if err != nil {
		return err
	}
	unpacked := filepath.Join(temp, "unpacked")
	startErr := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		BinaryRepositoryURL(mirror.url).
		CachePath(filepath.Join(temp, "archive")).
		RuntimePath(filepath.Join(temp, "runtime")).
		DataPath(filepath.Join(temp, "data")).
		BinariesPath(unpacked).
		Locale("stop-after-unpacking").
		Port(uint32(port)).
		Logger(io.Discard)).Start()
	// The mirror's reason first: the library turns each into "unable to
	// connect".
	if err := mirror.failure(); err != nil {
		return fmt.Errorf("download PostgreSQL %s from %s: %w", version, repository, err)
	}
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		if _, err := os.Stat(filepath.Join(unpacked, "bin", name)); err != nil {
			return fmt.Errorf("unpack PostgreSQL %s: %w", version, errors.Join(startErr, err))
		}
	}
	return nil
}

// libraryRepository is where embedded-postgres downloads from. It keeps the
// address to itself, and a copy here would go out of date unseen.
func libraryRepository() string {
	return reflect.ValueOf(embeddedpostgres.DefaultConfig()).FieldByName("binaryRepositoryURL").String()
}

// mirror forwards GET requests to a Maven repository.
type mirror struct {
	url    string
	server *http.Server
	served chan struct{} // closed when Serve has returned
	failed chan error    // capacity 1: the first failure; sent by handlers, never closed
}

func startMirror(ctx context.Context, repository string) (*mirror, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the download: %w", err)
	}
	m := &mirror{
		url:    "http://" + listener.Addr().String(),
		served: make(chan struct{}),
		failed: make(chan error, 1),
	}
	m.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := m.forward(ctx, w, strings.TrimSuffix(repository, "/")+r.URL.Path); err != nil {
				select {
				case m.failed <- err:
				default: // one reason is enough
				}
				// Breaks the connection, so that half an archive is an error.
				panic(http.ErrAbortHandler)
			}
		}),
		// Requests end with ctx, which is shorter; this is for the linter and
		// for a local process that connects and says nothing.
		ReadHeaderTimeout: 10 * time.Second,
	}
	// Ends when stop closes the server, which waits for it.
	go func() {
		defer close(m.served)
		_ = m.server.Serve(listener)
	}()
	return m, nil
}

func (m *mirror) forward(ctx context.Context, w http.ResponseWriter, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return withCause(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	// Also for the checksum: the library would go on without one.
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, response.Status)
	}
	if response.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(response.ContentLength))
	}
	// Keep-alive would leave a connection of the library's client behind.
	w.Header().Set("Connection", "close")
	if _, err := io.Copy(w, response.Body); err != nil {
		return withCause(ctx, err)
	}
	return nil
}

func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

func (m *mirror) failure() error {
	select {
	case err := <-m.failed:
		return err
	default:
		return nil
	}
}

func (m *mirror) stop() {
	_ = m.server.Close()
	<-m.served
}
