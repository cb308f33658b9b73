package events

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// decoder turns rows of eventColumns into events, from PostgreSQL's binary format and without reflection: at full load
// a node reads several hundred thousand a second. Names repeat, so each is kept once.
type decoder struct{ names map[string]string }

var errShape = errors.New("unexpected shape of an outbox row")

// maxNames bounds what the decoder remembers.
const maxNames = 4096

func (d *decoder) name(raw []byte) string {
	if raw == nil {
		return ""
	}
	if s, ok := d.names[string(raw)]; ok { // the compiler makes no copy here
		return s
	}
	s := string(raw)
	if d.names == nil || len(d.names) >= maxNames {
		d.names = make(map[string]string)
	}
	d.names[s] = s
	return s
}

// event decodes one row; the first column is the first position of its tick.
func (d *decoder) event(v [][]byte) (e *Event, tick int64, err error) {
	if len(v) != 27 || len(v[0]) != 8 || len(v[1]) != 8 || len(v[2]) != 8 {
		return nil, 0, errShape
	}
	e = &Event{
		XID:      uint64(int8of(v[1])), //nolint:gosec // a transaction id below 2^63
		At:       timeOf(v[2]),
		Type:     d.name(v[5]),
		From:     jobs.Status(d.name(v[6])),
		Status:   jobs.Status(d.name(v[7])),
		Priority: jobs.Priority(d.name(v[8])),
		Queue:    d.name(v[10]),
		Kind:     d.name(v[11]),
		Worker:   d.name(v[12]),
		Actor:    d.name(v[14]),
		WaitMS:   int8OrNil(v[17]),
		RunMS:    int8OrNil(v[18]),
		TotalMS:  int8OrNil(v[19]),
		Cause:    string(v[20]),
		Reason:   string(v[21]),
		Comment:  string(v[22]),
		Source:   d.name(v[23]),
		Error:    jsonb(v[25]),
		Data:     jsonb(v[26]),
	}
	if v[3] != nil {
		if copy(e.JobID[:], v[3]) != 16 || len(v[4]) != 8 {
			return nil, 0, errShape
		}
		e.JobVersion = int8of(v[4])
	}
	if len(v[9]) == 4 {
		e.Attempt = int(int32(binary.BigEndian.Uint32(v[9]))) //nolint:gosec // an int4
	}
	if v[13] != nil {
		if e.Tags, err = d.texts(v[13]); err != nil {
			return nil, 0, err
		}
	}
	if len(v[15]) == 8 {
		e.Fence = int8of(v[15])
	}
	if len(v[16]) == 8 {
		e.RunAt = timeOf(v[16])
	}
	if len(v[24]) == 1 {
		has := v[24][0] == 1
		e.HasResult = &has
	}
	return e, int8of(v[0]), nil
}

func int8of(raw []byte) int64 {
	return int64(binary.BigEndian.Uint64(raw)) //nolint:gosec // an int8
}

func int8OrNil(raw []byte) *int64 {
	if len(raw) != 8 {
		return nil
	}
	n := int8of(raw)
	return &n
}

// pgEpoch is where PostgreSQL counts microseconds from.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func timeOf(raw []byte) time.Time {
	return pgEpoch.Add(time.Duration(int8of(raw)) * time.Microsecond)
}

// jsonb strips the version byte of the binary format.
func jsonb(raw []byte) []byte {
	if len(raw) < 1 || raw[0] != 1 {
		return nil
	}
	return append([]byte(nil), raw[1:]...)
}

// texts decodes a text[] of any number of dimensions into one list: dimensions, flags, element type, then length and
// lower bound of each dimension, then the elements.
func (d *decoder) texts(raw []byte) ([]string, error) {
	if len(raw) < 12 {
		return nil, errShape
	}
	dimensions := int(binary.BigEndian.Uint32(raw))
	raw = raw[12:]
	if dimensions == 0 {
		return nil, nil
	}
	if dimensions > 6 || len(raw) < 8*dimensions {
		return nil, errShape
	}
	n := 1
	for range dimensions {
		n *= int(binary.BigEndian.Uint32(raw))
		raw = raw[8:]
	}
	out := make([]string, 0, min(n, 64))
	for range n {
		if len(raw) < 4 {
			return nil, errShape
		}
		size := int(int32(binary.BigEndian.Uint32(raw))) //nolint:gosec // an int4
		raw = raw[4:]
		if size < 0 {
			continue // a null tag
		}
		if len(raw) < size {
			return nil, errShape
		}
		out = append(out, d.name(raw[:size]))
		raw = raw[size:]
	}
	return out, nil
}
