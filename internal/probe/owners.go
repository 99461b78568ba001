package probe

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// owners finds the process behind a socket. The kernel names a socket's cgroup and namespace, which is enough for the
// container; the process needs a walk over open files, so it is done only for sockets not met before, first in the
// processes that the cgroup names, and within a budget of time per round.
type owners struct {
	proc   string
	byIno  map[uint32]*ownedSocket
	paths  map[string]uint64 // version 2 cgroup path to inode
	buf    [128]byte
	denied bool
	// patience is how often a socket without a process is looked for.
	patience int
}

// place is where a socket is.
type place struct{ netns, cgroup uint64 }

type ownedSocket struct {
	pid   int
	start uint64
	tries int
	seen  bool
}

// ownerTries is how often a socket without a process is looked for, the last time everywhere: the kernel's own sockets have none.
const ownerTries = 3

func newOwners(proc string) *owners {
	return &owners{proc: proc, byIno: map[uint32]*ownedSocket{}, paths: map[string]uint64{}, patience: ownerTries}
}

// cgroupInode gives the inode of a version 2 cgroup, which the kernel calls the cgroup's id.
func (o *owners) cgroupInode(v2, path string) uint64 {
	if v2 == "" || path == "" {
		return 0
	}
	if ino, ok := o.paths[path]; ok {
		return ino
	}
	if len(o.paths) > 50_000 {
		clear(o.paths)
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(v2, path), &st) != nil {
		return 0
	}
	o.paths[path] = st.Ino
	return st.Ino
}

// resolve looks for the processes of all sockets that it does not know yet, for at most the budget.
func (o *owners) resolve(sockets []socket, table *processTable, cgroupOf func(*process) uint64, budget time.Duration) {
	wanted, far := map[place]map[uint32]*ownedSocket{}, map[uint32]*ownedSocket{}
	for i := range sockets {
		s := &sockets[i]
		if s.inode == 0 {
			continue
		}
		own := o.byIno[s.inode]
		if own == nil {
			own = &ownedSocket{}
			o.byIno[s.inode] = own
		}
		own.seen = true
		if own.pid != 0 {
			if p := table.byPid[own.pid]; p != nil && p.start == own.start {
				continue
			}
			own.pid, own.tries = 0, 0 // it has ended: another one holds the socket
		}
		if own.tries >= o.patience {
			continue
		}
		at := place{s.netns, s.cgroup}
		if wanted[at] == nil {
			wanted[at] = map[uint32]*ownedSocket{}
		}
		wanted[at][s.inode] = own
		if own.tries == o.patience-1 {
			far[s.inode] = own
		}
	}
	for ino, own := range o.byIno {
		if !own.seen {
			delete(o.byIno, ino)
		}
		own.seen = false
	}
	if len(wanted) == 0 {
		return
	}
	o.denied = false
	until := time.Now().Add(budget)
	pids := table.pids()
	// First the processes of the very cgroup, then the rest of the namespace: sockets are handed from process to process.
	for _, exact := range []bool{true, false} {
		for at, inodes := range wanted {
			for _, pid := range pids {
				if len(inodes) == 0 || time.Now().After(until) {
					break
				}
				p := table.byPid[pid]
				if p.kernel || p.netns != 0 && p.netns != at.netns || exact != (at.cgroup == 0 || cgroupOf(p) == at.cgroup) {
					continue
				}
				o.walk(p, inodes)
			}
			if len(inodes) == 0 {
				delete(wanted, at)
			}
		}
	}
	// Whoever makes a socket in another namespace and comes back holds it from outside. That is rare, and means a look at every process:
	// it is done for sockets that have been there for a while.
	for ino, own := range far {
		if own.pid != 0 {
			delete(far, ino)
		}
	}
	for _, pid := range pids {
		if len(far) == 0 || time.Now().After(until) {
			break
		}
		if p := table.byPid[pid]; !p.kernel {
			o.walk(p, far)
		}
	}
	if time.Now().Before(until) {
		for _, inodes := range wanted {
			for _, own := range inodes {
				if own.pid == 0 {
					own.tries++
				}
			}
		}
	}
}

// walk takes the sockets that a process holds out of the wanted ones.
func (o *owners) walk(p *process, wanted map[uint32]*ownedSocket) {
	o.holds(p.pid, func(ino uint32) bool {
		if own := wanted[ino]; own != nil {
			own.pid, own.start = p.pid, p.start
			delete(wanted, ino)
		}
		return len(wanted) > 0
	})
}

// holds calls yield with each socket among a process's open files.
func (o *owners) holds(pid int, yield func(ino uint32) bool) {
	dir, err := os.Open(filepath.Join(o.proc, strconv.Itoa(pid), "fd"))
	if err != nil {
		o.denied = o.denied || os.IsPermission(err)
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(65536)
	if err != nil {
		return
	}
	fd := int(dir.Fd())
	for _, name := range names {
		n, err := unix.Readlinkat(fd, name, o.buf[:])
		if err != nil || n < 9 || string(o.buf[:8]) != "socket:[" {
			continue
		}
		ino, err := strconv.ParseUint(strings.TrimSuffix(string(o.buf[8:n]), "]"), 10, 32)
		if err == nil && !yield(uint32(ino)) {
			return
		}
	}
}

// of gives the process of a socket, when it is known.
func (o *owners) of(s *socket, table *processTable) *process {
	own := o.byIno[s.inode]
	if s.inode == 0 || own == nil || own.pid == 0 {
		return nil
	}
	if p := table.byPid[own.pid]; p != nil && p.start == own.start {
		return p
	}
	return nil
}
