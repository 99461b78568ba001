package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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
	tcpDiagGetSock   = 18
	sockDiagByFamily = 20
	inetDiagInfo     = 2
	inetDiagCgroup   = 21
	diagOldReqSize   = 60
	diagReqSize      = 56
	diagMsgSize      = 72
)

// Which sockets a dump asks for. Listeners and the rest lie in different tables of the kernel, which belong to all namespaces: a dump walks the
// whole table whatever it is asked for. Not asked for: sockets that are only bound, which (since Linux 6.9) lie in a third one.
const (
	listens   = 1 << tcpListen
	embryonic = 1 << tcpSynRecv // nobody's connection yet: for listings only
	talking   = (1<<12 - 1) &^ (1<<0 | listens | embryonic)
)

// diagSocket is a netlink socket that answers for the network namespace in which it was opened.
type diagSocket struct {
	fd int
	// apart: the kernel does not answer for both families at once.
	apart bool
	// all: embryonic connections too.
	all bool
}

// openDiag opens one in the calling thread's network namespace.
func openDiag() (*diagSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	// A kernel that does not answer must not stop the probe.
	tv := unix.Timeval{Sec: 2}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	return &diagSocket{fd: fd}, nil
}

func (d *diagSocket) close() { _ = unix.Close(d.fd) }

// tcp appends the TCP sockets of both families in these states. The older of the two requests knows no family, and with it the table is walked
// once for both.
func (d *diagSocket) tcp(out []socket, states uint32, buf []byte) ([]socket, error) {
	if !d.apart {
		// struct inet_diag_req: family, lengths of addresses, extensions, id, states, dbs.
		body := make([]byte, diagOldReqSize)
		body[3] = 1 << (inetDiagInfo - 1)
		binary.NativeEndian.PutUint32(body[52:], states)
		more, err := d.dump(out, tcpDiagGetSock, body, false, buf)
		if err == nil {
			return more, nil
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return out, err
		}
		d.apart = true
	}
	return d.families(out, unix.IPPROTO_TCP, states, buf)
}

// families appends the sockets of a protocol, one family after the other.
func (d *diagSocket) families(out []socket, protocol uint8, states uint32, buf []byte) ([]socket, error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		// struct inet_diag_req_v2: family, protocol, extensions, padding, states, id.
		body := make([]byte, diagReqSize)
		body[0], body[1], body[2] = family, protocol, 1<<(inetDiagInfo-1)
		binary.NativeEndian.PutUint32(body[4:], states)
		more, err := d.dump(out, sockDiagByFamily, body, protocol == unix.IPPROTO_UDP, buf)
		if err != nil {
			if family == unix.AF_INET6 && errors.Is(err, unix.ENOENT) {
				break // a kernel without IPv6
			}
			return out, err
		}
		out = more
	}
	return out, nil
}

// dump appends what the kernel answers to one request.
func (d *diagSocket) dump(out []socket, kind uint16, body []byte, udp bool, buf []byte) ([]socket, error) {
	req := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	ne := binary.NativeEndian
	ne.PutUint32(req[0:], uint32(cap(req)))
	ne.PutUint16(req[4:], kind)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req = append(req, body...)
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
		if out, done, err = parseDiag(out, buf[:n], udp); err != nil || done {
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

// sockets dumps the namespace's sockets. What counts says is not there is not looked for: a namespace costs a walk of every table,
// and most namespaces have next to nothing.
func (d *diagSocket) sockets(out []socket, netns uint64, counts socketCounts, buf []byte) (_ []socket, err error) {
	first := len(out)
	if counts.tcp > 0 {
		if out, err = d.tcp(out, listens, buf); err != nil {
			return out, err
		}
	}
	if counts.tcp > len(out)-first || counts.timeWait > 0 {
		states := uint32(talking)
		if d.all {
			states |= embryonic
		}
		if out, err = d.tcp(out, states, buf); err != nil {
			return out, err
		}
	}
	if counts.udp > 0 {
		if out, err = d.families(out, unix.IPPROTO_UDP, talking, buf); err != nil {
			return out, err
		}
	}
	for i := first; i < len(out); i++ {
		out[i].netns = netns
	}
	return out, nil
}

// socketCounts is how many sockets a namespace has, at least.
type socketCounts struct{ tcp, timeWait, udp int }

// unknownCounts has everything looked for.
var unknownCounts = socketCounts{math.MaxInt, math.MaxInt, math.MaxInt}

// socketCounters are sockstat and sockstat6 of one namespace, whatever becomes of the process by which it was entered.
type socketCounters struct{ files []*os.File }

// openCounters opens those of the calling thread's network namespace. Without them everything is looked for.
func openCounters() *socketCounters {
	c := &socketCounters{}
	for _, name := range []string{"sockstat", "sockstat6"} {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if err != nil {
			if name == "sockstat6" && errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6
			}
			c.close()
			return &socketCounters{}
		}
		c.files = append(c.files, f)
	}
	return c
}

func (c *socketCounters) close() {
	for _, f := range c.files {
		_ = f.Close()
	}
	c.files = nil
}

func (c *socketCounters) read(buf []byte) socketCounts {
	if len(c.files) == 0 {
		return unknownCounts
	}
	var all socketCounts
	for _, f := range c.files {
		n, err := f.ReadAt(buf, 0)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			return unknownCounts
		}
		counts, ok := parseSockstat(buf[:n])
		if !ok {
			return unknownCounts
		}
		all.tcp, all.timeWait, all.udp = all.tcp+counts.tcp, all.timeWait+counts.timeWait, all.udp+counts.udp
	}
	return all
}

// parseSockstat reads lines such as "TCP: inuse 13 orphan 0 tw 2 alloc 15 mem 1" and "UDP6: inuse 3".
func parseSockstat(b []byte) (c socketCounts, ok bool) {
	var tcp, udp bool
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		for i := 1; i+1 < len(f); i += 2 {
			n, err := strconv.Atoi(f[i+1])
			if err != nil || n < 0 {
				return c, false
			}
			switch {
			case f[i] == "inuse" && (f[0] == "TCP:" || f[0] == "TCP6:"):
				c.tcp, tcp = n, true
			case f[i] == "inuse" && (f[0] == "UDP:" || f[0] == "UDP6:"):
				c.udp, udp = n, true
			case f[i] == "tw" && f[0] == "TCP:":
				c.timeWait = n
			}
		}
	}
	return c, tcp && udp
}

// procSockets reads /proc/PID/net/{tcp,udp}{,6}: no counters, no cgroup, but no privilege beyond reading /proc either. all: embryonic
// connections too.
func procSockets(out []socket, dir string, netns uint64, all bool) ([]socket, error) {
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
		// The kernel writes a page at a time, and may write the last one of a page again on the next.
		type name struct {
			local, remote netip.AddrPort
			inode         uint32
		}
		seen := map[name]int{}
		for line := range strings.Lines(string(b)) {
			s, ok := parseProcSocket(line, f.family)
			if !ok || s.state == tcpSynRecv && !all || len(out) >= maxSockets {
				continue
			}
			s.udp, s.netns = f.udp, netns
			n := name{s.local, s.remote, s.inode}
			if !s.udp && s.state != tcpListen {
				n.inode = 0 // a connection has nothing but its addresses in common with what is left of it
			}
			if i, twice := seen[n]; twice {
				out[i] = s
				continue
			}
			seen[n] = len(out)
			out = append(out, s)
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
	return s, true
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
