package events_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/mini-asynq/mini-asynq/events"
)

// nameServer answers every question for an IPv4 address with the next of a list, and stays with the last; it is asked by a
// resolver of its own.
func nameServer(t *testing.T, addresses ...string) *net.Resolver {
	t.Helper()
	var asked atomic.Int64
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			end := 12
			for buffer[end] != 0 {
				end += int(buffer[end]) + 1
			}
			end += 5
			kind := binary.BigEndian.Uint16(buffer[end-4:])
			reply := append([]byte{}, buffer[:min(end, n)]...)
			copy(reply[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
			if kind == 1 {
				i := min(int(asked.Add(1)), len(addresses)) - 1
				reply[7] = 1
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, net.ParseIP(addresses[i]).To4()...)
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// get calls through a guard, and says whether the address was refused.
func get(t *testing.T, g *events.Guard, url string) (refused bool, err error) {
	t.Helper()
	client := g.Client(time.Second)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	answer, err := client.Do(request)
	if err == nil {
		require.NoError(t, answer.Body.Close())
	}
	var not *events.NotAllowedError
	return errors.As(err, &not) || errors.Is(err, events.ErrNotListed), err
}

// A name that stands for a public address when it is looked at and for this machine when it is called gains nothing, and
// neither does one that changes between two calls.
func TestNameThatChangesItsAddressIsRefusedWhenItIsCalled(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer target.Close()
	port := target.URL[strings.LastIndexByte(target.URL, ':'):]
	for _, second := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1"} {
		g, err := events.NewGuard(nil, true)
		require.NoError(t, err)
		g.ResolveWith(nameServer(t, "192.88.99.1", second))
		require.Empty(t, g.CheckWebhookURL("https://rebind.example.com/"))
		refused, err := get(t, g, "http://rebind.example.com"+port)
		require.Error(t, err)
		require.False(t, refused, "the first address is public: %v", err)
		refused, err = get(t, g, "http://rebind.example.com"+port)
		require.True(t, refused, "%s: %v", second, err)
	}
	require.Zero(t, hits.Load())

	// A listed name is held to the same, unless it is marked.
	for entry, want := range map[string]bool{"rebind.example.com": true, "private:rebind.example.com": false} {
		g, err := events.NewGuard([]string{entry}, false)
		require.NoError(t, err)
		g.ResolveWith(nameServer(t, "127.0.0.1"))
		refused, err := get(t, g, "http://rebind.example.com"+port)
		require.Equal(t, want, refused, "%s: %v", entry, err)
	}
	require.EqualValues(t, 1, hits.Load())
}

// V5 at dial time: what got into the table some other way is refused when it is called.
func TestV5AddressesAreRefusedWhenTheyAreCalled(t *testing.T) {
	t.Parallel()
	g, err := events.NewGuard(nil, true)
	require.NoError(t, err)
	for _, url := range []string{
		"http://127.0.0.1:1/", "http://[::1]:1/", "http://[::ffff:127.0.0.1]:1/", "http://[::ffff:10.0.0.1]/", "http://10.0.0.1/",
		"http://169.254.169.254/", "http://0.0.0.0:1/", "http://[::]:1/", "http://[fe80::1%25lo]:1/", "http://localhost:1/",
		"http://[64:ff9b::7f00:1]/", "http://[::127.0.0.1]:1/",
	} {
		refused, err := get(t, g, url)
		require.True(t, refused, "%s: %v", url, err)
	}
	// Resolvers read these as addresses of this machine, or as nothing; a connection is never made.
	for _, url := range []string{"http://2130706433:1/", "http://0x7f.1:1/", "http://127.1:1/"} {
		_, err := get(t, g, url)
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "connection refused", url)
	}
}

func TestGuardUsesNoProxy(t *testing.T) { //nolint:paralleltest // it sets the environment
	var hits atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	g, err := events.NewGuard(nil, true)
	require.NoError(t, err)
	g.ResolveWith(nameServer(t, "10.0.0.1"))
	refused, _ := get(t, g, "http://example.com/")
	require.True(t, refused)
	require.Zero(t, hits.Load())
}

func TestGuardReadsItsList(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "a/b", "*.example.com", "user@host", "private:"} {
		_, err := events.NewGuard([]string{bad}, true)
		require.Error(t, err, bad)
	}
	g, err := events.NewGuard([]string{"hooks.example.com", "10.0.0.7:9000", "private:billing"}, true)
	require.NoError(t, err)
	for url, want := range map[string]bool{
		"http://hooks.example.com/": true, "http://Hooks.Example.com:81/": true, "http://10.0.0.7:9000/": true, "http://billing:1/": true,
		"http://10.0.0.7:9001/": false, "http://other.example.com/": false, "https://10.0.0.8/": false, "http://u@billing/": false,
		"ftp://billing/": false,
	} {
		require.Equal(t, want, g.CheckWebhookURL(url) == "", url)
	}
}

// The vectors are those of the specification's own library; the last was made with openssl.
func TestSignaturesAreThoseOfStandardWebhooks(t *testing.T) {
	t.Parallel()
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	at := time.Unix(1614265330, 0)
	got, err := events.SignWebhook("msg_p5jXN8AQM9LWM0D4loKWxJek", at, []byte(`{"test": 2432232314}`), key, nil)
	require.NoError(t, err)
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", got)
	both, err := events.SignWebhook("msg_p5jXN8AQM9LWM0D4loKWxJek", at, []byte(`{"test": 2432232314}`), []byte(strings.Repeat("n", 32)), key)
	require.NoError(t, err)
	require.Len(t, strings.Fields(both), 2)
	require.True(t, strings.HasSuffix(both, " "+got), "the new one first")
	got, err = events.SignWebhook("evt_3-918273", at, []byte(`{"cursor":"3-918273"}`), []byte(strings.Repeat("k", 32)), nil)
	require.NoError(t, err)
	require.Equal(t, "v1,RUyGsnZzAIxGwGpRkxXa3tKeR0cGbmwn4x1Nihe6/yA=", got)

	text := events.WebhookSecretText([]byte(strings.Repeat("k", 32)))
	require.Equal(t, "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", text)
	_, err = standardwebhooks.NewWebhook(text)
	require.NoError(t, err)
	require.Len(t, events.NewWebhookSecret(), 32)
	require.NotEqual(t, events.NewWebhookSecret(), events.NewWebhookSecret())
}

// Whatever the address: it is judged without a panic, and what is let through names a host on https and a known port.
func FuzzWebhookURL(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/x", "http://2130706433", "https://0x7f.1/", "https://[::ffff:10.0.0.1]/", "https://u:p@h/", "https://h:8443", "//h", "%",
	} {
		f.Add(seed)
	}
	g, err := events.NewGuard(nil, true)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text string) {
		if g.CheckWebhookURL(text) != "" {
			return
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, text, nil)
		require.NoError(t, err)
		require.Equal(t, "https", request.URL.Scheme)
		require.Contains(t, []string{"", "443", "8443"}, request.URL.Port())
		require.Nil(t, request.URL.User)
		if ip := net.ParseIP(request.URL.Hostname()); ip != nil {
			require.False(t, ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified(), text)
		}
	})
}
