package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// many makes a table of processes whose /proc is a directory: each holds a file and the sockets that hold gives.
func many(t *testing.T, n int, hold func(p *process) []uint32) (*owners, *processTable) {
	t.Helper()
	proc := t.TempDir()
	table := &processTable{byPid: map[int]*process{}}
	for pid := 1; pid <= n; pid++ {
		p := &process{pid: pid, start: uint64(pid), netns: 1, groups: &controlGroups{inode: 100}}
		table.byPid[pid] = p
		dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		links := []string{"/dev/null"}
		for _, ino := range hold(p) {
			links = append(links, fmt.Sprintf("socket:[%d]", ino))
		}
		for i, to := range links {
			if err := os.Symlink(to, filepath.Join(dir, strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return newOwners(proc), table
}

// A host has more processes than the budget of a round is enough for. The process behind a socket is found all the same, wherever it is, in as many
// rounds as it takes; and a socket that nobody holds (the kernel's own) is given up, and costs nothing from then on.
func TestOwnersAreFoundInAnyNumberOfProcesses(t *testing.T) {
	t.Parallel()
	const processes, budget = 500, 60
	const (
		mine     = 10 // held by a process of its group, the last one
		others   = 11 // of another group
		outside  = 12 // of another namespace
		nobodys  = 13
		ofNobody = 14 // in a group that is not known
	)
	for what, c := range map[string]struct{ pid, outside int }{"first": {1, processes}, "middle": {processes / 2, processes/2 + 1}, "last": {processes, 1}} {
		pid := c.pid
		o, table := many(t, processes, func(p *process) []uint32 {
			if p.pid == pid {
				return []uint32{mine, others}
			}
			if p.pid == c.outside {
				p.netns = 2
				return []uint32{outside}
			}
			return nil
		})
		sockets := []socket{
			{inode: mine, netns: 1, cgroup: 100},
			{inode: others, netns: 1, cgroup: 200},
			{inode: outside, netns: 1, cgroup: 100},
			{inode: nobodys, netns: 1, cgroup: 100},
			{inode: ofNobody, netns: 1},
		}
		walked, rounds := 0, 0
		for quiet := 0; quiet < 3; rounds++ {
			left := budget
			o.resolve(sockets, table, func() bool { left--; return left >= 0 })
			if left < 0 {
				left = 0
			}
			if walked += budget - left; left == budget {
				quiet++
			} else {
				quiet = 0
			}
			if rounds > 500 {
				t.Fatalf("%s: it goes on and on, %d processes looked at", what, walked)
			}
		}
		for _, i := range []int{0, 1} {
			if p := o.of(&sockets[i], table); p == nil || p.pid != pid {
				t.Errorf("%s: socket %d is held by %v, want %d", what, sockets[i].inode, p, pid)
			}
		}
		if p := o.of(&sockets[2], table); p == nil || p.netns != 2 {
			t.Errorf("%s: the socket held from outside is held by %v", what, p)
		}
		for _, i := range []int{3, 4} {
			if p := o.of(&sockets[i], table); p != nil {
				t.Errorf("%s: nobody's socket is held by %v", what, p)
			}
		}
		// Group and namespace three times, the last time everybody, for what nobody holds: once for all of them where they are looked for together.
		if most := processes * (2*ownerTries + 2); walked > most {
			t.Errorf("%s: %d processes were looked at in %d rounds, at most %d make sense", what, walked, rounds, most)
		}
		if len(o.tours) != 0 {
			t.Errorf("%s: %d regions are kept though nothing is looked for", what, len(o.tours))
		}
	}
}

// A socket whose process ends is another's: it is looked for again.
func TestASocketIsHandedOn(t *testing.T) {
	t.Parallel()
	o, table := many(t, 3, func(p *process) []uint32 {
		if p.pid > 1 {
			return []uint32{7}
		}
		return nil
	})
	list := []socket{{inode: 7, netns: 1, cgroup: 100}}
	always := func() bool { return true }
	o.resolve(list, table, always)
	if p := o.of(&list[0], table); p == nil || p.pid != 2 {
		t.Fatalf("held by %v", p)
	}
	delete(table.byPid, 2)
	table.order = nil
	o.resolve(list, table, always)
	if p := o.of(&list[0], table); p == nil || p.pid != 3 {
		t.Errorf("held by %v", p)
	}
}
