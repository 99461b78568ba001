package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// ErrSilent ends a stream that has not even carried heartbeats for too long.
var ErrSilent = errors.New("no heartbeat from the master for too long")

// EventReader is one connection of an event stream. Next is for one goroutine; Close may be called from any.
type EventReader struct {
	client  *Client
	resp    *http.Response
	records *RecordReader
	ct      ContentType
	cancel  context.CancelCauseFunc
	ctx     context.Context

	mu      sync.Mutex
	silence time.Duration
	watch   *time.Timer
}

// Open sends a SUBSCRIBE call and returns the stream of events that answers it, once the headers are there. The stream
// ends with ctx. It does not reconnect: see Subscribe.
func (c *Client) Open(ctx context.Context, call proto.Message) (*EventReader, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timeout := time.AfterFunc(c.cfg.CallTimeout, func() { cancel(fmt.Errorf("no answer within %v", c.cfg.CallTimeout)) })
	resp, err := c.send(ctx, call, "")
	if !timeout.Stop() && err == nil {
		resp.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		err = orCause(ctx, err)
		cancel(nil)
		return nil, err
	}
	media := resp.Header.Get("Content-Type")
	if media == MediaRecordIO {
		media = resp.Header.Get("Message-Content-Type")
	}
	ct, ok := ParseContentType(media)
	if !ok {
		resp.Body.Close()
		cancel(nil)
		return nil, fmt.Errorf("%w: stream has Content-Type %q", errPermanent, media)
	}
	c.mu.Lock()
	c.streamID = resp.Header.Get("Mesos-Stream-Id")
	c.mu.Unlock()
	return &EventReader{
		client: c, resp: resp, records: NewRecordReader(resp.Body, c.cfg.MaxRecord), ct: ct, cancel: cancel, ctx: ctx,
	}, nil
}

// Next reads the next event into m, which is reset. It returns io.EOF when the server ended the stream.
func (er *EventReader) Next(m proto.Message) error {
	record, err := er.records.Next()
	if err != nil {
		return er.ended(err)
	}
	proto.Reset(m)
	if err := er.ct.Unmarshal(record, m); err != nil {
		return fmt.Errorf("decoding an event: %w", err)
	}
	if !er.heard() {
		er.arm(m)
	}
	return nil
}

// NextRecord returns the next event as it came, valid until the following call: for clients that look at a part of it only.
// Its encoding is ContentType's. The first event, which announces heartbeats, is Next's.
func (er *EventReader) NextRecord() ([]byte, error) {
	record, err := er.records.Next()
	if err != nil {
		return nil, er.ended(err)
	}
	er.heard()
	return record, nil
}

// ContentType is the encoding of the events.
func (er *EventReader) ContentType() ContentType { return er.ct }

func (er *EventReader) ended(err error) error {
	if er.ctx.Err() != nil {
		return context.Cause(er.ctx)
	}
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("reading events: %w", err)
}

// heard puts the watchdog off, and reports whether there is one.
func (er *EventReader) heard() bool {
	er.mu.Lock()
	defer er.mu.Unlock()
	if er.watch == nil {
		return false
	}
	er.watch.Reset(er.silence)
	return true
}

// arm starts the watchdog when a SUBSCRIBED event announces heartbeats.
func (er *EventReader) arm(m proto.Message) {
	interval := heartbeatInterval(m)
	if interval <= 0 {
		return
	}
	er.mu.Lock()
	defer er.mu.Unlock()
	er.silence = time.Duration(er.client.cfg.Silence) * interval
	if er.watch != nil {
		er.watch.Stop()
	}
	er.watch = time.AfterFunc(er.silence, func() { er.cancel(ErrSilent) })
}

// heartbeatInterval reads subscribed.heartbeat_interval_seconds, which scheduler and operator events have.
func heartbeatInterval(m proto.Message) time.Duration {
	event := m.ProtoReflect()
	subscribed := event.Descriptor().Fields().ByName("subscribed")
	if subscribed == nil || subscribed.Message() == nil || !event.Has(subscribed) {
		return 0
	}
	seconds := subscribed.Message().Fields().ByName("heartbeat_interval_seconds")
	if seconds == nil {
		return 0
	}
	v, _ := event.Get(subscribed).Message().Get(seconds).Interface().(float64)
	const most = 24 * 3600
	if !(v > 0) || v > most {
		return 0
	}
	return time.Duration(v * float64(time.Second))
}

// Close ends the stream.
func (er *EventReader) Close() {
	er.mu.Lock()
	if er.watch != nil {
		er.watch.Stop()
	}
	er.mu.Unlock()
	er.cancel(context.Canceled)
	er.resp.Body.Close()
}

// Subscription says what Subscribe does with a stream of events of type E.
type Subscription[E any] struct {
	// Call makes the SUBSCRIBE call. It is asked before each attempt, so that it can name an id learned meanwhile.
	Call func() proto.Message
	// Event is called for each event in order, including SUBSCRIBED and HEARTBEAT. An error ends Subscribe, unless it
	// is or wraps ErrResubscribe.
	Event func(ctx context.Context, event *E) error
	// Disconnected, if set, is told why a connection was lost or could not be made, before the wait for the next one.
	Disconnected func(err error, retryIn time.Duration)
}

// ErrResubscribe is returned by an event handler that wants a new connection.
var ErrResubscribe = errors.New("subscribe again")

// Subscribe holds a subscription: it connects, hands out events, and when the connection is lost connects again, with
// backoff, to whoever leads by then. It returns when ctx is done, when the handler returns an error, or when the master
// says that trying again is pointless (a *StatusError such as 400 or 401).
//
//	err := wire.Subscribe(ctx, client, wire.Subscription[schedulerv1.Event]{Call: subscribe, Event: handle})
func Subscribe[E any, P interface {
	*E
	proto.Message
}](ctx context.Context, c *Client, sub Subscription[E]) error {
	wait := backoff{min: c.cfg.MinBackoff, max: c.cfg.MaxBackoff}
	for {
		heard, err := subscribeOnce[E, P](ctx, c, sub)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var handled *handlerError
		if errors.As(err, &handled) {
			if !errors.Is(handled.err, ErrResubscribe) {
				return handled.err
			}
			err = handled.err
		} else if !Temporary(err) {
			return err
		}
		if heard {
			wait.reset()
		}
		pause := wait.next()
		if sub.Disconnected != nil {
			sub.Disconnected(err, pause)
		}
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// handlerError tells an error of the caller's handler from one of the stream.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

func subscribeOnce[E any, P interface {
	*E
	proto.Message
}](ctx context.Context, c *Client, sub Subscription[E]) (heard bool, err error) {
	events, err := c.Open(ctx, sub.Call())
	if err != nil {
		return false, err
	}
	defer events.Close()
	for {
		event := P(new(E))
		if err := events.Next(event); err != nil {
			// Whatever ended the stream, the leader may be another one now.
			c.lost(events.base())
			return heard, err
		}
		heard = true
		if err := sub.Event(ctx, (*E)(event)); err != nil {
			return heard, &handlerError{err}
		}
	}
}

func (er *EventReader) base() string {
	u := er.resp.Request.URL
	base, _ := baseURL(u.Scheme+"://"+u.Host+trimPath(u.Path, er.client.cfg.Path), u.Scheme)
	return base
}

func trimPath(path, suffix string) string {
	if len(path) >= len(suffix) {
		return path[:len(path)-len(suffix)]
	}
	return ""
}

// backoff doubles from min to max; each wait is shortened by a random part of up to a half.
type backoff struct {
	min, max, last time.Duration
}

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) next() time.Duration {
	if b.last = 2 * b.last; b.last < b.min {
		b.last = b.min
	}
	b.last = min(b.last, b.max)
	return b.last - rand.N(b.last/2+1)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
