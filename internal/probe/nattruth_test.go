package probe

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests of the connection table hold what the probe reads of NAT to what Debian's conntrack says of the same namespace: to its listing, and
// to its account of every connection as it comes and goes.

// ctRow reads a line of conntrack: "tcp client>dialled server>seenAs"; "" for other protocols.
func ctRow(t *testing.T, line string) string {
	t.Helper()
	f := strings.Fields(line)
	i := slices.IndexFunc(f, func(s string) bool { return s == "tcp" || s == "udp" })
	if i < 0 {
		return ""
	}
	var addrs []netip.Addr
	var ports []uint16
	for _, kv := range f[i:] {
		key, value, _ := strings.Cut(kv, "=")
		switch key {
		case "src", "dst":
			a, err := netip.ParseAddr(value)
			if err != nil {
				t.Fatalf("conntrack says %q", line)
			}
			addrs = append(addrs, a)
		case "sport", "dport":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				t.Fatalf("conntrack says %q", line)
			}
			ports = append(ports, uint16(n))
		}
	}
	if len(addrs) != 4 || len(ports) != 4 {
		t.Fatalf("conntrack says %q", line)
	}
	end := func(k int) string { return netip.AddrPortFrom(addrs[k], ports[k]).String() }
	return f[i] + " " + end(0) + ">" + end(1) + " " + end(2) + ">" + end(3)
}

// listed is the whole of what conntrack lists.
func listed(host *dweller) (rows []string) {
	host.t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(string(host.inside("conntrack", "-L", "-f", family))) {
			if r := ctRow(host.t, line); r != "" {
				rows = append(rows, r)
			}
		}
	}
	slices.Sort(rows)
	return rows
}

// natTold reads the table as the probe does: all of it, and which of it is NAT.
func natTold(host *dweller) (rows, translated []string) {
	host.t.Helper()
	var table natTable
	if err := inNamespace(fmt.Sprintf("/proc/%d/ns/net", host.pid), 0, table.read); err != nil {
		host.t.Fatal(err)
	}
	say := func(n translation) string {
		return fmt.Sprint(proto(n.udp), " ", n.client, ">", n.dialled, " ", n.server, ">", n.seenAs)
	}
	for _, n := range table.plain {
		rows = append(rows, say(n))
	}
	for _, n := range table.entries {
		rows, translated = append(rows, say(n)), append(translated, say(n))
	}
	slices.Sort(rows)
	slices.Sort(translated)
	return rows, translated
}

// ctEvents is conntrack's account of what comes and goes.
type ctEvents struct {
	host  *dweller
	mark  func(port int)
	marks int
	mu    sync.Mutex
	lines []string
	ended bool
	stop  func() (problem string) // ends it, and gives what it complained about
}

// lost ends the account and reports whether conntrack has lost events itself, as on a machine that is too busy to read them: then it proves
// nothing.
func (e *ctEvents) lost() bool { return strings.Contains(e.stop(), "ENOBUFS") }

// account has conntrack tell of everything in the host's namespace from now on. mark makes a connection to a port.
func account(host *dweller, mark func(port int)) *ctEvents {
	host.t.Helper()
	e := &ctEvents{host: host, mark: mark}
	cmd := exec.Command("nsenter", "--net=/proc/"+strconv.Itoa(host.pid)+"/ns/net", "--", "conntrack", "-E", "-e", "NEW,DESTROY", "--buffer-size", "134217728")
	out, err := cmd.StdoutPipe()
	if err != nil {
		host.t.Fatal(err)
	}
	var problem bytes.Buffer
	cmd.Stderr = &problem
	if err := cmd.Start(); err != nil {
		host.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			e.mu.Lock()
			e.lines = append(e.lines, in.Text())
			e.mu.Unlock()
		}
		e.mu.Lock()
		e.ended = true
		e.mu.Unlock()
		close(done)
	}()
	e.stop = sync.OnceValue(func() string {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
		return problem.String()
	})
	host.t.Cleanup(func() { e.stop() })
	return e
}

// marker reports whether a row is of a connection that was made to be told of: the first of them come before anybody listens.
func marker(row string) bool { return strings.Contains(row, ">10.78.0.1:20") }

// all gives what has come and what has gone until now: everything, because a connection that is made now has been told of.
func (e *ctEvents) all() (come, gone map[string]int) {
	e.host.t.Helper()
	found := -1
	e.marks++
	for range 1000 {
		e.mark(20000 + e.marks)
		deadline := time.Now().Add(50 * time.Millisecond)
		for found < 0 && time.Now().Before(deadline) {
			e.mu.Lock()
			if e.ended {
				e.host.t.Fatal("conntrack has ended")
			}
			found = slices.IndexFunc(e.lines, func(s string) bool { return strings.Contains(s, fmt.Sprintf(" dport=%d ", 20000+e.marks)) })
			e.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		if found >= 0 {
			break
		}
	}
	if found < 0 {
		e.host.t.Fatal("conntrack tells of nothing")
	}
	come, gone = map[string]int{}, map[string]int{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range e.lines[:found] {
		switch r := ctRow(e.host.t, line); {
		case r == "":
		case strings.Contains(line, "[NEW]"):
			come[r]++
		case strings.Contains(line, "[DESTROY]"):
			gone[r]++
		}
	}
	return come, gone
}

// ctVillage is natVillage with more ways through the host: datagrams, version 6, the way back to where one comes from.
func ctVillage(t *testing.T) (host, inner, client *dweller) {
	t.Helper()
	needRoot(t)
	needTool(t, "conntrack")
	host, inner, client = natVillage(t)
	host.do(order{Op: "up", Name: "br0", Addr: "fd78::1/64"})
	inner.do(order{Op: "up", Name: "eth0", Addr: "fd78::2/64"})
	client.do(order{Op: "up", Name: "eth0", Addr: "fd78::3/64"})
	host.inside("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	for _, rule := range []string{
		"iptables -w -t nat -A PREROUTING -p udp -d 10.78.0.1 --dport 5353 -j DNAT --to-destination 10.78.0.2:53",
		"iptables -w -t nat -A POSTROUTING -p udp -d 10.78.0.2 --dport 53 -j MASQUERADE",
		"ip6tables -w -t nat -A PREROUTING -p tcp -d fd78::1 --dport 8080 -j DNAT --to-destination [fd78::2]:80",
		"ip6tables -w -t nat -A POSTROUTING -p tcp -d fd78::2 --dport 80 -j MASQUERADE",
	} {
		f := strings.Fields(rule)
		host.inside(f[0], f[1:]...)
	}
	host.inside("bridge", "link", "set", "dev", "v0", "hairpin", "on") // for the way back, where bridges filter
	inner.do(order{Op: "listen", Network: "tcp6", Addr: ":80"})
	inner.do(order{Op: "packets", Network: "udp4", Addr: ":53"})
	host.do(order{Op: "listen", Network: "tcp", Addr: ":8000"})
	host.do(order{Op: "packets", Network: "udp", Addr: ":9000"})
	return host, inner, client
}

func TestTheNATTableAgreesWithConntrack(t *testing.T) {
	host, inner, client := ctVillage(t)
	events := account(host, func(port int) { client.do(order{Op: "send", Network: "udp4", Addr: fmt.Sprintf("10.78.0.1:%d", port)}) })
	events.all()
	for _, x := range []struct {
		d *dweller
		o order
	}{
		{client, order{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8080"}},
		{client, order{Op: "brief", Network: "tcp4", Addr: "10.78.0.1:8080"}},
		{client, order{Op: "dial", Network: "tcp6", Addr: "[fd78::1]:8080"}},
		{client, order{Op: "send", Network: "udp4", Addr: "10.78.0.1:5353"}},
		{inner, order{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8080"}}, // to itself
		{client, order{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8000"}},
		{client, order{Op: "dial", Network: "tcp6", Addr: "[fd78::1]:8000"}},
		{client, order{Op: "brief", Network: "tcp6", Addr: "[fd78::1]:8000"}},
		{client, order{Op: "send", Network: "udp6", Addr: "[fd78::1]:9000"}},
		{client, order{Op: "refused", Network: "tcp4", Addr: "10.78.0.1:81"}},
		{host, order{Op: "dial", Network: "tcp4", Addr: "10.78.0.2:80"}},
		{host, order{Op: "dial", Network: "tcp4", Addr: "127.0.0.1:8000"}},
	} {
		x.d.do(x.o)
	}
	compared := false
	for range 50 {
		before := listed(host)
		got, translated := natTold(host)
		if !slices.Equal(before, listed(host)) {
			continue
		}
		if diff := cmp.Diff(before, got); diff != "" {
			t.Errorf("conntrack (-) and the probe (+):\n%s", diff)
		}
		through := slices.DeleteFunc(before, func(r string) bool { return !strings.Contains(r, ":8080 ") && !strings.Contains(r, ":5353 ") })
		if diff := cmp.Diff(through, translated); diff != "" || len(through) != 5 {
			t.Errorf("NAT, planned (-) and the probe (+):\n%s", diff)
		}
		compared = true
		break
	}
	if !compared {
		t.Fatal("nothing was ever still")
	}
	come, gone := events.all()
	got, _ := natTold(host)
	for _, r := range got {
		if come[r] == 0 && !marker(r) {
			t.Errorf("nobody saw this one come: %s", r)
		}
	}
	for r := range come {
		if come[r] > gone[r] && !slices.Contains(got, r) {
			t.Errorf("has come and not gone, and is not there: %s", r)
		}
	}
	t.Logf("%d rows, %d came, %d went", len(got), len(come), len(gone))
}

// TestTheNATTableAgreesWithConntrackUnderChurn has connections come and go while the table is read.
func TestTheNATTableAgreesWithConntrackUnderChurn(t *testing.T) {
	for range 5 {
		faults, lost := natUnderChurn(t)
		if lost {
			continue
		}
		for _, fault := range faults {
			t.Error(fault)
		}
		return
	}
	t.Fatal("conntrack has lost events itself each time")
}

// natUnderChurn gives in what the table and conntrack differ, unless conntrack has lost events.
func natUnderChurn(t *testing.T) (faults []string, lost bool) {
	t.Helper()
	wrong := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	host, inner, client := ctVillage(t)
	events := account(host, func(port int) { inner.do(order{Op: "send", Network: "udp4", Addr: fmt.Sprintf("10.78.0.1:%d", port)}) })
	events.all()
	for _, o := range []order{
		{Op: "dial", Network: "tcp4", Addr: "10.78.0.1:8080"},
		{Op: "dial", Network: "tcp6", Addr: "[fd78::1]:8080"},
		{Op: "send", Network: "udp4", Addr: "10.78.0.1:5353"},
		{Op: "hurry", Network: "tcp4", Addr: "10.78.0.1:8080"},
		{Op: "hurry", Network: "tcp6", Addr: "[fd78::1]:8000"},
	} {
		client.do(o)
	}
	compared, changed := 0, 0
	for range 20 {
		// What has been cut is forgotten.
		for _, family := range []string{"ipv4", "ipv6"} {
			_ = exec.Command("nsenter", "--net=/proc/"+strconv.Itoa(host.pid)+"/ns/net", "--", "conntrack", "-D", "-f", family, "-p", "tcp", "--state", "TIME_WAIT").Run()
		}
		before, goneBefore := events.all()
		got, _ := natTold(host)
		after, gone := events.all()
		has := map[string]bool{}
		for _, r := range got {
			if has[r] {
				wrong("twice: %s", r)
			}
			has[r] = true
			if after[r] == 0 && !marker(r) {
				wrong("nobody saw this one come: %s", r)
			}
		}
		for r := range before {
			if before[r] > gone[r] {
				compared++
				if !has[r] {
					wrong("was there all the time, and is not in the table: %s", r)
				}
			}
		}
		for r := range after {
			if after[r] != before[r] || gone[r] != goneBefore[r] {
				changed++
			}
		}
	}
	if compared < 60 || changed < 20 {
		wrong("%d compared, %d came or went meanwhile", compared, changed)
	}
	t.Logf("%d compared, %d came or went meanwhile", compared, changed)
	return faults, events.lost()
}
