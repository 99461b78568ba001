package zk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

func testCore() *core {
	return &core{root: "/c", maxQueue: 100, wantedTTL: 10 * time.Second, watch: newWatches(), nonce: func() string { return "n" }}
}

var everyOp = []Op{
	Create("/a", []byte("x"), OpenACL(), Persistent), Create2("/a", nil, OpenACL(), Ephemeral), Create("/a", nil, nil, Container),
	CreateTTL("/a", nil, nil, PersistentTTL, time.Second), Delete("/a", 1), Set("/a", nil, 2), Get("/a"), Exists("/a"), Children("/a"),
	GetACL("/a"), SetACL("/a", ReadACL(), 0), Sync("/"), Multi(Set("/a", nil, 1), Check("/a", 1)), MultiRead(Get("/a"), Children("/")),
	AddWatch("/a", WatchPersistentRecursive, NewWatch(func(Event) {})), RemoveWatches("/a", WatchAny), GetEphemerals("/"), CountChildren("/"),
	WhoAmI(), Reconfig("", "1", "", -1),
}

// Whatever a server sends, the client does not panic, and answers every request exactly once.
func FuzzReceive(f *testing.F) {
	reply := func(xid int32, code Error, body ...byte) []byte {
		b := jute.AppendInt(nil, xid)
		b = jute.AppendLong(b, 7)
		return append(jute.AppendInt(b, int32(code)), body...)
	}
	f.Add(byte(0), reply(1, 0, jute.AppendString(nil, "/c/a")...))
	f.Add(byte(6), reply(1, 0, jute.AppendBuffer(nil, []byte("x"))...))
	f.Add(byte(12), reply(1, 0, appendMultiHeader(jute.AppendInt(appendMultiHeader(nil, OpErrorResult, false), -101), -1, true)...))
	f.Add(byte(13), reply(1, 0, appendMultiHeader(jute.AppendStrings(appendMultiHeader(nil, OpGetChildren, false), []string{"a"}), -1, true)...))
	f.Add(byte(5), reply(-1, 0, jute.AppendString(jute.AppendInt(jute.AppendInt(nil, 3), 3), "/c/a")...))
	f.Add(byte(5), reply(-4, ErrAuthFailed))
	f.Add(byte(5), reply(1, ErrSessionExpired))
	f.Fuzz(func(t *testing.T, which byte, frame []byte) {
		c := testCore()
		now := time.Unix(0, 0)
		_, _ = c.connect(now)
		hello := jute.AppendBuffer(jute.AppendLong(jute.AppendInt(jute.AppendInt(nil, 0), 10000), 5), make([]byte, 16))
		out, err := c.connected(hello, now, nil)
		if err != nil {
			t.Fatal(err)
		}
		answers := 0
		cl, err := c.prepare(&everyOp[int(which)%len(everyOp)], func(Result, error) { answers++ }, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.submit(cl); err != nil {
			t.Fatal(err)
		}
		c.output(nil, now)
		out, err = c.receive(frame, now, out)
		if err == nil {
			out, _ = c.receive(frame, now, out)
		}
		out = c.lost(out)
		out = c.close(out)
		for _, d := range out {
			if d.done != nil {
				d.done(d.res, d.err)
			}
			if d.watch != nil {
				d.watch.fn(d.event)
			}
		}
		if answers != 1 {
			t.Fatalf("%d answers to one request", answers)
		}
	})
}

func FuzzConnected(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0x27, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1})
	f.Fuzz(func(_ *testing.T, frame []byte) {
		c := testCore()
		c.connect(time.Unix(0, 0))
		_, _ = c.connected(frame, time.Unix(0, 0), nil)
		_, _ = c.tick(time.Unix(100, 0))
		c.output(nil, time.Unix(0, 0))
	})
}

func FuzzSASLChallenge(f *testing.F) {
	f.Add(`realm="zk-sasl-md5",nonce="a\"b",qop="auth,auth-int",charset=utf-8,algorithm=md5-sess`)
	f.Fuzz(func(_ *testing.T, s string) {
		_, _ = (&SASLDigest{"u", "p"}).respond(s, "c")
	})
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	m := parseDirectives(`realm="a,b", nonce="x\"y",qop=auth ,maxbuf=1`)
	if m["realm"] != "a,b" || m["nonce"] != `x"y` || m["qop"] != "auth" || m["maxbuf"] != "1" {
		t.Errorf("%q", m)
	}
	if _, err := (&SASLDigest{}).respond("mechanism=GSSAPI", "c"); err == nil {
		t.Error("a challenge without nonce was answered")
	}
}

// fakeServer answers the handshake and, while it is not mute, every ping and exists.
func fakeServer(t *testing.T, mute func() bool, timeout time.Duration, sessions *[]int64) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		mine, yours := net.Pipe()
		go func() {
			defer mine.Close()
			read := func() (*jute.Decoder, bool) {
				var h [4]byte
				if _, err := io.ReadFull(mine, h[:]); err != nil {
					return nil, false
				}
				b := make([]byte, binary.BigEndian.Uint32(h[:]))
				if _, err := io.ReadFull(mine, b); err != nil {
					t.Error(err)
				}
				return jute.NewDecoder(b), true
			}
			write := func(b []byte) {
				_, _ = mine.Write(append(jute.AppendInt(nil, int32(len(b))), b...))
			}
			d, ok := read()
			if !ok {
				return
			}
			_, _, _ = d.Int(), d.Long(), d.Int()
			*sessions = append(*sessions, d.Long())
			write(jute.AppendBool(jute.AppendBuffer(jute.AppendLong(jute.AppendInt(jute.AppendInt(nil, 0), int32(timeout/time.Millisecond)), 77), bytes.Repeat([]byte{1}, 16)), false))
			for {
				d, ok := read()
				if !ok {
					return
				}
				xid, code := d.Int(), OpCode(d.Int())
				if mute() {
					continue
				}
				b := jute.AppendInt(jute.AppendLong(jute.AppendInt(nil, xid), 1), 0)
				if code == OpExists {
					b = append(b, make([]byte, statSize)...)
				}
				write(b)
			}
		}()
		return yours, nil
	}
}

// Hours of heartbeats, then a server that falls silent: the client notices within two thirds of the session.
func TestHeartbeatsWithFakeServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mute atomic.Bool
		var sessions []int64
		var states []string
		c, err := New(Config{Servers: []string{"x:1"}, OnState: func(s State) { states = append(states, s.String()) }},
			Deps{Dial: fakeServer(t, mute.Load, 9*time.Second, &sessions)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if got := fmt.Sprint(states); got != "[connected]" {
			t.Errorf("states after hours of idling: %v", got)
		}
		if left := time.Until(c.AliveUntil()); left < 5*time.Second || left > 9*time.Second {
			t.Errorf("an idle session of 9s is certain for %v only", left)
		}
		mute.Store(true)
		start := time.Now()
		_, err = c.Do(t.Context(), Exists("/x"))
		if !errors.Is(err, ErrConnectionLoss) || time.Since(start) > 6*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		mute.Store(false)
		if _, err := c.Do(t.Context(), Exists("/x")); err != nil {
			t.Error(err)
		}
		if len(sessions) < 2 || sessions[0] != 0 || sessions[1] != 77 {
			t.Errorf("sessions asked for: %v", sessions)
		}
		c.Close()
	})
}

func TestChroot(t *testing.T) {
	t.Parallel()
	c := chroot("/r")
	for caller, server := range map[string]string{"/": "/r", "/a": "/r/a"} {
		if got := c.server(caller); got != server {
			t.Errorf("server(%q) = %q", caller, got)
		}
		if got := c.caller(server); got != caller {
			t.Errorf("caller(%q) = %q", server, got)
		}
	}
	if got := c.caller("/rx"); got != "/rx" {
		t.Errorf("a path outside became %q", got)
	}
	for s, want := range map[string]string{
		"h":                     "{[h:2181]   }",
		"zk://u:p@a:1,b/x/y/":   "{[a:1 b:2181] /x/y u p}",
		"[::1]:5,127.0.0.1:2/":  "{[[::1]:5 127.0.0.1:2]   }",
		"zk://u:p@ss:w@h:1/mes": "{[h:1] /mes u p@ss:w}",
	} {
		got, err := ParseConnectString(s)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "h:", "h:0", "h:99999", ",h", "u@h", "h/a//b"} {
		if got, err := ParseConnectString(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func FuzzParseConnectString(f *testing.F) {
	f.Add("zk://u:p@h:1,g/x")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConnectString(s)
		if err == nil && (len(c.Servers) == 0 || c.Chroot != "" && ValidatePath(c.Chroot) != nil) {
			t.Fatalf("%q was read as %v", s, c)
		}
	})
}

// BenchmarkPrepare is what a batch of a hundred sets costs before it is sent.
func BenchmarkPrepare(b *testing.B) {
	c := core{}
	ops := make([]Op, 100)
	for i := range ops {
		ops[i] = Set(fmt.Sprintf("/some/directory/n%d", i), make([]byte, 100), 7)
	}
	op := Multi(ops...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.prepare(&op, nil, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
