package probe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// passingPatience is less than what is left of a container that has passed is kept.
const passingPatience = passingMillis * time.Millisecond * 2 / 3

// Containers that are there for less than a round: no listing of processes, sockets or namespaces ever meets them. Their connections, those that
// are refused too, are theirs, over each hierarchy of control groups; and each is one edge, though half of it is seen at a server that knows nothing of
// them but an address.
func TestContainersThatPassAreNotTakenForTheirHost(t *testing.T) {
	needRoot(t)
	roots, err := findCgroupRoots("/proc")
	if err != nil {
		t.Fatal(err)
	}
	// A second run of this test on one machine would have the same addresses, which are nobody's then.
	at := func(i int, rest string) string { return fmt.Sprintf("10.82.%d.%d%s", os.Getpid()%256, i, rest) }
	hierarchies := []string{"as it is here"}
	if roots.v2 != "" && roots.v1["memory"] != "" { // both are here
		hierarchies = append(hierarchies, "version 2")
	}
	for _, hierarchy := range hierarchies {
		t.Run(hierarchy, func(t *testing.T) {
			hub, server := settle(t, "hub"), settle(t, "server")
			hub.do(order{Op: "bridge", Name: "br0"})
			hub.do(order{Op: "up", Name: "br0"})
			hub.do(order{Op: "link", Name: "v0", Peer: server.pid})
			server.do(order{Op: "up", Name: "eth0", Addr: at(1, "/24")})
			server.do(order{Op: "listen", Network: "tcp4", Addr: ":8000"})
			server.do(order{Op: "hang up", Network: "tcp4", Addr: ":8001"})
			p := newTestProbe(t, func(c *Config) { c.NetSource = "auto"; c.MaxProcesses = 5000 })
			if hierarchy == "version 2" {
				delete(p.roots.v1, "memory")
			}
			p.startEvents()
			t.Cleanup(p.stopEvents)
			if state := p.states["net.ebpf"]; state.state != "ok" || state.message != "" {
				t.Fatalf("%+v", state)
			}
			lookNow(p)
			all := []*dweller{server}
			var want []string
			plan := func(d *dweller, to, port int, o order) {
				d.do(o)
				want = append(want, fmt.Sprintf("%d>%d:%d/tcp", len(all), to, port))
			}
			for i := range 6 {
				d := settle(t, fmt.Sprint("passing ", i))
				if hierarchy != "version 2" {
					d.confine()
				}
				link := fmt.Sprint("v", i+1)
				hub.do(order{Op: "link", Name: link, Peer: d.pid})
				// Two after one another have the same address, as the kernel and runtimes give what has become free.
				d.do(order{Op: "up", Name: "eth0", Addr: at(2+i/2, "/24")})
				plan(d, 0, 8000, order{Op: "brief", Network: "tcp4", Addr: at(1, ":8000")})
				plan(d, 0, 8001, order{Op: "be served", Network: "tcp4", Addr: at(1, ":8001")})
				plan(d, 0, 81, order{Op: "refused", Network: "tcp4", Addr: at(1, ":81")})
				d.do(order{Op: "listen", Network: "tcp4", Addr: "127.0.0.1:8002"})
				plan(d, len(all), 8002, order{Op: "brief", Network: "tcp4", Addr: "127.0.0.1:8002"})
				d.leave()
				all = append(all, d)
			}
			sort.Strings(want)
			var found []string
			for deadline := time.Now().Add(passingPatience); !slices.Equal(found, want) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				lookNow(p)
				found, _ = roads(p, all)
			}
			if d := cmp.Diff(want, found); d != "" {
				t.Errorf("planned (-) and found (+):\n%s", d)
			}
			// Further rounds, whose dumps meet what is left at the server, add nothing.
			for range 3 {
				lookNow(p)
			}
			if found, _ = roads(p, all); !slices.Equal(found, want) {
				t.Errorf("later: %q", found)
			}
			entities, _ := held(p)
			for i, d := range all[1:] {
				e := entities[topology.ContainerID(p.cfg.Hostname, d.id)]
				if e == nil || e.State != topology.StateExited || len(e.Controls) > 0 {
					t.Errorf("container %d is shown as %v", i+1, e)
				}
			}
			// When nothing can be left of their connections they go.
			server.leave()
			for _, x := range p.passing {
				x.at -= passingMillis + 1
			}
			lookNow(p)
			entities, _ = held(p)
			for i, d := range all[1:] { // those of others' tests come and go meanwhile
				if entities[topology.ContainerID(p.cfg.Hostname, d.id)] != nil || p.passing[d.id] != nil {
					t.Errorf("container %d is kept", i+1)
				}
			}
			if found, _ = roads(p, all); len(found) > 0 {
				t.Errorf("left: %q", found)
			}
		})
	}
}

// TestARealContainerThatPasses has runc run a container in its host's network that connects and ends, again and again, unseen by any round.
func TestARealContainerThatPasses(t *testing.T) {
	needRoot(t)
	needTool(t, "runc")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go hangUpOn(l)
	bundle := t.TempDir()
	for _, dir := range []string{"rootfs/bin", "rootfs/proc", "state"} {
		if err := os.MkdirAll(filepath.Join(bundle, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	p := newTestProbe(t, func(c *Config) { c.NetSource = "auto"; c.MaxProcesses = 5000 })
	p.startEvents()
	t.Cleanup(p.stopEvents)
	lookNow(p)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var want []string
	for i := range 3 {
		sum := sha256.Sum256([]byte(fmt.Sprint(t.Name(), i, os.Getpid())))
		id := hex.EncodeToString(sum[:])
		config := fmt.Sprintf(`{"ociVersion":"1.0.2","root":{"path":"rootfs"},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
"process":{"cwd":"/","args":["/bin/busybox","nc","127.0.0.1","%s"],"user":{"uid":0,"gid":0},"env":["PATH=/bin"]},
"linux":{"cgroupsPath":"/%s","namespaces":[{"type":"pid"},{"type":"mount"}]}}`, port, id)
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("runc", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, "probe-test-"+id[:12])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want = append(want, topology.ContainerID(p.cfg.Hostname, id)+" > "+selfID(t, p))
	}
	slices.Sort(want)
	var got []string
	for deadline := time.Now().Add(passingPatience); !slices.Equal(got, want) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		lookNow(p)
		got = got[:0]
		_, edges := held(p)
		for k := range edges {
			if fmt.Sprint(k.port) == port {
				got = append(got, k.src+" > "+k.dst)
			}
		}
		slices.Sort(got)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("planned (-) and found (+):\n%s", d)
	}
}

// hangUpOn ends every connection when the other side has nothing to say.
func hangUpOn(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
}
