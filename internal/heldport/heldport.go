package heldport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Ports are below those that Linux gives to clients, and those that agents give to tasks: what reads a host's connections takes them for servers'.
const first, last = 12_000, 30_000

// Held are ports of all IPv4 addresses of this network namespace, until Close.
type Held struct {
	Ports []int
	fds   []int
}

// Hold takes n ports that nobody has.
func Hold(n int) (*Held, error) {
	h := &Held{}
	for tries := 0; len(h.Ports) < n; tries++ {
		port := first + rand.IntN(last-first)
		fd, err := bind(port)
		switch {
		case err == nil:
			h.Ports, h.fds = append(h.Ports, port), append(h.fds, fd)
		case !errors.Is(err, unix.EADDRINUSE) || tries > 1000+10*n:
			h.Close()
			return nil, fmt.Errorf("hold a port between %d and %d: %w", first, last, err)
		}
	}
	return h, nil
}

// bind fails when anything at all has the port, also another one who holds it; then others may bind to it who say that they share it.
func bind(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

// Close gives the ports back.
func (h *Held) Close() {
	for _, fd := range h.fds {
		_ = unix.Close(fd)
	}
	h.fds = nil
}

// Port holds one until the test ends.
func Port(t testing.TB) int {
	t.Helper()
	h, err := Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h.Ports[0]
}

// Address is 127.0.0.1 with a port that is held until the test ends.
func Address(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(t)))
}
