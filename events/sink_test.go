package events_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/mini-asynq/mini-asynq/events"
)

// sinkModel is a stream, a store, a receiver, and a holder that may die at any moment.
type sinkModel struct {
	stream []*events.Event // seq n is at n-1
	now    time.Time

	// What is stored.
	cursor, replayAt events.Position
	until            int64
	ends             []string // of a delivery: the mood of the receiver
	rows             map[events.Position]events.SinkRow

	book   *events.SinkBook
	flying map[events.Position]flight

	arrived  map[events.Position]bool
	failed   map[events.Position]bool // was once stored as such
	replayed map[events.Position]bool // arrived or stored since the replay was ordered
	span     [2]int64
}

type flight struct {
	event    *events.Event
	attempts int
}

const sinkTries = 2

func newSinkModel(t *rapid.T) *sinkModel {
	m := &sinkModel{
		now: time.Unix(0, 0), rows: make(map[events.Position]events.SinkRow), cursor: events.Position{Epoch: 3}, arrived: make(map[events.Position]bool),
		ends: rapid.SampledFrom([][]string{
			{"arrives"}, {"refused"}, {"arrives", "arrives", "unanswered", "refused", "untried"}, {"refused", "refused", "arrives", "unanswered"},
		}).Draw(t, "mood"),
		failed: make(map[events.Position]bool), replayed: make(map[events.Position]bool),
	}
	versions := make(map[int]int64)
	for n := range rapid.IntRange(1, 12).Draw(t, "events") {
		job := rapid.IntRange(1, 3).Draw(t, "job")
		versions[job]++
		m.stream = append(m.stream, &events.Event{
			Position: events.Position{Epoch: 3, Seq: int64(n + 1)}, Type: "job.updated", JobID: uuid.UUID{15: byte(job)}, JobVersion: versions[job],
		})
	}
	m.open()
	return m
}

func (m *sinkModel) open() {
	rows := make([]events.SinkRow, 0, len(m.rows))
	for _, row := range m.rows {
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b events.SinkRow) int { return int(a.At.Seq - b.At.Seq) })
	m.book, m.flying = events.OpenSinkBook(m.cursor, rows, m.replayAt, m.until), make(map[events.Position]flight)
}

func (m *sinkModel) read(t *rapid.T) {
	live, replay, replaying := m.book.Reads()
	switch {
	case replaying && rapid.Bool().Draw(t, "of the replay"):
		m.book.Take(m.stream[replay.Seq], true)
	case live.Seq < int64(len(m.stream)):
		m.book.Take(m.stream[live.Seq], false)
	}
}

func (m *sinkModel) start(t *rapid.T) {
	e, attempts, ok := m.book.Start()
	if !ok {
		return
	}
	for _, other := range m.flying {
		require.NotEqual(t, other.event.JobID, e.JobID, "one of a job at a time")
	}
	m.flying[e.Position] = flight{e, attempts}
}

// reaches is an arrival: all before it of its job have arrived, or are known to have failed.
func (m *sinkModel) reaches(t *rapid.T, e *events.Event) {
	m.replayed[e.Position] = true
	if m.arrived[e.Position] {
		return
	}
	m.arrived[e.Position] = true
	for _, before := range m.stream[:e.Seq-1] {
		if before.JobID == e.JobID {
			require.True(t, m.arrived[before.Position] || m.failed[before.Position], "%s arrived before %s", e.Position, before.Position)
		}
	}
}

func (m *sinkModel) end(t *rapid.T) {
	if len(m.flying) == 0 {
		return
	}
	flying := make([]events.Position, 0, len(m.flying))
	for at := range m.flying {
		flying = append(flying, at)
	}
	slices.SortFunc(flying, func(a, b events.Position) int { return int(a.Seq - b.Seq) })
	at := rapid.SampledFrom(flying).Draw(t, "which")
	f := m.flying[at]
	delete(m.flying, at)
	due := m.now.Add(time.Duration(rapid.IntRange(1, 5).Draw(t, "due")))
	switch how := rapid.SampledFrom(m.ends).Draw(t, "how"); how {
	case "untried":
		m.book.Untried(at, due)
	case "arrives":
		m.reaches(t, f.event)
		m.book.Delivered(at)
	default:
		if how == "unanswered" {
			m.reaches(t, f.event)
		}
		if f.attempts+1 >= sinkTries {
			m.book.GivenUp(at)
		} else {
			m.book.Postponed(at, due)
		}
	}
}

func (m *sinkModel) tick(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 3).Draw(t, "time")))
	m.book.Rouse(m.now)
}

// send is what happens mostly: what is due is begun, and one of all deliveries ends.
func (m *sinkModel) send(t *rapid.T) {
	m.now = m.now.Add(5)
	m.book.Rouse(m.now)
	m.read(t)
	m.start(t)
	m.end(t)
}

func (m *sinkModel) write(t *rapid.T) {
	cursor, replay, over, rows, gone := m.book.Progress()
	if rapid.IntRange(0, 4).Draw(t, "away") == 0 {
		return // the database is
	}
	require.False(t, cursor.Before(m.cursor), "the cursor went back")
	m.cursor = cursor
	for _, row := range rows {
		m.rows[row.At] = row
		m.replayed[row.At] = true
		if row.State == "failed" {
			m.failed[row.At] = true
		}
	}
	for _, at := range gone {
		delete(m.rows, at)
	}
	if m.until > 0 {
		if m.replayAt = replay; over {
			m.replayAt, m.until = events.Position{}, 0
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "answer lost") > 0 {
		m.book.Written()
	}
}

// die ends the holder. What was on its way may have arrived.
func (m *sinkModel) die(t *rapid.T) {
	for seq := range m.stream {
		if f, ok := m.flying[m.stream[seq].Position]; ok && rapid.Bool().Draw(t, "arrived") {
			m.reaches(t, f.event)
		}
	}
	m.open()
}

// order orders a replay. It begins with a new hold.
func (m *sinkModel) order(t *rapid.T) {
	if m.cursor.Seq == 0 || m.until > 0 {
		return
	}
	m.until = rapid.Int64Range(1, m.cursor.Seq).Draw(t, "until")
	m.replayAt = events.Position{Epoch: 3, Seq: rapid.Int64Range(0, m.until-1).Draw(t, "after")}
	m.span = [2]int64{m.replayAt.Seq, m.until}
	m.replayed = make(map[events.Position]bool)
	for at, row := range m.rows {
		m.replayed[at] = row.State != "failed" // it is on its way already
	}
	m.die(t)
}

// check holds that nothing is behind a stored cursor that was neither brought nor stored.
func (m *sinkModel) check(t *rapid.T) {
	for _, e := range m.stream[:m.cursor.Seq] {
		_, stored := m.rows[e.Position]
		require.True(t, m.arrived[e.Position] || stored, "%s is lost: the cursor is %s", e.Position, m.cursor)
	}
	replayed := m.span[1]
	if m.until > 0 {
		replayed = m.replayAt.Seq
	}
	for seq := m.span[0]; seq < replayed; seq++ {
		require.True(t, m.replayed[m.stream[seq].Position], "%d was not replayed up to %d", seq+1, replayed)
	}
	known, rows, sending, lines := m.book.Counts()
	require.Equal(t, known, lines)
	require.LessOrEqual(t, rows, known)
	require.GreaterOrEqual(t, rows, 0)
	require.Len(t, m.flying, sending)
}

// Whatever the receiver answers, whenever the holder dies or the database is away: each event arrives or has failed, those of a
// job in their order, and the cursor is never ahead of one that is neither.
func TestSinkLosesNothingAndKeepsTheOrderOfAJob(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newSinkModel(t)
		often := func(n int, name string, do func(*rapid.T), into map[string]func(*rapid.T)) {
			for i := range n {
				into[fmt.Sprintf("%s %d", name, i)] = do
			}
		}
		steps := map[string]func(*rapid.T){"": m.check, "die": m.die, "order a replay": m.order}
		often(8, "send", m.send, steps)
		often(2, "read", m.read, steps)
		often(2, "start", m.start, steps)
		often(2, "tick", m.tick, steps)
		often(2, "write", m.write, steps)
		steps["another mood"] = func(t *rapid.T) { m.ends = rapid.SampledFrom([][]string{{"arrives"}, {"refused"}}).Draw(t, "mood") }
		t.Repeat(steps)
		m.finish(t)
	})
}

// finish lets everything succeed from now on.
func (m *sinkModel) finish(t *rapid.T) {
	m.die(t)
	after, until := m.replayAt.Seq, m.until
	for range 10 * len(m.stream) {
		for range m.stream {
			live, replay, replaying := m.book.Reads()
			if replaying {
				m.book.Take(m.stream[replay.Seq], true)
			}
			if live.Seq < int64(len(m.stream)) {
				m.book.Take(m.stream[live.Seq], false)
			}
			if e, _, ok := m.book.Start(); ok {
				m.reaches(t, e)
				m.book.Delivered(e.Position)
			}
		}
		cursor, _, _, rows, gone := m.book.Progress()
		for _, row := range rows {
			m.rows[row.At] = row
		}
		for _, at := range gone {
			delete(m.rows, at)
		}
		m.cursor = cursor
		m.book.Written()
		m.now = m.now.Add(time.Hour)
		m.book.Rouse(m.now)
	}
	require.EqualValues(t, len(m.stream), m.cursor.Seq)
	for _, e := range m.stream {
		require.True(t, m.arrived[e.Position] || m.failed[e.Position], "%s never arrived", e.Position)
	}
	for at, row := range m.rows {
		require.Equal(t, "failed", row.State, "%s is left", at)
		require.False(t, at.Seq > after && at.Seq <= until, "%s was replayed, and is still listed", at)
	}
}

// A new holder reads an event once more, right after it has brought it from its row: then the row goes too.
func TestRowOfAnEventThatIsReadOnceMoreIsDeleted(t *testing.T) {
	t.Parallel()
	at := func(seq int64) *events.Event {
		return &events.Event{Position: events.Position{Epoch: 3, Seq: seq}, Type: "job.updated", JobID: uuid.UUID{1}, JobVersion: seq}
	}
	first, second := at(1), at(2)
	line := first.JobID.String()
	book := events.OpenSinkBook(events.Position{Epoch: 3}, []events.SinkRow{
		{At: first.Position, Line: line, State: "parked", Event: first}, {At: second.Position, Line: line, State: "waiting", Event: second},
	}, events.Position{}, 0)
	bring := func(want *events.Event) {
		e, _, ok := book.Start()
		require.True(t, ok)
		require.Equal(t, want.Position, e.Position)
		book.Delivered(e.Position)
	}
	bring(first)
	book.Take(first, false)
	bring(second)
	bring(first)
	_, _, _, rows, gone := book.Progress()
	require.Empty(t, rows)
	require.ElementsMatch(t, []events.Position{first.Position, second.Position}, gone)
}
