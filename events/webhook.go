package events

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mini-asynq/mini-asynq/jobs"
)

const (
	webhookAnswerLimit  = 64 << 10 // read of an answer, so that its connection can be used again
	webhookPayloadLimit = 20 << 10
	maxRetryAfter       = 24 * time.Hour
	maxWebhookURL       = 2048
	secretPrefix        = "whsec_"
)

// NewWebhookSecret makes a secret of 32 random bytes.
func NewWebhookSecret() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails
	return secret
}

// WebhookSecretText writes a secret as receivers take it: whsec_ and base64.
func WebhookSecretText(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

// CheckWebhookURL says what is wrong with the address of a webhook; empty: nothing. Only https on 443 and 8443; listed hosts
// also http, and any port. What can be told from the text is refused here; what a name stands for, when it is called.
func (g *Guard) CheckWebhookURL(text string) (refused string) {
	if len(text) > maxWebhookURL {
		return "at most " + strconv.Itoa(maxWebhookURL) + " bytes"
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return "an address such as https://example.com/hook"
	case u.User != nil:
		return "no user and no password: the signature tells who sends"
	case strings.Contains(text, "#"):
		return "no fragment"
	case u.Scheme != "https" && u.Scheme != "http":
		return "https"
	}
	host := u.Hostname()
	port := cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
	if g.Listed(host, port) {
		return ""
	}
	switch {
	case u.Scheme != "https" || port != "443" && port != "8443":
		return "https on port 443 or 8443; other hosts have to be listed in MINIASYNQ_WEBHOOK_ALLOW"
	case !publicName(host):
		return "a public host; other hosts have to be listed in MINIASYNQ_WEBHOOK_ALLOW"
	}
	return ""
}

// publicName tells whether a host may be one of the internet, as far as its text says. Resolvers take more than netip does for
// an IPv4 address: 2130706433, 0x7f.1, 127.1. A host whose last label is a number is one or is nothing.
func publicName(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return public(addr)
	}
	if strings.ContainsAny(host, ":%") {
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "" || last == "localhost" || last == "local" || last == "internal" {
		return false
	}
	if rest, hex := strings.CutPrefix(last, "0x"); hex {
		return strings.Trim(rest, "0123456789abcdef") != ""
	}
	return strings.Trim(last, "0123456789") != ""
}

// verdict is how one try ended.
type verdict struct {
	delivered  bool
	untried    bool          // it was not even sent, for reasons of this server
	gone       bool          // the other side wants no more
	status     int           // 0: no answer
	retryAfter time.Duration // 0: the other side names none
	detail     string        // what went wrong; holds no part of the address but its host
}

// post is one signed POST.
type post struct {
	url      string
	id       string // webhook-id, the same on every try
	body     []byte
	secret   []byte
	previous []byte // nil: there is none
}

// sign makes the header webhook-signature: one signature for each secret that is valid.
func (p post) sign(at time.Time) (string, error) {
	var signatures []string
	for _, secret := range [][]byte{p.secret, p.previous} {
		if secret == nil {
			continue
		}
		signer, err := standardwebhooks.NewWebhookRaw(secret)
		if err != nil {
			return "", err
		}
		signature, err := signer.Sign(p.id, at, p.body)
		if err != nil {
			return "", err
		}
		signatures = append(signatures, signature)
	}
	return strings.Join(signatures, " "), nil
}

// send makes the call within timeout. The head of the answer decides; of its body 64 KiB are read and dropped.
func (p post) send(ctx context.Context, client *http.Client, timeout time.Duration) verdict {
	call, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(call, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return verdict{detail: "the address cannot be called"}
	}
	now := time.Now()
	signature, err := p.sign(now)
	if err != nil {
		return verdict{untried: true, detail: "the event could not be signed"}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "mini-asynq")
	request.Header.Set(standardwebhooks.HeaderWebhookID, p.id)
	request.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	request.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	answer, err := client.Do(request)
	if err != nil {
		return verdict{untried: ctx.Err() != nil, detail: callFault(err, request.URL.Host, timeout)}
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, webhookAnswerLimit)) // what it says, or fails to say, changes nothing
	v := verdict{
		status: answer.StatusCode, delivered: answer.StatusCode >= 200 && answer.StatusCode < 300,
		gone:       answer.StatusCode == http.StatusGone,
		retryAfter: min(retryAfter(answer.Header.Get("Retry-After")), maxRetryAfter),
	}
	if !v.delivered {
		v.detail = strings.TrimSpace("answered " + strconv.Itoa(v.status) + " " + http.StatusText(v.status))
	}
	return v
}

// callFault says why there was no answer. The library's error holds the whole address, of which parts may be secret.
func callFault(err error, host string, timeout time.Duration) string {
	var refused *NotAllowedError
	var dns *net.DNSError
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.Is(err, ErrNotListed):
		return ErrNotListed.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer within " + timeout.String()
	case errors.As(err, &dns):
		return "the name " + host + " could not be resolved"
	}
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err
	}
	return "call " + host + ": " + err.Error()
}

// retryAfter reads the header as seconds or as a date; 0 is none.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// webhookBody adds what a webhook with payloads gets: the payload as stored now, unless it is too large.
func webhookBody(event []byte, payload json.RawMessage) []byte {
	b := make([]byte, 0, len(event)+len(payload)+40)
	b = append(b, event[:len(event)-1]...)
	switch {
	case payload == nil:
		b = append(b, `,"payload":null`...)
	case len(payload) > webhookPayloadLimit:
		b = append(b, `,"payload":null,"payload_omitted":true`...)
	default:
		b = append(append(b, `,"payload":`...), payload...)
	}
	return append(b, '}')
}

// WebhookTest is how the call of a test ended.
type WebhookTest struct {
	Delivered bool
	Status    int // 0: no answer
	Took      time.Duration
	Detail    string // what went wrong
}

// Test sends an event of the type webhook.test to a webhook, whether it is enabled or not, and waits for the answer. It moves
// nothing. jobs.ErrNotFound.
func (w *Webhooks) Test(ctx context.Context, id uuid.UUID) (WebhookTest, error) {
	keys, err := jobs.WebhookKeys(ctx, w.config.DB, id)
	if err != nil {
		return WebhookTest{}, err
	}
	head, err := w.config.Readers.config.Stream.Head()
	if err != nil {
		return WebhookTest{}, err
	}
	event := &Event{Position: head, Type: "webhook.test", At: time.Now()}
	p := post{
		url: keys.URL, id: fmt.Sprintf("evt_test_%s", strings.ToLower(rand.Text())), body: event.JSON(),
		secret: keys.Secret, previous: keys.Previous,
	}
	began := time.Now()
	v := w.call(ctx, p)
	return WebhookTest{v.delivered, v.status, time.Since(began), v.detail}, nil
}
