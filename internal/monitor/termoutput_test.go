package monitor

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// A page whose network is cut comes back while its first socket still hangs, with output in it. All of it, in order, is the second one's.
func TestATerminalThatChangesHandsLosesNothing(t *testing.T) {
	t.Parallel()
	mux := pipe.NewMux(func(*probev1.Pipe) error { return nil })
	c := &call{probe: &probeConn{}, id: 1, pipe: mux.Open(1), done: make(chan *probev1.Response, 1)}
	x := &terminal{call: c, out: newTermOutput(), over: make(chan struct{})}
	c.done <- &probev1.Response{Body: []byte(`{"code":3}`)}
	first := x.take()
	var reading sync.WaitGroup
	reading.Go(func() { x.read(t.Context()) })
	var want bytes.Buffer
	say := func(from, to int) {
		for i := from; i < to; i++ {
			line := fmt.Sprintf("%d,", i)
			want.WriteString(line)
			mux.Handle(&probev1.Pipe{Id: 1, Stream: pipe.Stdout, Data: []byte(line)})
		}
	}
	say(0, 1000)
	var got []byte
	for got == nil { // one piece arrives, then the network is cut
		<-first.more
		if frame := x.out.next(first); frame != nil {
			got = append(got, frame[1:]...)
		}
	}
	say(1000, 2000)
	second := x.take()
	<-first.lost
	if x.out.next(first) != nil {
		t.Error("the socket that has lost it still gets output")
	}
	x.leave(first)
	say(2000, 3000)
	mux.Handle(&probev1.Pipe{Id: 1, Eof: true})
	reading.Wait()
	for frame := x.out.next(second); frame != nil; frame = x.out.next(second) {
		got = append(got, frame[1:]...)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes, want %d: %.200s", len(got), want.Len(), got)
	}
	if string(x.exit) != `{"code":3}` {
		t.Errorf("it ended with %s", x.exit)
	}
}

// A socket that does not read holds the process back; while there is none the newest output is kept, and the process goes on.
func TestATerminalIsHeldBackByItsSocketOnly(t *testing.T) {
	t.Parallel()
	o := newTermOutput()
	to := o.take()
	piece := []byte(strings.Repeat("x", 40_000))
	for range aheadBytes/len(piece) + 1 {
		o.put(t.Context(), pipe.Stderr, piece)
	}
	full, cancel := context.WithCancel(t.Context())
	cancel()
	o.put(full, pipe.Stdout, []byte("refused"))
	size := o.size
	if size < aheadBytes || size > aheadBytes+len(piece) {
		t.Errorf("%d bytes wait", size)
	}
	held := make(chan struct{})
	go func() {
		defer close(held)
		o.put(t.Context(), pipe.Stdout, []byte("the last"))
	}()
	if !o.leave(to) || o.leave(to) {
		t.Error("it is left once")
	}
	<-held // the process goes on
	if o.size > missedBytes || !o.alone() {
		t.Errorf("%d bytes are kept", o.size)
	}
	to = o.take()
	var all []byte
	for frame := o.next(to); frame != nil; frame = o.next(to) {
		if len(frame) > 1 && frame[1] == 'x' && frame[0] != pipe.Stderr {
			t.Error("what was on one stream comes on another")
		}
		all = append(all, frame[1:]...)
	}
	if len(all) != missedBytes || !bytes.HasSuffix(all, []byte("xthe last")) || o.size != 0 {
		t.Errorf("%d bytes, at the end %q, %d left", len(all), all[max(0, len(all)-20):], o.size)
	}
}
