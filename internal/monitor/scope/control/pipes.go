package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

const (
	// maxPipes bounds the pipes of one probe that are open, maxOver how many ended ones are remembered.
	maxPipes = 200
	maxOver  = 1000
	// patience is how long a pipe waits for its socket: at first, and again when that is lost.
	patience = 15 * time.Second
	// lastWords is how long what is under way in a pipe may take after the probe has said that it is over.
	lastWords = 2 * time.Second
	maxPiece  = 1 << 20
)

// socket is one that a probe has opened for a pipe.
type socket struct {
	*websocket.Conn
	done chan struct{} // closed when it is not used any more
}

// bridge is one pipe of a probe.
type bridge struct {
	arrived chan *socket
	ended   chan struct{} // the probe, or who listened, is done with it
	unused  chan struct{} // nobody will look at its sockets any more
	claimed bool
	coming  int // sockets that are on their way
}

// bridgeOf finds or makes the pipe of that id. The link is locked.
func (l *Link) bridgeOf(id string) *bridge {
	b := l.pipes[id]
	if b == nil {
		b = &bridge{arrived: make(chan *socket, 1), ended: make(chan struct{}), unused: make(chan struct{})}
		l.pipes[id] = b
	}
	return b
}

func (l *Link) expects(id string) bool {
	if _, over := l.over[id]; over || id == "" || len(id) > 200 {
		return false
	}
	return l.pipes[id] != nil || l.opening > 0 && len(l.pipes) < maxPipes
}

// Arrival is a socket for a pipe that is on its way: what it says is heard even when the pipe is over before it is here.
type Arrival struct {
	link *Link
	to   *bridge
	once sync.Once
}

// Arrive announces a socket for the pipe of that id; nil when none is expected. Release has to follow.
func (l *Link) Arrive(id string) *Arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.expects(id) {
		return nil
	}
	b := l.bridgeOf(id)
	b.coming++
	return &Arrival{link: l, to: b}
}

// Release says that the socket is here, or will not come.
func (a *Arrival) Release() {
	a.once.Do(func() {
		a.link.mu.Lock()
		defer a.link.mu.Unlock()
		a.to.coming--
	})
}

// Serve hands the socket over and returns when it is not used any more. false: another waits already.
func (a *Arrival) Serve(ctx context.Context, ws *websocket.Conn) bool {
	ws.SetReadLimit(maxPiece)
	s := &socket{ws, make(chan struct{})}
	select {
	case a.to.arrived <- s:
		a.Release()
	default:
		return false
	}
	select {
	case <-s.done:
	case <-ctx.Done():
	case <-a.to.unused:
	}
	return true
}

// End notes that a pipe is over, on either side.
func (l *Link) End(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.pipes[id]
	if b == nil {
		return // not one of ours: what was never expected need not be remembered
	}
	delete(l.pipes, id)
	close(b.ended)
	if !b.claimed { // else who has claimed it may still take the last words out of it
		close(b.unused)
	}
	if len(l.over) >= maxOver {
		oldest := ""
		for k, at := range l.over {
			if oldest == "" || at.Before(l.over[oldest]) {
				oldest = k
			}
		}
		delete(l.over, oldest)
	}
	l.over[id] = time.Now()
}

// open asks the probe for something that opens a pipe.
func (l *Link) open(ctx context.Context, req Request) (Response, *bridge, error) {
	l.mu.Lock()
	l.opening++
	l.mu.Unlock()
	resp, err := l.Call(ctx, req)
	var mine *bridge
	var stray []string
	l.mu.Lock()
	l.opening--
	if err == nil && resp.Error == "" && resp.Pipe != "" {
		if _, over := l.over[resp.Pipe]; !over && len(resp.Pipe) <= 200 {
			if b := l.bridgeOf(resp.Pipe); !b.claimed {
				b.claimed, mine = true, b
			}
		}
	}
	if l.opening == 0 { // what nobody's answer has named belongs to nobody
		for id, b := range l.pipes {
			if !b.claimed {
				stray = append(stray, id)
			}
		}
	}
	l.mu.Unlock()
	for _, id := range stray {
		l.End(id)
	}
	return resp, mine, err
}

var errNoSocket = errors.New("the probe did not open the pipe that it named")

// join carries bytes both ways between the probe's pipe and one of ours until either ends. other takes what is not input.
func (l *Link) join(ctx context.Context, b *bridge, s *pipe.Pipe, other func([]byte)) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	input := make(chan []byte)
	wg.Go(func() {
		defer cancel() // who listened has left
		for {
			stream, data, err := s.Recv(ctx)
			if err != nil {
				return
			}
			if stream == pipe.Control {
				other(data)
				continue
			}
			select {
			case input <- data:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		var ws *socket
		late := time.NewTimer(patience)
		select {
		case ws = <-b.arrived:
		case <-b.ended:
			ws = l.late(b)
		case <-ctx.Done():
		case <-late.C:
			late.Stop()
			return errNoSocket
		}
		late.Stop()
		if ws == nil {
			return nil
		}
		carry(ctx, ws, b.ended, s, input)
		close(ws.done)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// late gives the socket of a pipe that was over before we came to look: what it said waits in it.
func (l *Link) late(b *bridge) *socket {
	l.mu.Lock()
	coming := b.coming > 0
	l.mu.Unlock()
	if !coming {
		select {
		case s := <-b.arrived:
			return s
		default:
			return nil
		}
	}
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case s := <-b.arrived:
		return s
	case <-timer.C:
		return nil
	}
}

// carry serves one socket of a pipe until it is closed.
func carry(ctx context.Context, ws *socket, ended <-chan struct{}, s *pipe.Pipe, input <-chan []byte) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = ws.CloseNow() }()
	defer cancel()
	wg.Go(func() {
		defer cancel()
		for {
			_, data, err := ws.Read(ctx)
			if err != nil || s.Send(ctx, pipe.Stdout, data) != nil {
				return
			}
		}
	})
	var last <-chan time.Time
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			timer := time.NewTimer(lastWords)
			defer timer.Stop()
			ended, last = nil, timer.C
		case <-last:
			return
		case <-ping.C:
			pctx, stop := context.WithTimeout(ctx, writeTimeout)
			err := ws.Ping(pctx)
			stop()
			if err != nil {
				return
			}
		case data := <-input:
			wctx, stop := context.WithTimeout(ctx, writeTimeout)
			err := ws.Write(wctx, websocket.MessageBinary, data)
			stop()
			if err != nil {
				return
			}
		}
	}
}
