package clients

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// startMesosDNS builds and runs mesos-dns, which finds the leading master in ZooKeeper, until the test ends.
func startMesosDNS(t *testing.T) (dnsAddress, httpAddress string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "mesos-dns")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/mesosphere/mesos-dns").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var ports [2]int
	for i := range ports {
		address, err := heldAddress()
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(address)
		ports[i], _ = strconv.Atoi(port)
	}
	dnsPort, httpPort := ports[0], ports[1]
	config, err := json.Marshal(map[string]any{
		"zk": "zk://" + house.zk + "/mesos", "refreshSeconds": 1, "ttl": 60, "domain": "mesos", "port": dnsPort, "listener": "127.0.0.1",
		"httpport": httpPort, "HTTPListener": "127.0.0.1", "externalon": false, "resolvers": []string{}, "IPSources": []string{"netinfo", "mesos", "host"},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := house.spawn("mesos-dns", exec.Command(program, "-config", file, "-logtostderr", "-v=1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // knows no other end
		<-p.done
		if b, _ := os.ReadFile(p.log); t.Failed() {
			t.Logf("mesos-dns said:\n%s", tail(b))
		}
	})
	dnsAddress, httpAddress = fmt.Sprintf("127.0.0.1:%d", dnsPort), fmt.Sprintf("http://127.0.0.1:%d", httpPort)
	if err := p.until("mesos-dns knows the leader", func() bool {
		return slices.Equal(lookup(dnsAddress, "leader.mesos.", dns.TypeA), []string{host(house.leader().url)})
	}); err != nil {
		t.Fatal(err)
	}
	return dnsAddress, httpAddress
}

// lookup gives the answers to a question, sorted: addresses, or host:port of SRV records.
func lookup(server, name string, kind uint16) (out []string) {
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	in, _, err := (&dns.Client{Net: "tcp", Timeout: 20 * time.Second}).Exchange(m, server)
	if err != nil {
		return nil
	}
	for _, r := range in.Answer {
		switch r := r.(type) {
		case *dns.A:
			out = append(out, r.A.String())
		case *dns.SRV:
			out = append(out, fmt.Sprintf("%s:%d", r.Target, r.Port))
		}
	}
	slices.Sort(out)
	return out
}

// TestMesosDNSKnowsServices: mesos-dns v0.6.0 builds its names from /state of the master that ZooKeeper names.
func TestMesosDNSKnowsServices(t *testing.T) {
	server, web := startMesosDNS(t)
	runApp(t, "/prod/web", `{"id": "/prod/web", "cmd": "sleep 1000", "cpus": 0.1, "mem": 32, "instances": 2,
		"portDefinitions": [{"port": 0, "name": "http", "protocol": "tcp"}, {"port": 0, "name": "stats", "protocol": "udp"}]}`)
	runApp(t, "/plain", `{"id": "/plain", "cmd": "sleep 1000", "cpus": 0.1, "mem": 32, "requirePorts": false}`)

	a := func(name string, want ...string) {
		t.Helper()
		var got []string
		if err := until(name, func() bool { got = lookup(server, name, dns.TypeA); return slices.Equal(got, want) }); err != nil {
			t.Errorf("A %s: %v, not %v", name, got, want)
		}
	}
	srv := func(name string, want []string) {
		t.Helper()
		var got []string
		if err := until(name, func() bool {
			got = nil
			for _, x := range lookup(server, name, dns.TypeSRV) {
				target, port, _ := strings.Cut(x, ":")
				// The target is a name of the instance's own, which has to lead to the agent.
				for _, ip := range lookup(server, target, dns.TypeA) {
					got = append(got, net.JoinHostPort(ip, port))
				}
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		}); err != nil {
			t.Errorf("SRV %s: %v, not %v", name, got, want)
		}
	}
	first, second, both := ports(t, "/prod/web")
	// Both instances are on the one agent, whose address an answer says once for each.
	for _, name := range []string{"web.prod.marathon.mesos.", "web-prod.marathon.mesos.", "web-prod.marathon.slave.mesos."} {
		a(name, agentIP)
	}
	a("plain.marathon.mesos.", agentIP)
	a("slave.mesos.", agentIP)
	a("marathon.mesos.", marathonIP)
	a("nobody.marathon.mesos.")
	srv("_web-prod._tcp.marathon.mesos.", first)
	srv("_http._web-prod._tcp.marathon.mesos.", first)
	srv("_stats._web-prod._udp.marathon.mesos.", second)
	srv("_web-prod._tcp.marathon.slave.mesos.", both)
	srv("_leader._tcp.mesos.", []string{strings.TrimPrefix(house.leader().url, "http://")})
	srv("_slave._tcp.mesos.", []string{strings.TrimPrefix(house.agent.url, "http://")})

	var rows []struct{ Service, Host, IP, Port string }
	if err := fetch(web+"/v1/services/_http._web-prod._tcp.marathon.mesos.", &rows); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, net.JoinHostPort(r.IP, r.Port))
	}
	if slices.Sort(got); !slices.Equal(got, first) {
		t.Errorf("the HTTP API says %v, not %v", got, first)
	}
}

// ports gives where the instances of an app with two ports listen, first, second and both.
func ports(t *testing.T, id string) (first, second, both []string) {
	t.Helper()
	var r struct {
		Tasks []struct {
			Host  string
			Ports []int
		}
	}
	if err := fetch(house.marathon.url+"/v2/apps/"+id+"/tasks", &r); err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Tasks {
		if x.Host != agentIP || len(x.Ports) != 2 {
			t.Fatalf("the tasks of %s are %+v", id, r.Tasks)
		}
		first = append(first, fmt.Sprintf("%s:%d", x.Host, x.Ports[0]))
		second = append(second, fmt.Sprintf("%s:%d", x.Host, x.Ports[1]))
	}
	both = slices.Concat(first, second)
	for _, s := range [][]string{first, second, both} {
		slices.Sort(s)
	}
	return first, second, both
}

func host(url string) string {
	h, _, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	return h
}
