package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a dweller does to have a socket in every state that lasts: all of them stay as they are until the dweller ends.

// pairs are the connections that a dweller makes with itself, by what has become of them.
var pairs = map[string]func(c, s *net.TCPConn) error{
	"established": func(c, s *net.TCPConn) error {
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := io.ReadFull(s, make([]byte, 2)) // the rest waits in its queue
		return err
	},
	"half closed": func(c, s *net.TCPConn) error { // FIN-WAIT-2 and CLOSE-WAIT
		return errors.Join(c.CloseWrite(), inState(s, unix.BPF_TCP_CLOSE_WAIT), inState(c, unix.BPF_TCP_FIN_WAIT2))
	},
	"stuck": func(c, s *net.TCPConn) error { // FIN-WAIT-1: the end stands behind what nobody reads
		return errors.Join(fill(c), c.CloseWrite(), inState(c, unix.BPF_TCP_FIN_WAIT1))
	},
	"last ack": func(c, s *net.TCPConn) error { // LAST-ACK and FIN-WAIT-2
		return errors.Join(fill(s), c.CloseWrite(), inState(s, unix.BPF_TCP_CLOSE_WAIT), s.CloseWrite(), inState(s, unix.BPF_TCP_LAST_ACK), inState(c, unix.BPF_TCP_FIN_WAIT2))
	},
	"closing": func(c, s *net.TCPConn) error { // CLOSING and FIN-WAIT-2
		return errors.Join(fill(c), c.CloseWrite(), inState(c, unix.BPF_TCP_FIN_WAIT1), s.CloseWrite(), inState(s, unix.BPF_TCP_FIN_WAIT2), inState(c, unix.BPF_TCP_CLOSING))
	},
	"waiting": func(c, s *net.TCPConn) error { // TIME-WAIT
		if err := c.Close(); err != nil {
			return err
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return err
		}
		return s.Close()
	},
	"left": func(c, s *net.TCPConn) error { // FIN-WAIT-2 that is nobody's, and CLOSE-WAIT
		return errors.Join(c.Close(), inState(s, unix.BPF_TCP_CLOSE_WAIT))
	},
	"left stuck": func(c, s *net.TCPConn) error { // FIN-WAIT-1 that is nobody's
		return errors.Join(fill(c), c.Close())
	},
}

// pair makes a connection over a listener that goes again, and brings it into a state.
func pair(network, addr, what string) (io.Closer, error) {
	small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	l, err := small.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	d := net.Dialer{Control: small.Control, Timeout: patience}
	c, err := d.Dial(network, l.Addr().String())
	if err != nil {
		return nil, err
	}
	s, err := l.Accept()
	if err != nil {
		return nil, err
	}
	if err := pairs[what](c.(*net.TCPConn), s.(*net.TCPConn)); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return closers{c, s}, nil
}

type closers []io.Closer

func (list closers) Close() error {
	for _, c := range list {
		_ = c.Close() // some are closed
	}
	return nil
}

func control(c syscall.RawConn, f func(fd int) error) (err error) {
	return errors.Join(c.Control(func(fd uintptr) { err = f(int(fd)) }), err)
}

// fill writes more than the other side takes.
func fill(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if err := c.SetWriteBuffer(1 << 20); err != nil {
		return err
	}
	return control(raw, func(fd int) error {
		n, err := unix.Write(fd, make([]byte, 256<<10))
		if err == nil && n < 100<<10 {
			err = fmt.Errorf("no more than %d bytes could be written", n)
		}
		return err
	})
}

// inState waits until the kernel has a connection in a state.
func inState(c *net.TCPConn, want uint8) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error {
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil || info.State == want {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		return fmt.Errorf("never came into state %d", want)
	})
}

// overfull is a listener that accepts nothing and has room for one connection, and two more that try: SYN-SENT.
func overfull(addr string) (io.Closer, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	var list closers
	open := func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		list = append(list, os.NewFile(uintptr(fd), ""))
		return fd, err
	}
	l, err := open()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte(a.IP.To4())}), unix.Listen(l, 0)); err != nil {
		return nil, err
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return nil, err
	}
	for range 3 {
		c, err := open()
		if err != nil {
			return nil, err
		}
		if err := unix.Connect(c, at); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return nil, err
		}
	}
	return list, nil
}

// deferred is a listener that wants data before it believes in a connection, and one that sends none: SYN-RECV.
func deferred(network, addr string) (io.Closer, error) {
	wary := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 600) })
	}}
	l, err := wary.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	c, err := net.DialTimeout(network, l.Addr().String(), patience)
	return closers{l, c}, err
}

// shared is a listener that a child of the dweller holds as well. The child ends with the dweller.
func shared(network, addr string) (io.Closer, error) {
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		return nil, err
	}
	defer null.Close()
	_, err = os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{Files: []*os.File{null, null, null, f}, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}})
	return l, err
}

// twins are two sockets with the same address.
func twins(network, addr string) (io.Closer, error) {
	reuse := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	var list closers
	for range 2 {
		c, err := reuse.ListenPacket(context.Background(), network, addr)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
		addr = c.LocalAddr().String()
	}
	return list, nil
}

// abroad listens in another process's namespace, as whoever makes a socket there and comes back does.
func abroad(o order) (c io.Closer, err error) {
	if e := inNamespace("/proc/"+strconv.Itoa(o.Peer)+"/ns/net", 0, func() (err error) {
		c, err = net.Listen(o.Network, o.Addr)
		return err
	}); e != nil {
		return nil, e
	}
	return c, nil
}

// churn makes connections that end at once until it is closed: most leave nothing behind.
func churn(network, addr string) (io.Closer, error) {
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = s.Read(make([]byte, 1))
			s.Close()
		}
	}()
	go func() {
		for i := 0; ; i++ {
			c, err := net.Dial(network, l.Addr().String())
			if err != nil {
				return
			}
			if i%50 > 0 {
				_ = c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
			runtime.Gosched()
		}
	}()
	return l, nil
}

// hurry makes connections to somebody that end at once, until it is closed.
func hurry(network, addr string) (io.Closer, error) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond): // no more than conntrack can tell of
			}
			if c, err := net.DialTimeout(network, addr, time.Second); err == nil {
				c.Close()
			}
		}
	}()
	return closing(func() error { close(done); return nil }), nil
}

type closing func() error

func (f closing) Close() error { return f() }
