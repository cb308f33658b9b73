package api

import (
	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// numbersBody is a queue as GET /queues/:queue shows it, of what is known without its row.
type numbersBody struct {
	queueBody
	Pause   *pauseBody `json:"pause"`   // null: who paused it, and why, lies in the row
	Version *int64     `json:"version"` // null
}

// QueueBody is how a queue is shown where no query may be made: GET /queues/:queue without what only its row knows, which is
// null. To be encoded with encoding/json.
func QueueBody(n events.QueueNumbers) any {
	return numbersBody{queueBody: queueOf(n.Name, jobs.Queue{Paused: n.Paused}, n)}
}
