package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// States of a socket, as the kernel numbers them.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
	tcpTimeWait    = 6
	tcpClose       = 7
	tcpListen      = 10
)

// socket is one socket of the host, from whichever source.
type socket struct {
	udp             bool
	state           uint8
	local, remote   netip.AddrPort
	inode           uint32
	uid             uint32
	cookie          uint64
	netns           uint64
	cgroup          uint64 // inode of its version 2 cgroup, 0 when not known
	rttMicros       uint32
	acked, received uint64
	retrans         uint32
	info            bool // the counters are there
}

// maxSockets bounds one dump of one namespace; what is beyond is counted and said.
const maxSockets = 200_000

// Constants of sock_diag(7) that x/sys/unix does not name.
const (
	sockDiagByFamily = 20
	inetDiagInfo     = 2
	inetDiagCgroup   = 21
	diagReqSize      = 56
	diagMsgSize      = 72
)

// diagSocket is a netlink socket that answers for the network namespace in which it was opened.
type diagSocket struct{ fd int }

// openDiag opens one in the calling thread's network namespace.
func openDiag() (*diagSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	// A kernel that does not answer must not stop the probe.
	tv := unix.Timeval{Sec: 2}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	return &diagSocket{fd}, nil
}

func (d *diagSocket) close() { _ = unix.Close(d.fd) }

// dump appends all sockets of one family and protocol.
func (d *diagSocket) dump(out []socket, family, protocol uint8, buf []byte) ([]socket, error) {
	req := make([]byte, unix.NLMSG_HDRLEN+diagReqSize)
	ne := binary.NativeEndian
	ne.PutUint32(req[0:], uint32(len(req)))
	ne.PutUint16(req[4:], sockDiagByFamily)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := req[unix.NLMSG_HDRLEN:]
	body[0], body[1], body[2] = family, protocol, 1<<(inetDiagInfo-1)
	ne.PutUint32(body[4:], 0xffffffff&^(1<<tcpSynRecv)) // all states
	if err := unix.Sendto(d.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return out, fmt.Errorf("ask sock_diag: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(d.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("read sock_diag: %w", err)
		}
		var done bool
		if out, done, err = parseDiag(out, buf[:n], protocol == unix.IPPROTO_UDP); err != nil || done {
			return out, err
		}
	}
}

// parseDiag reads the messages of one datagram.
func parseDiag(out []socket, b []byte, udp bool) (_ []socket, done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(ne.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return out, true, errors.New("sock_diag: message of impossible length")
		}
		body := b[unix.NLMSG_HDRLEN:size]
		switch ne.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return out, true, nil
		case unix.NLMSG_ERROR:
			if len(body) >= 4 {
				if code := int32(ne.Uint32(body)); code != 0 {
					return out, true, fmt.Errorf("sock_diag: %w", unix.Errno(-code))
				}
			}
			return out, true, nil
		default:
			if s, ok := parseDiagMsg(body); ok && len(out) < maxSockets {
				s.udp = udp
				out = append(out, s)
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return out, false, nil
}

func parseDiagMsg(b []byte) (s socket, ok bool) {
	if len(b) < diagMsgSize {
		return s, false
	}
	ne, be := binary.NativeEndian, binary.BigEndian
	s.state = b[1]
	s.local = addrPort(b[0], b[8:24], be.Uint16(b[4:]))
	s.remote = addrPort(b[0], b[24:40], be.Uint16(b[6:]))
	s.cookie = uint64(ne.Uint32(b[44:])) | uint64(ne.Uint32(b[48:]))<<32
	s.uid, s.inode = ne.Uint32(b[64:]), ne.Uint32(b[68:])
	for a := b[diagMsgSize:]; len(a) >= 4; {
		size, kind := int(ne.Uint16(a)), ne.Uint16(a[2:])
		if size < 4 || size > len(a) {
			break
		}
		v := a[4:size]
		switch {
		case kind == inetDiagInfo && len(v) >= 136: // struct tcp_info up to tcpi_bytes_received
			s.rttMicros, s.retrans = ne.Uint32(v[68:]), ne.Uint32(v[100:])
			s.acked, s.received = ne.Uint64(v[120:]), ne.Uint64(v[128:])
			s.info = true
		case kind == inetDiagCgroup && len(v) >= 8:
			s.cgroup = ne.Uint64(v)
		}
		a = a[min(len(a), (size+3)&^3):]
	}
	return s, true
}

// addrPort makes an address of the kernel's bytes; a version 4 address mapped into version 6 becomes version 4, so that both
// ends of one connection look alike.
func addrPort(family uint8, b []byte, port uint16) netip.AddrPort {
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), port)
}

// sockets dumps all of the namespace's sockets.
func (d *diagSocket) sockets(out []socket, netns uint64, buf []byte) ([]socket, error) {
	first := len(out)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			var err error
			if out, err = d.dump(out, family, protocol, buf); err != nil {
				if family == unix.AF_INET6 && errors.Is(err, unix.ENOENT) {
					continue // a kernel without IPv6
				}
				return out, err
			}
		}
	}
	for i := first; i < len(out); i++ {
		out[i].netns = netns
	}
	return out, nil
}

// procSockets reads /proc/PID/net/{tcp,udp}{,6}: no counters, no cgroup, but no privilege beyond reading /proc either.
func procSockets(out []socket, dir string, netns uint64) ([]socket, error) {
	for _, f := range []struct {
		name   string
		family uint8
		udp    bool
	}{{"tcp", unix.AF_INET, false}, {"tcp6", unix.AF_INET6, false}, {"udp", unix.AF_INET, true}, {"udp6", unix.AF_INET6, true}} {
		b, err := os.ReadFile(dir + "/" + f.name)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) && f.family == unix.AF_INET6 {
				continue
			}
			return out, fmt.Errorf("read sockets: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if s, ok := parseProcSocket(line, f.family); ok && len(out) < maxSockets {
				s.udp, s.netns = f.udp, netns
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// parseProcSocket reads a line such as
// "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 12345 …".
func parseProcSocket(line string, family uint8) (s socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || !strings.HasSuffix(f[0], ":") {
		return s, false
	}
	var ok1, ok2 bool
	s.local, ok1 = procAddr(f[1], family)
	s.remote, ok2 = procAddr(f[2], family)
	state, err1 := strconv.ParseUint(f[3], 16, 8)
	uid, err2 := strconv.ParseUint(f[7], 10, 32)
	inode, err3 := strconv.ParseUint(f[9], 10, 32)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil {
		return s, false
	}
	s.state, s.uid, s.inode, s.cookie = uint8(state), uint32(uid), uint32(inode), inode
	return s, state != tcpSynRecv
}

// procAddr reads "0100007F:1F90": words in the machine's order, the port in hexadecimal.
func procAddr(text string, family uint8) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(host) != 8 && len(host) != 32 || (len(host) == 8) != (family == unix.AF_INET) {
		return netip.AddrPort{}, false
	}
	var b [16]byte
	for i := 0; i*8 < len(host); i++ {
		w, err := strconv.ParseUint(host[i*8:i*8+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		binary.NativeEndian.PutUint32(b[i*4:], uint32(w))
	}
	return addrPort(family, b[:], uint16(p)), true
}
