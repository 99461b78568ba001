package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace of the host and how its sockets are read.
type namespace struct {
	inode    uint64
	pid      int // one of its processes
	diag     *diagSocket
	counters *socketCounters // as long as diag
	addrs    []netip.Addr
	addrAt   time.Time
}

// release closes what is open.
func (ns *namespace) release() {
	if ns.diag != nil {
		ns.diag.close()
		ns.counters.close()
		ns.diag = nil
	}
}

// namespaces holds one open sock_diag socket (and the namespace's counters) per network namespace, so that each is entered once. Used by one goroutine.
type namespaces struct {
	proc   string
	own    uint64
	forced string // "auto", "diag" or "proc"
	held   map[uint64]*namespace
	buf    []byte
	denied int // namespaces that this probe may not enter
}

// maxNamespaces bounds the open netlink sockets.
const maxNamespaces = 4096

// addrsEvery is how often a namespace's addresses are read again.
const addrsEvery = 10 * time.Second

func newNamespaces(proc, forced string) *namespaces {
	n := &namespaces{proc: proc, forced: forced, held: map[uint64]*namespace{}, buf: make([]byte, 64<<10)}
	var target [64]byte
	if k, err := unix.Readlink("/proc/self/ns/net", target[:]); err == nil {
		n.own = namespaceInode(string(target[:k]))
	}
	return n
}

func (n *namespaces) close() {
	for _, ns := range n.held {
		ns.release()
	}
	clear(n.held)
}

// refresh makes the held namespaces those in which processes run: inode to a process of it.
func (n *namespaces) refresh(live map[uint64]int, now time.Time) {
	for inode, ns := range n.held {
		if _, ok := live[inode]; !ok && inode != n.own {
			ns.release()
			delete(n.held, inode)
		}
	}
	n.denied = 0
	if _, ok := live[n.own]; !ok && n.own != 0 {
		live[n.own] = 0
	}
	for inode, pid := range live {
		ns := n.held[inode]
		if ns == nil {
			if len(n.held) >= maxNamespaces {
				continue
			}
			ns = &namespace{inode: inode}
			n.held[inode] = ns
		}
		ns.pid = pid
		if now.Sub(ns.addrAt) >= addrsEvery {
			ns.addrAt = now
			if err := n.enter(ns); errors.Is(err, unix.EPERM) {
				n.denied++
			}
		}
	}
}

// enter opens the namespace's netlink socket, when it is not open yet, and reads its addresses.
func (n *namespaces) enter(ns *namespace) error {
	work := func() (err error) {
		if ns.diag == nil && n.forced != "proc" {
			if ns.diag, err = openDiag(); err != nil {
				ns.diag = nil
			} else {
				ns.counters = openCounters()
			}
		}
		addrs, err2 := readAddrs()
		if err2 == nil {
			ns.addrs = addrs
		}
		return errors.Join(err, err2)
	}
	if ns.inode == n.own {
		return work()
	}
	path := filepath.Join(n.proc, strconv.Itoa(ns.pid), "ns/net")
	return inNamespace(path, ns.inode, work)
}

// onOwnThread runs f on a thread that ends afterwards, so that f may change what belongs to the thread (namespaces). It is
// never the process's first thread: that one can't end, and its namespaces are those that others take for the process's.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked, except on the first thread
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(f) // this thread is held meanwhile, so another one is taken
			runtime.UnlockOSThread()
		} else {
			f()
		}
		close(done)
	}()
	<-done
}

// inNamespace runs work on a thread that is in the network namespace behind path, if that is still the one of that inode.
func inNamespace(path string, inode uint64, work func() error) (err error) {
	onOwnThread(func() {
		err = func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open network namespace: %w", err)
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || inode != 0 && st.Ino != inode {
				return errors.New("the process has changed its network namespace")
			}
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace: %w", err)
			}
			return work()
		}()
	})
	return err
}

// readAddrs lists the addresses of the calling thread's network namespace.
func readAddrs() ([]netip.Addr, error) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	var out []netip.Addr
	for i := range msgs {
		if msgs[i].Header.Type != syscall.RTM_NEWADDR {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&msgs[i])
		if err != nil {
			continue
		}
		var addr netip.Addr
		for _, a := range attrs {
			// IFA_LOCAL is the own end on point-to-point links, where IFA_ADDRESS is the other's.
			if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !addr.IsValid() {
				if v, ok := netip.AddrFromSlice(a.Value); ok {
					addr = v.Unmap()
				}
			}
		}
		if addr.IsValid() && !addr.IsLoopback() {
			out = append(out, addr)
		}
	}
	return out, nil
}

// sockets reads the sockets of all namespaces. source says how: "diag", "proc", or "mixed".
func (n *namespaces) sockets(out []socket) (_ []socket, source string, err error) {
	used := map[string]int{}
	var first error
	for inode, ns := range n.held {
		if ns.diag != nil && n.forced != "proc" {
			more, derr := ns.diag.sockets(out, inode, ns.counters.read(n.buf), n.buf)
			if derr == nil {
				out = more
				used["diag"]++
				continue
			}
			ns.release()
			ns.addrAt = time.Time{}
			first = derr
		}
		if n.forced == "diag" {
			continue
		}
		dir := filepath.Join(n.proc, strconv.Itoa(ns.pid), "net")
		if ns.pid == 0 {
			dir = "/proc/self/net"
		}
		more, perr := procSockets(out, dir, inode, false)
		if perr == nil {
			out = more
			used["proc"]++
		} else if first == nil && !errors.Is(perr, unix.ENOENT) {
			first = perr
		}
	}
	switch {
	case used["diag"] > 0 && used["proc"] > 0:
		source = "mixed"
	case used["diag"] > 0:
		source = "diag"
	case used["proc"] > 0:
		source = "proc"
	}
	if source != "" {
		first = nil
	}
	return out, source, first
}
