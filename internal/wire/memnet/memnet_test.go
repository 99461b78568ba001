package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
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
