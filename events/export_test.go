package events

import (
	"context"
	"net"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/mini-asynq/mini-asynq/jobs"
)

// Base is a count as a test states it.
type Base struct {
	Snapshot string
	Counts   map[string]map[jobs.Status]int64
	Rows     []jobs.Queue
	Workers  map[uuid.UUID]jobs.WorkerState
	Offset   time.Duration
}

func (b Base) internal() (base, error) {
	snap, err := parseSnapshot(b.Snapshot)
	out := base{snap: snap, backlogs: make(map[string]*jobs.Backlog), rows: b.Rows, workers: b.Workers, offset: b.Offset}
	for name, counts := range b.Counts {
		out.backlogs[name] = &jobs.Backlog{Queue: name, Counts: counts}
	}
	return out, err
}

// ReadBaseWith replaces the count in the database.
func (o *Overview) ReadBaseWith(read func(context.Context) (Base, error)) {
	o.readBase = func(ctx context.Context) (base, error) {
		b, err := read(ctx)
		if err != nil {
			return base{}, err
		}
		return b.internal()
	}
}

// ReadRowsWith replaces the look at the rows of queues.
func (o *Overview) ReadRowsWith(read func(context.Context, []string) ([]jobs.Queue, error)) {
	o.readRows = read
}

// BeginCount begins a count; the function it returns ends it.
func (o *Overview) BeginCount() func(Base) error {
	generation, dropped := o.beginCount()
	return func(b Base) error {
		in, err := b.internal()
		_, err = o.install(in, generation, dropped, err)
		return err
	}
}

// SettleAudit ends the audit as if everything had arrived.
func (o *Overview) SettleAudit() map[string]int64 {
	func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.audit.settle(o.audit.opened.Add(auditPatience), zerolog.Nop())
	}()
	return o.Drift()
}

// SnapshotSees is snapshot.sees.
func SnapshotSees(text string, xid uint64) (bool, error) {
	s, err := parseSnapshot(text)
	return s.sees(xid), err
}

// NewReadyStream is a stream that knows its head and follows nothing.
func NewReadyStream(head Position) *Stream {
	s := NewStream(StreamConfig{})
	s.ring.reset(head)
	close(s.ready)
	return s
}

// SetHead moves such a stream.
func (s *Stream) SetHead(head Position) { s.ring.reset(head) }

// WaitingRecords is how many records the collector keeps.
func (m *Metrics) WaitingRecords() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting) - m.first
}

// Codes returns the codebook of this build and that of the database.
func Codes(ctx context.Context, db jobs.DB) (compiled, stored any, err error) {
	book, err := readCodes(ctx, db)
	return builtin, book, err
}

// ResolveWith replaces how a guard looks names up.
func (g *Guard) ResolveWith(r *net.Resolver) { g.resolver = r }

// SignWebhook is the header of a delivery.
func SignWebhook(id string, at time.Time, body, secret, previous []byte) (string, error) {
	return post{id: id, body: body, secret: secret, previous: previous}.sign(at)
}
