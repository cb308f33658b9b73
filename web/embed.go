package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed dist
var dist embed.FS

// policy is the content security policy: everything from here, nothing inline, nobody may frame it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// asset is a file as it is served: its name holds a hash of its content, so it never changes.
type asset struct {
	body        []byte
	contentType string
}

// Handler serves the page at / and its files at /assets/. basePath is what stands before both in the browser's address;
// the request's own path comes without it. dev shows a banner. Any other path that a browser opens gets the page, so
// that links into it work.
func Handler(basePath string, dev bool) http.Handler {
	assets, names := load()
	page, err := dist.ReadFile("dist/index.html")
	if err != nil {
		panic(err) // embedded
	}
	for plain, hashed := range names {
		page = bytes.ReplaceAll(page, []byte("{{"+plain+"}}"), []byte(html.EscapeString(basePath+"/assets/"+hashed)))
	}
	page = bytes.ReplaceAll(page, []byte("{{base}}"), []byte(html.EscapeString(basePath)))
	mode := "production"
	if dev {
		mode = "development"
	}
	page = bytes.ReplaceAll(page, []byte("{{mode}}"), []byte(mode))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		if name, ok := strings.CutPrefix(r.URL.Path, "/assets/"); ok {
			a, known := assets[name]
			if !known {
				http.NotFound(w, r)
				return
			}
			header.Set("Content-Type", a.contentType)
			header.Set("Cache-Control", "public, max-age=31536000, immutable")
			_, _ = w.Write(a.body) // a client that has gone needs no answer
			return
		}
		if r.URL.Path != "/" && !strings.Contains(r.Header.Get("Accept"), "text/html") {
			http.NotFound(w, r)
			return
		}
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Cache-Control", "no-cache")
		_, _ = w.Write(page)
	})
}

// load reads the assets and gives each a name with a hash.
func load() (assets map[string]asset, names map[string]string) {
	assets, names = make(map[string]asset), make(map[string]string)
	err := fs.WalkDir(dist, "dist/assets", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := dist.ReadFile(file)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		ext := path.Ext(file)
		plain := path.Base(file)
		hashed := strings.TrimSuffix(plain, ext) + "." + hex.EncodeToString(sum[:6]) + ext
		contentType := mime.TypeByExtension(ext)
		if contentType == "" {
			contentType = "application/octet-stream"
		}
		assets[hashed], names[plain] = asset{body, contentType}, hashed
		return nil
	})
	if err != nil {
		panic(err) // embedded
	}
	return assets, names
}
