package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// decoder turns rows of eventColumns into events, from PostgreSQL's binary format and without reflection: at full load
// a node reads several hundred thousand a second. Names repeat, so each is kept once.
type decoder struct {
	codes codebook
	names map[string]string
}

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
	if len(v) != 25 || len(v[0]) != 8 || len(v[1]) != 8 || len(v[2]) != 8 || len(v[4]) != 2 {
		return nil, 0, errShape
	}
	what, ok := d.codes[int2of(v[4])]
	if !ok {
		return nil, 0, fmt.Errorf("%w: %d", errUnknownCode, int2of(v[4]))
	}
	e = &Event{
		XID:     uint64(int8of(v[1])), //nolint:gosec // a transaction id below 2^63
		At:      timeOf(v[2]),
		Type:    what.event,
		From:    what.from,
		Status:  what.to,
		Queue:   d.name(v[8]),
		Kind:    d.name(v[9]),
		Worker:  d.name(v[10]),
		Actor:   d.name(v[12]),
		WaitMS:  int8OrNil(v[15]),
		RunMS:   int8OrNil(v[16]),
		TotalMS: int8OrNil(v[17]),
		Cause:   d.name(v[18]),
		Reason:  d.name(v[19]),
		Comment: string(v[20]),
		Source:  d.name(v[21]),
		Error:   jsonb(v[23]),
		Data:    jsonb(v[24]),
	}
	if len(v[3]) == 4 {
		e.Attempt = int(int32(binary.BigEndian.Uint32(v[3]))) //nolint:gosec // an int4
	}
	if len(v[5]) == 2 {
		if p := int(int2of(v[5])); p > 0 && p < len(priorities) {
			e.Priority = priorities[p]
		}
	}
	if v[6] != nil {
		if copy(e.JobID[:], v[6]) != 16 || len(v[7]) != 8 {
			return nil, 0, errShape
		}
		e.JobVersion = int8of(v[7])
	}
	if v[11] != nil {
		if e.Tags, err = d.texts(v[11]); err != nil {
			return nil, 0, err
		}
	}
	if len(v[13]) == 8 {
		e.Fence = int8of(v[13])
	}
	if len(v[14]) == 8 {
		e.RunAt = timeOf(v[14])
	}
	if len(v[22]) == 1 {
		e.HasResult = hasResult[v[22][0]&1]
	}
	return e, int8of(v[0]), nil
}

// priorities by priority_code.
var priorities = [...]jobs.Priority{"", jobs.High, jobs.Normal, jobs.Low}

// hasResult are the two values that events share.
var hasResult = func() (v [2]*bool) {
	no, yes := false, true
	return [2]*bool{&no, &yes}
}()

func int2of(raw []byte) int16 {
	return int16(binary.BigEndian.Uint16(raw)) //nolint:gosec // an int2
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
