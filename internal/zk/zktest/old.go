package zktest

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// NewFakeOldServer stands before a real server and refuses what ZooKeeper 3.4 does not know, as that does: it answers
// Unimplemented and closes the connection. Multis that hold such an operation are answered with a marshalling error.
func NewFakeOldServer(tb testing.TB, target string) (addr string, refused func() int) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	o := &oldServer{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { o.serve(c, target) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		o.mu.Lock()
		for _, c := range o.conns {
			c.Close()
		}
		o.mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String(), func() int { o.mu.Lock(); defer o.mu.Unlock(); return o.refused }
}

type oldServer struct {
	mu      sync.Mutex
	conns   []net.Conn
	refused int
}

// known are the request types of 3.4.
var known = []zk.OpCode{
	zk.OpCreate, zk.OpDelete, zk.OpExists, zk.OpGet, zk.OpSet, zk.OpGetACL, zk.OpSetACL, 8 /* getChildren */, zk.OpSync, zk.OpPing, zk.OpChildren,
	zk.OpCheck, zk.OpMulti, zk.OpAuth, 101 /* setWatches */, 102 /* sasl */, zk.OpCloseSession,
}

func (o *oldServer) serve(c net.Conn, target string) {
	defer c.Close()
	s, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer s.Close()
	o.mu.Lock()
	o.conns = append(o.conns, c, s)
	o.mu.Unlock()
	go func() {
		_, _ = io.Copy(c, s)
		c.Close()
	}()
	for first := true; ; first = false {
		head := make([]byte, 4)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		if !first {
			code := zk.OpCode(int32(binary.BigEndian.Uint32(frame[4:])))
			refuse := zk.Error(0)
			if !slices.Contains(known, code) {
				refuse = zk.ErrUnimplemented
			} else if code == zk.OpMulti && newInMulti(frame[8:]) {
				refuse = zk.ErrMarshalling
			}
			if refuse != 0 {
				o.mu.Lock()
				o.refused++
				o.mu.Unlock()
				reply := make([]byte, 20)
				binary.BigEndian.PutUint32(reply, 16)
				copy(reply[4:8], frame[:4])
				binary.BigEndian.PutUint32(reply[16:], uint32(int32(refuse)))
				_, _ = c.Write(reply)
				if refuse == zk.ErrUnimplemented {
					return
				}
				continue
			}
		}
		if _, err := s.Write(append(head, frame...)); err != nil {
			return
		}
	}
}

// newInMulti looks for the header of a create2, container or TTL operation: type, not done, error -1, and a path.
func newInMulti(b []byte) bool {
	for i := 0; i+13 < len(b); i++ {
		if t := binary.BigEndian.Uint32(b[i:]); (t == 15 || t == 19 || t == 21) && b[i+4] == 0 && binary.BigEndian.Uint32(b[i+5:]) == 0xffffffff && b[i+13] == '/' {
			return true
		}
	}
	return false
}
