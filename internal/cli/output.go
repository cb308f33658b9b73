package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The forms of -o.
const (
	formTable = "table"
	formJSON  = "json"
	formLines = "jsonl"
)

// clean makes text of the server, or of whoever gave it to the server, harmless on a terminal: what is not printable is
// written as an escape, so that a tag or an error can neither move the cursor nor pretend to be another line.
func clean(s string) string {
	if strings.IndexFunc(s, isHarmful) < 0 && utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if isHarmful(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			out.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}

// isHarmful: control characters, and the format characters that turn the direction of what follows.
func isHarmful(r rune) bool {
	return r != ' ' && !unicode.IsGraphic(r) || r == '\u2028' || r == '\u2029'
}

// cleanLines keeps the ends of lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// cell is a text of a table with its colour; "" has none.
type cell struct{ text, colour string }

// The colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	dim    = "2"
	bold   = "1"
)

var statusColours = map[string]string{
	"completed": green, "running": blue, "retrying": yellow, "dead": red, "cancelled": dim, "paused": yellow,
	"online": green, "draining": yellow, "offline": red, "ok": green, "degraded": yellow, "unavailable": red,
	"failed": red,
}

// coloured is a status in its colour.
func coloured(status string) cell { return cell{status, statusColours[status]} }

func plain(texts ...string) []cell {
	cells := make([]cell, len(texts))
	for i, text := range texts {
		cells[i] = cell{text: text}
	}
	return cells
}

// table is rows below a head. Every text is cleaned as it is written.
type table struct {
	head []string
	rows [][]cell
}

// lines lays the table out: each column as wide as its widest text, two spaces between them.
func (t table) lines(colour bool) []string {
	all := t.rows
	if len(t.head) > 0 {
		head := plain(t.head...)
		for i := range head {
			head[i].colour = bold
		}
		all = slices.Concat([][]cell{head}, t.rows)
	}
	var widths []int
	for _, row := range all {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(clean(c.text)))
		}
	}
	lines := make([]string, len(all))
	for n, row := range all {
		var line strings.Builder
		for i, c := range row {
			text := clean(c.text)
			line.WriteString(paint(text, c.colour, colour))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+2))
			}
		}
		lines[n] = strings.TrimRight(line.String(), " ")
	}
	return lines
}

func (t table) write(w io.Writer, colour bool) error {
	_, err := io.WriteString(w, strings.Join(t.lines(colour), "\n")+"\n")
	return err
}

func paint(text, with string, colour bool) string {
	if !colour || with == "" || text == "" {
		return text
	}
	return "\x1b[" + with + "m" + text + "\x1b[0m"
}

// writeJSON writes a value for people who read JSON, or as one line.
func writeJSON(w io.Writer, value any, line bool) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	var out bytes.Buffer
	if line {
		err = json.Compact(&out, raw)
	} else {
		err = json.Indent(&out, raw, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// moment is a time as tables show it, UTC to the second; "-" for none.
func moment(at *time.Time) string {
	if at == nil || at.IsZero() {
		return "-"
	}
	return at.UTC().Format("2006-01-02 15:04:05")
}

// roughly is a span as tables show it: the two largest units.
func roughly(d time.Duration) string {
	switch {
	case d < time.Second:
		return strconv.FormatInt(max(0, d.Milliseconds()), 10) + "ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// seconds is a measured span; "-" for none.
func seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	return roughly(time.Duration(*s * float64(time.Second)))
}

func number[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// listOf joins names; "-" for none.
func listOf(names []string) string { return orDash(strings.Join(names, ",")) }

// shortened cuts a text to at most n characters.
func shortened(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
