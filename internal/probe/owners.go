package probe

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
	most   int // how many there were at most
	tours  map[region]*tour
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
	stage int // of the search
	since int // how far the region's processes had been walked through when it was first wanted there; negative: not yet
	tries int
	seen  bool
}

// ownerTries is how often a socket without a process is looked for, the last time everywhere: the kernel's own sockets have none, and a process
// may be younger than the table of processes.
const ownerTries = 3

func newOwners(proc string) *owners {
	return &owners{proc: proc, byIno: map[uint32]*ownedSocket{}, tours: map[region]*tour{}, patience: ownerTries}
}

// The stages of a search: the processes of the socket's own control group, those of its network namespace, and everywhere.
const (
	ofGroup = iota
	ofNamespace
	ofAll
	givenUp
)

// region is where sockets are looked for together.
type region struct {
	stage int
	place // of the group and of the namespace; for all it is empty
}

// tour is how far the processes of a region have been walked through. A host may have more than fit into the budget of a round: the next one goes
// on behind the last, round and round, so that every process is looked at, and a socket that nobody holds is looked for once and no more.
type tour struct {
	at     int // the last pid
	walked int // processes, in all
	used   bool
}

// resolve looks for the processes of all sockets that it does not know yet, for as long as more says so.
func (o *owners) resolve(sockets []socket, table *processTable, more func() bool) {
	wanted := map[region]map[uint32]*ownedSocket{}
	want := func(stage int, ino uint32, own *ownedSocket, at place) {
		switch own.stage = stage; stage {
		case ofNamespace:
			at.cgroup = 0
		case ofAll:
			at = place{}
		}
		in := region{stage, at}
		if wanted[in] == nil {
			wanted[in] = map[uint32]*ownedSocket{}
		}
		wanted[in][ino] = own
	}
	places := map[uint32]place{}
	for i := range sockets {
		s := &sockets[i]
		if s.inode == 0 {
			continue
		}
		own := o.byIno[s.inode]
		if own == nil {
			own = &ownedSocket{since: -1}
			o.byIno[s.inode] = own
		}
		own.seen = true
		if own.pid != 0 {
			if p := table.byPid[own.pid]; p != nil && p.start == own.start {
				continue
			}
			*own = ownedSocket{since: -1, seen: true} // it has ended: another one holds the socket
		}
		if own.stage < givenUp {
			if own.stage == ofGroup && s.cgroup == 0 {
				own.stage = ofNamespace
			}
			places[s.inode] = place{s.netns, s.cgroup}
			want(own.stage, s.inode, own, places[s.inode])
		}
	}
	for ino, own := range o.byIno {
		if !own.seen {
			delete(o.byIno, ino)
		}
		own.seen = false
	}
	o.byIno = slim(o.byIno, &o.most)
	if len(wanted) > 0 {
		o.denied = false
		near := table.byNamespace()
		for stage := range givenUp {
			for in, inodes := range wanted {
				if in.stage != stage {
					continue
				}
				for _, ino := range o.search(in, inodes, table, near, more) {
					own := inodes[ino]
					own.since = -1
					switch {
					case stage == ofAll:
						own.stage = givenUp
					case stage == ofGroup:
						want(ofNamespace, ino, own, places[ino])
					case own.tries+1 < o.patience:
						own.tries++
						own.stage = ofGroup // of the next round
					default: // whoever makes a socket in another namespace and comes back holds it from outside
						want(ofAll, ino, own, places[ino])
					}
				}
			}
		}
	}
	for in, b := range o.tours {
		if !b.used {
			delete(o.tours, in)
		}
		b.used = false
	}
}

// search walks through the processes of a region and gives the sockets that none of them holds.
func (o *owners) search(in region, wanted map[uint32]*ownedSocket, table *processTable, near map[uint64][]*process, more func() bool) (nobodys []uint32) {
	var list []*process
	if in.stage == ofAll {
		for _, same := range near {
			list = append(list, same...)
		}
	} else {
		list = append(slices.Clone(near[in.netns]), near[0]...)
		if in.stage == ofGroup {
			list = slices.DeleteFunc(list, func(p *process) bool { return p.cgroups().inode != in.cgroup })
		}
	}
	slices.SortFunc(list, func(a, b *process) int { return cmp.Compare(a.pid, b.pid) })
	done := o.tours[in]
	if done == nil {
		done = &tour{}
		o.tours[in] = done
	}
	done.used = true
	for _, own := range wanted {
		if own.since < 0 {
			own.since = done.walked
		}
	}
	left := maps.Clone(wanted)
	first, _ := slices.BinarySearchFunc(list, done.at+1, func(p *process, pid int) int { return cmp.Compare(p.pid, pid) })
	for i := range list {
		if len(left) == 0 || !more() {
			break
		}
		p := list[(first+i)%len(list)]
		o.walk(p, left)
		done.at = p.pid
		done.walked++
	}
	for ino, own := range left {
		if done.walked-own.since >= len(list) {
			nobodys = append(nobodys, ino)
		}
	}
	return nobodys
}

// timeFor gives what says for how long there is time.
func timeFor(budget time.Duration) func() bool {
	until := time.Now().Add(budget)
	return func() bool { return time.Now().Before(until) }
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
