package hub

import "time"

// statsAsk is what a session was asked to say of the numbers.
type statsAsk struct {
	every time.Duration // 0: nothing
	next  time.Time     // monotonic
}

func (s *session) checkStats(o order) order {
	o.failed = &fault{T: "err", Code: "unavailable", Detail: "this node has no numbers"}
	return o
}

func (s *session) askStats(order, time.Time) {}

func (s *session) sayStats(time.Time) {}
