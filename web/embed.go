package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
)

// dist is built and committed, so that `go build` needs nothing else.
//
//go:embed dist
var dist embed.FS

// contentSecurityPolicy: nothing from elsewhere, no script and no style inside a page.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// page is what the index is filled with.
type page struct {
	Assets string // the folder of this version's files
	Config pageConfig
}

// pageConfig is handed to the scripts as JSON: data, never executed.
type pageConfig struct {
	BasePath string `json:"base_path"`
	Dev      bool   `json:"dev"`
}

// asset is a file as it is sent.
type asset struct {
	body []byte
	kind string
}

// Handler serves the dashboard at / and its files at /assets/<version>/, where the version is a hash over all of them, so
// that they may be kept for ever and import each other by plain names. Every other address is a page of the dashboard
// for whoever accepts text/html, and 404 for everybody else. The caller strips basePath, which links in the page get.
// devBanner makes the page say that this is a development set-up. It panics when the embedded files are broken.
func Handler(basePath string, devBanner bool) http.Handler {
	assets, version, err := readAssets(dist)
	if err != nil {
		panic(fmt.Errorf("web: embedded files: %w", err))
	}
	index, err := renderIndex(dist, page{
		Assets: basePath + "/assets/" + version,
		Config: pageConfig{BasePath: basePath, Dev: devBanner},
	})
	if err != nil {
		panic(fmt.Errorf("web: embedded files: %w", err))
	}
	folder := "/assets/" + version + "/"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Content-Security-Policy", contentSecurityPolicy)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			header.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name, inAssets := strings.CutPrefix(r.URL.Path, folder)
		switch file, found := assets[name]; {
		case inAssets && found:
			header.Set("Cache-Control", "public, max-age=31536000, immutable")
			send(w, r, file)
		case r.URL.Path == "/",
			!strings.HasPrefix(r.URL.Path, "/assets/") && acceptsPage(r):
			header.Set("Cache-Control", "no-cache")
			send(w, r, asset{index, "text/html; charset=utf-8"})
		default:
			header.Set("Cache-Control", "no-store")
			http.Error(w, "not found", http.StatusNotFound)
		}
	})
}

// acceptsPage tells whether a browser asks for a page, and not a script for data.
func acceptsPage(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}

func send(w http.ResponseWriter, r *http.Request, file asset) {
	w.Header().Set("Content-Type", file.kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(file.body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(file.body) // the reader may be gone
	}
}

// kinds of files, and no others: the machine's own table of types must not decide.
var kinds = map[string]string{
	".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	".woff2": "font/woff2", ".png": "image/png",
}

// readAssets reads all files and hashes them, in order.
func readAssets(files fs.FS) (assets map[string]asset, version string, err error) {
	const root = "dist/assets"
	assets = make(map[string]asset)
	sum := sha256.New()
	var names []string
	err = fs.WalkDir(files, root, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	slices.Sort(names)
	for _, name := range names {
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, "", err
		}
		kind, known := kinds[path.Ext(name)]
		if _, _, err := mime.ParseMediaType(kind); err != nil || !known {
			return nil, "", fmt.Errorf("%s: unknown kind of file", name)
		}
		fmt.Fprintf(sum, "%s %d\n", name, len(body))
		sum.Write(body)
		assets[strings.TrimPrefix(name, root+"/")] = asset{body, kind}
	}
	return assets, hex.EncodeToString(sum.Sum(nil))[:16], nil
}

func renderIndex(files fs.FS, p page) ([]byte, error) {
	raw, err := fs.ReadFile(files, "dist/index.html")
	if err != nil {
		return nil, err
	}
	index, err := template.New("index").Option("missingkey=error").Parse(string(raw))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := index.Execute(&out, p); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
