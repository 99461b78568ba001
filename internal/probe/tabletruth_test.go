package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// The tests of the tables hold what the probe reads of sockets to what Debian's ss says of the same namespaces, row by row, in both directions.

// needTool ends the test without a program: Debian's package is the program's, or iproute2 or util-linux.
func needTool(t *testing.T, name string) {
	t.Helper()
	realpart.Program(t, name, name+", iproute2 or util-linux")
}

// inside runs a program in a dweller's network namespace.
func (d *dweller) inside(name string, args ...string) []byte {
	d.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(d.pid) + "/ns/net", "--", name}, args...)...)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("%s %s: %v: %s", name, args, err, problem.Bytes())
	}
	return out
}

// ssRow is a line of ss. What one source does not tell is left out when it is compared.
type ssRow struct {
	proto, state, local, remote string
	ino, uid, cookie, cgroup    uint64
	tx, rx, retrans             uint64
	rtt                         float64
	pids                        []int
}

var (
	ssFields = regexp.MustCompile(`\b(ino|uid|bytes_acked|bytes_received|rtt|retrans):([0-9.]+)(?:/([0-9.]+))?`)
	ssCookie = regexp.MustCompile(`\bsk:([0-9a-f]+)`)
	ssCgroup = regexp.MustCompile(`\bcgroup:(\S+)`)
	ssPids   = regexp.MustCompile(`\bpid=(\d+),`)
	ssZone   = regexp.MustCompile(`%[^:\]]+`)
)

// ssStates are the names of ss in the words of the probe.
var ssStates = map[string]string{
	"ESTAB": "ESTABLISHED", "SYN-SENT": "SYN_SENT", "SYN-RECV": "SYN_RECV", "FIN-WAIT-1": "FIN_WAIT1", "FIN-WAIT-2": "FIN_WAIT2",
	"TIME-WAIT": "TIME_WAIT", "UNCONN": "UNCONN", "CLOSE-WAIT": "CLOSE_WAIT", "LAST-ACK": "LAST_ACK", "LISTEN": "LISTEN", "CLOSING": "CLOSING",
}

// ss lists all sockets of the dweller's namespace.
func (d *dweller) ss(cgroup func(path string) uint64) (list []ssRow) {
	d.t.Helper()
	for line := range strings.Lines(string(d.inside("ss", "-H", "-n", "-t", "-u", "-a", "-p", "-O", "-e", "-i"))) {
		f := strings.Fields(line)
		if len(f) < 6 {
			d.t.Fatalf("ss says %q", line)
		}
		r := ssRow{proto: f[0], state: ssStates[f[1]], local: ssAddr(d.t, f[4]), remote: ssAddr(d.t, f[5])}
		if r.state == "" {
			d.t.Fatalf("ss says %q", line)
		}
		rest := strings.Join(f[6:], " ")
		for _, m := range ssFields.FindAllStringSubmatch(rest, -1) {
			n, _ := strconv.ParseFloat(m[2], 64)
			if m[1] == "retrans" { // now, and in all
				n, _ = strconv.ParseFloat(m[3], 64)
			}
			switch m[1] {
			case "ino":
				r.ino = uint64(n)
			case "uid":
				r.uid = uint64(n)
			case "bytes_acked":
				r.tx = uint64(n)
			case "bytes_received":
				r.rx = uint64(n)
			case "retrans":
				r.retrans = uint64(n)
			case "rtt":
				r.rtt = n
			}
		}
		if m := ssCookie.FindStringSubmatch(rest); m != nil {
			r.cookie, _ = strconv.ParseUint(m[1], 16, 64)
		}
		if m := ssCgroup.FindStringSubmatch(rest); m != nil {
			if id, ok := strings.CutPrefix(m[1], "unreachable:"); ok { // no version 2 is mounted
				r.cgroup, _ = strconv.ParseUint(id, 16, 64)
			} else {
				r.cgroup = cgroup(m[1])
			}
		}
		for _, m := range ssPids.FindAllStringSubmatch(rest, -1) {
			pid, _ := strconv.Atoi(m[1])
			if !slices.Contains(r.pids, pid) {
				r.pids = append(r.pids, pid)
			}
		}
		slices.Sort(r.pids)
		list = append(list, r)
	}
	return list
}

// ssAddr reads "10.0.0.1:80", "[fe80::1]%eth0:80", "*:80", "0.0.0.0:*".
func ssAddr(t *testing.T, text string) string {
	t.Helper()
	s := ssZone.ReplaceAllString(text, "")
	if port, ok := strings.CutSuffix(s, ":*"); ok {
		s = port + ":0"
	}
	if port, ok := strings.CutPrefix(s, "*:"); ok {
		s = "[::]:" + port
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatalf("ss says %q: %v", text, err)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

// owned is how a row says whose it is: any of those that hold it will do.
func owned(pids []int) string { return fmt.Sprint("held by ", pids) }

// table is one source: what it says, and how it would say a row of ss.
type table struct {
	name string
	take func() []string
	says func(ssRow) string // "" for what it does not list
}

// sockets reads the sockets of a dweller's namespace by one source, and who holds them.
func (d *dweller) sockets(source string) (list []socket, holder func(*socket) int) {
	d.t.Helper()
	p := newTestProbe(d.t, func(c *Config) { c.NetSource = source })
	defer p.ns.close()
	if err := p.readProcesses(time.Now()); err != nil {
		d.t.Fatal(err)
	}
	all, used, err := p.ns.sockets(nil)
	if err != nil || used != source {
		d.t.Fatalf("read by %q: %v", used, err)
	}
	place := p.table.byPid[d.pid].netns
	for _, s := range all {
		if s.netns == place {
			list = append(list, s)
		}
	}
	for range ownerTries { // those of another namespace are looked for last
		p.owners.resolve(list, p.table, timeFor(p.budget))
	}
	return list, func(s *socket) int {
		if proc := p.owners.of(s, p.table); proc != nil {
			return proc.pid
		}
		return 0
	}
}

// holders renders a process as ss names those that hold the same socket, when it is one of them.
func holders(rows []ssRow, ino uint64, pid int) string {
	for i := range rows {
		if rows[i].ino == ino && ino != 0 && slices.Contains(rows[i].pids, pid) {
			return owned(rows[i].pids)
		}
	}
	if pid == 0 {
		return owned(nil)
	}
	return owned([]int{pid})
}

func stateName(s *socket) string {
	if s.state == tcpClose {
		return "UNCONN"
	}
	return stateNames[s.state]
}

// sources are those that give a table of a namespace, with all that each tells of a row. rows is what ss said last.
func (d *dweller) sources(rows *[]ssRow) []table {
	listed := func(r ssRow) bool { return r.state != "SYN_RECV" } // nobody's connection yet
	return []table{
		{"diag", func() (out []string) {
			list, holder := d.sockets("diag")
			for i := range list {
				s := &list[i]
				rtt := float64(s.rttMicros) / 1000
				out = append(out, fmt.Sprint(proto(s.udp), " ", stateName(s), " ", s.local, " ", s.remote, " ", s.inode, " ", s.uid, " ", s.cookie, " ", s.cgroup,
					" ", s.acked, " ", s.received, " ", s.retrans, " ", strconv.FormatFloat(rtt, 'g', 6, 64), " ", holders(*rows, uint64(s.inode), holder(s))))
			}
			return out
		}, func(r ssRow) string {
			if !listed(r) {
				return ""
			}
			return fmt.Sprint(r.proto, " ", r.state, " ", r.local, " ", r.remote, " ", r.ino, " ", r.uid, " ", r.cookie, " ", r.cgroup,
				" ", r.tx, " ", r.rx, " ", r.retrans, " ", strconv.FormatFloat(r.rtt, 'g', 6, 64), " ", owned(r.pids))
		}},
		{"proc", func() (out []string) {
			list, holder := d.sockets("proc")
			for i := range list {
				s := &list[i]
				out = append(out, fmt.Sprint(proto(s.udp), " ", stateName(s), " ", s.local, " ", s.remote, " ", s.inode, " ", s.uid, " ", holders(*rows, uint64(s.inode), holder(s))))
			}
			return out
		}, func(r ssRow) string {
			if !listed(r) {
				return ""
			}
			return fmt.Sprint(r.proto, " ", r.state, " ", r.local, " ", r.remote, " ", r.ino, " ", r.uid, " ", owned(r.pids))
		}},
	}
}

// pulled is the table that the API gives of a node. nobodys: what no process holds is the node's too.
func pulled(t *testing.T, p *Probe, name, id string, mine func(pid int) bool, nobodys bool) table {
	place := func(pids []int) (pid int) { // whom the node's table names: of those that hold a socket one of its own
		for _, x := range pids {
			if mine(x) {
				return x
			}
		}
		return 0
	}
	return table{name, func() (out []string) {
		t.Helper()
		resp := p.serve(context.Background(), &probev1.Request{Verb: "sockets", Node: id}, nil)
		var said struct {
			Sockets   []liveSocket
			Truncated bool
		}
		if err := json.Unmarshal(resp.Body, &said); err != nil || resp.Code != "" || said.Truncated {
			t.Fatalf("%s %s %v %v", resp.Code, resp.Message, err, said.Truncated)
		}
		for _, s := range said.Sockets {
			out = append(out, fmt.Sprint(s.Proto, " ", s.State, " ", s.Local, " ", s.Remote, " ", s.Tx, " ", s.Rx, " ", s.Pid))
		}
		return out
	}, func(r ssRow) string {
		pid := place(r.pids)
		if pid == 0 && (!nobodys || len(r.pids) > 0) {
			return ""
		}
		return fmt.Sprint(r.proto, " ", r.state, " ", r.local, " ", r.remote, " ", r.tx, " ", r.rx, " ", pid)
	}}
}

// quarter is a namespace with a socket in every state, and the cgroup of a path as the kernel numbers it.
func quarter(t *testing.T) (d *dweller, cgroup func(string) uint64) {
	t.Helper()
	needRoot(t)
	needTool(t, "ss")
	needTool(t, "nsenter")
	list := village(t, 2)
	d, other := list[0], list[1]
	for _, where := range []struct{ network, addr string }{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}, {"tcp4", "10.77.0.1:0"}, {"tcp6", "[fd77::1]:0"}} {
		for what := range pairs {
			d.do(order{Op: "pair", Network: where.network, Addr: where.addr, Name: what})
		}
		d.do(order{Op: "listen", Network: where.network, Addr: where.addr})
		d.do(order{Op: "packets", Network: strings.Replace(where.network, "tcp", "udp", 1), Addr: where.addr})
		d.do(order{Op: "deferred", Network: where.network, Addr: where.addr})
	}
	d.do(order{Op: "overfull", Addr: "127.0.0.1:0"})
	d.do(order{Op: "shared", Network: "tcp4", Addr: "10.77.0.1:0"})
	d.do(order{Op: "twins", Network: "udp6", Addr: "[fd77::1]:0"})
	d.do(order{Op: "listen", Network: "tcp6", Addr: "[::]:8006"})
	d.do(order{Op: "packets", Network: "udp", Addr: ":9001"})
	other.do(order{Op: "abroad", Network: "tcp4", Addr: ":8001", Peer: d.pid})
	// With the other one, both ways: over version 4 into sockets of version 6, over version 6, from link to link, short ones, datagrams.
	for _, x := range []struct{ from, to *dweller }{{d, other}, {other, d}} {
		at := "1"
		if x.to == other {
			at = "2"
		}
		for _, o := range []order{{Op: "dial", Network: "tcp4", Addr: "10.77.0." + at + ":8000"}, {Op: "dial", Network: "tcp6", Addr: "[fd77::" + at + "]:8000"}, {Op: "brief", Network: "tcp4", Addr: "10.77.0." + at + ":8000"}, {Op: "brief", Network: "tcp6", Addr: "[fd77::" + at + "]:8000"}, {Op: "send", Network: "udp4", Addr: "10.77.0." + at + ":9000"}} {
			x.from.do(o)
		}
		for a := range strings.FieldsSeq(string(x.to.inside("ip", "-6", "-o", "addr", "show", "scope", "link", "dev", "eth0"))) {
			if a, ok := strings.CutSuffix(a, "/64"); ok {
				x.from.do(order{Op: "dial", Network: "tcp6", Addr: "[" + a + "%eth0]:8000"})
			}
		}
	}
	roots, err := findCgroupRoots("/proc")
	if err != nil {
		t.Fatal(err)
	}
	return d, func(path string) uint64 {
		var st unix.Stat_t
		if roots.v2 == "" || unix.Stat(roots.v2+path, &st) != nil {
			return 0
		}
		return st.Ino
	}
}

// said gives what a table would say of rows.
func (x table) said(rows []ssRow) (out []string) {
	for _, r := range rows {
		if s := x.says(r); s != "" {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// agree compares a table with ss, which is asked before and after: where it says the same both times, nothing has changed in between.
func (d *dweller) agree(x table, rows *[]ssRow, cgroup func(string) uint64) {
	d.t.Helper()
	for range 50 {
		*rows = d.ss(cgroup)
		before := x.said(*rows)
		got := x.take()
		slices.Sort(got)
		if after := x.said(d.ss(cgroup)); !slices.Equal(before, after) {
			continue // a segment was sent again meanwhile
		}
		if diff := cmp.Diff(before, got); diff != "" {
			d.t.Errorf("%s: ss (-) and the probe (+):\n%s", x.name, diff)
		} else {
			d.t.Logf("%s: %d rows are the same", x.name, len(got))
		}
		return
	}
	d.t.Fatalf("%s: nothing was ever still", x.name)
}

func TestTablesAgreeWithSs(t *testing.T) {
	d, cgroup := quarter(t)
	rows := d.ss(cgroup)
	seen := map[string]bool{}
	for _, r := range rows {
		seen[r.proto+" "+r.state] = true
	}
	for _, state := range ssStates {
		if state != "UNCONN" && !seen["tcp "+state] {
			t.Errorf("the plan has no %s", state)
		}
	}
	if !seen["udp ESTABLISHED"] || !seen["udp UNCONN"] {
		t.Error("the plan has not both kinds of datagram sockets")
	}
	for _, x := range d.sources(&rows) {
		d.agree(x, &rows, cgroup)
	}
	// One in the host's network, which has a waiting connection and an embryonic one: nobody knows whose.
	host := settleWith(t, "host network", 0)
	host.do(order{Op: "pair", Network: "tcp4", Addr: "127.0.0.1:0", Name: "waiting"})
	host.do(order{Op: "pair", Network: "tcp6", Addr: "[::1]:0", Name: "half closed"})
	host.do(order{Op: "deferred", Network: "tcp4", Addr: "127.0.0.1:0"})
	for _, source := range []string{"auto", "proc"} {
		p := newTestProbe(t, func(c *Config) { c.NetSource = source; c.MaxProcesses = 5000 })
		lookNow(p)
		for _, d := range []*dweller{d, host} {
			its := map[int]bool{}
			for pid, proc := range p.table.byPid {
				its[pid] = proc.container.id == d.id
			}
			compare := func(what, id string, mine func(pid int) bool, nobodys bool) {
				x := pulled(t, p, what+" by "+source, id, mine, nobodys)
				if source == "proc" { // counts no bytes
					says := x.says
					x.says = func(r ssRow) string { r.tx, r.rx = 0, 0; return says(r) }
				}
				d.agree(x, &rows, cgroup)
			}
			compare("pulled of a container", topology.ContainerID(p.cfg.Hostname, d.id), func(pid int) bool { return its[pid] }, d != host)
			for pid, its := range its {
				if its { // the dweller, and its child
					compare("pulled of a process", p.processID(p.table.byPid[pid]), func(other int) bool { return pid == other }, false)
				}
			}
		}
	}
}

// TestTablesAgreeWithSsUnderChurn has connections come and go all the time: what was there throughout is in both, and what comes and goes
// is nothing else than what was planned.
func TestTablesAgreeWithSsUnderChurn(t *testing.T) {
	d, cgroup := quarter(t)
	const port = 7777
	d.do(order{Op: "churn", Network: "tcp4", Addr: "127.0.0.1:" + strconv.Itoa(port)})
	var rows []ssRow
	name := func(r string) string { return strings.Join(strings.Fields(r)[:4], " ") } // of what does not change as long as a socket is what it is
	names := func(rows []string) map[string]bool {
		set := map[string]bool{}
		for _, r := range rows {
			set[name(r)] = true
		}
		return set
	}
	churning := func(r string) bool {
		return strings.Contains(r, "127.0.0.1:"+strconv.Itoa(port)+" ") && !strings.Contains(r, "LISTEN")
	}
	common := func(a, b []string) (both []string) { // sorted lists, in which a row may stand twice
		for i, j := 0, 0; i < len(a) && j < len(b); {
			switch c := strings.Compare(a[i], b[j]); {
			case c < 0:
				i++
			case c > 0:
				j++
			default:
				both = append(both, a[i])
				i, j = i+1, j+1
			}
		}
		return both
	}
	for _, x := range d.sources(&rows) {
		compared, changed := 0, 0
		for range 5 {
			rows = d.ss(cgroup)
			before := x.said(rows)
			got := x.take()
			slices.Sort(got)
			middle := x.said(d.ss(cgroup))
			again := x.take()
			slices.Sort(again)
			throughout, held := common(before, middle), common(got, again)
			if x.name == "proc" { // has no number for a socket: a connection may have the ports of one that was there before
				throughout, held = slices.DeleteFunc(throughout, churning), slices.DeleteFunc(held, churning)
			}
			if missing := len(throughout) - len(common(throughout, got)); missing > 0 {
				t.Errorf("%s: ss (-) had all the time, the probe (+):\n%s", x.name, cmp.Diff(throughout, common(throughout, got)))
			}
			if missing := len(held) - len(common(held, middle)); missing > 0 {
				t.Errorf("%s: the probe (-) had all the time, ss (+):\n%s", x.name, cmp.Diff(held, common(held, middle)))
			}
			known := names(slices.Concat(before, middle))
			for _, r := range got {
				if !churning(r) && !known[name(r)] {
					t.Errorf("%s: invented: %s", x.name, r)
				}
			}
			compared += len(throughout)
			changed += len(before) - len(throughout)
		}
		if compared < 5*60 || changed == 0 {
			t.Errorf("%s: %d rows compared, %d came and went", x.name, compared, changed)
		}
		t.Logf("%s: %d rows compared, %d came and went between two listings", x.name, compared, changed)
	}
}
