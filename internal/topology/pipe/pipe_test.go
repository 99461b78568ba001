package pipe

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// pair connects two muxes by a bounded queue each way, as a connection would.
func pair(t *testing.T) (a, b *Mux) {
	ab, ba := make(chan *probev1.Pipe, 4), make(chan *probev1.Pipe, 4)
	ctx := t.Context()
	to := func(c chan *probev1.Pipe) func(*probev1.Pipe) error {
		return func(m *probev1.Pipe) error {
			select {
			case c <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	a, b = NewMux(to(ab)), NewMux(to(ba))
	pump := func(c chan *probev1.Pipe, m *Mux) {
		for {
			select {
			case msg := <-c:
				m.Handle(msg)
			case <-ctx.Done():
				return
			}
		}
	}
	go pump(ab, b)
	go pump(ba, a)
	return a, b
}

func TestPipeCarriesEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		pa, pb := a.Open(7), b.Open(7)
		want := bytes.Repeat([]byte("0123456789abcdef"), 3*Window/16)
		go func() {
			if err := pa.Send(t.Context(), Stdout, want); err != nil {
				t.Error(err)
			}
			pa.Close()
		}()
		var got []byte
		for {
			stream, data, err := pb.Recv(t.Context())
			if errors.Is(err, ErrClosed) {
				break
			}
			if err != nil || stream != Stdout {
				t.Fatal(stream, err)
			}
			got = append(got, data...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d", len(got), len(want))
		}
	})
}

func TestSenderWaitsForAReaderThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		pa, pb := a.Open(1), b.Open(1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- pa.Send(ctx, Stdout, make([]byte, 10*Window)) }()
		synctest.Wait() // the sender is blocked
		pb.mu.Lock()
		if pb.queued != Window {
			t.Errorf("%d bytes wait, want %d", pb.queued, Window)
		}
		pb.mu.Unlock()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestOverrunEndsThePipe(t *testing.T) {
	t.Parallel()
	m := NewMux(func(*probev1.Pipe) error { return nil })
	p := m.Open(1)
	for range 3 {
		m.Handle(&probev1.Pipe{Id: 1, Data: make([]byte, Window/2)})
	}
	<-p.Done()
	for {
		if _, _, err := p.Recv(t.Context()); err != nil {
			if !errors.Is(err, ErrOverrun) {
				t.Error(err)
			}
			return
		}
	}
}

func TestLostConnectionEndsPipes(t *testing.T) {
	t.Parallel()
	m := NewMux(func(*probev1.Pipe) error { return nil })
	p := m.Open(1)
	lost := errors.New("lost")
	m.CloseAll(lost)
	if _, _, err := p.Recv(t.Context()); !errors.Is(err, lost) {
		t.Error(err)
	}
	if err := p.Send(t.Context(), Stdin, []byte("x")); !errors.Is(err, lost) {
		t.Error(err)
	}
	if _, _, err := m.Open(2).Recv(t.Context()); !errors.Is(err, lost) {
		t.Error(err)
	}
}
