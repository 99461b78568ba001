package probe

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/heldport"
	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// The edge truth tests plan connections between processes in network namespaces and cgroups of their own, as containers are,
// and demand that the probe finds all of them and none besides. The processes are this test binary again, told what to do on
// their standard input.

const dwellerEnv = "PROBE_TEST_DWELLER"

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 3 * time.Minute

// order is one thing that a dweller does.
type order struct {
	Op      string
	Network string
	Addr    string
	Peer    int // pid of the namespace that gets the other end of a link
	Name    string
	N       int // how much of a load
}

// dwell is the life of a process in a namespace: it does what it is told until its input ends.
func dwell() {
	enc, in := json.NewEncoder(os.Stdout), bufio.NewScanner(os.Stdin)
	var keep []io.Closer
	for in.Scan() {
		var o order
		err := json.Unmarshal(in.Bytes(), &o)
		if err == nil {
			var c io.Closer
			if c, err = obey(o); c != nil {
				keep = append(keep, c)
			}
		}
		text := ""
		if err != nil { // what is counted comes this way too
			text = err.Error()
		}
		_ = enc.Encode(text)
	}
	for _, c := range keep {
		c.Close()
	}
}

func obey(o order) (io.Closer, error) {
	switch o.Op {
	case "up": // bring a link up and give it an address
		l, err := netlink.LinkByName(o.Name)
		if err != nil {
			return nil, err
		}
		if o.Addr != "" {
			a, err := netlink.ParseAddr(o.Addr)
			if err != nil {
				return nil, err
			}
			a.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, a); err != nil {
				return nil, err
			}
		}
		return nil, netlink.LinkSetUp(l)
	case "bridge":
		return nil, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: o.Name}})
	case "link": // a link of the bridge whose other end is another namespace's eth0
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: o.Name}, PeerName: "eth0", PeerNamespace: netlink.NsPid(o.Peer)}
		if err := netlink.LinkAdd(veth); err != nil {
			return nil, err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return nil, err
		}
		if err := netlink.LinkSetMaster(veth, br); err != nil {
			return nil, err
		}
		return nil, netlink.LinkSetUp(veth)
	case "listen", "hang up": // which closes first, as servers of HTTP/1.0 do
		l, err := net.Listen(o.Network, o.Addr)
		if err != nil {
			return nil, err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					if o.Op == "listen" {
						_, _ = io.Copy(io.Discard, c)
					}
					c.Close()
				}()
			}
		}()
		return l, nil
	case "be served": // until the other side closes
		c, err := net.DialTimeout(o.Network, o.Addr, patience)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		_, err = io.Copy(io.Discard, c)
		return nil, err
	case "packets":
		return net.ListenPacket(o.Network, o.Addr)
	case "dial":
		return net.DialTimeout(o.Network, o.Addr, patience)
	case "send": // a datagram
		c, err := net.Dial(o.Network, o.Addr)
		if err != nil {
			return nil, err
		}
		_, err = c.Write([]byte("x"))
		return c, err
	case "brief":
		c, err := net.DialTimeout(o.Network, o.Addr, patience)
		if err != nil {
			return nil, err
		}
		return nil, c.Close()
	case "pair":
		return pair(o.Network, o.Addr, o.Name)
	case "overfull":
		return overfull(o.Addr)
	case "deferred":
		return deferred(o.Network, o.Addr)
	case "shared":
		return shared(o.Network, o.Addr)
	case "twins":
		return twins(o.Network, o.Addr)
	case "abroad":
		return abroad(o)
	case "hurry":
		return hurry(o.Network, o.Addr)
	case "churn":
		return churn(o.Network, o.Addr)
	case "burn", "hold", "open", "sleepers", "stream", "write", "count":
		return load(o)
	case "refused":
		if c, err := net.DialTimeout(o.Network, o.Addr, patience); err == nil {
			c.Close()
			return nil, fmt.Errorf("somebody answers at %s", o.Addr)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("unknown order %q", o.Op)
}

type dweller struct {
	t   *testing.T
	pid int
	id  string // of its container
	in  io.WriteCloser
	out *bufio.Scanner
	// leave ends it and what it was in.
	leave func()
}

func (d *dweller) do(o order) {
	d.t.Helper()
	b, _ := json.Marshal(o)
	if _, err := d.in.Write(append(b, '\n')); err != nil {
		d.t.Fatal(err)
	}
	if !d.out.Scan() {
		d.t.Fatalf("%+v: the process has ended", o)
	}
	var text string
	if err := json.Unmarshal(d.out.Bytes(), &text); err != nil || text != "" {
		d.t.Fatalf("%+v: %s %v", o, text, err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	realpart.Root(t)
}

// settle starts a process in a network namespace of its own and, when there is a version 2 hierarchy, a container's cgroup.
func settle(t *testing.T, name string) *dweller {
	t.Helper()
	d := settleWith(t, name, syscall.CLONE_NEWNET)
	d.do(order{Op: "up", Name: "lo"})
	return d
}

// settleWith starts one with new namespaces of these kinds.
func settleWith(t *testing.T, name string, namespaces uintptr) *dweller {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{dwellerEnv + "=1", "GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(t.Name() + name + strconv.Itoa(os.Getpid())))
	d := &dweller{t: t, pid: cmd.Process.Pid, in: in, out: bufio.NewScanner(out), id: hex.EncodeToString(sum[:])}
	roots, err := findCgroupRoots("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, root := range []string{roots.v2, roots.v1["pids"]} {
		if root == "" {
			continue
		}
		dir := filepath.Join(root, "probe-test", d.id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(d.pid)), 0o644); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	d.leave = func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, dir := range dirs {
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) { // the kernel takes a moment to empty it
				if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
					break
				}
			}
			_ = os.Remove(filepath.Dir(dir))
		}
	}
	t.Cleanup(d.leave)
	return d
}

// village is some dwellers on one bridge: i has 10.77.0.i+1 and fd77::i+1.
func village(t *testing.T, n int) []*dweller {
	t.Helper()
	hub := settle(t, "hub")
	hub.do(order{Op: "bridge", Name: "br0"})
	hub.do(order{Op: "up", Name: "br0"})
	list := make([]*dweller, n)
	for i := range list {
		d := settle(t, fmt.Sprint(i))
		hub.do(order{Op: "link", Name: fmt.Sprintf("v%d", i), Peer: d.pid})
		d.do(order{Op: "up", Name: "eth0", Addr: fmt.Sprintf("10.77.0.%d/16", i+1)})
		d.do(order{Op: "up", Name: "eth0", Addr: fmt.Sprintf("fd77::%x/64", i+1)})
		d.do(order{Op: "listen", Network: "tcp", Addr: ":8000"})
		d.do(order{Op: "packets", Network: "udp4", Addr: ":9000"})
		list[i] = d
	}
	return list
}

// roads lists the edges between the dwellers' containers as the probe has them: "from>to:port/proto", and which fail.
func roads(p *Probe, list []*dweller) (found, failing []string) {
	entities, edges := held(p)
	number := map[string]int{}
	for i, d := range list {
		number[topology.ContainerID(p.cfg.Hostname, d.id)] = i
	}
	boxOf := func(id string) (int, bool) {
		if e := entities[id]; e != nil && e.Kind == topology.KindProcess && len(e.Parents) > 0 {
			id = e.Parents[0]
		}
		i, ok := number[id]
		return i, ok
	}
	seen, bad := map[string]bool{}, map[string]bool{}
	for k, e := range edges {
		from, ok1 := boxOf(k.src)
		to, ok2 := boxOf(k.dst)
		if !ok1 && !ok2 {
			continue
		}
		// Another program of this machine that has entered one of the namespaces (a probe, a runtime) is not part of the plan.
		if stranger(entities[k.src]) || stranger(entities[k.dst]) {
			continue
		}
		text := fmt.Sprintf("%d>%d:%d/%s", from, to, k.port, proto(k.udp))
		if !ok1 || !ok2 {
			text = fmt.Sprintf("%s>%s(%s):%d/%s", k.src, k.dst, netip.AddrFrom4([4]byte(append([]byte(k.remote), 0, 0, 0, 0)[:4])), k.port, proto(k.udp))
		}
		seen[text] = true
		if e.FailRate > 0 {
			bad[text] = true
		}
	}
	for text := range seen {
		found = append(found, text)
	}
	for text := range bad {
		failing = append(failing, text)
	}
	sort.Strings(found)
	sort.Strings(failing)
	return found, failing
}

// stranger reports whether an entity is a process of another program than this test's.
func stranger(e *probev1.Entity) bool {
	if e == nil || e.Kind != topology.KindProcess {
		return false
	}
	own, _ := os.ReadFile("/proc/self/comm")
	return e.Label != strings.TrimSpace(string(own)) && e.Label != "exe"
}

// A server that closes first has the socket that waits, which belongs to no process any more, and of the client nothing is left. Within one namespace the
// edge goes from process to process all the same, and there is no other.
func TestServerThatClosesFirst(t *testing.T) {
	needRoot(t)
	port := heldport.Port(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	server, client := settleWith(t, "server", 0), settleWith(t, "client", 0)
	server.do(order{Op: "hang up", Network: "tcp", Addr: addr})
	p := newTestProbe(t, func(c *Config) { c.NetSource = "auto"; c.MaxProcesses = 5000 })
	p.startEvents()
	t.Cleanup(p.stopEvents)
	if p.events == nil { // without eBPF the client of such a connection is not known
		realpart.Missing(t, "there is no eBPF here")
	}
	lookNow(p)
	for range 3 {
		client.do(order{Op: "be served", Network: "tcp", Addr: addr})
		lookNow(p)
	}
	roads := func() (got []string) {
		lookNow(p)
		_, edges := held(p)
		for k := range edges {
			if int(k.port) == port {
				got = append(got, fmt.Sprint(k.src, " > ", k.dst))
			}
		}
		return got
	}
	var got []string
	for deadline := time.Now().Add(patience); len(got) == 0 && time.Now().Before(deadline); { // events are told in their own time
		got = roads()
	}
	got = roads()
	process := func(d *dweller) string { return p.processID(p.table.byPid[d.pid]) }
	if want := []string{process(client) + " > " + process(server)}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestEdgeTruth(t *testing.T) {
	needRoot(t)
	const n = 50
	began := time.Now()
	list := village(t, n)
	probes := map[string]*Probe{}
	for _, source := range []string{"diag", "proc", "auto", "ebpf"} {
		probes[source] = newTestProbe(t, func(c *Config) { c.NetSource = source; c.MaxProcesses = 5000 })
	}
	auto, traced := probes["auto"], probes["ebpf"]
	for _, p := range []*Probe{auto, traced} {
		p.startEvents()
		t.Cleanup(p.stopEvents)
	}
	for _, p := range probes {
		lookNow(p) // what is there before: nothing
		if found, _ := roads(p, list); len(found) > 0 {
			t.Fatalf("edges before anybody talks: %v", found)
		}
	}
	var lasting, brief, refused []string
	plan := func(into *[]string, i int, o order, to, port int, proto string) {
		list[i].do(o)
		*into = append(*into, fmt.Sprintf("%d>%d:%d/%s", i, to, port, proto))
	}
	for i := range list {
		to := (i*7 + 3) % n
		plan(&lasting, i, order{Op: "dial", Network: "tcp4", Addr: fmt.Sprintf("10.77.0.%d:8000", to+1)}, to, 8000, "tcp")
		if i%5 == 0 {
			to = (i*11 + 1) % n
			plan(&lasting, i, order{Op: "dial", Network: "tcp6", Addr: fmt.Sprintf("[fd77::%x]:8000", to+1)}, to, 8000, "tcp")
			to = (i + 9) % n
			plan(&lasting, i, order{Op: "dial", Network: "udp4", Addr: fmt.Sprintf("10.77.0.%d:9000", to+1)}, to, 9000, "udp")
			plan(&lasting, i, order{Op: "dial", Network: "tcp4", Addr: "127.0.0.1:8000"}, i, 8000, "tcp")
		}
	}
	t.Logf("%d containers are there after %v", n, time.Since(began))
	unique := func(lists ...[]string) []string {
		set := map[string]bool{}
		for _, l := range lists {
			for _, s := range l {
				set[s] = true
			}
		}
		out := []string{}
		for s := range set {
			out = append(out, s)
		}
		sort.Strings(out)
		return out
	}
	for source, p := range probes {
		if source == "ebpf" { // has nothing but events: looked at when all have happened
			continue
		}
		lookNow(p)
		found, failing := roads(p, list)
		if d := cmp.Diff(unique(lasting), found); d != "" {
			t.Errorf("%s: planned (-) and found (+):\n%s", source, d)
		}
		if len(failing) > 0 {
			t.Errorf("%s: failing %v", source, failing)
		}
	}
	// Connections that are over before anybody looks. Dumps see what TIME_WAIT has kept; events see them happen.
	for i := 0; i < n; i += 10 {
		to := (i + 23) % n
		plan(&brief, i, order{Op: "brief", Network: "tcp4", Addr: fmt.Sprintf("10.77.0.%d:8000", to+1)}, to, 8000, "tcp")
		to = (i + 17) % n
		plan(&refused, i, order{Op: "refused", Network: "tcp4", Addr: fmt.Sprintf("10.77.0.%d:81", to+1)}, to, 81, "tcp")
	}
	for _, source := range []string{"diag", "proc"} {
		lookNow(probes[source])
		found, _ := roads(probes[source], list)
		if d := cmp.Diff(unique(lasting, brief), found); d != "" {
			t.Errorf("%s: with brief ones, planned (-) and found (+):\n%s", source, d)
		}
	}
	if auto.events == nil {
		t.Logf("no eBPF on this kernel: %s", auto.states["net.ebpf"].message)
		return
	}
	// Events tell of all of them. Forced to be the only source they tell of what TCP does: the tracepoint has no UDP.
	tcp := func(list []string) (out []string) {
		for _, l := range list {
			if strings.HasSuffix(l, "/tcp") {
				out = append(out, l)
			}
		}
		return out
	}
	for p, planned := range map[*Probe][]string{auto: unique(lasting, brief, refused), traced: tcp(unique(lasting, brief, refused))} {
		var found, failing []string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			lookNow(p)
			if found, failing = roads(p, list); slices.Equal(found, planned) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if d := cmp.Diff(planned, found); d != "" {
			t.Errorf("%s with events: planned (-) and found (+):\n%s", p.cfg.NetSource, d)
		}
		for _, road := range failing {
			if !slices.Contains(refused, road) {
				t.Errorf("%s: %s is said to fail", p.cfg.NetSource, road)
			}
		}
	}
}

// TestEdgeTruthOfConntrack has nothing but the kernel's connection table of a host to which others connect, through NAT, plainly,
// over UDP, and demands all of them and none besides. What is refused leaves no entry: the kernel drops it with the answer.
func TestEdgeTruthOfConntrack(t *testing.T) {
	needRoot(t)
	host, inner, client := natVillage(t)
	host.do(order{Op: "listen", Network: "tcp4", Addr: ":8000"})
	host.do(order{Op: "packets", Network: "udp4", Addr: ":9000"})
	client.do(order{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8080"})
	client.do(order{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8000"})
	client.do(order{Op: "brief", Network: "tcp4", Addr: "10.78.0.1:8000"})
	client.do(order{Op: "refused", Network: "tcp4", Addr: "10.78.0.1:81"})
	client.do(order{Op: "send", Network: "udp4", Addr: "10.78.0.1:9000"})
	host.do(order{Op: "dial", Network: "tcp4", Addr: "10.78.0.2:80"})
	p := newTestProbe(t, func(c *Config) { c.NetSource = "conntrack" })
	p.nat = &natTable{next: time.Now().Add(time.Hour)} // the table of this process's own namespace is not asked
	if err := inNamespace(fmt.Sprintf("/proc/%d/ns/net", host.pid), 0, p.nat.read); err != nil {
		t.Fatal(err)
	}
	p.flows.nat = p.nat.entries
	lookNow(p)
	found, _ := roads(p, []*dweller{host, inner, client})
	if d := cmp.Diff([]string{"0>1:80/tcp", "2>0:8000/tcp", "2>0:9000/udp", "2>1:80/tcp"}, found); d != "" {
		t.Errorf("conntrack alone, planned (-) and found (+):\n%s", d)
	}
}

// TestNATIsSeenThrough leads a port of a namespace that plays the host into another by DNAT, and demands that the kernel's
// table is read so that the client's and the server's sockets are one connection.
func TestNATIsSeenThrough(t *testing.T) {
	needRoot(t)
	host, inner, client := natVillage(t)
	client.do(order{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8080"})
	var table natTable
	if err := inNamespace(fmt.Sprintf("/proc/%d/ns/net", host.pid), 0, table.read); err != nil {
		t.Fatal(err)
	}
	var entry *translation
	for i := range table.entries {
		if table.entries[i].dialled == netip.MustParseAddrPort("10.78.0.1:8080") {
			entry = &table.entries[i]
		}
	}
	if entry == nil || entry.server != netip.MustParseAddrPort("10.78.0.2:80") || entry.client.Addr() != netip.MustParseAddr("10.78.0.3") || entry.seenAs.Addr() != netip.MustParseAddr("10.78.0.1") {
		t.Fatalf("the table has %+v", table.entries)
	}
	p := newTestProbe(t, nil)
	p.flows.nat = table.entries
	lookNow(p)
	found, _ := roads(p, []*dweller{host, inner, client})
	if d := cmp.Diff([]string{"2>1:80/tcp"}, found); d != "" {
		t.Errorf("client to server through NAT, planned (-) and found (+):\n%s", d)
	}
}

// natVillage is a host, what it leads its port 8080 to by DNAT, and a client, on one bridge.
func natVillage(t *testing.T) (host, inner, client *dweller) {
	t.Helper()
	needTool(t, "iptables")
	needTool(t, "nsenter")
	host, inner, client = settle(t, "host"), settle(t, "inner"), settle(t, "client")
	host.do(order{Op: "bridge", Name: "br0"})
	host.do(order{Op: "link", Name: "v0", Peer: inner.pid})
	host.do(order{Op: "link", Name: "v1", Peer: client.pid})
	host.do(order{Op: "up", Name: "br0", Addr: "10.78.0.1/24"})
	inner.do(order{Op: "up", Name: "eth0", Addr: "10.78.0.2/24"})
	client.do(order{Op: "up", Name: "eth0", Addr: "10.78.0.3/24"})
	inside := func(args ...string) ([]byte, error) {
		return exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(host.pid) + "/ns/net", "--"}, args...)...).CombinedOutput()
	}
	for _, rule := range []string{
		"-t nat -A PREROUTING -p tcp -d 10.78.0.1 --dport 8080 -j DNAT --to-destination 10.78.0.2:80",
		"-t nat -A POSTROUTING -p tcp -d 10.78.0.2 --dport 80 -j MASQUERADE",
	} {
		if out, err := inside(append([]string{"iptables", "-w"}, strings.Fields(rule)...)...); err != nil {
			realpart.Missing(t, "this kernel has no NAT: %s", out)
		}
	}
	// A datagram's entry stays as long as a busy machine takes for all that comes before it is looked for.
	if out, err := inside("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout"); err != nil {
		t.Fatalf("%s", out)
	}
	inner.do(order{Op: "listen", Network: "tcp4", Addr: ":80"})
	return host, inner, client
}
