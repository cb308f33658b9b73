package hub_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/hub"
)

func set(name string, values ...string) func(http.Header) {
	return func(h http.Header) { h[http.CanonicalHeaderKey(name)] = values }
}

func TestW1HandshakeTable(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, row := range []struct {
		method string
		header http.Header
		status int
		code   string
	}{
		{http.MethodGet, http.Header{}, 426, "upgrade_required"},
		{http.MethodGet, upgrade(set("Upgrade", "h2c")), 426, "upgrade_required"},
		{http.MethodGet, upgrade(set("Connection", "close")), 426, "upgrade_required"},
		{http.MethodPost, upgrade(), 405, "method_not_allowed"},
		{http.MethodPost, http.Header{}, 405, "method_not_allowed"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Version", "8")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Version")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Version", "13", "13")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Version", "13, 8")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Key")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Key", "short")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ==")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Protocol", "miniasynq.v2")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Protocol", "mqtt, graphql-ws")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Protocol", "")), 400, "invalid_parameter"},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Protocol", "miniasynq.v1")), 101, ""},
		{http.MethodGet, upgrade(set("Sec-WebSocket-Protocol", "miniasynq.v2, miniasynq.v1")), 101, ""},
		{http.MethodGet, upgrade(), 101, ""},
	} {
		status, problem, header := d.ask(row.method, "", row.header)
		require.Equal(t, row.status, status, row)
		if row.code != "" {
			require.Equal(t, row.code, problem["code"], row)
		}
		switch status {
		case 426:
			require.Equal(t, "websocket", header.Get("Upgrade"))
		case 405:
			require.Equal(t, "GET", header.Get("Allow"))
		}
	}
}

func TestW2OriginTable(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *hub.Config) { c.AllowedHosts = []string{"jobs.example.com", "ops.example.com:8443"} })
	own := strings.TrimPrefix(d.server.URL, "http://")
	host, port, err := net.SplitHostPort(own)
	require.NoError(t, err)
	for _, row := range []struct {
		host    string
		origins []string
		status  int
	}{
		{own, nil, 101}, // a program
		{own, []string{"http://" + own}, 101},
		{"LocalHost:" + port, []string{"http://localhost:" + port}, 101},
		{"example.org", []string{"http://example.org"}, 101},
		{"example.org", []string{"http://example.org:80"}, 101},
		{own, []string{"http://evil.example"}, 403},
		{own, []string{"null"}, 403},
		{own, []string{""}, 403},
		{own, []string{"http://sub." + own}, 403},
		{own, []string{"http://" + host + ":1"}, 403},
		{own, []string{"http://" + host}, 403},
		{own, []string{"https://" + own}, 403},
		{own, []string{"ws://" + own}, 403},
		{own, []string{"http://" + own + "/"}, 403},
		{own, []string{"http://" + own + "@evil.example"}, 403},
		{own, []string{"http://user@" + own}, 403},
		{own, []string{"http://" + own, "http://" + own}, 403},
		{own, []string{"https://jobs.example.com"}, 101},
		{own, []string{"http://jobs.example.com:" + port}, 101},
		{own, []string{"https://jobs.example.com:9"}, 403},
		{own, []string{"https://sub.jobs.example.com"}, 403},
		{own, []string{"https://jobs.example.com.evil.example"}, 403},
		{own, []string{"https://ops.example.com:8443"}, 101},
		{own, []string{"https://ops.example.com"}, 403},
	} {
		header := upgrade(set("Host", row.host))
		if row.origins != nil {
			header["Origin"] = row.origins
		}
		status, problem, _ := d.ask(http.MethodGet, "", header)
		require.Equal(t, row.status, status, row)
		if status == 403 {
			require.Equal(t, "cross_origin", problem["code"])
		}
	}
}

func TestW6CursorsAndParametersAreCheckedBeforeTheUpgrade(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.enqueue(5, "q")
	d.mark("end")
	d.dial("probe", "after=earliest").until("end")
	d.db.Exec(t, `UPDATE mini_asynq.epochs SET floor_seq = 2`)
	d.stream.Missed()
	require.Eventually(t, func() bool { return d.stream.Floor().Seq == 2 }, limit, time.Millisecond)
	epoch, _, _ := strings.Cut(d.head(), "-")
	long := strings.Repeat("a,", 200) + "a"
	for _, row := range []struct {
		query     string
		status    int
		code      string
		parameter string
	}{
		{"after=" + epoch + "-2", 101, "", ""},
		{"after=" + d.head(), 101, "", ""},
		{"after=earliest", 101, "", ""},
		{"after=x", 400, "cursor_invalid", "after"},
		{"after=" + epoch + "-02", 400, "cursor_invalid", "after"},
		{"after=" + epoch + "-999999", 400, "cursor_invalid", "after"},
		{"after=1-3", 409, "epoch_changed", ""},
		{"after=" + epoch + "-1", 410, "cursor_expired", ""},
		{"after=", 400, "invalid_parameter", "after"},
		{"after=latest&after=latest", 400, "invalid_parameter", "after"},
		{"include=payload", 403, "forbidden", ""},
		{"include=result", 400, "invalid_parameter", "include"},
		{"include=", 400, "invalid_parameter", "include"},
		{"ticket=abc", 400, "invalid_parameter", "ticket"},
		{"queue=mail", 400, "invalid_parameter", "queue"},
		{"Types=job.dead", 400, "invalid_parameter", "Types"},
		{"%zz=1", 400, "invalid_parameter", ""},
		{"types=", 400, "invalid_parameter", "types"},
		{"types=job.dead,", 400, "invalid_parameter", "types"},
		{"types=Job.Dead", 400, "invalid_parameter", "types"},
		{"types=*.dead", 400, "invalid_parameter", "types"},
		{"queues=a/b", 400, "invalid_parameter", "queues"},
		{"queues=..", 400, "invalid_parameter", "queues"},
		{"queues=**", 400, "invalid_parameter", "queues"},
		{"queues=" + long, 400, "invalid_parameter", "queues"},
		{"kinds=" + strings.Repeat("k", 256), 400, "invalid_parameter", "kinds"},
		{"job_ids=abc", 400, "invalid_parameter", "job_ids"},
		{"job_ids=urn:uuid:0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e", 400, "invalid_parameter", "job_ids"},
		{"tags=" + strings.Repeat("t", 65), 400, "invalid_parameter", "tags"},
		{"tags=%ff", 400, "invalid_parameter", "tags"},
		{"types=*&queues=*&kinds=email.*&tags=a%20b&job_ids=0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e", 101, "", ""},
		{"types=worker.online,some.future_type", 101, "", ""},
	} {
		status, problem, _ := d.ask(http.MethodGet, row.query, upgrade())
		require.Equal(t, row.status, status, "%v %v", row, problem)
		if row.code != "" {
			require.Equal(t, row.code, problem["code"], row)
		}
		if row.parameter != "" {
			require.Equal(t, row.parameter, problem["parameter"], row)
		}
		switch status {
		case 409:
			require.Equal(t, epoch, fmt.Sprintf("%.0f", problem["epoch"]))
		case 410:
			require.Equal(t, epoch+"-2", problem["floor"])
		}
	}
}

// raw is a socket without a library.
type raw struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (d *door) raw(t *testing.T, query string, headers ...string) *raw {
	t.Helper()
	address := strings.TrimPrefix(d.server.URL, "http://")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	_, err = io.WriteString(conn, "GET /api/v1/ws?"+query+" HTTP/1.1\r\nHost: "+address+"\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+
		strings.Join(headers, "\r\n")+strings.Repeat("\r\n", min(2, 1+len(headers))))
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	require.Equal(t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", response.Header.Get("Sec-WebSocket-Accept"))
	_ = response.Body.Close()
	return &raw{conn, t, in}
}

// masked is a client's frame, with a mask of zeros.
func masked(first byte, payload []byte) []byte {
	frame := []byte{first}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	return append(append(frame, 0, 0, 0, 0), payload...)
}

func (r *raw) send(frame []byte) {
	r.t.Helper()
	_, err := r.Write(frame)
	require.NoError(r.t, err)
}

// frame reads one frame of the server.
func (r *raw) frame() (opcode byte, payload []byte) {
	r.t.Helper()
	head := make([]byte, 2)
	_, err := io.ReadFull(r.in, head)
	require.NoError(r.t, err)
	require.Zero(r.t, head[1]&0x80, "a server does not mask")
	n := int(head[1])
	switch n {
	case 126:
		more := make([]byte, 2)
		_, err = io.ReadFull(r.in, more)
		n = int(binary.BigEndian.Uint16(more))
	case 127:
		require.Fail(r.t, "no frame of these tests is so long")
	}
	require.NoError(r.t, err)
	payload = make([]byte, n)
	_, err = io.ReadFull(r.in, payload)
	require.NoError(r.t, err)
	return head[0] & 0x0f, payload
}

// closeCode reads up to the close frame, and checks that the server then ends the line.
func (r *raw) closeCode() hub.CloseCode {
	r.t.Helper()
	for {
		opcode, payload := r.frame()
		if opcode != 8 {
			continue
		}
		_, err := r.in.ReadByte()
		require.ErrorIs(r.t, err, io.EOF)
		if len(payload) < 2 {
			return 0
		}
		return hub.CloseCode(binary.BigEndian.Uint16(payload))
	}
}

const (
	text, binaryFrame, goodbye, ping, final = 0x1, 0x2, 0x8, 0x9, 0x80
)

func TestW5BadFramesHaveTheirCodes(t *testing.T) {
	t.Parallel()
	d := open(t)
	for name, row := range map[string]struct {
		frames []byte
		code   hub.CloseCode
	}{
		"unmasked":                 {[]byte{final | text, 2, 'h', 'i'}, hub.CloseProtocol},
		"reserved bit 1":           {masked(final|0x40|text, []byte("hi")), hub.CloseProtocol},
		"reserved bit 2":           {masked(final|0x20|text, []byte("hi")), hub.CloseProtocol},
		"reserved bit 3":           {masked(final|0x10|text, []byte("hi")), hub.CloseProtocol},
		"fragmented ping":          {masked(ping, []byte("hi")), hub.CloseProtocol},
		"long ping":                {masked(final|ping, make([]byte, 126)), hub.CloseProtocol},
		"unknown opcode":           {masked(final|0x3, nil), hub.CloseProtocol},
		"unknown control":          {masked(final|0xb, nil), hub.CloseProtocol},
		"continuation of nothing":  {masked(final, []byte("hi")), hub.CloseProtocol},
		"text inside text":         {append(masked(text, []byte("a")), masked(final|text, []byte("b"))...), hub.CloseProtocol},
		"close with half a code":   {masked(final|goodbye, []byte{3}), 0}, // the library takes it for none
		"close with a bad code":    {masked(final|goodbye, []byte{0, 1}), hub.CloseProtocol},
		"binary":                   {masked(final|binaryFrame, []byte("hi")), hub.CloseBinary},
		"invalid UTF-8":            {masked(final|text, []byte("a\xff")), hub.CloseBadText},
		"UTF-8 cut at the end":     {masked(final|text, []byte("a\xc3")), hub.CloseBadText},
		"surrogate":                {masked(final|text, []byte("\xed\xa0\x80")), hub.CloseBadText},
		"over 16 KiB":              {masked(final|text, make([]byte, 16<<10+1)), hub.CloseTooBig},
		"over 16 KiB in fragments": {append(masked(text, make([]byte, 16<<10)), masked(final, []byte("x"))...), hub.CloseTooBig},
		"a length of 2^63":         {append([]byte{final | text, 0xff}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), hub.CloseProtocol},
		"goodbye":                  {masked(final|goodbye, []byte{3, 232}), hub.CloseNormal},
		"goodbye without a code":   {masked(final|goodbye, nil), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := d.raw(t, "")
			r.send(row.frames)
			if name == "a length of 2^63" {
				// The library gives up without a word; any end will do.
				_, err := io.Copy(io.Discard, r.in)
				require.NoError(t, err)
				return
			}
			require.Equal(t, row.code, r.closeCode())
		})
	}
}

func TestW4FloodsAreCutOff(t *testing.T) {
	t.Parallel()
	d := open(t)
	for name, frame := range map[string][]byte{
		"messages": masked(final|text, []byte("hi")), "pings": masked(final|ping, nil), "pongs": masked(final|0xa, nil),
	} {
		r := d.raw(t, "")
		for range 200 {
			r.send(frame)
		}
		require.Equal(t, hub.CloseFlood, r.closeCode(), name)
	}
}

// What a client says in plain mode is ignored, pings are answered, a split character in a split message is no fault.
func TestPlainModeIgnoresWhatItHears(t *testing.T) {
	t.Parallel()
	d := open(t)
	r := d.raw(t, "")
	r.send(masked(final|text, []byte(`{"t":"sub","id":"s1"}`)))
	r.send(masked(text, []byte("gr\xc3")))
	r.send(masked(final|ping, []byte("are you there")))
	r.send(masked(final, []byte("\xbc\xc3\x9fe")))
	r.send(masked(final|text, make([]byte, 16<<10)))
	opcode, payload := r.frame()
	require.EqualValues(t, 0xa, opcode)
	require.Equal(t, "are you there", string(payload))
	d.mark("now")
	opcode, payload = r.frame()
	require.EqualValues(t, text, opcode)
	require.Contains(t, string(payload), `"queue":"now"`)
}
