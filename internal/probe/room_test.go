package probe

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// A probe that has seen ten thousand connections in a second once keeps no room for them, nor the names they came with.
func TestABurstLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	e, flows, w := &eventSource{}, newFlowTable(), loopWorld(true)
	const many = 20_000
	own := newOwners(t.TempDir())
	table := &processTable{byPid: map[int]*process{}}
	at := int64(1000)
	round := func(n int) {
		var sockets []socket
		for i := range n {
			local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 40_000)
			remote := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, 1}), 80)
			e.push(netEvent{local: local, remote: remote, path: fmt.Sprint("/group of event ", i)})
			sockets = append(sockets, socket{state: tcpEstablished, local: local, remote: remote, netns: 1, inode: uint32(i + 1)})
		}
		own.resolve(sockets, table, timeFor(0))
		flows.events = e.take(flows.events)
		flows.update(at, sockets, w)
		at += lingerMillis + 1
	}
	round(many)
	if len(flows.known) != many || len(own.byIno) != many {
		t.Fatalf("%d connections and %d sockets are known: this tests nothing", len(flows.known), len(own.byIno))
	}
	for range 3 {
		round(10)
	}
	if n := cap(e.queue); n > idleRoom {
		t.Errorf("room for %d events waits", n)
	}
	if n := cap(flows.events); n > idleRoom {
		t.Errorf("room for %d events is kept", n)
	}
	for _, list := range [][]netEvent{e.queue[:cap(e.queue)], flows.events[:cap(flows.events)]} {
		for i := range list {
			if list[i].path != "" {
				t.Fatalf("the name %q is kept", list[i].path)
			}
		}
	}
	// Go does not tell how much room a map has; that it was made anew does.
	if flows.mostKnown > 100 || own.most > 100 {
		t.Errorf("maps have room for %d connections and %d sockets", flows.mostKnown, own.most)
	}
}

func TestSlimKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	m, most := map[int]int{}, 0
	for i := range 10 * idleRoom {
		m[i] = i * i
	}
	if m = slim(m, &most); len(m) != 10*idleRoom {
		t.Fatalf("%d of %d are left", len(m), 10*idleRoom)
	}
	for i := 5; i < 10*idleRoom; i++ {
		delete(m, i)
	}
	m = slim(m, &most)
	for i := range 5 {
		if m[i] != i*i {
			t.Errorf("%d is %d", i, m[i])
		}
	}
	if len(m) != 5 || most != 5 {
		t.Errorf("%d, and %d at most", len(m), most)
	}
}

// Processes in the same control groups share what is known of them, groups without a process are forgotten, and a group that was removed and made
// again under its name is another.
func TestControlGroupsAreShared(t *testing.T) {
	t.Parallel()
	v2, id := t.TempDir(), "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	group := "/docker/" + id
	made := func() {
		t.Helper()
		if err := os.MkdirAll(v2+group, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	made()
	table := &processTable{v2: v2, byPid: map[int]*process{}, groups: map[string]*controlGroups{}}
	said := []byte("0::" + group + "\n")
	one, two := &process{pid: 1}, &process{pid: 2}
	table.byPid[1], table.byPid[2] = one, two
	table.placeInGroups(one, said)
	table.placeInGroups(two, said)
	if one.groups != two.groups || one.groups.container.id != id || one.groups.inode == 0 || one.groups.paths[""] != group {
		t.Fatalf("%+v %+v", one.groups, two.groups)
	}
	first := one.groups.inode
	table.forgetGroups()
	table.forgetGroups()
	if len(table.groups) != 1 {
		t.Fatalf("%d groups", len(table.groups))
	}
	delete(table.byPid, 1)
	delete(table.byPid, 2)
	// Before the next look: removed, and another of that name. Its inode may be that of the one before it if nothing else takes that.
	if err := os.Rename(v2+group, filepath.Join(v2, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	made()
	three := &process{pid: 3}
	table.byPid[3] = three
	table.placeInGroups(three, said)
	if three.groups.inode == first || three.groups.inode == 0 {
		t.Errorf("the group made again has inode %d, as the one before it", first)
	}
	delete(table.byPid, 3)
	table.forgetGroups()
	if len(table.groups) != 0 {
		t.Errorf("%d groups without a process are kept", len(table.groups))
	}
}

// What is told of a process is made once for as long as nothing of it changes, and anew when anything does.
func TestAProcessIsDescribedOnce(t *testing.T) {
	t.Parallel()
	p := &Probe{cfg: Config{Hostname: "h", Policy: []string{PolicyLifecycle}}, users: map[uint32]string{0: "root", 1: "daemon"}, table: &processTable{}}
	b := &box{id: "container;b"}
	pic := &picture{hostID: topology.HostID("h"), boxes: map[string]*box{"b": b}}
	proc := &process{pid: 7, ppid: 1, start: 100, comm: "cat", cmdline: "cat /etc/hosts"}
	was := p.processEntity(pic, proc)
	if again := p.processEntity(pic, proc); again != was {
		t.Error("described twice")
	}
	for what, change := range map[string]func(){
		"name":      func() { proc.comm = "dog" },
		"command":   func() { proc.cmdline = "dog /etc/hosts" },
		"parent":    func() { proc.ppid = 2 },
		"user":      func() { proc.uid = 1 },
		"container": func() { proc.container.id = "b" },
	} {
		change()
		is := p.processEntity(pic, proc)
		if is == was || is.EqualVT(was) {
			t.Errorf("another %s is not told", what)
		}
		if again := p.processEntity(pic, proc); again != is {
			t.Errorf("%s: described twice", what)
		}
		was = is
	}
}
