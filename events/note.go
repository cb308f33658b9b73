package events

import (
	"strings"
)

// Channel is the one NOTIFY channel of the product.
const Channel = "mini_asynq"

// NoteKind is what a NOTIFY means. A note is a hint: it carries nothing that a reader may rely on.
type NoteKind int

// The notes.
const (
	NoteHint NoteKind = iota // a writer found the pacer asleep
	NoteTick                 // a tick was made
	NotePark                 // the pacer goes to sleep
	NotePace                 // the pacer is alive, but has nothing to publish
	NoteEcho                 // a listener asks whether it can hear
	noteUnknown
)

// Note is a NOTIFY as heard.
type Note struct {
	Kind NoteKind
	Last Position // of a tick
	Text string   // of an echo
}

func parseNote(payload string) Note {
	kind, rest, _ := strings.Cut(payload, ":")
	switch kind {
	case "hint":
		return Note{Kind: NoteHint}
	case "park":
		return Note{Kind: NotePark}
	case "pace":
		return Note{Kind: NotePace}
	case "echo":
		return Note{Kind: NoteEcho, Text: rest}
	case "tick":
		last, err := ParseCursor(rest)
		if err != nil {
			return Note{Kind: noteUnknown}
		}
		return Note{Kind: NoteTick, Last: last}
	}
	return Note{Kind: noteUnknown}
}
