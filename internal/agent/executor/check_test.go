package executor

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/heldport"
)

func port(t testing.TB, addr string) uint16 {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.URL.RawQuery != "q=1" {
				w.WriteHeader(418)
			}
		case "/moved":
			http.Redirect(w, r, "/ok?q=1", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/hang":
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	noise, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { noise.Close() })
	go func() {
		for {
			c, err := noise.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-nothing\r\n"))
			c.Close()
		}
	}()
	closed := uint16(heldport.Port(t))
	pp, sp := port(t, plain.Listener.Addr().String()), port(t, secure.Listener.Addr().String())
	for name, c := range map[string]struct {
		check message.Check
		code  uint32 // 0: an error
		ok    bool
	}{
		"200":        {message.Check{Type: "HTTP", Port: pp, Path: "/ok?q=1"}, 200, true},
		"404":        {message.Check{Type: "HTTP", Port: pp, Path: "no"}, 404, false},
		"redirect":   {message.Check{Type: "HTTP", Port: pp, Path: "/moved"}, 200, true},
		"loop":       {message.Check{Type: "HTTP", Port: pp, Path: "/loop"}, 302, true},
		"https":      {message.Check{Type: "HTTP", Scheme: "https", Port: sp, Path: "/ok?q=1"}, 200, true},
		"http to s":  {message.Check{Type: "HTTP", Port: sp, Path: "/ok"}, 400, false},
		"hang":       {message.Check{Type: "HTTP", Port: pp, Path: "/hang", Timeout: 50 * time.Millisecond}, 0, false},
		"noise":      {message.Check{Type: "HTTP", Port: port(t, noise.Addr().String())}, 0, false},
		"nobody":     {message.Check{Type: "HTTP", Port: closed}, 0, false},
		"tcp":        {message.Check{Type: "TCP", Port: pp}, 0, true},
		"tcp closed": {message.Check{Type: "TCP", Port: closed}, 0, false},
		"no command": {message.Check{Type: "COMMAND"}, 0, false},
		"unknown":    {message.Check{Type: "GRPC"}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := probe(t.Context(), "a", &c.check, place{})
			if ok := err == nil && r.ok(); ok != c.ok {
				t.Errorf("healthy=%v, want %v (%v)", ok, c.ok, err)
			}
			if c.code != 0 && (r.code == nil || *r.code != c.code) {
				t.Errorf("status %v, want %d (%v)", r.code, c.code, err)
			}
		})
	}
}

func TestHealthGrace(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	fails.Store(true)
	run := func(context.Context, string, *message.Command) (int32, error) {
		if fails.Load() {
			return 1, nil
		}
		return 0, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := make(chan checkHealth, 100)
	go watchHealth(ctx, "a", &message.Check{Type: "COMMAND", Command: &message.Command{}, Interval: 10 * time.Millisecond, Failures: 3, Grace: time.Hour},
		place{run: run}, func(ev any) { said <- ev.(checkHealth) })
	fails.Store(false)
	if h := <-said; !h.healthy {
		t.Errorf("first word: %+v; failures in the grace period do not count", h)
	}
	fails.Store(true) // once healthy, grace is over
	if h := <-said; h.healthy || h.failed {
		t.Errorf("after one failure: %+v", h)
	}
	if h := <-said; h.healthy || !h.failed {
		t.Errorf("after three failures: %+v", h)
	}
}

func TestMergeEnv(t *testing.T) {
	t.Parallel()
	got := mergeEnv([]string{"A=1", "B=2", "A=3"}, []string{"B=x=y", "C=", "noequals"})
	if strings.Join(got, ",") != "A=3,B=x=y,C=,noequals" {
		t.Errorf("%q", got)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nLocation: /x\r\n\r\n")
	f.Add("HTTP/1.0 302\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		code, _, err := readHead(bufio.NewReader(strings.NewReader(in)))
		if err == nil && (code < 100 || code > 999) {
			t.Fatalf("status %d", code)
		}
	})
}
