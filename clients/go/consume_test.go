package miniasynq_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	miniasynq "github.com/mini-asynq/mini-asynq/clients/go"
	"github.com/mini-asynq/mini-asynq/hub"
	"github.com/mini-asynq/mini-asynq/internal/pgtest"
)

func TestResumeIsFromWhatWasHandledAndDoublesAreDropped(t *testing.T) {
	t.Parallel()
	subs := pgtest.NewSignal[map[string]any](8)
	f := newFake(t, func(s *end, n int) {
		switch n {
		case 0:
			subs.Send(s.greet("3-4"))
			s.say(ev(7, 5, 6, 7))
		case 1:
			subs.Send(s.greet("3-7"))
			s.say(ev(6, 5, 6), ev(9, 7, 8, 9))
		default:
			subs.Send(s.greet("3-9"))
			s.say(ev(10, 10))
			s.rest()
		}
	})
	seqs, err := gather(t, miniasynq.Options{URL: f.url, Credit: 30}, 10)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int64{5, 6, 7, 8, 9, 10}, seqs)
	for _, after := range []string{"latest", "3-7", "3-9"} {
		require.Equal(t, map[string]any{"t": "sub", "id": "log", "class": "consumer", "after": after, "credit": 30.0},
			subs.Wait(t, limit, "the client subscribes"))
	}
}

func TestFromNowOnMeansFromTheFirstConnectionOn(t *testing.T) {
	t.Parallel()
	again := pgtest.NewSignal[map[string]any](8)
	f := newFake(t, func(s *end, n int) {
		if n == 0 {
			s.greet("3-41")
			return
		}
		again.Send(s.greet("3-41"))
		s.say(ev(42, 42))
		s.rest()
	})
	store := &memory{}
	seqs, err := gather(t, miniasynq.Options{URL: f.url, Cursors: store}, 42)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int64{42}, seqs)
	require.Equal(t, "3-41", again.Wait(t, limit, "it comes back")["after"])
	require.Equal(t, []string{"3-41", "3-42"}, store.saved, "also when it ends before the first event")
}

func TestMarksMoveTheCursorOverWhatTheFilterHoldsBack(t *testing.T) {
	t.Parallel()
	subs := pgtest.NewSignal[map[string]any](8)
	f := newFake(t, func(s *end, n int) {
		if n == 0 {
			subs.Send(s.greet("3-1"))
			s.say(ev(9, 4, 7), `{"t":"mark","id":"log","cursor":"3-50"}`)
			return
		}
		subs.Send(s.greet("3-50"))
		s.say(`{"t":"news","x":1}`, ev(60, 60))
		s.rest()
	})
	store := &memory{}
	seqs, err := gather(t, miniasynq.Options{
		URL: f.url, After: "3-1", Cursors: store, Payload: true, Filter: miniasynq.Filter{Types: []string{"job.*"}, JobIDs: []string{"i"}},
	}, 60)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int64{4, 7, 60}, seqs)
	sub := subs.Wait(t, limit, "it subscribes")
	require.JSONEq(t, `{"types":["job.*"],"job_ids":["i"]}`, asJSON(t, sub["filter"]))
	require.JSONEq(t, `["payload"]`, asJSON(t, sub["include"]))
	require.Equal(t, "3-50", subs.Wait(t, limit, "it comes back")["after"])
	require.Equal(t, []string{"3-1", "3-9", "3-50", "3-60"}, store.saved)
}

func TestHolesAreSeen(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		frames     []string
		after, got string
		held       bool
	}{
		"between events":                 {[]string{ev(5, 5), ev(7, 7)}, "3-5", "3-7", false},
		"inside a frame":                 {[]string{ev(8, 5, 6, 8)}, "3-6", "3-8", false},
		"at the end of a frame":          {[]string{ev(7, 5, 6)}, "3-6", "3-7", false},
		"a mark over an event":           {[]string{ev(5, 5), `{"t":"mark","id":"log","cursor":"3-6"}`}, "3-5", "3-6", false},
		"caught up over an event":        {[]string{ev(5, 5), `{"t":"caught_up","id":"log","cursor":"3-6"}`}, "3-5", "3-6", false},
		"a server that begins elsewhere": {[]string{`{"t":"subbed","id":"log","cursor":"3-9","behind":0}`}, "3-4", "3-9", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(s *end, _ int) {
				s.greet("3-4")
				s.say(row.frames...)
				s.rest()
			})
			_, err := gather(t, miniasynq.Options{URL: f.url, After: "3-4", Held: row.held}, 100)
			var hole *miniasynq.HoleError
			require.ErrorAs(t, err, &hole)
			require.Equal(t, miniasynq.HoleError{After: row.after, Got: row.got}, *hole)
		})
	}
}

func TestNonsenseIsNoProtocol(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string]string{
		"no JSON": `x`, "an event of another epoch": `{"t":"ev","ev":[{"epoch":4,"seq":1}],"cursor":"3-5"}`,
		"an event beyond its frame": ev(5, 6), "a cursor that is none": `{"t":"mark","cursor":"3"}`,
		"another version": `{"t":"hello","v":2}`, "a jump to another epoch": `{"t":"mark","cursor":"4-1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(s *end, _ int) {
				s.greet("3-4")
				s.say(frame)
				s.rest()
			})
			_, err := gather(t, miniasynq.Options{URL: f.url, Filter: miniasynq.Filter{Tags: []string{"t"}}}, 100)
			require.ErrorIs(t, err, miniasynq.ErrProtocol)
		})
	}
}

// What the client does after each close code is what the server's table says.
func TestEveryCloseCodeIsFollowed(t *testing.T) {
	t.Parallel()
	for _, code := range []hub.CloseCode{
		hub.CloseNormal, hub.CloseGoingAway, hub.CloseProtocol, hub.CloseBinary, hub.CloseBroken, hub.CloseBadText,
		hub.CloseTooBig, hub.CloseInternal, hub.CloseBadFrame, hub.CloseUnauthorized, hub.CloseForbidden, hub.CloseSilent,
		hub.CloseIDInUse, hub.CloseExpired, hub.CloseEpoch, hub.CloseFlood, hub.CloseSlow, 1005, 1012, 4999,
	} {
		pause, comes := miniasynq.AfterClose(int(code), 1700*time.Millisecond)
		switch code.Advice() {
		case hub.AdviceNothing, hub.AdviceNoRetry, hub.AdviceLogIn, hub.AdviceSayRights, hub.AdviceSnapshot:
			require.False(t, comes, code)
		case hub.AdviceResume:
			require.True(t, comes, code)
			require.Equal(t, 1700*time.Millisecond, pause, code)
		case hub.AdviceBackoff:
			require.True(t, comes, code)
			require.Zero(t, pause, code)
		case hub.AdviceFewer:
			require.True(t, comes, code)
			require.Equal(t, 30*time.Second, pause, code)
		}
	}
	pause, _ := miniasynq.AfterClose(1001, time.Hour)
	require.Equal(t, time.Minute, pause, "no server keeps a client away for longer")
}

func TestCloseFramesAreErrorsWithTypes(t *testing.T) {
	t.Parallel()
	closing := func(code int, reason string) error {
		f := newFake(t, func(s *end, _ int) {
			s.greet("3-4")
			s.shut(code, reason)
		})
		_, err := gather(t, miniasynq.Options{URL: f.url}, 100)
		return err
	}
	var closed *miniasynq.CloseError
	require.ErrorAs(t, closing(4401, `{"code":"unauthorized","detail":"d"}`), &closed)
	require.Equal(t, miniasynq.CloseError{Code: 4401, Name: "unauthorized", Detail: "d"}, *closed)
	var expired *miniasynq.ExpiredError
	require.ErrorAs(t, closing(4410, `{"code":"cursor_expired","cursor":"3-1","floor":"3-2"}`), &expired)
	require.Equal(t, miniasynq.ExpiredError{Cursor: "3-1", Floor: "3-2"}, *expired)
	require.ErrorAs(t, closing(4412, `{"code":"epoch_changed","cursor":"3-1"}`), new(*miniasynq.EpochError))
}

func TestByeSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(s *end, n int) {
		s.greet("3-4")
		if n == 0 {
			s.say(`{"t":"bye","retry_ms":31}`)
			s.shut(1001, `{"code":"draining"}`)
			return
		}
		s.say(ev(5, 5))
		s.rest()
	})
	var notes []miniasynq.Note
	seqs, err := gather(t, miniasynq.Options{URL: f.url, Observe: func(n miniasynq.Note) { notes = append(notes, n) }}, 5)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int64{5}, seqs)
	require.Len(t, notes, 3)
	require.Equal(t, miniasynq.Note{State: miniasynq.Connected, Cursor: "3-4", Behind: 7}, notes[0])
	require.Equal(t, miniasynq.Disconnected, notes[1].State)
	require.Equal(t, 31*time.Millisecond, notes[1].Pause)
	require.ErrorContains(t, notes[1].Err, "1001")
}

func TestEndedSubscriptionsAreErrorsWithTypes(t *testing.T) {
	t.Parallel()
	ended := func(after, frame string) error {
		f := newFake(t, func(s *end, _ int) {
			s.say(`{"t":"hello","v":1,"node":"a","epoch":3,"head":"3-100","floor":"3-2","max_subs":16,"max_batch":200}`)
			s.hear()
			s.say(frame)
			s.rest()
		})
		_, err := gather(t, miniasynq.Options{URL: f.url, After: after}, 100)
		return err
	}
	var expired *miniasynq.ExpiredError
	require.ErrorAs(t, ended("3-1", `{"t":"ended","id":"log","code":"cursor_expired","floor":"3-2"}`), &expired)
	require.Equal(t, miniasynq.ExpiredError{Cursor: "3-1", Floor: "3-2"}, *expired)
	var epoch *miniasynq.EpochError
	require.ErrorAs(t, ended("2-90", `{"t":"ended","id":"log","code":"epoch_changed"}`), &epoch)
	require.Equal(t, miniasynq.EpochError{Cursor: "2-90", Head: "3-100", Floor: "3-2"}, *epoch)
	var refused *miniasynq.ProblemError
	require.ErrorAs(t, ended("3-5", `{"t":"err","id":"log","code":"invalid_parameter","detail":"types: event types"}`), &refused)
	require.Equal(t, "invalid_parameter", refused.Code)
	require.Equal(t, "types: event types", refused.Detail)
	require.ErrorAs(t, ended("", `{"t":"ended","id":"log","code":"later_version"}`), &refused)
	require.Equal(t, "later_version", refused.Code)
}

// A node may not have read what another one has sent already: its word about the cursor is not the last one.
func TestNodesThatAreBehindAreAskedAgain(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"in the log":  `{"t":"err","id":"log","code":"cursor_invalid","detail":"ahead"}`,
		"by an epoch": `{"t":"ended","id":"log","code":"epoch_changed"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			subs := 0
			f := newFake(t, func(s *end, n int) {
				s.say(`{"t":"hello","v":1,"node":"b","epoch":3,"head":"3-100","floor":"3-2","max_subs":16,"max_batch":200}`)
				s.hear()
				subs = n + 1
				s.say(answer)
				s.rest()
			})
			_, err := gather(t, miniasynq.Options{URL: f.url, After: "4-200"}, 100)
			var problem *miniasynq.ProblemError
			require.ErrorAs(t, err, &problem, "in the end it is believed")
			require.Equal(t, "cursor_invalid", problem.Code)
			require.Equal(t, 9, subs)
		})
	}
}

func TestSlowHandlerKeepsTheLine(t *testing.T) {
	t.Parallel()
	p := quick
	p.Silence = 500 * time.Millisecond
	marks := make(chan struct{}) // closed when so many came that a reader which waits for the handler would have given up
	opened := 0
	f := newFake(t, func(s *end, n int) {
		opened = n + 1
		s.greet("3-4")
		s.say(ev(5, 5))
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 30 {
			<-tick.C
			s.say(`{"t":"mark","id":"log","cursor":"3-5"}`)
		}
		close(marks)
		s.say(ev(6, 6))
		s.rest()
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := miniasynq.ConsumeAt(ctx, p, miniasynq.Options{URL: f.url}, func(_ context.Context, e miniasynq.Event) error {
		<-marks
		if e.Seq == 6 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, opened)
}

func TestSilentLineIsLeft(t *testing.T) {
	t.Parallel()
	p := quick
	p.Silence = 100 * time.Millisecond
	f := newFake(t, func(s *end, n int) {
		s.greet("3-4")
		if n > 0 {
			s.say(ev(5, 5))
		}
		s.rest()
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var lost error
	o := miniasynq.Options{URL: f.url, Observe: func(n miniasynq.Note) { lost = errors.Join(lost, n.Err) }}
	err := miniasynq.ConsumeAt(ctx, p, o, func(context.Context, miniasynq.Event) error {
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, lost, "i/o timeout")
}

// The server takes 50 frames a second; a quick handler must not send more.
func TestCreditIsPaidForHandledEventsAndNotTooOften(t *testing.T) {
	t.Parallel()
	const credit, every = 4, 40 * time.Millisecond
	p := quick
	p.GrantEvery = every
	began := time.Now()
	f := newFake(t, func(s *end, _ int) {
		open := int(s.greet("3-0")["credit"].(float64))
		for next := int64(1); next <= 40; {
			for ; open > 0; open, next = open-1, next+1 {
				s.say(ev(next, next))
			}
			said := s.hear()
			if said == nil {
				return
			}
			require.Equal(t, "credit", said["t"])
			open += int(said["n"].(float64))
			require.LessOrEqual(t, open, credit, "never more than the program can take")
		}
		s.rest()
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := miniasynq.ConsumeAt(ctx, p, miniasynq.Options{URL: f.url, Credit: credit}, func(_ context.Context, e miniasynq.Event) error {
		if e.Seq == 40 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.GreaterOrEqual(t, time.Since(began), 8*every)
}

func TestAnswersThatAreNoSocket(t *testing.T) {
	t.Parallel()
	ask := func(o miniasynq.Options, answer func(w http.ResponseWriter, r *http.Request, n int)) error {
		n := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			answer(w, r, n)
		}))
		defer server.Close()
		o.URL = server.URL + "/base/"
		_, err := gather(t, o, 1)
		return err
	}
	var refused *miniasynq.ProblemError
	require.ErrorAs(t, ask(miniasynq.Options{Auth: miniasynq.Bearer("k")}, func(w http.ResponseWriter, r *http.Request, n int) {
		require.Equal(t, "/base/api/v1/ws", r.URL.Path)
		require.Equal(t, "Bearer k", r.Header.Get("Authorization"))
		if n < 3 { // while it starts
			http.Error(w, "bad gateway", http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":"forbidden","detail":"needs read"}`))
	}), &refused)
	require.Equal(t, 403, refused.Status)
	require.Equal(t, "forbidden", refused.Code)
	require.Equal(t, "needs read", refused.Detail)
	require.ErrorAs(t, ask(miniasynq.Options{Auth: miniasynq.Basic("ada", "pw")}, func(w http.ResponseWriter, r *http.Request, _ int) {
		name, password, ok := r.BasicAuth()
		require.True(t, ok && name == "ada" && password == "pw")
		http.NotFound(w, r)
	}), &refused)
	require.Equal(t, "http_404", refused.Code)
}

func TestHandlersErrorEndsItAndTheEventComesAgain(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(s *end, _ int) {
		s.greet("3-4")
		s.say(ev(7, 5, 6, 7))
		s.rest()
	})
	store, broken := &memory{}, errors.New("disk full")
	err := miniasynq.ConsumeAt(t.Context(), quick, miniasynq.Options{URL: f.url, Cursors: store},
		func(_ context.Context, e miniasynq.Event) error {
			if e.Seq == 6 {
				return broken
			}
			return nil
		})
	require.Equal(t, broken, err)
	require.Equal(t, []string{"3-4", "3-5"}, store.saved)
}

func TestCursorThatCannotBeKeptEndsIt(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(s *end, _ int) {
		s.greet("3-4")
		s.rest()
	})
	store := &memory{fail: errors.New("read only")}
	_, err := gather(t, miniasynq.Options{URL: f.url, Cursors: store}, 1)
	require.ErrorIs(t, err, store.fail)
	require.ErrorContains(t, err, "load the cursor")
	_, err = gather(t, miniasynq.Options{URL: f.url, Cursors: &memory{saved: []string{"nonsense"}}}, 1)
	require.ErrorContains(t, err, "is not a cursor")
	folder := filepath.Join(t.TempDir(), "gone", "cursor")
	_, err = gather(t, miniasynq.Options{URL: f.url, Cursors: miniasynq.FileCursors(folder)}, 1)
	require.ErrorContains(t, err, "save the cursor")
}

func TestFileKeepsTheCursor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cursor")
	store := miniasynq.FileCursors(path)
	cursor, err := store.Load(t.Context())
	require.NoError(t, err)
	require.Empty(t, cursor)
	for _, next := range []string{"3-1", "3-2"} {
		require.NoError(t, store.Save(t.Context(), next))
		cursor, err = miniasynq.FileCursors(path).Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, next, cursor)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestBackoffDrawsFromBoundsThatDouble(t *testing.T) {
	t.Parallel()
	for failures, bound := range map[int]time.Duration{
		0: 500 * time.Millisecond, 1: time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1000: 30 * time.Second,
	} {
		low, high := time.Hour, time.Duration(0)
		for range 500 {
			pause := miniasynq.Backoff(failures)
			low, high = min(low, pause), max(high, pause)
		}
		require.Less(t, low, bound/4, "full jitter")
		require.Greater(t, high, bound*3/4)
		require.LessOrEqual(t, high, bound)
	}
}

func TestOptionsAreRefusedWithAllTheirFaults(t *testing.T) {
	t.Parallel()
	err := miniasynq.Consume(t.Context(), miniasynq.Options{URL: "ftp://x", Credit: 10_001, After: "yesterday"}, nil)
	require.ErrorContains(t, err, "URL")
	require.ErrorContains(t, err, "credit 10001")
	require.ErrorContains(t, err, `"yesterday" is not a cursor`)
	err = miniasynq.Consume(t.Context(), miniasynq.Options{URL: "http://ada:geheim@x"}, nil)
	require.ErrorContains(t, err, "credentials are Auth")
	require.NotContains(t, err.Error(), "geheim")
}
