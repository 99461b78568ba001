package probe

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSockstat(t *testing.T) {
	for text, want := range map[string]socketCounts{
		"sockets: used 290\nTCP: inuse 13 orphan 1 tw 2 alloc 15 mem 1\nUDP: inuse 3 mem 0\nUDPLITE: inuse 0\nRAW: inuse 7\nFRAG: inuse 0 memory 0\n": {tcp: 13, timeWait: 2, udp: 3},
		"TCP6: inuse 4\nUDP6: inuse 5\nUDPLITE6: inuse 1\nRAW6: inuse 1\nFRAG6: inuse 0 memory 0\n":                                                   {tcp: 4, udp: 5},
	} {
		got, ok := parseSockstat([]byte(text))
		if !ok || got != want {
			t.Errorf("%q: %+v %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "TCP: inuse 1 orphan 0 tw 0\n", "TCP: inuse many\nUDP: inuse 1\n", "TCP: inuse -1\nUDP: inuse 1\n"} {
		if c, ok := parseSockstat([]byte(text)); ok {
			t.Errorf("%q: %+v", text, c)
		}
	}
}

func lines(sockets []socket) []string {
	out := make([]string, len(sockets))
	for i := range sockets {
		out[i] = fmt.Sprintf("%+v", sockets[i])
	}
	slices.Sort(out)
	return out
}

// What is left out because the namespace's counters say that there is none, and the request for both families, give the same as asking for
// everything of each family: with nothing there, with listeners alone, and with every kind of socket.
func TestSocketsByCountAreAllSockets(t *testing.T) {
	needRoot(t)
	onOwnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if _, err := obey(order{Op: "up", Name: "lo"}); err != nil {
			t.Error(err)
			return
		}
		d, err := openDiag()
		if err != nil {
			t.Error(err)
			return
		}
		defer d.close()
		counters := openCounters()
		defer counters.close()
		buf := make([]byte, 64<<10)
		same := func(what string, atLeast socketCounts) {
			c := counters.read(buf)
			if c.tcp < atLeast.tcp || c.timeWait < atLeast.timeWait || c.udp < atLeast.udp || c == unknownCounts {
				t.Errorf("%s: counted %+v, there are %+v", what, c, atLeast)
			}
			got, err := d.sockets(nil, 1, c, buf)
			if err != nil {
				t.Error(err)
			}
			apart := diagSocket{fd: d.fd, apart: true}
			want, err := apart.sockets(nil, 1, unknownCounts, buf)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(lines(want), lines(got)); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
			if n := atLeast.tcp + atLeast.timeWait + atLeast.udp; len(got) < n {
				t.Errorf("%s: %d sockets of %d", what, len(got), n)
			}
		}
		same("nothing", socketCounts{})
		// Sockets are made on this thread, in its namespace; what accepts only hands over what is there.
		l4, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer l4.Close()
		l6, err := net.Listen("tcp6", "[::1]:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer l6.Close()
		same("listeners", socketCounts{tcp: 2})
		for _, l := range []net.Listener{l4, l6} {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
		}
		same("connections", socketCounts{tcp: 6})
		u, err := net.ListenPacket("udp6", "[::1]:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer u.Close()
		same("datagrams", socketCounts{tcp: 6, udp: 1})
		c, err := net.Dial("tcp", l4.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		for range 2 { // the two that have connected
			s, err := l4.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			if s.RemoteAddr().String() == c.LocalAddr().String() {
				c.Close() // the first to close waits
				_, _ = s.Read(make([]byte, 1))
				s.Close()
			} else {
				defer s.Close()
			}
		}
		l4.Close()
		same("one that waits", socketCounts{tcp: 5, timeWait: 1, udp: 1})
	})
}
