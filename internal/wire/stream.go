package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Reasons why a stream ended.
var (
	// ErrSlowReader: the peer did not read as fast as events came, and was cut off.
	ErrSlowReader = errors.New("the reader did not keep up with the events")
	// ErrStreamClosed: this side closed the stream.
	ErrStreamClosed = errors.New("the stream was closed")
	// ErrPeerGone: the peer closed the connection.
	ErrPeerGone = errors.New("the peer closed the connection")
)

// StreamConfig says how a stream behaves. Zero fields stand for the defaults.
type StreamConfig struct {
	ContentType  ContentType   // of the events; required
	Media        string        // Content-Type header, when it is not the events' own (application/recordio)
	ID           string        // Mesos-Stream-Id header, when not empty
	Heartbeat    *Event        // sent every Interval
	Interval     time.Duration // 0: no heartbeats
	MaxEvents    int           // queued events beyond which the reader is too slow; default 16,384
	MaxBytes     int           // the same in bytes; default 64 MiB. One event alone may be larger
	WriteTimeout time.Duration // in which the peer must take some of what is written; default 30 s
	Metrics      *StreamMetrics
}

// Defaults of StreamConfig.
const (
	DefaultMaxEvents    = 16 << 10
	DefaultMaxBytes     = 64 << 20
	DefaultWriteTimeout = 30 * time.Second
)

// Stream is the server's end of an event stream. Send and Close may be called from any goroutine and never block; Serve
// writes, in the goroutine of the HTTP handler, or Start in one of its own.
type Stream struct {
	cfg  StreamConfig
	out  transport
	wake chan struct{} // capacity 1: there is something to do
	done chan struct{} // Serve has returned

	mu      sync.Mutex
	queue   []*Event
	bytes   int   // of the queue
	closing bool  // nothing more may be queued; what is queued will be written
	err     error // why the stream ended, once it has
}

// transport is what lies below a stream.
type transport interface {
	// write writes each record as one chunk. The peer must make progress within the timeout.
	write(records [][]byte, timeout time.Duration) error
	// abort makes a write in flight fail soon. It does not block.
	abort()
	// finish ends the body properly, or just cuts the connection off.
	finish(clean bool, timeout time.Duration)
	// gone is closed when the peer has closed the connection.
	gone() <-chan struct{}
}

// NewStream answers 200 and sends the headers at once. The caller must call Serve or Start before its handler returns. An error
// means that the connection is no longer usable.
func NewStream(w http.ResponseWriter, r *http.Request, cfg StreamConfig) (*Stream, error) {
	if cfg.ContentType != JSON && cfg.ContentType != Protobuf {
		return nil, fmt.Errorf("stream cannot be encoded as %v", cfg.ContentType)
	}
	if cfg.Media == "" {
		cfg.Media = cfg.ContentType.String()
	}
	if cfg.MaxEvents <= 0 {
		cfg.MaxEvents = DefaultMaxEvents
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = DefaultWriteTimeout
	}
	h := w.Header()
	h.Set("Content-Type", cfg.Media)
	if cfg.ID != "" {
		h.Set("Mesos-Stream-Id", cfg.ID)
	}
	out, err := openTransport(w, r, cfg.WriteTimeout)
	if err != nil {
		return nil, fmt.Errorf("opening an event stream: %w", err)
	}
	return &Stream{cfg: cfg, out: out, wake: make(chan struct{}, 1), done: make(chan struct{})}, nil
}

// Send queues an event. It returns false when the stream has ended, or ends because its queue is full.
func (s *Stream) Send(e *Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.err != nil {
		return false
	}
	if len(s.queue) >= s.cfg.MaxEvents || len(s.queue) > 0 && s.bytes+e.size > s.cfg.MaxBytes {
		s.endLocked(ErrSlowReader)
		s.cfg.Metrics.overflow()
		return false
	}
	s.queue = append(s.queue, e)
	s.bytes += e.size
	s.signal()
	return true
}

// Pending is the number of events that wait to be written.
func (s *Stream) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Close lets what is queued be written, then final if it is not nil, then ends the stream.
func (s *Stream) Close(final *Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.err != nil {
		return
	}
	if final != nil {
		s.queue = append(s.queue, final)
	}
	s.closing = true
	s.signal()
}

// Done is closed when the stream has ended and Serve is about to return.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err says why the stream ended; nil while it lives.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// endLocked gives the stream up: what is queued is forgotten and a write in flight is cut short.
func (s *Stream) endLocked(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.queue, s.bytes = nil, 0
	s.out.abort()
	s.signal()
}

// Serve writes events until the stream ends, and returns why: ErrStreamClosed, ErrSlowReader, ErrPeerGone, the context's
// error or a write's. It is called once.
func (s *Stream) Serve(ctx context.Context) error {
	s.cfg.Metrics.opened()
	err := s.run(ctx)
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	err = s.err
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	// A component that stops does not wait long for a peer that does not read.
	timeout := s.cfg.WriteTimeout
	if ctx.Err() != nil {
		timeout = min(timeout, time.Second)
	}
	s.out.finish(errors.Is(err, ErrStreamClosed) || ctx.Err() != nil, timeout)
	s.cfg.Metrics.closed()
	close(s.done)
	return err
}

// Start serves in a goroutine of its own and returns at once where the stream owns its connection, so that the handler
// and what net/http keeps for it go away; elsewhere it serves before it returns. ctx must outlive the request: it is the
// component's, not the request's. ended, if not nil, is told why the stream ended.
func (s *Stream) Start(ctx context.Context, ended func(error)) {
	serve := func() {
		if err := s.Serve(ctx); ended != nil {
			ended(err)
		}
	}
	if _, own := s.out.(*hijacked); own {
		go serve()
		return
	}
	serve()
}

func (s *Stream) run(ctx context.Context) error {
	var tick <-chan time.Time
	if s.cfg.Interval > 0 && s.cfg.Heartbeat != nil {
		t := time.NewTicker(s.cfg.Interval)
		defer t.Stop()
		tick = t.C
	}
	var spare []*Event
	var records [][]byte
	for {
		s.mu.Lock()
		batch, size, closing, err := s.queue, s.bytes, s.closing, s.err
		if err == nil && len(batch) > 0 {
			s.queue, s.bytes = spare[:0], 0
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			if closing {
				return ErrStreamClosed
			}
			select {
			case <-s.wake:
				continue
			case <-tick:
				batch, size = append(spare[:0], s.cfg.Heartbeat), s.cfg.Heartbeat.size
			case <-s.out.gone():
				return ErrPeerGone
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		records = records[:0]
		for i, e := range batch {
			record, err := e.Record(s.cfg.ContentType)
			if err != nil {
				return fmt.Errorf("encoding an event: %w", err)
			}
			records = append(records, record)
			batch[i] = nil
		}
		if err := s.out.write(records, s.cfg.WriteTimeout); err != nil {
			return fmt.Errorf("writing events: %w", err)
		}
		s.cfg.Metrics.wrote(len(records), size)
		clear(records)
		// An idle stream keeps no memory of a burst.
		if spare = batch[:0]; cap(spare) > 256 {
			spare, records = nil, nil
		}
	}
}
