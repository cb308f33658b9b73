package miniasynq

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Event is one committed change. What is null or missing on the wire is the zero value here. Types are only added and
// members are only added, so pass over what you do not know.
type Event struct {
	Cursor     string          `json:"cursor"` // "after this event", for Options.After
	Epoch      int64           `json:"epoch"`  // one unbroken history
	Seq        int64           `json:"seq"`    // dense within the epoch
	Type       string          `json:"type"`   // job.completed, queue.paused ..
	V          int             `json:"v"`
	Timestamp  time.Time       `json:"timestamp"`
	Queue      string          `json:"queue"`
	Kind       string          `json:"kind"`
	JobID      string          `json:"job_id"`      // empty: it is about no job
	JobVersion int64           `json:"job_version"` // 1, 2, 3 .. of a job
	Status     string          `json:"status"`      // after it; empty: the job is gone, or it is about no job
	Priority   string          `json:"priority"`
	Attempt    int             `json:"attempt"`
	Worker     string          `json:"worker"`
	Tags       []string        `json:"tags"`
	WorkflowID string          `json:"workflow_id"`
	Actor      string          `json:"actor"`
	Data       json.RawMessage `json:"data"` // an object; its members belong to the type
	// Payload is the job's payload as it is stored now, with Options.Payload; "null" once the job is gone.
	Payload json.RawMessage `json:"payload"`
}

// position is a place in the log. As a cursor it means "after this event".
type position struct{ epoch, seq int64 }

func (p position) String() string {
	return strconv.FormatInt(p.epoch, 10) + "-" + strconv.FormatInt(p.seq, 10)
}

func parseCursor(s string) (position, error) {
	epoch, seq, _ := strings.Cut(s, "-")
	var p position
	var err1, err2 error
	p.epoch, err1 = strconv.ParseInt(epoch, 10, 64)
	p.seq, err2 = strconv.ParseInt(seq, 10, 64)
	if err1 != nil || err2 != nil || p.epoch < 0 || p.seq < 0 || p.String() != s {
		return position{}, fmt.Errorf("%.64q is not a cursor", s)
	}
	return p, nil
}
