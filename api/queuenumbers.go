package api

import (
	"github.com/mini-asynq/mini-asynq/events"
)

// numbersBody is a queue as GET /queues/:queue shows it, of what is known without a query.
type numbersBody struct {
	queueBody
	Pause   *pauseBody `json:"pause"`
	Version *int64     `json:"version"` // null, and pause too: the row has just changed and was not read again
}

// QueueBody is how a queue is shown where no query may be made: as GET /queues/:queue does. To be encoded with encoding/json.
func QueueBody(n events.QueueNumbers) any {
	b := numbersBody{queueBody: queueOf(n.Name, n.Row, n)}
	b.Paused = n.Paused
	if n.RowKnown {
		b.Pause, b.Version = b.queueBody.Pause, &b.queueBody.Version
	}
	return b
}
