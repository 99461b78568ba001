package native

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/network"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// pluginsDir is where Debian's containernetworking-plugins lie.
const pluginsDir = "/usr/lib/cni"

// netnsEnv says that this process is a test's own, in a network namespace of its own.
const netnsEnv = "ORCHESTRATOR_TEST_NETNS"

// inOwnNetwork runs the test again in a process with a network namespace of its own, so that bridges, addresses and
// packet filter rules are seen by nobody else and can be counted. It gives true in that process.
func inOwnNetwork(t testing.TB) bool {
	t.Helper()
	realpart.Root(t)
	if _, err := os.Stat(filepath.Join(pluginsDir, "bridge")); err != nil {
		realpart.Missing(t, "containernetworking-plugins is not installed: run test/deps.sh")
	}
	if os.Getenv(netnsEnv) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=" + patience(5*time.Minute).String()}
	if b, ok := t.(*testing.B); ok {
		args = []string{"-test.run=^$", "-test.bench=^" + b.Name() + "$", fmt.Sprintf("-test.benchtime=%dx", max(b.N, 100))}
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), netnsEnv+"=1", helperEnv+"="+helperPath)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("in a network namespace of its own: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// networks is the CNI side of a test's host.
type networks struct {
	dir     string
	ipam    string
	plugins string
}

// newNetworks configures a bridge network named "net", and whatever else the test adds.
func newNetworks(t testing.TB, h *host) *networks {
	t.Helper()
	n := &networks{dir: filepath.Join(h.dir, "cni"), ipam: filepath.Join(h.dir, "ipam"), plugins: filepath.Join(h.dir, "plugins")}
	for _, d := range []string{n.dir, n.plugins} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.add(t, "net.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"net","plugins":[{"type":"bridge","bridge":"tbr0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.213.7.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]},
		"dns":{"nameservers":["10.213.7.1"],"search":["example.test"]}}]}`, n.ipam))
	return n
}

func (n *networks) add(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fake writes a plugin that is a shell script.
func (n *networks) fake(t testing.TB, name, script string) {
	t.Helper()
	text := "#!/bin/sh\ncase $CNI_COMMAND in VERSION) echo '{\"cniVersion\":\"0.4.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\"]}'; exit 0;; esac\n" + script
	if err := os.WriteFile(filepath.Join(n.plugins, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (n *networks) config(h *host, change ...func(*network.Config)) func(*Config) {
	nc := &network.Config{ConfigDir: n.dir, PluginDirs: []string{n.plugins, pluginsDir}, StateDir: filepath.Join(h.dir, "run", "network")}
	for _, f := range change {
		f(nc)
	}
	return func(c *Config) { c.Networks = nc }
}

// leases counts the addresses that are given out.
func (n *networks) leases() (out []string) {
	es, _ := filepath.Glob(filepath.Join(n.ipam, "*", "10.*"))
	return es
}

// remains lists what containers have left of networks: interfaces, addresses, packet filter rules, pinned namespaces.
func (n *networks) remains(t testing.TB, h *host) []string {
	t.Helper()
	var out []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "veth") {
			out = append(out, "interface "+l.Name)
		}
	}
	for _, l := range n.leases() {
		out = append(out, "address "+filepath.Base(l))
	}
	rules, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, rules)
	}
	for _, line := range strings.Split(string(rules), "\n") {
		// The chains of plugins stay, empty, until the next reboot; rules that speak of containers don't.
		if strings.HasPrefix(line, "-A") && (strings.Contains(line, "10.213.") || strings.Contains(line, "CNI-DN-") || strings.Contains(line, "id: ")) {
			out = append(out, "rule "+line)
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if strings.Contains(line, h.dir) {
			out = append(out, "mount "+line)
		}
	}
	left, _ := filepath.Glob(filepath.Join(h.dir, "run", "network", "containers", "*"))
	cached, _ := filepath.Glob(filepath.Join(h.dir, "run", "network", "cache", "results", "*"))
	for _, l := range append(left, cached...) {
		out = append(out, "state "+l)
	}
	return out
}

func inNetwork(infos ...*mesosv1.NetworkInfo) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), NetworkInfos: infos}
}

func ports(begin, end uint64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: ptr("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: &begin, End: &end}}}}
}

// listen is a server of one line, in a language that every Debian has.
const listen = `exec perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>%d,Listen=>5,ReuseAddr=>1) or die; while($c=$s->accept){print $c "hello\n"; close $c}'`

func hello(address string) string {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 16)
	n, _ := c.Read(b)
	return string(b[:n])
}

// TestNetworkInfo joins a bridge with Debian's plugins and reads back every field of NetworkInfo.
func TestNetworkInfo(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	record := filepath.Join(h.dir, "told")
	n.fake(t, "recorder", fmt.Sprintf("cat > %s.$CNI_COMMAND\necho '{\"cniVersion\":\"0.4.0\"}'\n", record))
	n.add(t, "rec.json", `{"cniVersion":"0.4.0","name":"recorded","type":"recorder"}`)
	n.add(t, "mapper.conf", fmt.Sprintf(`{"name":"mapped","type":"mesos-cni-port-mapper","chain":"MESOS","delegate":{"type":"bridge","bridge":"tbr1","isGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.8.0/24"}}}`, n.ipam))
	n.add(t, "broken.conf", `{`)
	d := h.start(nil, n.config(h), func(c *Config) {
		c.Confine.DNS = &confine.DefaultDNS{Mesos: []confine.NetworkDNS{{DNS: confine.DNS{Nameservers: []string{"192.0.2.1"}}}}}
	})
	defer d.end()

	cfg := d.plain("web", "ip -o -4 addr > addr; cat /etc/hosts > hosts; cat /etc/hostname > hostname; cat /etc/resolv.conf > resolv; hostname > uts; env > env; touch ready; "+fmt.Sprintf(listen, 8080))
	cfg.Environment = []string{"MESOS_CONTAINER_IP=1.2.3.4"}
	cfg.Container = inNetwork(
		&mesosv1.NetworkInfo{Name: ptr("net"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(31001)), ContainerPort: ptr(uint32(8080))}}},
		&mesosv1.NetworkInfo{
			Name: ptr("recorded"), Groups: []string{"g"}, Labels: &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: ptr("k"), Value: ptr("v")}}},
			IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{IpAddress: ptr("10.9.9.9")}},
		},
	)
	cfg.Container.Hostname = ptr("wanted")
	cfg.Resources = append(cfg.Resources, ports(31000, 31002))
	d.launch(cfg)
	st, err := d.Status("web")
	if err != nil || len(st.NetworkInfos) != 2 || len(st.NetworkInfos[0].IpAddresses) != 1 {
		t.Fatalf("status %v %v", st, err)
	}
	address := st.NetworkInfos[0].IpAddresses[0].GetIpAddress()
	if st.NetworkInfos[0].GetName() != "net" || st.NetworkInfos[0].PortMappings[0].GetHostPort() != 31001 || st.NetworkInfos[1].GetLabels().GetLabels()[0].GetKey() != "k" {
		t.Errorf("status %v", st)
	}
	eventually(t, "it has looked around", func() bool { _, err := os.Stat(filepath.Join(cfg.Directory, "ready")); return err == nil })
	for file, want := range map[string]string{
		"addr": "inet " + address + "/24", "hosts": address + " wanted\n", "hostname": "wanted\n", "resolv": "search example.test\nnameserver 10.213.7.1\n",
		"uts": "wanted\n", "env": "MESOS_CONTAINER_IP=" + address + "\n",
	} {
		if got := read(t, cfg.Directory, file); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", file, got, want)
		}
	}
	eventually(t, "the container answers at its own address", func() bool { return hello(address+":8080") == "hello\n" })
	if got := hello("10.213.7.1:31001"); got != "hello\n" {
		t.Errorf("the mapped port says %q", got)
	}
	usage, err := d.Usage("web")
	if err != nil || usage.GetNetRxBytes() == 0 || usage.GetNetTxPackets() == 0 {
		t.Errorf("usage %v %v", usage, err)
	}
	var stages []string
	for _, s := range d.Stages("web") {
		stages = append(stages, s.Name)
	}
	if got := strings.Join(stages, " "); got != "queue network prepare isolate start total" {
		t.Errorf("the launch had the stages %s", got)
	}
	var told struct {
		Args map[string]struct {
			Info struct {
				Name   string `json:"name"`
				Groups []string
				Labels struct{ Labels []struct{ Key, Value string } }
				IPs    []struct {
					Address string `json:"ip_address"`
				} `json:"ip_addresses"`
			} `json:"network_info"`
		}
	}
	if err := json.Unmarshal([]byte(read(t, record+".ADD")), &told); err != nil {
		t.Fatal(err)
	}
	if in := told.Args["org.apache.mesos"].Info; in.Name != "recorded" || in.Groups[0] != "g" || in.Labels.Labels[0].Value != "v" || in.IPs[0].Address != "10.9.9.9" {
		t.Errorf("the plugin was told %+v", told)
	}

	// A nested container and a check are in the same network.
	nested := d.plain("web.n", "ip -o -4 addr > addr; env > env; hostname > uts; exec sleep 1000")
	nested.Environment = []string{"MESOS_CONTAINER_IP=1.2.3.4"}
	d.launch(nested)
	check := d.plain("web.c", "ip -o -4 addr > check; exec sleep 1000")
	check.Kind, check.Directory = containerizer.Check, cfg.Directory
	d.launch(check)
	d.process("web.n")
	d.process("web.c")
	for _, file := range []string{filepath.Join(nested.Directory, "addr"), filepath.Join(cfg.Directory, "check")} {
		if got := read(t, file); !strings.Contains(got, "inet "+address+"/24") {
			t.Errorf("%s says %q", file, got)
		}
	}
	if got := read(t, nested.Directory, "env"); !strings.Contains(got, "MESOS_CONTAINER_IP="+address+"\n") {
		t.Errorf("the nested container's environment: %q", got)
	}
	if st, err := d.Status("web.n"); err != nil || st.NetworkInfos[0].IpAddresses[0].GetIpAddress() != address {
		t.Errorf("status of the nested container: %v %v", st, err)
	}

	// Mesos' own port mapper, and the agent's name servers where a network names none.
	mapped := d.plain("mapped", "cat /etc/resolv.conf > resolv; "+fmt.Sprintf(listen, 80))
	mapped.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("mapped"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(31002)), ContainerPort: ptr(uint32(80)), Protocol: ptr("tcp")}}})
	mapped.Resources = append(mapped.Resources, ports(31002, 31002))
	d.launch(mapped)
	eventually(t, "the mapped port answers", func() bool { return hello("10.213.8.1:31002") == "hello\n" })
	if got := read(t, mapped.Directory, "resolv"); got != "nameserver 192.0.2.1\n" {
		t.Errorf("resolv.conf says %q", got)
	}

	for name, c := range map[string]struct {
		info *mesosv1.NetworkInfo
		want string
	}{
		"unknown":    {&mesosv1.NetworkInfo{Name: ptr("nope")}, "there are: mapped, net, recorded"},
		"not ours":   {&mesosv1.NetworkInfo{Name: ptr("net"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(22)), ContainerPort: ptr(uint32(80))}}}, "not among the ports"},
		"no port":    {&mesosv1.NetworkInfo{Name: ptr("net"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(0)), ContainerPort: ptr(uint32(80))}}}, "between 1 and 65535"},
		"a protocol": {&mesosv1.NetworkInfo{Name: ptr("net"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(1)), ContainerPort: ptr(uint32(80)), Protocol: ptr("x")}}}, "none of tcp, udp, sctp"},
	} {
		bad := d.plain("bad", "sleep 1000")
		bad.Container = inNetwork(c.info)
		if err := d.Launch(t.Context(), bad); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	d.end()
	if _, err := os.Stat(record + ".DEL"); err != nil {
		t.Error("the plugin was never told to delete")
	}
	if left := n.remains(t, h); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "\n"))
	}
}

// TestBandwidth: the standard plugin limits both directions with the kernel's token buckets, and takes them away again.
func TestBandwidth(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	n.add(t, "slow.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"slow","plugins":[{"type":"bridge","bridge":"tbr0","ipam":{"type":"host-local","dataDir":%q,
		"subnet":"10.213.7.0/24"}},{"type":"bandwidth","ingressRate":8000000,"ingressBurst":800000,"egressRate":4000000,"egressBurst":800000}]}`, n.ipam))
	d := h.start(nil, n.config(h))
	defer d.end()
	cfg := d.plain("slow", "exec sleep 1000")
	cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("slow")})
	d.launch(cfg)
	qdiscs := func() string {
		out, err := exec.Command("tc", "qdisc", "show").CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return string(out)
	}
	if got := qdiscs(); !strings.Contains(got, "rate 8Mbit") || !strings.Contains(got, "rate 4Mbit") {
		t.Errorf("the kernel has %s", got)
	}
	d.end()
	if got := qdiscs(); strings.Contains(got, "tbf") {
		t.Errorf("left: %s", got)
	}
}

// TestChecksRunInTheTasksNetwork: the port that is checked answers in the task's network only.
func TestChecksRunInTheTasksNetwork(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	d := h.start(nil, n.config(h))
	defer d.end()
	cfg := d.task("checked", &mesosv1.TaskInfo{
		Command: shell(fmt.Sprintf(listen, 8081)), Container: inNetwork(&mesosv1.NetworkInfo{Name: ptr("net")}),
		Check: &mesosv1.CheckInfo{Type: mesosv1.CheckInfo_TCP.Enum(), Tcp: &mesosv1.CheckInfo_Tcp{Port: ptr(uint32(8081))}, DelaySeconds: ptr(0.05), IntervalSeconds: ptr(0.05)},
	})
	d.launch(cfg)
	d.until("checked", "the check succeeds", func(u *mesosv1.TaskStatus) bool { return u.GetCheckStatus().GetTcp().GetSucceeded() })
	d.send("checked", &executorv1.Event{Type: executorv1.Event_KILL.Enum(), Kill: &executorv1.Event_Kill{TaskId: &mesosv1.TaskID{Value: ptr("checked")}}})
	d.untilState("checked", mesosv1.TaskState_TASK_KILLED)
}

// TestPluginFaults: a plugin that hangs or fails is told of, and nothing stays behind, or only until it works again.
func TestPluginFaults(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	fault := filepath.Join(h.dir, "fault")
	n.fake(t, "faulty", fmt.Sprintf(`case $(cat %s 2>/dev/null):$CNI_COMMAND in
add-hangs:ADD) sleep 1000 & sleep 1000;;
add-fails:ADD) echo '{"cniVersion":"0.4.0","code":11,"msg":"no more addresses"}'; exit 1;;
add-rubbish:ADD) echo rubbish; exit 0;;
add-dies:ADD) kill -9 $$;;
del-hangs:DEL) sleep 1000 & sleep 1000;;
del-fails:DEL) echo broken >&2; exit 3;;
esac
cat | sed -n 's/.*"prevResult":\({.*}\),"type".*/\1/p' | grep . || echo '{"cniVersion":"0.4.0"}'
`, fault))
	n.add(t, "f.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"faulty","plugins":[{"type":"bridge","bridge":"tbr0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.7.0/24"}},{"type":"faulty"}]}`, n.ipam))
	d := h.start(nil, n.config(h, func(c *network.Config) { c.Timeout = patience(2 * time.Second) }))
	defer d.end()
	say := func(what string) {
		if err := os.WriteFile(fault, []byte(what), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for what, want := range map[string]string{
		"add-hangs": "did not end in time", "add-fails": "no more addresses", "add-rubbish": "invalid character", "add-dies": "killed",
	} {
		say(what)
		cfg := d.plain(ids.Container(what), "sleep 1000")
		cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("faulty")})
		if err := d.Launch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `network "faulty"`) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		if left := n.remains(t, h); len(left) > 0 {
			t.Errorf("%s: left: %s", what, strings.Join(left, "\n"))
		}
	}
	for _, what := range []string{"del-hangs", "del-fails"} {
		say(what)
		id := ids.Container(what)
		cfg := d.plain(id, "exec sleep 1000")
		cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("faulty")})
		d.launch(cfg)
		if err := d.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		d.wait(id) // in spite of the plugin
		if len(n.leases()) == 0 {
			t.Errorf("%s: nothing is left to delete: the fault was none", what)
		}
		// The next one starts.
		say("")
		next := d.plain(id+"-next", "true")
		next.Container = cfg.Container
		d.launch(next)
		d.wait(next.ID)
		eventually(t, what+": deleted at last", func() bool { return len(n.remains(t, h)) == 0 })
	}
	// Or by the next agent process.
	say("del-fails")
	cfg := d.plain("late", "true")
	cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("faulty")})
	d.launch(cfg)
	d.wait("late")
	d.stop()
	if len(n.remains(t, h)) == 0 {
		t.Error("nothing is left to delete: the fault was none")
	}
	say("")
	h.start(nil, n.config(h)).stop()
	if left := n.remains(t, h); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "\n"))
	}
}

// TestBridgeIsCutShort: the standard bridge plugin, killed when it has removed the interface but not yet the rules that it would have
// found by it, is asked again, finds no interface and leaves them. They go all the same, and so after a namespace that has gone.
func TestBridgeIsCutShort(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	bin, fault := filepath.Join(h.dir, "bin"), filepath.Join(h.dir, "fault")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	iptables, err := exec.LookPath("iptables")
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ]; then echo hung >> %s.log; exec sleep 1000; fi\nexec %s \"$@\"\n", fault, fault, iptables)
	if err := os.WriteFile(filepath.Join(bin, "iptables"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n.fake(t, "slowbridge", fmt.Sprintf("PATH=%s:$PATH exec %s/bridge\n", bin, pluginsDir))
	n.add(t, "slow.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"slow","plugins":[{"type":"slowbridge","bridge":"tbr0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.7.0/24"}}]}`, n.ipam))
	d := h.start(nil, n.config(h, func(c *network.Config) { c.Timeout = patience(2 * time.Second) }))
	defer d.end()
	launch := func(id ids.Container) {
		cfg := d.plain(id, "exec sleep 1000")
		cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("slow")})
		d.launch(cfg)
	}
	rules := func() int {
		c := 0
		for _, r := range n.remains(t, h) {
			if strings.HasPrefix(r, "rule ") {
				c++
			}
		}
		return c
	}
	launch("cut")
	if rules() == 0 {
		t.Fatal("the plugin has made no rules: this test would prove nothing")
	}
	if err := os.WriteFile(fault, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_ = d.Destroy(t.Context(), "cut")
	d.wait("cut")
	if read(t, fault+".log") == "" || rules() == 0 {
		t.Error("the plugin was not cut short where it should be")
	}
	if err := os.Remove(fault); err != nil {
		t.Fatal(err)
	}
	launch("next") // meanwhile
	eventually(t, "the rules are gone", func() bool { return strings.Count(strings.Join(n.remains(t, h), "\n"), `id: \"cut\"`) == 0 })
	// The namespace was taken away under it.
	if err := syscall.Unmount(filepath.Join(h.dir, "run/network/containers/next/ns"), syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	_ = d.Destroy(t.Context(), "next")
	d.wait("next")
	eventually(t, "nothing is left", func() bool { return len(n.remains(t, h)) == 0 })
	if out, err := exec.Command("iptables-save", "-t", "nat").Output(); err != nil || strings.Contains(string(out), ":CNI-") {
		t.Errorf("chains are left: %s %v", out, err)
	}
	d.end()
}

// TestKillAtAnyMomentWithNetworks is TestKillAtAnyMoment with containers in a bridge network: no address, interface, rule or
// namespace of theirs is left.
func TestKillAtAnyMomentWithNetworks(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	seed := uint64(20261126)
	rng := rand.New(rand.NewPCG(seed, 1))
	h := newHost(t)
	n := newNetworks(t, h)
	cfg := Config{
		WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), LinkSocket: filepath.Join(h.dir, "run", "exec.sock"),
		Helper: helperPath, Cgroups: cgroup.Config{Root: h.root},
	}
	n.config(h)(&cfg)
	// On a slow machine the first networks are joined late.
	for round := 0; round < 5 || len(n.leases()) == 0 && round < 30; round++ {
		plan := victimPlan{Config: cfg, Dir: h.dir, Round: round, Network: "net"}
		killVictim(t, plan, time.Duration(50+rng.IntN(400+100*round))*time.Millisecond)
		if round%2 == 1 {
			killSomeHelpers(t, h, rng)
		}
	}
	if len(n.leases()) == 0 {
		t.Error("no container was ever in a network: this test would prove little")
	}
	ks := knownOf(h.dir, "net", "")
	d := h.start(ks, n.config(h))
	for _, k := range ks {
		ct, err := d.find(k.ID)
		if err != nil {
			t.Errorf("seed %d: %s is unknown", seed, k.ID)
			continue
		}
		d.mu.Lock()
		runs, joined := ct.phase == running, ct.joined
		d.mu.Unlock()
		if runs && (joined == nil || len(joined.Addresses()) != 1) {
			select {
			case <-ct.ended:
			case <-time.After(patience(15 * time.Second)):
				t.Errorf("seed %d: %s runs and has no address", seed, k.ID)
			}
		}
	}
	for _, c := range d.Containers() {
		if !c.Ended {
			_ = d.Destroy(t.Context(), c.ID)
			d.wait(c.ID)
		}
	}
	eventually(t, "no helper is left", func() bool { return helpersUnder(h.dir) == 0 })
	// What a killed agent had only asked of the plugins is taken back in the background.
	eventually(t, fmt.Sprintf("seed %d: nothing is left", seed), func() bool { return len(n.remains(t, h)) == 0 })
	d.end()
}

// killSomeHelpers kills half of the helpers of a host: what they were doing stays undone.
func killSomeHelpers(t *testing.T, h *host, rng *rand.Rand) {
	t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(h.dir, "run", "containers", "*"))
	slices.Sort(dirs)
	for _, dir := range dirs {
		var id struct{ PID int }
		if rng.IntN(2) == 0 || spec.Read(dir, spec.PIDFile, &id) != nil || id.PID <= 1 {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id.PID))
		if err == nil && strings.Contains(string(b), dir) {
			_ = syscall.Kill(id.PID, syscall.SIGKILL)
		}
	}
}
