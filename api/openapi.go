package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-yaml"
)

// document describes this interface. It is written by hand and comes first: tests hold the routes, every answer that
// they get and every example against it, in both directions.
//
//go:embed openapi.yaml
var document []byte

// Description is the document of the interface, without a base path.
func Description() []byte { return bytes.Clone(document) }

// socketDocument describes the event socket, in the same way; tests of hub hold every frame against it, in both directions.
// What it shares with the interface it takes from openapi.yaml, which lies beside it wherever it is served.
//
//go:embed asyncapi.yaml
var socketDocument []byte

// SocketDescription is the document of the event socket, without a base path.
func SocketDescription() []byte { return bytes.Clone(socketDocument) }

// description is the document as this server gives it away: with its base path, and in three forms; and that of the socket.
type description struct {
	yaml, json, page, socket form
	policy                   string // the page's Content-Security-Policy
}

// form is a text with its mark.
type form struct {
	etag string
	body []byte
}

func marked(body []byte) form {
	sum := sha256.Sum256(body)
	return form{`"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, body}
}

// describe makes the three forms. Reading the YAML takes its time, so it is done when somebody asks first.
func describe(basePath string) (*description, error) {
	raw, socket := document, socketDocument
	if basePath != "" {
		socket = bytes.ReplaceAll(socket, []byte("pathname: "+prefix+"\n"), []byte("pathname: "+strconv.Quote(basePath+prefix)+"\n"))
		raw = bytes.ReplaceAll(raw, []byte("{url: "+prefix+","), []byte("{url: "+strconv.Quote(basePath+prefix)+","))
		raw = bytes.ReplaceAll(raw, []byte("{url: /}"), []byte("{url: "+strconv.Quote(basePath)+"}"))
	}
	var root yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(raw, &root, yaml.UseOrderedMap()); err != nil {
		return nil, fmt.Errorf("read the description: %w", err)
	}
	asJSON, err := orderedJSON(nil, root)
	if err != nil {
		return nil, fmt.Errorf("write the description as JSON: %w", err)
	}
	page, policy, err := referencePage(root)
	if err != nil {
		return nil, fmt.Errorf("write the description as a page: %w", err)
	}
	return &description{marked(raw), marked(asJSON), marked(page), marked(socket), policy}, nil
}

// orderedJSON writes what YAML holds in the order of the file, which readers of the document follow.
func orderedJSON(out []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case yaml.MapSlice:
		out = append(out, '{')
		for i, item := range v {
			name, ok := item.Key.(string)
			if !ok {
				return nil, fmt.Errorf("the key %v is no text", item.Key)
			}
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendText(out, name), ':')
			if out, err = orderedJSON(out, item.Value); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	case []any:
		out = append(out, '[')
		for i, item := range v {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = orderedJSON(out, item); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	}
	raw, err := json.Marshal(v)
	return append(out, raw...), err
}

func (s *Server) openapiYAML(c *gin.Context) error {
	return s.give(c, "application/yaml", func(d *description) form { return d.yaml })
}

func (s *Server) openapiJSON(c *gin.Context) error {
	return s.give(c, "application/json", func(d *description) form { return d.json })
}

func (s *Server) asyncapiYAML(c *gin.Context) error {
	return s.give(c, "application/yaml", func(d *description) form { return d.socket })
}

func (s *Server) docs(c *gin.Context) error {
	return s.give(c, "text/html; charset=utf-8", func(d *description) form {
		c.Header("Content-Security-Policy", d.policy)
		return d.page
	})
}

// give answers with a form of the description, or with 304 to who has it. It may be kept, and is asked about each time.
func (s *Server) give(c *gin.Context, media string, of func(*description) form) error {
	if err := noQuery(c); err != nil {
		return err
	}
	d, err := s.describe()
	if err != nil {
		return err
	}
	t := of(d)
	header := c.Writer.Header()
	header.Set("Cache-Control", "private, no-cache")
	header.Set("ETag", t.etag)
	if matchesAny(c) || slices.ContainsFunc(strings.Split(c.GetHeader("If-None-Match"), ","), func(tag string) bool {
		return strings.TrimPrefix(strings.TrimSpace(tag), "W/") == t.etag
	}) {
		c.Status(http.StatusNotModified)
		return nil
	}
	c.Data(http.StatusOK, media, t.body)
	return nil
}
