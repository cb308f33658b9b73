package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"github.com/mini-asynq/mini-asynq/events"
	"github.com/mini-asynq/mini-asynq/jobs"
)

// A key that is revoked at one node is refused at every other within 5 s, and what it holds open there ends: by the event
// within milliseconds; without it by asking again, which is done before a credential counts that was not looked at for
// freshFor, and every recheckEvery for those behind calls that last.
const (
	freshFor     = 2 * time.Second
	recheckEvery = 2 * time.Second
	noteUseEvery = 30 * time.Second
	unusedFor    = 5 * time.Minute // a credential that nobody has used for so long is forgotten
)

// credentialID names what is stored of a credential: a key by its id, a login by the hash of what the caller holds.
type credentialID struct {
	key   uuid.UUID
	login [sha256.Size]byte
}

// heldCredential is a key or a login that this node has read. Guarded by keyring.mu, but for what never changes.
type heldCredential struct {
	id     credentialID // never changes
	hash   []byte       // of a key's secret; never changes
	mark   []byte       // of a login by password; never changes
	behind uuid.UUID    // the key of a login by key; never changes

	// ctx ends with the credential: calls that last follow it. Both never change.
	ctx context.Context //nolint:containedctx // it is the life of the credential, which outlives every call
	end context.CancelCauseFunc

	ring *keyring // that holds it; never changes

	name   string // of the key
	role   string
	scopes []Scope
	queues []string

	until   time.Time // monotonic; zero: it does not expire
	checked time.Time
	usedAt  time.Time
	calls   int // that are under way
}

var (
	errNoCredential    = errors.New("api: no such credential")
	errCredentialEnded = errors.New("api: the credential has ended")
)

// keyring is what this node knows of keys and logins. Safe for concurrent use.
type keyring struct {
	db       jobs.DB
	deadline time.Duration
	log      zerolog.Logger
	loads    singleflight.Group // of one credential there is one query at a time

	mu   sync.Mutex // guards what follows; nothing blocks under it
	held map[credentialID]*heldCredential
	used map[uuid.UUID]struct{} // keys, since their use was noted the last time
}

func newKeyring(db jobs.DB, deadline time.Duration, log zerolog.Logger) *keyring {
	return &keyring{db: db, deadline: deadline, log: log, held: make(map[credentialID]*heldCredential),
		used: make(map[uuid.UUID]struct{})}
}

// find returns a credential that is valid now, or errNoCredential. Any other error is the database's.
func (k *keyring) find(ctx context.Context, id credentialID) (*heldCredential, error) {
	if h := k.fresh(id); h != nil {
		return h, nil
	}
	done := k.loads.DoChan(string(id.key[:])+string(id.login[:]), func() (any, error) {
		// For all who wait, so it does not end with the first one who came.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.deadline)
		defer cancel()
		return nil, k.read(ctx, []credentialID{id})
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, r.Err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if h := k.fresh(id); h != nil {
		return h, nil
	}
	return nil, errNoCredential
}

// fresh returns a credential that was looked at not long ago, and notes its use; nil if there is none.
func (k *keyring) fresh(id credentialID) *heldCredential {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.held[id]
	if h == nil || now.Sub(h.checked) > freshFor || h.expired(now) {
		return nil
	}
	h.usedAt = now
	if id.key != uuid.Nil {
		k.used[id.key] = struct{}{}
	}
	return h
}

// knows tells whether a credential is in memory, however old.
func (k *keyring) knows(id credentialID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[id] != nil
}

func (h *heldCredential) expired(now time.Time) bool {
	return !h.until.IsZero() && !now.Before(h.until)
}

// begin counts a call that a credential is behind; done ends that. A credential that has ended since it was found is told
// by its ctx.
func (k *keyring) begin(h *heldCredential) (done func()) {
	k.mu.Lock()
	h.calls++
	k.mu.Unlock()
	return func() {
		k.mu.Lock()
		h.calls--
		h.usedAt = time.Now()
		k.mu.Unlock()
	}
}

// read asks the database for credentials, takes in those that are there, and ends those that are not.
func (k *keyring) read(ctx context.Context, ids []credentialID) error {
	asked := time.Now() // before the query: what it says is true for that moment at least
	keyIDs := make([]uuid.UUID, 0, len(ids))
	var hashes [][]byte
	for _, id := range ids {
		if id.key != uuid.Nil {
			keyIDs = append(keyIDs, id.key)
		} else {
			hashes = append(hashes, id.login[:])
		}
	}
	var logins []jobs.Login
	if len(hashes) > 0 {
		var err error
		if logins, err = jobs.FindLogins(ctx, k.db, hashes); err != nil {
			return err
		}
		for _, l := range logins {
			if l.KeyID != uuid.Nil {
				keyIDs = append(keyIDs, l.KeyID)
			}
		}
	}
	keys := make(map[uuid.UUID]jobs.APIKey, len(keyIDs))
	if len(keyIDs) > 0 {
		found, err := jobs.FindAPIKeys(ctx, k.db, keyIDs)
		if err != nil {
			return err
		}
		for _, key := range found {
			keys[key.ID] = key
		}
	}
	now := make(map[credentialID]*heldCredential, len(ids))
	for id, key := range keys {
		if h := ofKey(key, asked); h != nil {
			now[credentialID{key: id}] = h
		}
	}
	for _, l := range logins {
		if h := ofLogin(l, keys, asked); h != nil {
			now[h.id] = h
		}
	}
	k.take(ids, now)
	return nil
}

// ofKey is what a key allows; nil if it has expired.
func ofKey(key jobs.APIKey, asked time.Time) *heldCredential {
	h := &heldCredential{
		id: credentialID{key: key.ID}, hash: key.Hash, name: "key:" + key.Name, role: key.Role, queues: key.Queues, checked: asked,
	}
	for _, s := range key.Scopes {
		h.scopes = append(h.scopes, Scope(s))
	}
	if !key.ExpiresAt.IsZero() {
		h.until = asked.Add(key.ValidFor)
	}
	if h.expired(asked) {
		return nil
	}
	return h
}

// ofLogin is what a login allows, which is what the credential behind it allows; nil if that is gone.
func ofLogin(l jobs.Login, keys map[uuid.UUID]jobs.APIKey, asked time.Time) *heldCredential {
	h := &heldCredential{mark: l.Mark, checked: asked}
	if l.KeyID != uuid.Nil {
		key, ok := keys[l.KeyID]
		if !ok {
			return nil
		}
		if h = ofKey(key, asked); h == nil {
			return nil
		}
		h.hash = nil // its secret does not count here
	}
	h.id, h.behind = credentialID{login: [sha256.Size]byte(l.Hash)}, l.KeyID
	if end := asked.Add(l.ValidFor); h.until.IsZero() || end.Before(h.until) {
		h.until = end
	}
	return h
}

// take replaces what is known of the credentials that were asked for. One that is held already keeps its identity: calls
// under way follow it.
func (k *keyring) take(asked []credentialID, found map[credentialID]*heldCredential) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range asked {
		h, before := found[id], k.held[id]
		switch {
		case h == nil && before != nil:
			k.drop(before)
		case h != nil && before != nil:
			before.until, before.checked = h.until, h.checked // nothing else of a credential ever changes
		case h != nil:
			h.ctx, h.end = context.WithCancelCause(context.Background())
			h.ring = k
			h.usedAt = time.Now()
			k.held[id] = h
		}
	}
}

// drop ends a credential. k.mu is held; what follows its ctx runs in goroutines of their own.
func (k *keyring) drop(h *heldCredential) {
	delete(k.held, h.id)
	h.end(errCredentialEnded)
}

// revoke ends a key and the logins that it is behind.
func (k *keyring) revoke(key uuid.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if h.id.key == key || h.behind == key {
			k.drop(h)
		}
	}
}

// signOut ends a login at this node; the others find out when they look again.
func (k *keyring) signOut(login [sha256.Size]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[credentialID{login: login}]; h != nil {
		k.drop(h)
	}
}

// fold hears from the stream which keys were revoked, at whatever node.
func (k *keyring) fold(batch []*events.Event) {
	for _, e := range batch {
		if e.Type != "key.revoked" {
			continue
		}
		var data struct {
			KeyID uuid.UUID `json:"key_id"`
		}
		if err := json.Unmarshal(e.Data, &data); err == nil { // written by our trigger
			k.revoke(data.KeyID)
		}
	}
}

// keep looks again at the credentials behind calls that last, ends what has expired, and notes which keys are used, until
// ctx ends. While no credential is in use it asks nothing.
func (k *keyring) keep(ctx context.Context) {
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	noted := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if ids := k.stale(now); len(ids) > 0 {
			k.bounded(ctx, "credentials could not be looked at again", func(ctx context.Context) error { return k.read(ctx, ids) })
		}
		if now.Sub(noted) >= noteUseEvery {
			noted = now
			if ids := k.takeUsed(); len(ids) > 0 {
				k.bounded(ctx, "the use of keys could not be noted", func(ctx context.Context) error {
					return jobs.UseAPIKeys(ctx, k.db, ids)
				})
			}
		}
	}
}

// bounded runs a step of the loop; one that fails is tried again with the next round.
func (k *keyring) bounded(ctx context.Context, phrase string, step func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, k.deadline)
	defer cancel()
	if err := step(ctx); err != nil && ctx.Err() == nil {
		k.log.Warn().Err(err).Msg(phrase)
	}
}

// stale are the credentials of calls under way that were not looked at for freshFor. Those that have expired end here, and
// those that nobody uses are forgotten.
func (k *keyring) stale(now time.Time) (ids []credentialID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, h := range k.held {
		switch {
		case h.expired(now):
			k.drop(h)
		case h.calls > 0 && now.Sub(h.checked) >= freshFor:
			ids = append(ids, id)
		case h.calls == 0 && now.Sub(h.usedAt) > unusedFor:
			k.drop(h) // nobody follows its ctx
		}
	}
	return ids
}

func (k *keyring) takeUsed() []uuid.UUID {
	k.mu.Lock()
	defer k.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(k.used))
	for id := range k.used {
		ids = append(ids, id)
	}
	clear(k.used)
	return ids
}
