package web

import (
	"bytes"
	"crypto/rand"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// dist is built and committed (make web), so that `go build` needs nothing else.
//
//go:embed dist
var dist embed.FS

// contentSecurityPolicy: nothing from elsewhere, no script inside the page, and only those styles that our own scripts
// add with the nonce of the page. %s is the nonce.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-%s'; img-src 'self' data:; " +
	"font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// page is what the index is filled with.
type page struct {
	BasePath string
	Config   pageConfig
}

// pageConfig is handed to the scripts as JSON: data, never executed.
type pageConfig struct {
	BasePath string `json:"base_path"`
	Dev      bool   `json:"dev"`
	Nonce    string `json:"nonce"` // of this one answer
}

// site is the dashboard as it is served.
type site struct {
	index    *template.Template
	assets   map[string]*asset // by name below /assets/
	basePath string
	dev      bool
}

// Handler serves the dashboard at / and its files at /assets/. Their names hold a hash of what is in them, so they may
// be kept for ever, and a page that is older than the server asks for a name that is no longer there: 404. Every other address
// is a page of the dashboard for whoever accepts text/html, and 404 for everybody else. The caller strips basePath,
// which links in the page get. devBanner makes the page say that this is a development set-up. It panics when the
// embedded files are broken.
func Handler(basePath string, devBanner bool) http.Handler {
	assets, err := readAssets(dist)
	if err != nil {
		panic(fmt.Errorf("web: embedded files: %w", err))
	}
	index, err := template.New("index.html").Option("missingkey=error").ParseFS(dist, "dist/index.html")
	if err != nil {
		panic(fmt.Errorf("web: embedded files: %w", err))
	}
	s := &site{index: index, assets: assets, basePath: basePath, dev: devBanner}
	if _, err := s.render(""); err != nil {
		panic(fmt.Errorf("web: embedded files: %w", err))
	}
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	nonce := rand.Text()
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Content-Security-Policy", fmt.Sprintf(contentSecurityPolicy, nonce))
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	name, inAssets := strings.CutPrefix(r.URL.Path, "/assets/")
	switch file, found := s.assets[name]; {
	case inAssets && found:
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
		header.Set("Vary", "Accept-Encoding")
		body, encoding := file.variant(r.Header.Values("Accept-Encoding"))
		if encoding != "" {
			header.Set("Content-Encoding", encoding)
		}
		send(w, r, body, file.kind)
	case r.URL.Path == "/", !inAssets && acceptsPage(r):
		body, err := s.render(nonce)
		if err != nil {
			panic(fmt.Errorf("web: index: %w", err)) // it was rendered once, at the start
		}
		header.Set("Cache-Control", "no-cache")
		send(w, r, body, "text/html; charset=utf-8")
	default:
		header.Set("Cache-Control", "no-store")
		http.Error(w, "not found", http.StatusNotFound)
	}
}

func (s *site) render(nonce string) ([]byte, error) {
	var out bytes.Buffer
	err := s.index.Execute(&out, page{
		BasePath: s.basePath,
		Config:   pageConfig{BasePath: s.basePath, Dev: s.dev, Nonce: nonce},
	})
	return out.Bytes(), err
}

// acceptsPage tells whether a browser asks for a page, and not a script for data.
func acceptsPage(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}

func send(w http.ResponseWriter, r *http.Request, body []byte, kind string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the reader may be gone
	}
}

// kinds of files, and no others: the machine's own table of types must not decide.
var kinds = map[string]string{
	".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	".woff2": "font/woff2", ".png": "image/png",
}

// readAssets reads all files, and puts the packed ones beside those that they are made of.
func readAssets(files fs.FS) (map[string]*asset, error) {
	const root = "dist/assets"
	entries, err := fs.ReadDir(files, root)
	if err != nil {
		return nil, err
	}
	assets := make(map[string]*asset)
	for _, entry := range entries { // by name, so a packed file comes after the plain one
		name := entry.Name()
		body, err := fs.ReadFile(files, root+"/"+name)
		if err != nil {
			return nil, err
		}
		if encoding, packed := encodings[path.Ext(name)]; packed {
			plain, found := assets[strings.TrimSuffix(name, path.Ext(name))]
			if !found {
				return nil, fmt.Errorf("%s: the file that it is made of is missing", name)
			}
			plain.packed[encoding] = body
			continue
		}
		kind, known := kinds[path.Ext(name)]
		if _, _, err := mime.ParseMediaType(kind); err != nil || !known {
			return nil, fmt.Errorf("%s: unknown kind of file", name)
		}
		assets[name] = &asset{kind: kind, plain: body, packed: make(map[string][]byte)}
	}
	return assets, nil
}
