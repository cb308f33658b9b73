package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// marks stand at the beginning of a line, all of one width.
var marks = map[Status]string{OK: "ok     ", Warn: "warn   ", Fail: "FAIL   ", Skipped: "skipped"}

// WriteText writes one line a check below the heading of its group, and the advice below what is not well.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	byID := make(map[string]Finding, len(r.Findings))
	counts := make(map[Status]int)
	for _, f := range r.Findings {
		byID[f.ID] = f
		counts[f.Status]++
	}
	fixable := false
	for _, g := range groups() {
		fmt.Fprintf(&b, "%s\n", g.title)
		for _, c := range g.checks {
			f, made := byID[c.id]
			if !made {
				continue
			}
			fmt.Fprintf(&b, "  %s  %s: %s\n", marks[f.Status], f.Title, printable(f.Detail))
			if f.Status != Warn && f.Status != Fail {
				continue
			}
			fmt.Fprintf(&b, "           %s\n", f.ID)
			for _, line := range f.Advice {
				fmt.Fprintf(&b, "           -> %s\n", printable(line))
			}
			fixable = fixable || f.FixSQL != ""
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d warnings, %d failures, %d skipped\n", counts[OK], counts[Warn], counts[Fail], counts[Skipped])
	if fixable {
		b.WriteString("SQL that repairs a part of it: `mini-asynq doctor --fix-sql`\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printable keeps what others stored (names of programs, queues, reasons) from writing to the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// WriteJSON writes the findings as one array.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r.Findings)
}

// WriteSQL writes the SQL of all findings, each below what it repairs. Nothing but comments if there is nothing to repair.
func (r Report) WriteSQL(w io.Writer) error {
	var b strings.Builder
	b.WriteString("-- Nothing of this has been run. Read it first.\n")
	for _, f := range r.Findings {
		if f.FixSQL != "" {
			fmt.Fprintf(&b, "\n-- %s: %s\n%s\n", f.ID, printable(f.Detail), f.FixSQL)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
