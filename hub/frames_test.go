package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/hub"
)

// badFrames are not frames of the protocol.
var badFrames = map[string]string{
	"nothing":                 ``,
	"not JSON":                `hello`,
	"a list":                  `[]`,
	"a text":                  `"sub"`,
	"null":                    `null`,
	"an open object":          `{"t":"ping","n":7`,
	"two objects":             `{"t":"ping","n":7}{"t":"ping","n":8}`,
	"no t":                    `{"id":"s1"}`,
	"t is a number":           `{"t":1}`,
	"unknown t":               `{"t":"subscribe","id":"s1"}`,
	"a frame of the server":   `{"t":"hello","v":1}`,
	"t in capitals":           `{"T":"ping","n":7}`,
	"a member in capitals":    `{"t":"ping","N":7}`,
	"unknown member":          `{"t":"ping","n":7,"m":8}`,
	"a member of another":     `{"t":"unsub","id":"s1","n":1}`,
	"a member twice":          `{"t":"ping","n":7,"n":8}`,
	"t twice":                 `{"t":"ping","t":"ping","n":7}`,
	"no n":                    `{"t":"ping"}`,
	"n is a fraction":         `{"t":"ping","n":7.5}`,
	"n is null":               `{"t":"ping","n":null}`,
	"n is too large":          `{"t":"ping","n":99999999999999999999}`,
	"no id":                   `{"t":"sub","class":"view"}`,
	"an empty id":             `{"t":"sub","id":"","class":"view"}`,
	"a long id":               `{"t":"sub","id":"` + strings.Repeat("x", 65) + `","class":"view"}`,
	"id is a number":          `{"t":"sub","id":1,"class":"view"}`,
	"no class":                `{"t":"sub","id":"s1"}`,
	"after is null":           `{"t":"sub","id":"s1","class":"view","after":null}`,
	"filter is a list":        `{"t":"sub","id":"s1","class":"view","filter":[]}`,
	"a filter's field a text": `{"t":"sub","id":"s1","class":"view","filter":{"types":"job.*"}}`,
	"credit is a text":        `{"t":"sub","id":"s1","class":"consumer","credit":"10"}`,
	"no filter":               `{"t":"filter","id":"s1"}`,
	"no every":                `{"t":"stats"}`,
}

// W4: what is no frame of the protocol ends the socket, and so do the limits.
func TestW4BadFramesCloseTheSocket(t *testing.T) {
	t.Parallel()
	d := open(t)
	for name, text := range badFrames {
		require.NotEmpty(t, hub.ReadWish([]byte(text)), name)
		f := d.dialFramed("")
		f.say("%s", text)
		code, why, _ := f.closed()
		require.Equal(t, hub.CloseBadFrame, code, name)
		require.Equal(t, "bad_frame", why.Code, name)
	}
}

// W4: no first frame, an id twice, too many subscriptions, a flood.
func TestW4LimitsOfASession(t *testing.T) {
	t.Parallel()
	d := open(t)
	hasty := open(t, func(c *hub.Config) { c.FirstWithin = 100 * time.Millisecond }) // too short for those who do say something
	mute := hasty.dialFramed("mute")
	require.NoError(t, mute.WriteControl(9, nil, time.Now().Add(limit)), "a ping is no frame")
	code, why, _ := mute.closed()
	require.Equal(t, hub.CloseSilent, code)
	require.Empty(t, why.Cursor, "each subscription has its own")

	twice := d.dialFramed("twice")
	twice.say(`{"t":"sub","id":"s1","class":"view"}`)
	twice.say(`{"t":"sub","id":"s1","class":"consumer"}`)
	code, why, _ = twice.closed()
	require.Equal(t, hub.CloseIDInUse, code)
	require.Equal(t, "id_in_use", why.Code)

	many := d.dialFramed("many")
	for n := range 17 {
		many.say(`{"t":"sub","id":"s%d","class":"view"}`, n)
	}
	code, why, before := many.closed()
	require.Equal(t, hub.CloseFlood, code)
	require.EqualValues(t, 30_000, why.RetryMS)
	subbed := 0
	for _, f := range before {
		if f.T == "subbed" {
			subbed++
		}
	}
	require.LessOrEqual(t, subbed, 16)

	flood := d.dialFramed("flood")
	for n := range 60 {
		if flood.WriteMessage(1, fmt.Appendf(nil, `{"t":"ping","n":%d}`, n)) != nil {
			break
		}
	}
	code, _, _ = flood.closed()
	require.Equal(t, hub.CloseFlood, code)
}

// W5: the protocol below is the same in both modes.
func TestW5FramedModeKeepsTheProtocolBelow(t *testing.T) {
	t.Parallel()
	d := open(t)
	for name, row := range map[string]struct {
		frame []byte
		code  hub.CloseCode
	}{
		"binary":        {masked(final|binaryFrame, []byte(`{"t":"ping","n":7}`)), hub.CloseBinary},
		"invalid UTF-8": {masked(final|text, []byte("{\"t\":\"\xff\"}")), hub.CloseBadText},
		"over 16 KiB":   {masked(final|text, make([]byte, 16<<10+1)), hub.CloseTooBig},
		"unmasked":      {[]byte{final | text, 2, '{', '}'}, hub.CloseProtocol},
		"goodbye":       {masked(final|goodbye, []byte{3, 232}), hub.CloseNormal},
	} {
		r := d.raw(t, "", "Sec-WebSocket-Protocol: "+hub.Subprotocol)
		r.send(row.frame)
		require.Equal(t, row.code, r.closeCode(), name)
	}
}

// What cannot be done is said, and the socket lives on.
func TestErrKeepsTheSocket(t *testing.T) {
	t.Parallel()
	d := open(t)
	f := d.dialFramed("")
	f.say(`{"t":"sub","id":"c","class":"consumer","credit":9000}`)
	f.until("caught_up", "c")
	f.say(`{"t":"sub","id":"v","class":"view"}`)
	f.until("caught_up", "v")
	long := strings.Repeat(`"a",`, 200) + `"a"`
	for _, row := range []struct{ frame, id, code string }{
		{`{"t":"sub","id":"s1","class":"screen"}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"view","after":""}`, "s1", "cursor_invalid"},
		{`{"t":"sub","id":"s1","class":"view","after":"x"}`, "s1", "cursor_invalid"},
		{`{"t":"sub","id":"s1","class":"view","filter":{"queue":["mail"]}}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"view","filter":{"Types":["job.*"]}}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"view","filter":{"types":["*.dead"]}}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"view","filter":{"queues":[` + long + `]}}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"view","credit":1}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"view","include":["payload"]}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"consumer","include":["payload"]}`, "s1", "forbidden"},
		{`{"t":"sub","id":"s1","class":"consumer","include":["result"]}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"consumer","credit":10001}`, "s1", "invalid_parameter"},
		{`{"t":"sub","id":"s1","class":"consumer","credit":-1}`, "s1", "invalid_parameter"},
		{`{"t":"credit","id":"c","n":0}`, "c", "invalid_parameter"},
		{`{"t":"credit","id":"c","n":1001}`, "c", "invalid_parameter"},
		{`{"t":"credit","id":"v","n":1}`, "v", "invalid_parameter"},
		{`{"t":"credit","id":"gone","n":1}`, "gone", "unknown_id"},
		{`{"t":"filter","id":"gone","filter":{}}`, "gone", "unknown_id"},
		{`{"t":"filter","id":"c","filter":{"tags":[""]}}`, "c", "invalid_parameter"},
		{`{"t":"unsub","id":"gone"}`, "gone", "unknown_id"},
		{`{"t":"stats","every":"1s"}`, "", "unavailable"},
	} {
		require.Empty(t, hub.ReadWish([]byte(row.frame)), row.frame)
		f.say("%s", row.frame)
		said, before := f.until("err", row.id)
		require.Empty(t, before, row.frame)
		require.Equal(t, row.code, said.Code, row.frame)
		require.NotEmpty(t, said.Detail)
	}
	f.say(`{"t":"ping","n":-7}`)
	pong, _ := f.until("pong", "")
	require.EqualValues(t, -7, pong.N)
}

func FuzzReadWish(f *testing.F) {
	for _, text := range badFrames {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"t":"sub","id":"s1","class":"consumer","after":"3-1","filter":{"types":["job.*"],"job_ids":[]},"include":["payload"],"credit":7}`))
	f.Add([]byte(`{"t":"sub","id":"s1","clads":"view","filter":[]}`)) // two faults
	f.Add([]byte(`{"t":"stats","every":"1s","queues":["mail"]}`))
	f.Add([]byte(`{"t":"credit","id":"s1","n":5e2}`))
	f.Fuzz(func(t *testing.T, said []byte) {
		detail := hub.ReadWish(said)
		require.LessOrEqual(t, len(detail), 60, "it must fit into a close frame")
		// White space around a frame changes nothing.
		require.Equal(t, detail, hub.ReadWish([]byte(" "+string(said)+"\n")))
	})
}
