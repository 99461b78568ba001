package native

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/network"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// soakEnv says how many containers TestManyContainers starts.
const soakEnv = "ORCHESTRATOR_TEST_CONTAINERS"

// held counts what containers hold of the host, whoever they are: before and after it must be the same.
func held(t *testing.T, h *host, n *networks) []string {
	t.Helper()
	out := n.remains(t, h)
	return append(out, heldOfHost(h, func(environ string) bool {
		return strings.Contains(environ, spec.Marker+"=s") && strings.Contains(environ, h.dir)
	})...)
}

// descriptors counts those of this process that hold a container, a namespace or memory of one.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		for _, kind := range []string{"[pidfd]", "net:[", "mnt:[", "user:[", "pid:[", "memfd:", "/cgroup"} {
			if strings.Contains(to, kind) {
				n++
			}
		}
	}
	return n
}

// heldOfHost lists the helpers and cgroups of a host, and the processes whose environment is a container's.
func heldOfHost(h *host, ours func(environ string) bool) (out []string) {
	if c := helpersUnder(h.dir); c > 0 {
		out = append(out, fmt.Sprintf("%d helpers", c))
	}
	groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", h.root, "*"))
	for _, g := range groups {
		if fi, err := os.Stat(g); err == nil && fi.IsDir() {
			out = append(out, "cgroup "+g)
		}
	}
	es, _ := os.ReadDir("/proc")
	for _, e := range es {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && ours(string(b)) {
			out = append(out, "process "+e.Name())
		}
	}
	return out
}

// TestManyContainers starts, kills and removes containers of every kind, eight at a time, while things go wrong: programs and
// users that are not there, plugins that fail, helpers that are killed, launches that are given up. Nothing is left of any.
func TestManyContainers(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	count := 200
	if s := os.Getenv(soakEnv); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(soakEnv + "_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d", seed)
	h := newHost(t)
	n := newNetworks(t, h)
	n.fake(t, "moody", `case $((0x$(head -c 1 /dev/urandom | od -An -tx1 | tr -d ' ') % 8)):$CNI_COMMAND in
0:ADD|1:ADD|0:DEL) echo '{"cniVersion":"0.4.0","code":100,"msg":"in a bad mood"}'; exit 1;;
esac
cat | sed -n 's/.*"prevResult":\({.*}\),"type".*/\1/p' | grep . || echo '{"cniVersion":"0.4.0"}'
`)
	n.add(t, "moody.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"moody","plugins":[{"type":"bridge","bridge":"tbr0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.7.0/24"}},{"type":"moody"}]}`, n.ipam))
	d := h.start(nil, n.config(h, func(c *network.Config) { c.Timeout = 10 * time.Second }))
	if before := held(t, h, n); len(before) > 0 {
		t.Fatalf("before anything was started: %v", before)
	}
	open := descriptors(t)
	var mu sync.Mutex
	started, failed := 0, 0
	var wg sync.WaitGroup
	next := make(chan int)
	for w := range 8 {
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for i := range next {
				err := d.oneOfMany(rng, i)
				mu.Lock()
				if err == nil {
					started++
				} else {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	wg.Wait()
	t.Logf("%d started, %d failed to", started, failed)
	if started == 0 || failed == 0 {
		t.Error("faults and successes should both have happened")
	}
	for _, i := range d.Containers() {
		if !i.Ended {
			_ = d.Destroy(t.Context(), i.ID)
		}
	}
	eventually(t, "nothing is left", func() bool { return len(held(t, h, n)) == 0 && descriptors(t) <= open })
	d.end()
	if left := held(t, h, n); len(left) > 0 {
		t.Errorf("seed %d: left: %s", seed, strings.Join(left, "\n"))
	}
}

// oneOfMany starts one container, does something to it and sees its end. The error is that of the launch.
func (d *daemon) oneOfMany(rng *rand.Rand, i int) error {
	id := ids.Container(fmt.Sprintf("s%d", i))
	cfg := d.plain(id, "(setsid sleep 1000 &); sleep 1000")
	switch rng.IntN(4) {
	case 0:
		cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("net"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(31000 + i)), ContainerPort: ptr(uint32(80))}}})
		cfg.Resources = append(cfg.Resources, ports(uint64(31000+i), uint64(31000+i)))
	case 1:
		cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("moody")})
	case 2:
		cfg.Container = linux(&mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("NET_RAW"), Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr(confine.DefaultProfile)}})
		cfg.Container.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("s"), Mode: mesosv1.Volume_RO.Enum(), Source: &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("x")}},
		}}}
	}
	if rng.IntN(4) == 0 { // one after the other has it, and some at once
		cfg.Resources = append(cfg.Resources, persistent(fmt.Sprint("v", rng.IntN(5)), "vol"))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fault := rng.IntN(7)
	switch fault {
	case 0:
		cfg.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/no/such/program")}
	case 1:
		cfg.User = "nobody-by-this-name"
	case 2:
		time.AfterFunc(time.Duration(rng.IntN(30))*time.Millisecond, cancel)
	}
	if err := d.Launch(ctx, cfg); err != nil {
		return err
	}
	switch fault {
	case 3: // the helper is killed
		d.mu.Lock()
		ct := d.containers[id]
		pid := 0
		if ct.helper != nil {
			pid = ct.helper.PID
		}
		d.mu.Unlock()
		if pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	case 4: // something is nested in it
		nested := d.plain(id+".n", "sleep 1000")
		_ = d.Launch(context.Background(), nested)
		_ = d.Destroy(context.Background(), id)
	default:
		_ = d.Destroy(context.Background(), id)
	}
	d.wait(id)
	if err := d.Remove(context.Background(), id); err != nil {
		d.h.t.Errorf("remove %s: %v", id, err)
	}
	return nil
}

// TestGroupThatCannotBeRemoved: the container ends, the next one starts, and the group goes with the next agent process.
func TestGroupThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h := newHost(t)
	d := h.start(nil)
	d.releaseLimit = 100 * time.Millisecond
	cfg := d.plain("stuck", "exec sleep 1000")
	d.launch(cfg)
	hierarchies := "/sys/fs/cgroup/*"
	if d.groups.Version() == 2 {
		hierarchies = "/sys/fs/cgroup"
	}
	d.mu.Lock()
	dirs, _ := filepath.Glob(filepath.Join(hierarchies, h.root, "stuck"))
	d.mu.Unlock()
	if len(dirs) == 0 {
		t.Fatal("the container has no group")
	}
	if err := unix.Mount("none", dirs[0], "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	unmount := sync.OnceFunc(func() {
		if err := unix.Unmount(dirs[0], 0); err != nil {
			t.Error(err)
		}
	})
	defer unmount()
	_ = d.Destroy(t.Context(), "stuck")
	if term := d.wait("stuck"); term.WaitStatus == nil {
		t.Errorf("termination %+v", term)
	}
	next := d.plain("next", "true")
	d.launch(next)
	d.wait("next")
	d.stop()
	unmount()
	h.start([]containerizer.Config{}).stop()
	if left, _ := filepath.Glob(filepath.Join(hierarchies, h.root, "stuck")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
