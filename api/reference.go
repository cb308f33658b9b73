package api

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"html/template"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// The page at /docs is made here from the document, as plain HTML: it needs no script, nothing from elsewhere, and reads
// with a keyboard, a screen reader and a text browser.

//go:embed reference.html
var referenceHTML string

//go:embed reference.css
var referenceCSS string

type refPage struct {
	Title, Summary, Base string
	Pages                string // where the pages of problems lie
	Text                 template.HTML
	Style                template.CSS
	Groups               []refGroup
	Schemas              []refSchema
}

type refGroup struct {
	Name       string
	Text       template.HTML
	Operations []refOperation
}

type refOperation struct {
	ID, Method, Path, Summary, Scope string
	Text                             template.HTML
	Parameters                       []refRow
	Bodies                           []refContent
	Answers                          []refAnswer
}

type refAnswer struct {
	Status   string
	Good     bool
	Summary  template.HTML
	Problems []string
	Headers  []refRow
	Contents []refContent
}

type refContent struct {
	Required bool
	Media    string
	Type     template.HTML
	Rows     []refRow // of a schema that has no name
	Examples []refExample
}

type refExample struct{ Name, Text string }

type refSchema struct {
	ID, Name   string
	Type, Text template.HTML
	Rows       []refRow
}

type refRow struct {
	Name, In   string
	Required   bool
	Type, Text template.HTML
}

var referenceTemplate = template.Must(template.New("reference").Funcs(template.FuncMap{
	"table": func(caption string, rows []refRow) any {
		return struct {
			Caption string
			Rows    []refRow
		}{caption, rows}
	},
}).Parse(referenceHTML))

// referencePage makes the page, and the policy under which it may stand: its own style and nothing else.
func referencePage(root yaml.MapSlice) (page []byte, policy string, err error) {
	r := reference{root}
	base, _ := at(first(listAt(root, "servers")), "url").(string)
	out := refPage{
		Title: textAt(root, "info", "title"), Summary: textAt(root, "info", "summary"), Base: base,
		Pages: strings.TrimSuffix(base, prefix) + "/problems/",
		Text:  prose(textAt(root, "info", "description")), Style: template.CSS(referenceCSS), //nolint:gosec // of this package
		Schemas: r.schemas(),
	}
	for _, tag := range listAt(root, "tags") {
		group := refGroup{Name: textAt(tag, "name"), Text: prose(textAt(tag, "description"))}
		group.Operations, err = r.operations(group.Name, base)
		if err != nil {
			return nil, "", err
		}
		out.Groups = append(out.Groups, group)
	}
	if len(out.Groups) == 0 || len(out.Schemas) == 0 {
		return nil, "", errors.New("it has no tags, or no schemas")
	}
	var written bytes.Buffer
	if err := referenceTemplate.Execute(&written, out); err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256([]byte(referenceCSS))
	return written.Bytes(), "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'", nil
}

// reference reads the document.
type reference struct{ root yaml.MapSlice }

// at follows names into maps; nil if something is not there.
func at(v any, names ...string) any {
	for _, name := range names {
		m, _ := v.(yaml.MapSlice)
		v = nil
		for _, item := range m {
			if item.Key == name {
				v = item.Value
			}
		}
	}
	return v
}

func textAt(v any, names ...string) string {
	s, _ := at(v, names...).(string)
	return s
}

func listAt(v any, names ...string) []any {
	l, _ := at(v, names...).([]any)
	return l
}

func first(l []any) any {
	if len(l) == 0 {
		return nil
	}
	return l[0]
}

// resolve follows a reference inside the document; name is the last part of its address.
func (r reference) resolve(v any) (target any, name string) {
	ref := textAt(v, "$ref")
	if ref == "" {
		return v, ""
	}
	names := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	return at(r.root, names...), names[len(names)-1]
}

func (r reference) operations(tag, base string) (out []refOperation, err error) {
	paths, _ := at(r.root, "paths").(yaml.MapSlice)
	for _, path := range paths {
		before := base
		if own := first(listAt(path.Value, "servers")); own != nil {
			before = strings.TrimSuffix(textAt(own, "url"), "/")
		}
		members, _ := path.Value.(yaml.MapSlice)
		for _, member := range members {
			if !slices.ContainsFunc(listAt(member.Value, "tags"), func(t any) bool { return t == tag }) {
				continue
			}
			op := refOperation{
				ID: textAt(member.Value, "operationId"), Method: strings.ToUpper(fmt.Sprint(member.Key)),
				Path: before + fmt.Sprint(path.Key), Summary: textAt(member.Value, "summary"),
				Scope: textAt(member.Value, "x-scope"), Text: prose(textAt(member.Value, "description")),
			}
			for _, p := range slices.Concat(listAt(path.Value, "parameters"), listAt(member.Value, "parameters")) {
				op.Parameters = append(op.Parameters, r.parameter(p))
			}
			if body, _ := r.resolve(at(member.Value, "requestBody")); body != nil {
				required, _ := at(body, "required").(bool)
				if op.Bodies, err = r.contents(body); err != nil {
					return nil, err
				}
				for i := range op.Bodies {
					op.Bodies[i].Required = required
				}
			}
			if op.Answers, err = r.answers(at(member.Value, "responses")); err != nil {
				return nil, err
			}
			out = append(out, op)
		}
	}
	return out, nil
}

func (r reference) parameter(v any) refRow {
	p, _ := r.resolve(v)
	schema := at(p, "schema")
	if content, ok := at(p, "content").(yaml.MapSlice); ok && len(content) == 1 {
		schema = at(content[0].Value, "schema")
	}
	required, _ := at(p, "required").(bool)
	return refRow{
		Name: textAt(p, "name"), In: textAt(p, "in"), Required: required, Type: r.typeOf(schema),
		Text: inline(cmp.Or(textAt(p, "description"), r.descriptionOf(schema))),
	}
}

func (r reference) answers(v any) (out []refAnswer, err error) {
	statuses, _ := v.(yaml.MapSlice)
	for _, status := range statuses {
		answer, _ := r.resolve(status.Value)
		a := refAnswer{Status: fmt.Sprint(status.Key), Summary: inline(textAt(answer, "description"))}
		if a.Good = a.Status < "4"; !a.Good {
			// All refusals look alike; what differs is their names, and each has a page.
			a.Problems = r.problemsOf(answer)
			out = append(out, a)
			continue
		}
		headers, _ := at(answer, "headers").(yaml.MapSlice)
		for _, h := range headers {
			header, _ := r.resolve(h.Value)
			a.Headers = append(a.Headers, refRow{
				Name: fmt.Sprint(h.Key), Type: r.typeOf(at(header, "schema")), Text: inline(textAt(header, "description")),
			})
		}
		if a.Contents, err = r.contents(answer); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// problemsOf names the pages of the problems that an answer may be.
func (r reference) problemsOf(answer any) (names []string) {
	media, _ := at(answer, "content").(yaml.MapSlice)
	for _, m := range media {
		for _, code := range listAt(m.Value, "schema", "properties", "code", "enum") {
			names = append(names, strings.ReplaceAll(fmt.Sprint(code), "_", "-"))
		}
	}
	return names
}

// contents are the representations of a body or an answer.
func (r reference) contents(of any) (out []refContent, err error) {
	media, _ := at(of, "content").(yaml.MapSlice)
	for _, m := range media {
		schema := at(m.Value, "schema")
		c := refContent{Media: fmt.Sprint(m.Key), Type: r.typeOf(schema)}
		if textAt(schema, "$ref") == "" {
			c.Rows = r.rows(schema, "")
		}
		examples, _ := at(m.Value, "examples").(yaml.MapSlice)
		for _, e := range examples {
			example, _ := r.resolve(e.Value)
			shown, isText := at(example, "value").(string)
			if !isText {
				raw, err := orderedJSON(nil, at(example, "value"))
				if err != nil {
					return nil, err
				}
				var pretty bytes.Buffer
				if err := json.Indent(&pretty, raw, "", "  "); err != nil {
					return nil, err
				}
				shown = pretty.String()
			}
			c.Examples = append(c.Examples, refExample{fmt.Sprint(e.Key), shown})
		}
		out = append(out, c)
	}
	return out, nil
}

func (r reference) schemas() (out []refSchema) {
	all, _ := at(r.root, "components", "schemas").(yaml.MapSlice)
	for _, s := range all {
		name := fmt.Sprint(s.Key)
		out = append(out, refSchema{
			ID: schemaID(name), Name: name, Type: r.typeOf(s.Value), Text: prose(textAt(s.Value, "description")),
			Rows: r.rows(s.Value, ""),
		})
	}
	return out
}

func schemaID(name string) string { return "schema-" + name }

// rows lists the fields of an object, and those of the objects without a name in it.
func (r reference) rows(schema any, before string) (out []refRow) {
	required := listAt(schema, "required")
	properties, _ := at(schema, "properties").(yaml.MapSlice)
	for _, p := range properties {
		name := fmt.Sprint(p.Key)
		out = append(out, refRow{
			Name: before + name, Required: slices.Contains(required, any(name)), Type: r.typeOf(p.Value),
			Text: inline(r.descriptionOf(p.Value)),
		})
		if textAt(p.Value, "$ref") != "" {
			continue
		}
		out = append(out, r.rows(p.Value, before+name+".")...)
		out = append(out, r.rows(at(p.Value, "items"), before+name+"[].")...)
	}
	return out
}

// descriptionOf is what a schema says, or the one that it refers to.
func (r reference) descriptionOf(schema any) string {
	if own := textAt(schema, "description"); own != "" {
		return own
	}
	target, _ := r.resolve(schema)
	return textAt(target, "description")
}

// bounds are shown behind the type, in this order.
var bounds = []struct{ name, format string }{
	{"const", "always %v"}, {"format", "%v"}, {"minimum", "from %v"}, {"maximum", "to %v"}, {"minLength", "at least %v long"},
	{"maxLength", "at most %v long"}, {"minItems", "at least %v"}, {"maxItems", "at most %v"}, {"maxProperties", "at most %v"},
	{"default", "default %v"},
}

// typeOf says in words what a schema takes. Objects with a name are linked to.
func (r reference) typeOf(schema any) template.HTML {
	target, name := r.resolve(schema)
	if name != "" && (at(target, "properties") != nil || at(target, "$ref") != nil) {
		return template.HTML(`<a href="#` + html.EscapeString(schemaID(name)) + `">` + html.EscapeString(name) + `</a>`) //nolint:gosec // escaped
	}
	var words []string
	switch t := at(target, "type").(type) {
	case string:
		words = append(words, t)
	case []any:
		for i, one := range t {
			if i > 0 {
				words = append(words, "or")
			}
			words = append(words, fmt.Sprint(one))
		}
	case nil:
		if at(target, "const") == nil {
			words = append(words, "any JSON")
		}
	}
	said := html.EscapeString(strings.Join(words, " "))
	if items := at(target, "items"); items != nil {
		said += " of " + string(r.typeOf(items))
	}
	if values := listAt(target, "enum"); values != nil {
		said += ": "
		for i, v := range values {
			if i > 0 {
				said += ", "
			}
			said += "<code>" + html.EscapeString(strings.Replace(fmt.Sprint(v), "<nil>", "null", 1)) + "</code>"
		}
	}
	for _, b := range bounds {
		// Beside a reference, as inside the schema that it leads to.
		if v := cmp.Or(at(schema, b.name), at(target, b.name)); v != nil {
			if raw, err := orderedJSON(nil, v); err == nil {
				said += ", " + html.EscapeString(fmt.Sprintf(b.format, strings.Trim(string(raw), `"`)))
			}
		}
	}
	return template.HTML(strings.TrimPrefix(said, ", ")) //nolint:gosec // each part is escaped above
}

var (
	codeMark   = regexp.MustCompile("`([^`]+)`")
	strongMark = regexp.MustCompile(`\*\*([^*]+)\*\*`)
)

// inline renders the little markup that descriptions use.
func inline(s string) template.HTML {
	s = html.EscapeString(strings.TrimSpace(s))
	s = codeMark.ReplaceAllString(s, "<code>$1</code>")
	return template.HTML(strongMark.ReplaceAllString(s, "<strong>$1</strong>")) //nolint:gosec // escaped before
}

// prose is inline in paragraphs.
func prose(s string) template.HTML {
	var out strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		if paragraph != "" {
			out.WriteString("<p>" + string(inline(paragraph)) + "</p>")
		}
	}
	return template.HTML(out.String()) //nolint:gosec // inline escapes
}
