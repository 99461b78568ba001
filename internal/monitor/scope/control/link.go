package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Request is what is asked of a probe.
type Request struct {
	AppID       string
	NodeID      string
	Control     string
	ControlArgs map[string]string
}

// Response is a probe's answer.
type Response struct {
	Value            json.RawMessage `json:"value"`
	Error            string          `json:"error"`
	Pipe             string          `json:"pipe"`
	RawTTY           bool            `json:"raw_tty"`
	ResizeTTYControl string          `json:"resize_tty_control"`
	RemovedNode      string          `json:"removedNode"`
}

// message is either half of a call or an answer: who it is for, then what it is about.
type message struct {
	Request  *header
	Response *header
	Value    any
}

type header struct {
	ServiceMethod string
	Seq           uint64
	Error         string
}

// incoming is a message as it comes.
type incoming struct {
	Response *header
	Value    json.RawMessage
}

const (
	maxMessage   = 1 << 20
	maxPending   = 200
	writeTimeout = 10 * time.Second
	pingEvery    = 20 * time.Second
)

var (
	// ErrGone means that the probe has no control connection, or has lost it.
	ErrGone = errors.New("this Weave Scope probe has no control connection")
	errBusy = errors.New("too much is asked of this probe already")
)

// Link is the way to one probe.
type Link struct {
	mu      sync.Mutex
	now     *conn
	pipes   map[string]*bridge
	over    map[string]time.Time
	opening int
}

// NewLink makes a link to a probe that has not connected yet.
func NewLink() *Link { return &Link{pipes: map[string]*bridge{}, over: map[string]time.Time{}} }

// conn is one control socket.
type conn struct {
	ws     *websocket.Conn
	closed chan struct{}

	write   sync.Mutex // a call is two messages, which belong together
	mu      sync.Mutex
	seq     uint64
	pending map[uint64]chan answer
}

type answer struct {
	resp Response
	err  error
}

// Connected reports whether the probe can be asked.
func (l *Link) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now != nil
}

// Serve reads answers from the probe's control socket until that ends. An earlier socket gives way.
func (l *Link) Serve(ctx context.Context, ws *websocket.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ws.SetReadLimit(maxMessage)
	c := &conn{ws: ws, closed: make(chan struct{}), pending: map[uint64]chan answer{}}
	l.mu.Lock()
	was := l.now
	l.now = c
	l.mu.Unlock()
	if was != nil {
		_ = was.ws.CloseNow()
	}
	defer func() {
		l.mu.Lock()
		if l.now == c {
			l.now = nil
		}
		l.mu.Unlock()
		close(c.closed)
		_ = ws.CloseNow()
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				pctx, stop := context.WithTimeout(ctx, writeTimeout)
				err := ws.Ping(pctx)
				stop()
				if err != nil {
					_ = ws.CloseNow()
					return
				}
			}
		}
	})
	var head *header
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return err
		}
		var m incoming
		if err := json.Unmarshal(data, &m); err != nil {
			return fmt.Errorf("a message of the probe's can't be read: %w", err)
		}
		if head == nil {
			if head = m.Response; head == nil {
				return errors.New("the probe says something that answers nothing")
			}
			continue
		}
		c.take(head, m.Value)
		head = nil
	}
}

func (c *conn) take(head *header, value json.RawMessage) {
	c.mu.Lock()
	waiting := c.pending[head.Seq]
	delete(c.pending, head.Seq)
	c.mu.Unlock()
	if waiting == nil {
		return // nobody waits for it any more
	}
	a := answer{}
	switch {
	case head.Error != "":
		a.err = errors.New(head.Error)
	case len(value) > 0:
		a.err = json.Unmarshal(value, &a.resp)
	}
	waiting <- a
}

// Call asks the probe and waits for its answer.
func (l *Link) Call(ctx context.Context, req Request) (Response, error) {
	l.mu.Lock()
	c := l.now
	l.mu.Unlock()
	if c == nil {
		return Response{}, ErrGone
	}
	done := make(chan answer, 1)
	c.mu.Lock()
	if len(c.pending) >= maxPending {
		c.mu.Unlock()
		return Response{}, errBusy
	}
	c.seq++
	seq := c.seq
	c.pending[seq] = done
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, seq)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, seq, req); err != nil {
		return Response{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case a := <-done:
		return a.resp, a.err
	case <-c.closed:
		return Response{}, ErrGone
	case <-ctx.Done():
		return Response{}, ctx.Err()
	}
}

func (c *conn) send(ctx context.Context, seq uint64, req Request) error {
	head, err := json.Marshal(message{Request: &header{ServiceMethod: "control.Handle", Seq: seq}})
	if err != nil {
		return err
	}
	body, err := json.Marshal(message{Value: req})
	if err != nil {
		return err
	}
	c.write.Lock()
	defer c.write.Unlock()
	// Not the caller's deadline: a write that is cut off would cost the whole connection.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer stop()
	if err := c.ws.Write(ctx, websocket.MessageText, head); err != nil {
		return err
	}
	return c.ws.Write(ctx, websocket.MessageText, body)
}
