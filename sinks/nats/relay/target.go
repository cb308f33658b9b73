package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// apiLimit bounds a call of JetStream's interface.
const apiLimit = 5 * time.Second

// duplicates is how long a stream that the relay makes remembers ids. It matters only when the last message is gone.
const duplicates = 2 * time.Minute

// target is the stream of JetStream and the bucket beside it, for one session.
type target struct {
	config Config
	js     jetstream.JetStream
	stream jetstream.Stream
	bucket jetstream.KeyValue
}

// openTarget finds stream and bucket, or makes them.
func openTarget(ctx context.Context, c Config) (*target, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*apiLimit)
	defer cancel()
	// What an earlier session left in flight counts until it is given up: twice the window.
	js, err := jetstream.New(c.NATS, jetstream.WithPublishAsyncMaxPending(2*c.Window), jetstream.WithPublishAsyncTimeout(c.AckWait))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	t := &target{config: c, js: js}
	t.stream, err = js.Stream(ctx, c.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		t.stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: c.Stream, Description: "Events of Mini Asynq", Subjects: []string{c.Prefix + ".>"},
			Replicas: c.Replicas, MaxAge: c.MaxAge, Duplicates: duplicates, Storage: jetstream.FileStorage,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open the stream %s: %w", c.Stream, err)
	}
	t.bucket, err = js.KeyValue(ctx, c.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		t.bucket, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: c.Bucket, Description: "Cursors of relays of Mini Asynq", Replicas: c.Replicas, History: 1,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", c.Bucket, err)
	}
	return t, nil
}

// close gives up what is in flight.
func (t *target) close() { t.js.CleanupPublisher() }

// errForeign means that the message at the end of the stream is not of a relay.
var errForeign = errors.New("its last message is not the relay's: give the relay a stream of its own")

// position reads where the stream is: the cursor up to which all is in it, zero if there is none, and its last sequence.
// The last message says it, but for what a filter held back behind it, and unless it was taken out or has expired: then
// the bucket does.
func (t *target) position(ctx context.Context) (at Cursor, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*apiLimit)
	defer cancel()
	// The bucket first: what it says was in the stream before.
	entry, err := t.bucket.Get(ctx, t.config.Stream)
	if err == nil {
		if at, err = ParseCursor(string(entry.Value())); err != nil {
			return at, 0, fmt.Errorf("bucket %s: %w", t.config.Bucket, err)
		}
	} else if !errors.Is(err, jetstream.ErrKeyNotFound) {
		return at, 0, fmt.Errorf("read the cursor in the bucket %s: %w", t.config.Bucket, err)
	}
	info, err := t.stream.Info(ctx) // the leader answers
	if err != nil {
		return at, 0, fmt.Errorf("read the state of the stream %s: %w", t.config.Stream, err)
	}
	last = info.State.LastSeq
	if info.State.Msgs == 0 {
		return at, last, nil
	}
	// By its sequence: a replica that is behind has no such message, and never gives an older one.
	found, err := t.stream.GetMsg(ctx, last)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return at, last, nil
	}
	if err != nil {
		return at, 0, fmt.Errorf("read the last message of the stream %s: %w", t.config.Stream, err)
	}
	stored, err := ParseCursor(found.Header.Get(nats.MsgIdHdr))
	if err != nil {
		return at, 0, fmt.Errorf("stream %s: %w", t.config.Stream, errForeign)
	}
	if stored.compare(at) > 0 {
		at = stored
	}
	return at, last, nil
}

// remember stores a cursor whose event is in the stream.
func (t *target) remember(ctx context.Context, at Cursor) error {
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	if _, err := t.bucket.PutString(ctx, t.config.Stream, at.String()); err != nil {
		return fmt.Errorf("store the cursor in the bucket %s: %w", t.config.Bucket, err)
	}
	return nil
}

// publish sends an event that is to follow the sequence last.
func (t *target) publish(e event, last uint64) (jetstream.PubAckFuture, error) {
	message := nats.NewMsg(t.config.Prefix + "." + e.kind)
	message.Data = e.body
	message.Header.Set("Content-Type", "application/json")
	future, err := t.js.PublishMsgAsync(message, jetstream.WithMsgID(e.at.String()),
		jetstream.WithExpectStream(t.config.Stream), jetstream.WithExpectLastSequence(last), jetstream.WithRetryAttempts(0))
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", e.at, err)
	}
	return future, nil
}
