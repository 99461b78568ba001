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
}

type ownedSocket struct {
	pid   int
	start uint64
	tries int
	seen  bool
}

// ownerTries is how often a socket without a process is looked for: the kernel's own sockets have none.
const ownerTries = 3

func newOwners(proc string) *owners {
	return &owners{proc: proc, byIno: map[uint32]*ownedSocket{}, paths: map[string]uint64{}}
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
	type place struct{ netns, cgroup uint64 }
	wanted := map[place]map[uint32]*ownedSocket{}
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
		if own.tries >= ownerTries {
			continue
		}
		at := place{s.netns, s.cgroup}
		if wanted[at] == nil {
			wanted[at] = map[uint32]*ownedSocket{}
		}
		wanted[at][s.inode] = own
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
	if time.Now().Before(until) {
		for _, inodes := range wanted {
			for _, own := range inodes {
				own.tries++
			}
		}
	}
}

// walk reads a process's open files and takes the sockets it finds out of the wanted ones.
func (o *owners) walk(p *process, wanted map[uint32]*ownedSocket) {
	dir, err := os.Open(filepath.Join(o.proc, strconv.Itoa(p.pid), "fd"))
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
		if err != nil {
			continue
		}
		if own := wanted[uint32(ino)]; own != nil {
			own.pid, own.start = p.pid, p.start
			delete(wanted, uint32(ino))
			if len(wanted) == 0 {
				return
			}
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
