package heldport

import (
	"errors"
	"io"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAHeldPortIsFreeForWhoKnowsIt(t *testing.T) {
	t.Parallel()
	port := Port(t)
	here := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if c, err := net.Dial("tcp", here); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("before anybody listens: %v, %v", c, err)
	}
	for _, at := range []string{here, "0.0.0.0:" + strconv.Itoa(port), ":" + strconv.Itoa(port), here} { // a server that ends and comes back
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatalf("listen at %s: %v", at, err)
		}
		c, err := net.Dial("tcp", here)
		if err != nil {
			t.Fatalf("connect to %s: %v", at, err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.Close() // the server's end waits for its time to pass, on the port
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		l.Close()
		if _, err := net.Dial("tcp", here); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("after its server has ended: %v", err)
		}
	}
}

func TestAHeldPortIsNobodyElses(t *testing.T) {
	t.Parallel()
	h, err := Hold(2000)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	seen := map[int]bool{}
	for _, p := range h.Ports {
		if seen[p] {
			t.Errorf("port %d is held twice", p)
		}
		seen[p] = true
	}
	// Whoever else holds is told.
	if fd, err := bind(h.Ports[0]); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("held by two: descriptor %d, %v", fd, err)
	}
}

// A client is not given a held port, not even as the last one: it would be connected to itself if it called the server that is not there.
func TestNoClientIsGivenAHeldPort(t *testing.T) {
	t.Parallel()
	const onlyPorts = 51 // IP_LOCAL_PORT_RANGE, since Linux 6.3; within the host's own range
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: l.Addr().(*net.TCPAddr).Port}
	free, err := net.Listen("tcp4", "127.0.0.1:0") // in that range
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	held, err := bind(port)
	for errors.Is(err, unix.EADDRINUSE) { // somebody was faster
		port++
		held, err = bind(port)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(held)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, onlyPorts, port<<16|port); err != nil {
		t.Logf("this kernel gives no client a range of its own: %v", err)
		return
	}
	if err := unix.Connect(fd, to); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("a client is given a held port: %v", err)
	}
}
