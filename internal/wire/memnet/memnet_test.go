package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

func TestNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := new(memnet.Network)
		l := network.Listen("a:1")
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}()
		c, err := network.DialContext(t.Context(), "tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" || c.RemoteAddr().String() != "a:1" {
			t.Errorf("%q %v from %v", got, err, c.RemoteAddr())
		}
		if _, err := network.DialContext(t.Context(), "tcp", "b:1"); err == nil {
			t.Error("dialling nobody worked")
		}
		// Nobody accepts: dialling ends with its context, and with the listener.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := network.DialContext(ctx, "tcp", "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an accepter: %v", err)
		}
		time.AfterFunc(time.Second, func() { l.Close() })
		if _, err := network.DialContext(t.Context(), "tcp", "a:1"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed meanwhile: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepting after Close: %v", err)
		}
	})
}

// connect returns the two ends of a connection.
func connect(t *testing.T) (here, there net.Conn) {
	l := memnet.Listen("a:1")
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	here, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return here, <-accepted
}

func TestWhatWasWrittenIsReadAfterClose(t *testing.T) {
	t.Parallel()
	here, there := connect(t)
	if n, err := io.WriteString(here, "last words"); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	here.Close()
	if got, err := io.ReadAll(there); string(got) != "last words" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := there.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to a closed peer: %v", err)
	}
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
	if _, err := here.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
}

func TestOneDirectionClosesAlone(t *testing.T) {
	t.Parallel()
	here, there := connect(t)
	if err := here.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("reading: %v", err)
	}
	go func() {
		_, _ = io.WriteString(there, "answer")
		there.Close()
	}()
	if got, err := io.ReadAll(here); string(got) != "answer" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

// A writer waits for a reader that has fallen far behind, and everything arrives in order.
func TestWriterWaitsForReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := connect(t)
		sent := make([]byte, 1<<20)
		for i := range sent {
			sent[i] = byte(i * i >> 3)
		}
		wrote := false
		go func() {
			_, _ = here.Write(sent)
			wrote = true
			here.Close()
		}()
		synctest.Wait()
		if wrote {
			t.Error("a megabyte was taken with nobody reading")
		}
		if got, err := io.ReadAll(there); !bytes.Equal(got, sent) || err != nil {
			t.Errorf("%d bytes arrived: %v", len(got), err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := connect(t)
		read := func() error {
			_, err := here.Read(make([]byte, 1))
			return err
		}
		began := time.Now()
		_ = here.SetReadDeadline(began.Add(time.Second))
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		// Moved to later, then to earlier, while somebody waits.
		for _, d := range []time.Duration{3 * time.Second, time.Second} {
			began = time.Now()
			_ = here.SetReadDeadline(began.Add(2 * time.Second))
			time.AfterFunc(time.Millisecond, func() { _ = here.SetReadDeadline(began.Add(d)) })
			if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != d {
				t.Errorf("moved to %v: after %v: %v", d, time.Since(began), err)
			}
		}
		// One that is over fails at once, even if there is something to read; without one it is read.
		_, _ = there.Write([]byte("x"))
		_ = here.SetDeadline(time.Unix(1, 0))
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("over: %v", err)
		}
		if _, err := here.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("over, writing: %v", err)
		}
		_ = here.SetDeadline(time.Time{})
		if err := read(); err != nil {
			t.Error(err)
		}
		// A writer that waits for room.
		began = time.Now()
		_ = here.SetWriteDeadline(began.Add(time.Second))
		if n, err := here.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 1<<20 || time.Since(began) != time.Second {
			t.Errorf("%d bytes after %v: %v", n, time.Since(began), err)
		}
		// Cut while waiting.
		time.AfterFunc(time.Second, func() { here.Close() })
		if err := read(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed while reading: %v", err)
		}
	})
}
