package api

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of failed sign-ins: what a person mistypes stays far below, what guesses passwords does not.
const (
	maxFailures   = 10
	failureWindow = time.Minute
	// maxFailureKeys bounds the memory: a stranger with many addresses pushes out the oldest counts.
	maxFailureKeys = 10_000
	// maxRetryAfter keeps an honest caller from sleeping longer than needed; the count itself lasts for its window.
	maxRetryAfter = failureWindow
)

// failures counts failed sign-ins of the last minute, per key.
type failures struct {
	mu     sync.Mutex // guards counts; nothing blocks under it
	counts map[failureKey]failureCount
}

// failureKey is an address, or an address and an account.
type failureKey struct {
	address netip.Prefix
	account string
}

type failureCount struct {
	n     int
	since time.Time
}

func newFailures() *failures { return &failures{counts: make(map[failureKey]failureCount)} }

// failureKeys are those of one sign-in. An IPv6 caller has a whole /64 to choose from, so that is one address.
func failureKeys(address netip.Addr, account string) []failureKey {
	bits := 32
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		prefix = netip.Prefix{} // no address (a test's recorder): all of them together
	}
	keys := []failureKey{{address: prefix}}
	if account != "" {
		keys = append(keys, failureKey{address: prefix, account: limited(account)})
	}
	return keys
}

// blocked is how long the keys have to wait; 0: they may try.
func (f *failures) blocked(keys []failureKey) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var wait time.Duration
	for _, key := range keys {
		if count := f.counts[key]; count.n >= maxFailures {
			wait = max(wait, time.Until(count.since.Add(failureWindow)))
		}
	}
	return wait
}

// add counts a failure.
func (f *failures) add(keys []failureKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now() // monotonic
	for _, key := range keys {
		count := f.counts[key]
		if count.n == 0 || now.Sub(count.since) >= failureWindow {
			if count.n == 0 && len(f.counts) >= maxFailureKeys {
				f.makeRoom(now)
			}
			count = failureCount{since: now}
		}
		count.n++
		f.counts[key] = count
	}
}

// makeRoom drops what has expired, and if that is nothing the oldest.
func (f *failures) makeRoom(now time.Time) {
	var oldest failureKey
	at := now
	for key, count := range f.counts {
		if now.Sub(count.since) >= failureWindow {
			delete(f.counts, key)
		} else if !count.since.After(at) {
			oldest, at = key, count.since
		}
	}
	if len(f.counts) >= maxFailureKeys {
		delete(f.counts, oldest)
	}
}
